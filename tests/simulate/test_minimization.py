"""Positions that are relaxed before the first step of a run."""

import json
import signal
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from springs import Springs, ethanol

from eqcalc.errors import NonFiniteError
from eqcalc.simulate import MDRun, MDSettings, StopRequested, run_md


def rattled() -> Atoms:
    atoms = ethanol()
    atoms.rattle(0.1, seed=4)
    return atoms


def settings_of(**changes) -> MDSettings:
    return MDSettings(**{"n_steps": 4, "log_every": 2, "minimize": True, **changes})


def first_frame(folder: Path) -> Atoms:
    return ase.io.read(folder / "trajectory.traj", 0)


def test_run_starts_in_the_minimum_with_velocities_drawn_there(tmp_path):
    start = rattled()
    before = start.get_positions()
    result = run_md(start, Springs(ethanol()), settings_of(ensemble="nve"), tmp_path / "run")
    first = first_frame(result.folder)
    assert np.linalg.norm(first.get_forces(), axis=1).max() < 0.05
    assert first.get_temperature() * 27 / 21 == pytest.approx(300.0, rel=1e-9)
    assert np.allclose(first.get_angular_momentum(), 0, atol=1e-9)  # about the minimum's axes
    assert np.array_equal(start.get_positions(), before)
    done = json.loads((result.folder / "manifest.json").read_text())["minimization"]
    assert done == result.minimization
    assert done["converged"]
    assert done["fmax_eV_per_A"] < 0.05
    assert done["energy_after_eV"] < done["energy_before_eV"]
    assert done["steps"] > 1


def test_velocities_of_the_structure_belong_to_other_positions(tmp_path):
    start = rattled()
    start.set_momenta(np.full((9, 3), 0.3))
    run = MDRun(start, Springs(ethanol()), settings_of(ensemble="nve"))
    assert not run.kept_velocities
    assert np.allclose(run.atoms.get_momenta().sum(axis=0), 0, atol=1e-10)
    assert run.start_temperature_K == pytest.approx(300.0)


def test_constraints_hold_while_a_start_is_minimized():
    start = rattled()
    start.set_constraint(FixAtoms([0, 1]))
    run = MDRun(start, Springs(ethanol()), settings_of())
    moved = np.linalg.norm(run.atoms.positions - start.positions, axis=1)
    assert moved[:2].max() == 0
    assert moved[2:].min() > 1e-4


def test_minimization_that_does_not_converge_says_so_and_the_run_goes_on(tmp_path):
    result = run_md(rattled(), Springs(ethanol()), settings_of(minimize_steps=1), tmp_path / "run")
    assert result.n_steps == 4
    assert result.minimization["converged"] is False
    assert result.minimization["steps"] == 1
    assert result.minimization["fmax_eV_per_A"] > 0.05


def test_minimization_that_breaks_is_refused_and_costs_no_older_run():
    with pytest.raises(NonFiniteError, match=r"minimization before the run stopped after 2 steps"):
        MDRun(rattled(), Springs(ethanol(), fail_at=3), settings_of())


def test_resumed_run_is_not_minimized_again(tmp_path):
    settings = settings_of(n_steps=8)
    run_md(rattled(), Springs(ethanol()), settings, tmp_path / "whole")
    run_md(rattled(), Springs(ethanol()), settings_of(), tmp_path / "parts")
    resumed = MDRun.resume(tmp_path / "parts", Springs(ethanol()), n_steps=8)
    result = resumed.run(tmp_path / "parts")
    for name in ("thermo.csv", "trajectory.traj", "final.xyz"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert result.minimization["steps"] > 1
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert manifest["minimization"] == result.minimization


def test_hours_of_a_run_count_its_minimization(tmp_path):
    run = MDRun(rattled(), Springs(ethanol()), settings_of(n_steps=1000))
    run.minimization["wall_s"] = 7200.0
    with pytest.raises(StopRequested, match="stopped at step 0 of 1000") as caught:
        run.run(tmp_path / "run", max_hours=1.9)
    assert caught.value.signal_number == signal.SIGALRM
