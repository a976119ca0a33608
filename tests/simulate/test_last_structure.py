"""Whatever ends a run, its folder holds the last structure that can be trusted."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.io.ulm import ulmopen
from springs import Springs, ethanol

from eqcalc.errors import GuardError, NonFiniteError, StructureError
from eqcalc.simulate import (
    GuardSettings,
    MDSettings,
    RelaxSettings,
    StopRequested,
    resume_md,
    run_md,
    run_relax,
)
from eqcalc.simulate.failures import trusted_frame
from eqcalc.simulate.structures import read_structure

OFF = GuardSettings.off()
FORMATS = pytest.mark.parametrize("fmt", ["traj", "extxyz"])


class Turning(Springs):
    """Springs that pull ``factor`` times as hard from a call on, and say nothing of it."""

    def __init__(self, reference, wrong_from: int, factor: float):
        super().__init__(reference)
        self.wrong_from, self.factor = wrong_from, factor

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        if self.n_calls >= self.wrong_from:
            self.results["forces"] = self.factor * self.results["forces"]


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def settings(fmt: str = "traj", **options) -> MDSettings:
    return MDSettings(
        "nve", n_steps=200, log_every=4, trajectory_format=fmt, **{"guards": OFF, **options}
    )


def require_last(folder: Path, step: int, name: str = "final.xyz") -> None:
    """Assert that the last structure is the frame of a step, and that the manifest says so."""
    assert manifest(folder)["last_structure"] == {"file": name, "step": step}
    last = read_structure(folder / name)
    (trajectory,) = folder.glob("trajectory.*")
    (frame,) = [each for each in ase.io.read(trajectory, ":") if each.info["step"] == step]
    assert last.info == frame.info
    assert np.abs(last.positions - frame.positions).max() < 1e-7
    assert np.abs(last.get_momenta() - frame.get_momenta()).max() < 1e-7
    assert np.abs(last.get_forces() - frame.get_forces()).max() < 1e-7
    assert not list(folder.parent.glob(f"*-{name}"))  # nothing beside the folder


def stop_at(step: int, signals: int = 1):
    def show(now) -> None:
        if now.thermo.step == step:
            for _ in range(signals):
                signal.raise_signal(signal.SIGTERM)

    return show


def test_run_that_ends_well_says_which_step_it_is(tmp_path):
    atoms = ethanol()
    run_md(atoms, Springs(atoms), settings(), tmp_path / "run")
    require_last(tmp_path / "run", 200)


@pytest.mark.parametrize(("signals", "last"), [(1, 41), (2, 40)])
def test_signals_leave_the_last_frame(signals, last, tmp_path):
    atoms = ethanol()
    with pytest.raises(StopRequested):
        run_md(atoms, Springs(atoms), settings(), tmp_path / "run", progress=stop_at(40, signals))
    assert manifest(tmp_path / "run")["status"] == "interrupted"
    require_last(tmp_path / "run", last)


def test_time_limit_leaves_the_last_frame(tmp_path):
    atoms = ethanol()
    with pytest.raises(StopRequested):
        run_md(atoms, Springs(atoms), settings(), tmp_path / "run", max_hours=1e-9)
    require_last(tmp_path / "run", 0)


@FORMATS
def test_guard_leaves_the_last_frame_before_its_alarm(fmt, tmp_path):
    """Forces are looked at before every frame, and by all guards together every 10 steps."""
    atoms, folder = ethanol(), tmp_path / "run"
    guards = replace(OFF, max_force=50.0, every=10)
    calculator = Turning(atoms, wrong_from=58, factor=1e3)
    expected = (
        r"stopped at step (\d+): .* The last structure that can be trusted, of step 48, is in "
        r"'.*final\.xyz'\.$"
    )
    with pytest.raises(GuardError, match=expected):
        run_md(atoms, calculator, settings(fmt, guards=guards), folder)
    assert 51 <= manifest(folder)["guards"]["alarms"][-1]["step"] <= 60
    require_last(folder, 48)  # all guards had looked at step 50
    assert "of step 48, is in" in manifest(folder)["error"]


@FORMATS
@pytest.mark.parametrize(("wrong_from", "last"), [(30, 0), (60, 40)])
def test_failed_audit_leaves_the_last_frame_that_was_audited(fmt, wrong_from, last, tmp_path):
    """The audit of step 40 has passed, or none has: then the first structure is left."""
    atoms, folder = ethanol(), tmp_path / "run"
    guards = replace(OFF, audit_every=40)
    calculator = Turning(atoms, wrong_from, factor=3.0)
    with pytest.raises(GuardError, match=rf"self-audit .* trusted, of step {last}, is in"):
        run_md(atoms, calculator, settings(fmt, guards=guards), folder)
    require_last(folder, last)


@FORMATS
def test_model_that_returns_nan_leaves_the_last_good_frame(fmt, tmp_path):
    atoms, folder = ethanol(), tmp_path / "run"
    with pytest.raises(NonFiniteError, match=r"can be trusted, of step \d+, is in '.*final.xyz'"):
        run_md(atoms, Springs(atoms, fail_at=60), settings(fmt), folder)
    last = ase.io.read(next(folder.glob("trajectory.*")))
    require_last(folder, last.info["step"])  # no guard looked


def test_nan_under_guards_leaves_what_all_of_them_had_seen(tmp_path):
    atoms, folder = ethanol(), tmp_path / "run"
    guards = replace(OFF, max_force=1e3, every=50)
    with pytest.raises(NonFiniteError, match=r"can be trusted, of step 48, is in"):
        run_md(atoms, Springs(atoms, fail_at=80), settings(guards=guards), folder)
    require_last(folder, 48)


def test_run_that_gives_up_going_back_leaves_a_structure(tmp_path):
    atoms, folder = ethanol(), tmp_path / "run"
    guards = replace(OFF, on_alarm="roll-back", max_roll_backs=1)
    options = settings(guards=guards, checkpoint_every=10)
    with pytest.raises(GuardError, match=r"after going back 1 times: .* trusted, of step 48"):
        run_md(atoms, Springs(atoms, fail_at=60), options, folder)
    require_last(folder, 48)  # of the checkpoint gone back to is step 50


def test_run_that_goes_on_and_stops_before_its_first_frame_leaves_one(tmp_path):
    atoms, folder = ethanol(), tmp_path / "run"
    options = settings(checkpoint_every=20)
    with pytest.raises(StopRequested):
        run_md(atoms, Springs(atoms), options, folder, progress=stop_at(40))
    with pytest.raises(NonFiniteError, match=r"can be trusted, of step 41, is in"):
        resume_md(folder, Springs(atoms, fail_at=2))
    assert read_structure(folder / "final.xyz").info["step"] == 41


def test_doubt_about_the_first_structure_leaves_none(tmp_path, monkeypatch):
    from eqcalc.simulate.guards import Alarm, Guards

    monkeypatch.setattr(Guards, "look", lambda *_: [Alarm("range", "unseen", is_doubt=True)])
    atoms, folder = ethanol(), tmp_path / "run"
    guards = GuardSettings(on_doubt="stop")
    with pytest.raises(GuardError, match=r"stopped at step 0: unseen"):
        run_md(atoms, Springs(atoms), settings(guards=guards), folder)
    assert not (folder / "final.xyz").exists()
    assert "last_structure" not in manifest(folder)


@FORMATS
def test_relaxation_that_a_guard_stops_leaves_the_step_before(fmt, tmp_path):
    atoms, folder = bulk("Cu", cubic=True), tmp_path / "run"
    atoms.rattle(0.05, seed=1)

    class Late(EMT):
        n_calls = 0

        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.n_calls += 1
            if self.n_calls > 3:
                self.results["forces"] = 100.0 * self.results["forces"]

    options = RelaxSettings(trajectory_format=fmt, guards=replace(OFF, max_force=30.0))
    with pytest.raises(GuardError, match=r"trusted, of step \d+, is in '.*relaxed\.xyz'"):
        run_relax(atoms, Late(), options, folder)
    step = manifest(folder)["guards"]["alarms"][-1]["step"]
    require_last(folder, step - 1, "relaxed.xyz")
    assert manifest(folder)["converged"] is False


def test_frame_of_a_trajectory_that_is_gone_cannot_be_read(tmp_path):
    (tmp_path / "thermo.csv").write_text("step,x\n0,1\n5,1\n")
    files = (tmp_path / "trajectory.traj", tmp_path / "thermo.csv")
    with pytest.raises(StructureError, match=r"cannot read a frame of '.*trajectory\.traj'"):
        trusted_frame(None, 3, *files)
    assert trusted_frame(None, -1, *files) is None
    with ulmopen(files[0], "w", tag="ASE-Trajectory") as damaged:
        damaged.write(nothing=1)
        damaged.sync()  # ASE looks for what is not there: an AttributeError
    with pytest.raises(StructureError, match=r"cannot read a frame of '.*trajectory\.traj'"):
        trusted_frame(None, None, *files)
