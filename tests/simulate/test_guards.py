"""Guard rails of dynamics: what stops, goes back or is queued, and that healthy runs do not."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import asdict, replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from rarely import rarely
from small_models import potential
from springs import Springs
from springs import ethanol as springy

from eqcalc import EqCalculator
from eqcalc.errors import ConfigError, GuardError, OutputError, OutputLostError
from eqcalc.export import export_model
from eqcalc.model_file.seen import seen_in
from eqcalc.simulate import (
    GuardSettings,
    MDRun,
    MDSettings,
    RelaxSettings,
    StopRequested,
    resume_md,
    run_md,
    run_relax,
)
from eqcalc.simulate.checkpoint import read_checkpoint, restore_previous
from eqcalc.simulate.guard_kinds import Motion
from eqcalc.simulate.guard_rails import GuardRails
from eqcalc.simulate.guards import Guards
from eqcalc.simulate.thermo import read_table
from eqcalc.simulate.velocities import redraw_velocities

ETHANOL = Path(__file__).parents[2] / "examples" / "ethanol.xyz"


@pytest.fixture(scope="module")
def painn() -> EqCalculator:
    return EqCalculator("painn-ethanol", engine="torchscript")


@pytest.fixture
def ethanol() -> Atoms:
    return ase.io.read(ETHANOL)


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())


def queued(folder: Path) -> list[Atoms]:
    return ase.io.read(folder / "queued.extxyz", ":")


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"on_alarm": "rollback"}, r"on_alarm must be one of stop, .*Did you mean 'roll-back'"),
        ({"on_doubt": "ignore"}, r"on_doubt must be one of queue, stop, .* not 'ignore'"),
        ({"min_distance": -0.1}, r"min_distance must be a number above 0, or 0 to turn that"),
        ({"max_force": float("nan")}, r"max_force must be a number above 0"),
        ({"max_temperature_K": float("inf")}, r"max_temperature_K must be a number above 0"),
        ({"max_drift_mev_per_atom_ps": -1.0}, r"max_drift_mev_per_atom_ps must be a number"),
        ({"every": 0}, r"every must be an integer >= 1, found 0"),
        ({"max_roll_backs": -1}, r"max_roll_backs must be an integer >= 0"),
        ({"audit_every": 2.5}, r"audit_every must be an integer >= 0, found 2.5"),
        ({"ranges": 1}, r"ranges must be True or False"),
    ],
)
def test_guard_settings_refuse_with_a_reason(wrong, message):
    with pytest.raises(ConfigError, match=message):
        GuardSettings(**wrong)


def test_settings_come_back_from_what_a_checkpoint_keeps_of_them():
    settings = GuardSettings(on_alarm="halve", max_spread=0.3)
    assert GuardSettings.of_stored(asdict(settings)) == settings
    assert GuardSettings.of_stored(None) == GuardSettings()  # of an older version


def test_guard_that_the_ensemble_cannot_have_is_refused(painn, ethanol):
    guards = GuardSettings(max_drift_mev_per_atom_ps=1.0)
    with pytest.raises(ConfigError, match=r"what an ensemble conserves: .*nve, nvt-nhc, npt"):
        MDRun(ethanol, painn, MDSettings("nvt-langevin", guards=guards))
    assert "drift" in MDRun(ethanol, painn, MDSettings("nve")).guard_summary()["watched"]


def test_why_the_drift_is_not_watched_is_said(painn, ethanol):
    def reason(calculator=painn, **options):
        return MDRun(ethanol, calculator, MDSettings(**options)).guard_summary()["not_watched"]

    assert reason()["drift"] == "nothing is conserved in this ensemble"
    ramp = {"ensemble": "nvt-nhc", "to_temperature_K": 400.0}
    assert reason(**ramp)["drift"].startswith("targets that change do work on the system")
    with pytest.raises(ConfigError, match="here targets that change do work on the system"):
        reason(**ramp, guards=GuardSettings(max_drift_mev_per_atom_ps=1.0))

    class WithoutFreeEnergy(EMT):
        implemented_properties = ("energy", "forces")

    found = reason(WithoutFreeEnergy(), ensemble="nvt-nhc")["drift"]
    assert found.startswith("the calculator gives no 'free_energy'")
    assert "drift" not in reason(ensemble="nve")


def test_spread_of_a_single_model_is_refused(painn, ethanol):
    with pytest.raises(ConfigError, match="max_spread watches the spread of a committee"):
        MDRun(ethanol, painn, MDSettings(guards=GuardSettings(max_spread=0.5)))


@pytest.mark.parametrize("action", ["halve", "roll-back"])
def test_relaxation_cannot_go_back(action):
    with pytest.raises(ConfigError, match=f"on_alarm = '{action}' needs a timestep and checkp"):
        RelaxSettings(guards=GuardSettings(on_alarm=action))


def test_relaxation_has_no_temperature():
    with pytest.raises(ConfigError, match="max_temperature_K watches moving atoms"):
        RelaxSettings(guards=GuardSettings(max_temperature_K=300.0))


def test_first_structure_with_atoms_on_top_of_each_other_costs_no_older_run(
    painn, ethanol, tmp_path
):
    run_md(ethanol, painn, MDSettings(n_steps=5), tmp_path)
    h, o = ethanol.symbols.search("H")[0], ethanol.symbols.search("O")[0]
    ethanol.positions[h] = ethanol.positions[o] + [0.0, 0.0, 0.4]
    with pytest.raises(GuardError, match=r"first structure cannot be run from: atoms .*0.400 Å"):
        run_md(ethanol, painn, MDSettings(n_steps=5), tmp_path, overwrite=True)
    assert manifest(tmp_path)["status"] == "complete"


# --- each guard ------------------------------------------------------------------------------


def alarm_of(atoms, calculator, settings, folder) -> dict:
    """Run until a guard stops it; return what the manifest says of the last alarm."""
    with pytest.raises(GuardError, match=r"stopped at step \d+.*: .*queued.extxyz.* shorter"):
        run_md(atoms, calculator, settings, folder)
    content = manifest(folder)
    assert content["status"] == "failed"
    assert content["error"].startswith("GuardError: stopped at step")
    alarm = content["guards"]["alarms"][-1]
    assert alarm["action"] == "stop"
    last = queued(folder)[-1]
    assert (last.info["guard"], last.info["reason"]) == (alarm["guard"], alarm["reason"])
    assert last.info["step"] == alarm["step"]
    assert np.isfinite(last.get_forces()).all()
    trajectory = ase.io.read(folder / "trajectory.traj", ":")
    assert trajectory[-1].info["step"] < alarm["step"]  # that frame is not among the good ones
    return alarm


def only(**limits) -> GuardSettings:
    return replace(GuardSettings.off(), **limits)


def test_timestep_that_is_too_long_is_seen_in_the_conserved_energy(painn, ethanol, tmp_path):
    settings = MDSettings("nve", temperature_K=1200.0, timestep_fs=2.0, n_steps=500)
    alarm = alarm_of(ethanol, painn, settings, tmp_path / "run")
    assert alarm["guard"] == "drift"
    assert "the conserved energy has changed by" in alarm["reason"]


def test_explosion_is_stopped_by_the_temperature(painn, ethanol, tmp_path):
    settings = MDSettings("nvt-langevin", timestep_fs=4.0, n_steps=500)
    alarm = alarm_of(ethanol, painn, settings, tmp_path / "run")
    assert alarm["guard"] in ("temperature", "distance", "force")
    assert alarm["step"] <= 100


def test_single_hot_atom_is_seen_in_a_large_system(tmp_path):
    crystal = bulk("Cu", cubic=True) * (3, 3, 3)
    crystal.rattle(0.02, seed=1)
    momenta = np.zeros((len(crystal), 3))
    momenta[5] = [0.0, 0.0, np.sqrt(2 * 63.5 * 40.0)]  # 40 eV: of all atoms that is 2900 K
    crystal.set_momenta(momenta)
    with pytest.raises(GuardError, match=r"atom 5 \(Cu\) has a kinetic energy of .* above 15"):
        run_md(crystal, EMT(), MDSettings("nve", timestep_fs=1.0), tmp_path)


def test_no_limit_of_the_temperature_is_none_of_an_atom_either(tmp_path):
    crystal = bulk("Cu", cubic=True) * (3, 3, 3)
    momenta = np.zeros((len(crystal), 3))
    momenta[5] = [0.0, 0.0, np.sqrt(2 * 63.5 * 40.0)]
    crystal.set_momenta(momenta)
    guards = GuardSettings(max_temperature_K=0)
    settings = MDSettings("nve", timestep_fs=0.1, n_steps=1, guards=guards)
    assert "temperature" not in MDRun(crystal, EMT(), settings).guard_summary()["watched"]
    run_md(crystal, EMT(), settings, tmp_path / "run")
    own = MDSettings("nve", guards=GuardSettings(max_temperature_K=0, max_atom_kinetic_eV=30))
    with pytest.raises(GuardError, match=r"atom 5 \(Cu\) has a kinetic energy of .* above 30"):
        run_md(crystal, EMT(), own, tmp_path / "own")


def test_atoms_that_are_shot_at_each_other_are_stopped_by_their_distance(painn, ethanol, tmp_path):
    o = int(ethanol.symbols.search("O")[0])
    distances = ethanol.get_distances(o, range(9))
    h = next(k for k in np.argsort(distances) if ethanol.symbols[k] == "H")
    towards = ethanol.positions[o] - ethanol.positions[h]
    momenta = np.zeros((9, 3))
    momenta[h] = 9.0 * towards / np.linalg.norm(towards)  # 40 eV
    ethanol.set_momenta(momenta)
    guards = only(min_distance=None, every=1)
    settings = MDSettings("nve", timestep_fs=0.2, n_steps=200, guards=guards)
    alarm = alarm_of(ethanol, painn, settings, tmp_path / "run")
    assert alarm["guard"] == "distance"
    assert f"{h} (H)" in alarm["reason"]
    assert f"{o} (O)" in alarm["reason"]
    assert "below 0.49" in alarm["reason"]  # half of 0.31 and 0.66 Å


def test_largest_force_stops_a_run(painn, ethanol, tmp_path):
    settings = MDSettings("nve", temperature_K=600.0, n_steps=300, guards=only(max_force=3.0))
    alarm = alarm_of(ethanol, painn, settings, tmp_path / "run")
    assert alarm["guard"] == "force"
    frame = queued(tmp_path / "run")[-1]
    largest = np.linalg.norm(frame.get_forces(), axis=1).max()
    assert f"{largest:.4g} eV/Å, above 3" in alarm["reason"]


class Stirred(Springs):
    """Springs with a force that turns the molecule, and is the gradient of nothing."""

    strength = 0.05

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        arms = self.atoms.positions - self.atoms.positions.mean(axis=0)
        self.results["forces"] = self.results["forces"] + np.cross([0.0, 0.0, self.strength], arms)


@pytest.mark.parametrize(("action", "names"), [("stop", 1), ("queue", 2)])
def test_an_alarm_that_is_queued_hides_no_other(action, names, tmp_path):
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 0.9]])  # too close, and too hot
    atoms.set_momenta([[0, 0, 100.0], [0, 0, -100.0]])
    settings = GuardSettings(on_alarm=action, max_force=0)
    atoms.calc = EMT()
    found = Guards(atoms, settings, Motion(6, 300.0, None)).look()
    assert [alarm.guard for alarm in found] == ["distance", "temperature"][:names]


@pytest.mark.parametrize("ensemble", ["nve", rarely("nvt-nhc")])
def test_forces_that_are_no_derivative_drift(ensemble, tmp_path):
    atoms = springy()
    settings = MDSettings(ensemble, n_steps=8000, log_every=500)
    run_md(atoms, Springs(atoms), settings, tmp_path / "right")  # conserves
    with pytest.raises(GuardError, match=r"conserved energy has changed by .* as in 10 ps"):
        run_md(atoms, Stirred(atoms), settings, tmp_path / "wrong")
    slow = Stirred(atoms)
    slow.strength = 0.002
    with pytest.raises(GuardError, match=r"conserved energy drifts by .* meV/atom/ps, above 5"):
        run_md(atoms, slow, settings, tmp_path / "slow")


def test_committee_that_disagrees_is_queued_and_goes_on(models, ethanol, tmp_path):
    committee = EqCalculator(models, engine="torchscript")
    guards = only(max_spread=0.01)
    settings = MDSettings("nve", n_steps=250, guards=guards)
    result = run_md(ethanol, committee, settings, tmp_path / "run")
    assert result.n_steps == 250
    frames = queued(tmp_path / "run")
    assert [frame.info["step"] for frame in frames] == [0, 100, 200]  # not what is alike
    assert {frame.info["guard"] for frame in frames} == {"spread"}
    assert "the committee's forces on atom" in frames[0].info["reason"]
    stopping = replace(settings, guards=replace(guards, on_doubt="stop"))
    with pytest.raises(GuardError, match=r"stopped at step 0: the committee's forces"):
        run_md(ethanol, committee, stopping, tmp_path / "stopped")


def test_what_the_training_has_not_seen_is_queued(ethanol, tmp_path):
    path = tmp_path / "model.pt"
    seen = seen_in([ethanol], 4.0)
    export_model(potential(seed=1, scale=0.05), path, elements=["H", "C", "O"], seen=seen)
    calculator = EqCalculator(path, engine="torchscript")
    h = int(ethanol.symbols.search("H")[0])
    momenta = np.zeros((9, 3))
    momenta[h] = 0.4 * (ethanol.positions[h] - ethanol.positions.mean(axis=0))  # leaving
    ethanol.set_momenta(momenta)
    settings = MDSettings("nve", n_steps=200, guards=only(ranges=True))
    result = run_md(ethanol, calculator, settings, tmp_path / "run")
    assert result.guards["watched"] == ["range"]
    first = queued(tmp_path / "run")[0]
    assert first.info["guard"] == "range"
    assert "in the training data (atom" in first.info["reason"]
    assert first.info["step"] > 0  # not the first structure, which is all that was seen
    # A model that does not record it is not watched, and says so.
    other = tmp_path / "other.pt"
    export_model(potential(), other, elements=["H", "C", "O"])
    plain = MDRun(ethanol, EqCalculator(other, engine="torchscript"), settings).guard_summary()
    assert plain["watched"] == []
    assert "card of other does not record" in plain["not_watched"]["range"]
    # Of a committee every member is watched that does, whichever comes first.
    near = tmp_path / "near.pt"
    wide = seen_in([ethanol], 4.0)
    for distances in wide["distances"].values():
        distances[:] = [[0.5, 4.0]]
    export_model(potential(seed=2, scale=0.05), near, elements=["H", "C", "O"], seen=wide)
    for members in ([path, near, other], [other, near, path]):
        committee = EqCalculator(members, engine="torchscript")
        atoms = ethanol.copy()
        atoms.positions[h] += momenta[h] / np.linalg.norm(momenta[h])
        run = MDRun(atoms, committee, replace(settings, n_steps=1))
        folder = tmp_path / members[0].stem
        summary = run.run(folder).guards
        assert "card of other" in summary["not_watched"]["range of other"]
        reasons = [frame.info["reason"] for frame in queued(folder)]
        assert reasons
        assert all(", says the card of " in reason for reason in reasons)


def test_no_more_frames_are_queued_than_allowed(models, ethanol, tmp_path):
    guards = only(max_spread=0.01, max_queued=2)
    settings = MDSettings("nve", n_steps=450, guards=guards)
    run_md(ethanol, EqCalculator(models, engine="torchscript"), settings, tmp_path)
    assert len(queued(tmp_path)) == 2


def test_guard_that_comes_after_the_last_frame_of_the_queue_is_still_heard(ethanol, tmp_path):
    guards = only(max_force=0.01, max_temperature_K=1.0, on_alarm="queue", max_queued=1)
    said = []
    run_md(
        ethanol,
        Springs(springy()),
        MDSettings("nve", n_steps=250, guards=guards),
        tmp_path,
        progress=lambda now: said.extend(now.said),
    )
    assert len(queued(tmp_path)) == 1
    alarms = manifest(tmp_path)["guards"]["alarms"]
    assert sorted(alarm["guard"] for alarm in alarms) == ["force", "temperature"]
    assert [line.endswith("(frame to queued.extxyz, going on)") for line in said] == [True, False]
    assert said[1].endswith("(no frame queued any more, going on)")


def test_what_follows_after_going_back_is_queued_too(models, ethanol, tmp_path):
    """Each path has its own frames, whatever was queued of steps that were taken back."""
    guards = only(max_spread=0.01, max_temperature_K=420.0, on_alarm="roll-back", every=20)
    settings = MDSettings(n_steps=240, log_every=20, guards=guards, seed=3)
    run_md(ethanol, EqCalculator(models, engine="torchscript"), settings, tmp_path)
    alarms = manifest(tmp_path)["guards"]["alarms"]
    back = next(k for k, alarm in enumerate(alarms) if alarm.get("back_to_step") == 0)
    assert alarms[back]["step"] > 100
    following = [(alarm["guard"], alarm["step"]) for alarm in alarms[back + 1 :]]
    assert following[0] == ("spread", 20)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    """Two models of random weights, which agree on nothing."""
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{seed}.pt" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        export_model(potential(seed=seed, scale=0.05), path, elements=["H", "C", "O"])
    return paths


def test_relaxation_from_overlapping_atoms_is_let_out_of_there(tmp_path):
    """It is what relaxations are for: what the first structure has is not held against it."""
    atoms = springy()
    calculator = Springs(atoms)
    atoms.positions[3] = atoms.positions[2] + 0.3 * (atoms.positions[3] - atoms.positions[2])
    result = run_relax(atoms, calculator, RelaxSettings(), tmp_path)
    assert result.converged
    assert result.guards["alarms"] == []
    assert atoms.get_distance(3, 2) < 0.31


@pytest.mark.parametrize("ensemble", ["nve", rarely("nvt-langevin"), rarely("nvt-nhc")])
def test_healthy_hot_run_triggers_nothing(ensemble, painn, ethanol, tmp_path):
    settings = MDSettings(ensemble, temperature_K=600.0, n_steps=4000, log_every=100)
    result = run_md(ethanol, painn, settings, tmp_path)
    assert result.guards["alarms"] == []
    assert not (tmp_path / "queued.extxyz").exists()


# --- each action -----------------------------------------------------------------------------


def test_half_the_timestep_makes_a_run_that_was_too_coarse_sound(painn, ethanol, tmp_path):
    settings = MDSettings(
        timestep_fs=4.0, n_steps=200, log_every=20, guards=GuardSettings(on_alarm="halve")
    )
    said: list[str] = []
    result = run_md(ethanol, painn, settings, tmp_path, progress=lambda now: said.extend(now.said))
    found = manifest(tmp_path)["guards"]
    assert found["timestep_fs"] in (2.0, 1.0)
    assert (found["roll_backs"], found["halvings"]) == (len(found["alarms"]),) * 2
    assert found["alarms"][0]["back_to_step"] == 0
    assert "(going back, with half the timestep)" in said[0]
    table = read_table(tmp_path / "thermo.csv")
    assert table["step"].tolist() == list(range(0, 201, 20))  # nothing twice
    assert result.time_fs == table["time_fs"][-1] == 200 * found["timestep_fs"]
    assert table["temperature_K"].max() < 5000
    assert [f.info["step"] for f in ase.io.read(tmp_path / "trajectory.traj", ":")] == list(
        range(0, 201, 20)
    )


def test_run_stops_where_going_back_does_not_help(painn, ethanol, tmp_path):
    guards = GuardSettings(on_alarm="roll-back", max_roll_backs=2)
    settings = MDSettings(timestep_fs=5.0, n_steps=200, guards=guards)
    with pytest.raises(GuardError, match=r"stopped at step \d+, after going back 2 times: "):
        run_md(ethanol, painn, settings, tmp_path / "rolled")
    assert manifest(tmp_path / "rolled")["guards"]["roll_backs"] == 2
    halving = replace(guards, on_alarm="halve", max_halvings=0)
    with pytest.raises(GuardError, match=r"stopped at step \d+, after 0 halvings of the timestep"):
        run_md(ethanol, painn, replace(settings, guards=halving), tmp_path / "halved")


def test_run_goes_back_from_a_model_that_returns_nan(tmp_path):
    """A step that cannot be made is an alarm too; a calculator that is broken stays so."""
    atoms = springy()
    guards = GuardSettings(on_alarm="roll-back", max_roll_backs=1)
    settings = MDSettings("nve", n_steps=100, guards=guards, checkpoint_every=10)
    with pytest.raises(GuardError, match=r"after going back 1 times: the velocities are NaN"):
        run_md(atoms, Springs(atoms, fail_at=60), settings, tmp_path / "run")
    first, second = manifest(tmp_path / "run")["guards"]["alarms"]
    assert (first["guard"], first["back_to_step"]) == ("finite", 50)
    assert second["step"] == 51 or second["step"] == 52


def test_first_step_has_no_checkpoint_to_go_back_to(models, ethanol, tmp_path):
    guards = only(max_spread=0.01, on_doubt="roll-back")
    settings = MDSettings("nve", n_steps=50, guards=guards)
    committee = EqCalculator(models, engine="torchscript")
    with pytest.raises(GuardError, match=r"step 0, before there was a checkpoint to go back to: "):
        run_md(ethanol, committee, settings, tmp_path)


def test_files_that_cannot_be_replaced_are_named(painn, ethanol, tmp_path):
    (tmp_path / "queued.extxyz").mkdir()
    with pytest.raises(OutputError, match=r"cannot remove '.*queued.extxyz'"):
        run_md(ethanol, painn, MDSettings(n_steps=5), tmp_path)
    (tmp_path / "checkpoint.earlier").write_text("")
    (tmp_path / "checkpoint.previous").mkdir()
    with pytest.raises(OutputError, match=r"cannot put '.*checkpoint.previous' in place"):
        restore_previous(tmp_path)


def test_second_alarm_from_a_checkpoint_goes_back_to_the_one_before(painn, ethanol, tmp_path):
    """Temperatures above 430 K are no fault; they come up in any run at 300 K."""
    guards = only(max_temperature_K=430.0, on_alarm="roll-back", max_roll_backs=40, every=5)
    settings = MDSettings(n_steps=150, log_every=10, checkpoint_every=25, guards=guards)
    run_md(ethanol, painn, settings, tmp_path)
    alarms = manifest(tmp_path)["guards"]["alarms"]
    steps = [alarm["back_to_step"] for alarm in alarms]
    again = [k for k in range(1, len(steps)) if alarms[k]["step"] < steps[k - 1] + 25]
    assert again  # it did happen
    for k in again:
        assert steps[k] == max(0, steps[k - 1] - 25) or steps[k] == steps[k - 1]


def stop_at(*steps: int):
    """Return a progress display during which Ctrl-C is pressed at these steps, each once."""
    left = set(steps)

    def show(now) -> None:
        if now.thermo.step in left:
            left.remove(now.thermo.step)
            os.kill(os.getpid(), signal.SIGINT)

    return show


NAMES = ("thermo.csv", "trajectory.traj", "final.xyz", "queued.extxyz", "audit.csv")


@pytest.mark.parametrize(
    ("action", "ensemble", "limit_K", "seed"),
    [
        ("roll-back", "nve", 470.0, 2),
        ("roll-back", "nvt-langevin", 430.0, 2),
        ("roll-back", "nvt-nhc", 480.0, 0),
        ("halve", "nvt-langevin", 430.0, 1),
        ("halve", "nvt-nhc", 540.0, 1),
    ],
)
def test_run_that_went_back_goes_on_bit_for_bit_when_interrupted(
    action, ensemble, limit_K, seed, painn, ethanol, tmp_path
):
    """A temperature that comes up in any run of these stands for what goes wrong."""
    guards = only(
        max_temperature_K=limit_K, on_alarm=action, max_roll_backs=15, max_halvings=4, every=5
    )
    if ensemble != "nvt-langevin":
        guards = replace(guards, max_drift_mev_per_atom_ps=50.0)
    settings = MDSettings(
        ensemble,
        n_steps=160,
        log_every=10,
        checkpoint_every=25,
        guards=replace(guards, audit_every=40),
        seed=seed,
    )
    require_the_same_in_parts(ethanol, painn, settings, tmp_path)


def test_changing_cell_goes_back_too_bit_for_bit_when_interrupted(tmp_path):
    guards = only(max_temperature_K=440.0, on_alarm="roll-back", max_roll_backs=30, every=5)
    settings = MDSettings(
        "npt",
        timestep_fs=4.0,
        pressure_gpa=5.0,
        barostat_time_fs=300.0,
        n_steps=160,
        log_every=10,
        checkpoint_every=25,
        guards=replace(guards, max_drift_mev_per_atom_ps=50.0),
    )
    require_the_same_in_parts(bulk("Cu", cubic=True), EMT(), settings, tmp_path)
    table = read_table(tmp_path / "whole" / "thermo.csv")
    assert np.ptp(table["volume_A3"]) > 0.5


def require_the_same_in_parts(atoms, calculator, settings, tmp_path) -> None:
    """Compare a run in one piece with one that is stopped five times."""
    run_md(atoms, calculator, settings, tmp_path / "whole")
    parts = tmp_path / "parts"
    show = stop_at(10, 40, 80, 120, 150)
    with pytest.raises(StopRequested):
        run_md(atoms, calculator, settings, parts, progress=show)
    for _ in range(5):
        try:
            resume_md(parts, calculator, progress=show)
        except StopRequested:
            continue
        break
    whole, found = manifest(tmp_path / "whole"), manifest(parts)
    assert found["status"] == "complete"
    assert len(found["earlier_parts"]) >= 4
    assert len(found["guards"]["alarms"]) > 0
    assert found["guards"] == whole["guards"]
    for name in NAMES:
        before, after = tmp_path / "whole" / name, parts / name
        assert before.exists() == after.exists(), name
        assert not before.exists() or before.read_bytes() == after.read_bytes(), name
    last = read_checkpoint(tmp_path / "whole").facts
    assert last["random"] == read_checkpoint(parts).facts["random"]


def test_run_that_is_killed_while_it_goes_back_loses_nothing(painn, ethanol, tmp_path, monkeypatch):
    """The checkpoint is there before the files are cut back to it."""
    guards = GuardSettings(on_alarm="halve")
    settings = MDSettings(timestep_fs=4.0, n_steps=100, log_every=10, guards=guards)
    run_md(ethanol, painn, settings, tmp_path / "whole")
    opened = GuardRails.open
    n_calls = []

    def dying(self, *arguments):
        n_calls.append(1)
        if len(n_calls) == 2:
            raise MemoryError("as if killed")
        return opened(self, *arguments)

    monkeypatch.setattr(GuardRails, "open", dying)
    with pytest.raises(MemoryError):
        run_md(ethanol, painn, settings, tmp_path / "parts")
    assert read_checkpoint(tmp_path / "parts").facts["clock"] == [0, 0.0, 2.0]
    resume_md(tmp_path / "parts", painn)
    assert manifest(tmp_path / "parts")["guards"] == manifest(tmp_path / "whole")["guards"]
    for name in NAMES[:4]:
        whole, parts = tmp_path / "whole" / name, tmp_path / "parts" / name
        assert parts.read_bytes() == whole.read_bytes(), name


def test_audits_that_are_cut_short_are_not_gone_on_with(painn, ethanol, tmp_path):
    guards = GuardSettings(audit_every=10)
    run_md(ethanol, painn, MDSettings(n_steps=20, guards=guards), tmp_path)
    (tmp_path / "audit.csv").write_text("step\n")
    with pytest.raises(OutputLostError, match=r"audit.csv' has 5 bytes, and had \d+ at the chec"):
        resume_md(tmp_path, painn, n_steps=40)


def test_new_velocities_keep_energy_momentum_and_rotation(ethanol):
    rng = np.random.default_rng(3)
    ethanol.set_momenta(rng.standard_normal((9, 3)) + np.array([0.3, 0.0, 0.1]))
    before = ethanol.copy()
    redraw_velocities(ethanol, rng)
    assert ethanol.get_kinetic_energy() == pytest.approx(before.get_kinetic_energy(), rel=1e-12)
    np.testing.assert_allclose(
        ethanol.get_momenta().sum(axis=0), before.get_momenta().sum(axis=0), atol=1e-12
    )
    np.testing.assert_allclose(
        ethanol.get_angular_momentum(), before.get_angular_momentum(), atol=1e-9
    )
    assert np.abs(ethanol.get_momenta() - before.get_momenta()).min() > 1e-6


def test_new_velocities_leave_fixed_atoms_at_rest(ethanol):
    from ase.constraints import FixAtoms

    ethanol.set_constraint(FixAtoms([0, 1]))
    ethanol.set_momenta(np.random.default_rng(3).standard_normal((9, 3)))
    energy = ethanol.get_kinetic_energy()
    redraw_velocities(ethanol, np.random.default_rng(4))
    assert not ethanol.get_momenta()[:2].any()
    assert ethanol.get_kinetic_energy() == pytest.approx(energy, rel=1e-12)


@pytest.mark.parametrize("action", ["roll-back", "halve"])
def test_ramp_goes_back_too_bit_for_bit_when_interrupted(action, painn, ethanol, tmp_path):
    guards = only(max_temperature_K=520.0, on_alarm=action, max_roll_backs=30, every=5)
    settings = MDSettings(
        "nvt-langevin",
        to_temperature_K=400.0,
        n_steps=160,
        log_every=10,
        checkpoint_every=25,
        guards=replace(guards, max_halvings=6),
        seed=1,
    )
    require_the_same_in_parts(ethanol, painn, settings, tmp_path)
