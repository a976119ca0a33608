"""A run that goes on from its checkpoint is, bit for bit, one that was never interrupted."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixBondLengths,
    FixCartesian,
    FixLinearTriatomic,
    Hookean,
)
from ase.md.verlet import VelocityVerlet
from small_models import crystal, ethanol, potential

from eqcalc import EqCalculator
from eqcalc.engines.loading import Model
from eqcalc.errors import (
    CheckpointError,
    ConfigError,
    DataWarning,
    OutputError,
    OutputExistsError,
    OutputLostError,
)
from eqcalc.export import export_model
from eqcalc.simulate import GuardSettings, MDRun, MDSettings, StopRequested, resume_md, run_md
from eqcalc.simulate.checkpoint import CHECKPOINT, PREVIOUS, read_checkpoint, write_checkpoint
from eqcalc.simulate.integrators import restore_integrator
from eqcalc.simulate.restart import RunLock, differences
from eqcalc.simulate.settings import BAROSTATS, CHAINS

N_STEPS = 40

# The models are not trained: their atoms come as close as they like. Audits are kept.
LOOSE = replace(GuardSettings.off(), max_force=1e6, audit_every=20)
COMPARED = ("thermo.csv", "audit.csv", "trajectory.traj", "trajectory.xyz", "final.xyz")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = [folder / f"{seed}.pt" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        export_model(potential(seed=seed), path, elements=["H", "C", "O"])
    return paths


def files_of(folder: Path) -> dict[str, bytes]:
    """Return what a run left, but for what tells of times."""
    return {name: (folder / name).read_bytes() for name in COMPARED if (folder / name).exists()}


def stop_at(step: int):
    """Return a progress display during which Ctrl-C is pressed at a step."""

    def show(now) -> None:
        if now.thermo.step == step:
            os.kill(os.getpid(), signal.SIGINT)

    return show


def start_of(ensemble: str) -> Atoms:
    atoms = crystal() if ensemble in BAROSTATS else ethanol()
    if ensemble == "npt-anisotropic":
        atoms.set_cell([5.1, 4.8, 5.4], scale_atoms=True)
    atoms.info["name"] = "start"
    return atoms


@pytest.mark.parametrize("trajectory_format", ["traj", "extxyz"])
@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "nvt-nhc", *BAROSTATS])
def test_run_that_was_stopped_goes_on_bit_for_bit(ensemble, trajectory_format, models, tmp_path):
    settings = MDSettings(
        ensemble,
        n_steps=N_STEPS,
        guards=LOOSE,
        log_every=5,
        trajectory_format=trajectory_format,
        seed=3,
    )
    run_md(start_of(ensemble), EqCalculator(models[0]), settings, tmp_path / "whole")
    with pytest.raises(StopRequested, match=r"stopped at step \d+ of 40; .* --resume .*parts"):
        run_md(
            start_of(ensemble),
            EqCalculator(models[0]),
            settings,
            tmp_path / "parts",
            progress=stop_at(15),
        )
    result = resume_md(tmp_path / "parts", EqCalculator(models[0]))
    assert result.n_steps == N_STEPS
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    assert result.n_frames == 1 + N_STEPS // 5


def test_gas_whose_cell_has_grown_goes_on(tmp_path):
    """A gap that no run may begin with is no reason to leave one where it is."""
    atoms = bulk("Ar", cubic=True, a=10.2)
    settings = MDSettings("npt", timestep_fs=5.0, barostat_time_fs=100.0, n_steps=200, guards=LOOSE)
    run_md(atoms, LennardJones(), settings, tmp_path / "whole")
    with pytest.raises(StopRequested):
        run_md(atoms, LennardJones(), settings, tmp_path / "parts", progress=stop_at(180))
    grown = ase.io.read(tmp_path / "parts" / "final.xyz")
    with pytest.raises(ConfigError, match=r"layer of .* without atoms"):
        MDRun(grown, LennardJones(), settings)
    resume_md(tmp_path / "parts", LennardJones())
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("ensemble", CHAINS)
def test_conserved_energy_of_a_chain_goes_on_where_the_run_does(ensemble, models, tmp_path):
    """Nothing in a trajectory needs all of it, but the guard that watches for drift does."""
    times = {"thermostat_time_fs": 10.0, "barostat_time_fs": 20.0}
    settings = MDSettings(ensemble, n_steps=N_STEPS, guards=LOOSE, **times)
    run = MDRun(start_of(ensemble), EqCalculator(models[0]), settings)
    run.run(tmp_path / "run")
    resumed = MDRun.resume(tmp_path / "run", EqCalculator(models[0]), n_steps=2 * N_STEPS)
    energies = [each.dynamics.get_conserved_energy() for each in (run, resumed)]
    assert energies[1] == pytest.approx(energies[0], abs=1e-9)


def run_in_parts(atoms, settings, folder, make, *, stops=(15,)):
    """Run, stop at steps and go on, each time with a new calculator."""
    with pytest.raises(StopRequested):
        run_md(atoms, make(), settings, folder, progress=stop_at(stops[0]))
    for step in stops[1:]:
        with pytest.raises(StopRequested):
            resume_md(folder, make(), progress=stop_at(step))
    return resume_md(folder, make())


KINDS = [
    "committee",
    "fixed atoms",
    "partly fixed atoms",
    "rigid bond",
    "rigid bonds of given lengths",
    "springs",
    "linear molecule",
    "float32",
    "no skin",
    "numbers of numpy",
    "names of atoms",
    "origin of a cell",
]


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_a_run_has_goes_on_bit_for_bit(kind, models, tmp_path):
    atoms = ethanol()
    if kind == "fixed atoms":
        atoms.set_constraint(FixAtoms([0, 1]))
    if kind == "partly fixed atoms":
        atoms.set_constraint([FixAtoms([0]), FixCartesian([1, 2], (True, False, False))])
    if kind == "names of atoms":
        atoms.set_array(
            "label", np.array(["C1", "C2", None, *"OHHHHH"][: len(atoms)], dtype=object)
        )
    if kind == "origin of a cell":
        atoms.set_cell([9.0, 9.0, 9.0])
        atoms.set_celldisp([-4.5, 1.0, 0.25])
    if kind == "rigid bond":
        atoms.set_constraint(FixBondLength(0, 1))
    if kind == "rigid bonds of given lengths":
        pairs = [(0, 1), (1, 2)]
        lengths = [float(atoms.get_distance(*pair)) + 1e-4 for pair in pairs]
        atoms.set_constraint(FixBondLengths(pairs, bondlengths=lengths))
    if kind == "springs":
        point = Hookean(2, (1.0, 1.0, 1.0), k=2.0, rt=0.5)
        atoms.set_constraint([Hookean(0, 1, k=5.0, rt=1.0), point])
    if kind == "linear molecule":
        atoms = Atoms("OCO", [[0.0, 0.0, -1.16], [0.0, 0.0, 0.0], [0.0, 0.0, 1.16]])
        atoms.set_constraint(FixLinearTriatomic([(0, 1, 2)]))
    skin = 0.0 if kind == "no skin" else 0.5
    source = models if kind == "committee" else models[0]
    dtype = "float32" if kind == "float32" else None

    def make() -> EqCalculator:
        return EqCalculator(source, dtype=dtype, skin=skin)

    settings = MDSettings(
        "nvt-langevin", n_steps=N_STEPS, guards=LOOSE, log_every=5, checkpoint_every=7
    )
    if kind == "numbers of numpy":
        settings = replace(settings, timestep_fs=np.float32(0.5), temperature_K=np.int64(250))
    run_md(atoms, make(), settings, tmp_path / "whole")
    run_in_parts(atoms, settings, tmp_path / "parts", make, stops=(10, 20, 35))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    manifest = json.loads((tmp_path / "parts" / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["not_exact"] == []
    assert [part["status"] for part in manifest["earlier_parts"]] == ["interrupted"] * 3
    assert manifest["earlier_parts"][-1]["steps_done"] == manifest["resumed_at_step"]


def test_atoms_that_the_calculator_orders_go_on_bit_for_bit(models, tmp_path, monkeypatch):
    """As for thousands of atoms: the order is that of the first positions."""
    monkeypatch.setattr("eqcalc.calculator.atom_order.FEWEST", 4)
    atoms, make = ethanol(), functools.partial(EqCalculator, models[0])
    settings = MDSettings("nve", temperature_K=900.0, n_steps=300, guards=LOOSE, log_every=50)
    run_md(atoms, make(), settings, tmp_path / "whole")
    run_in_parts(atoms, settings, tmp_path / "parts", make, stops=(250,))
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
    end = ase.io.read(tmp_path / "whole" / "final.xyz")
    later = make()
    later.calculate(end)
    kept = read_checkpoint(tmp_path / "parts").arrays["atom_order"]
    assert not np.array_equal(kept, later.atom_order)  # another one would be chosen by now


def test_row_that_is_there_because_a_run_ended_is_none_of_the_run_that_goes_on(models, tmp_path):
    """13 is no multiple of 5: its row and frame are those of an end."""
    make = functools.partial(EqCalculator, models[0])
    short = MDSettings("nve", n_steps=13, guards=LOOSE, log_every=5)
    run_md(ethanol(), make(), short, tmp_path / "parts")
    assert rows_of(tmp_path / "parts") == [0, 5, 10, 13]
    resume_md(tmp_path / "parts", make(), n_steps=N_STEPS)
    run_md(
        ethanol(),
        make(),
        MDSettings("nve", n_steps=N_STEPS, guards=LOOSE, log_every=5),
        tmp_path / "whole",
    )
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


def test_run_of_a_version_with_fewer_columns_goes_on_with_those(models, tmp_path):
    make, folder = functools.partial(EqCalculator, models[0]), tmp_path / "old"
    settings = MDSettings("npt", n_steps=10, log_every=5)
    run_md(crystal(), make(), settings, folder)
    table = [line.split(",")[:8] for line in (folder / "thermo.csv").read_text().splitlines()]
    assert table[0][-1] == "pressure_gpa"
    text = "".join(",".join(line) + "\n" for line in table)
    (folder / "thermo.csv").write_text(text)
    checkpoint = read_checkpoint(folder)
    checkpoint.facts["files"]["table"] = len(text)
    for name in ("minimize", "minimize_fmax", "minimize_steps", "ramp_steps"):
        del checkpoint.facts["settings"][name]
    del checkpoint.facts["minimization"]
    write_checkpoint(folder, checkpoint)
    result = resume_md(folder, make(), n_steps=20)
    assert result.n_frames == 5
    whole = dataclasses.replace(settings, n_steps=20)
    run_md(crystal(), make(), whole, tmp_path / "whole")
    now = [line.split(",") for line in (tmp_path / "whole/thermo.csv").read_text().splitlines()]
    assert [line.split(",") for line in (folder / "thermo.csv").read_text().splitlines()] == [
        line[:8] for line in now
    ]
    assert now[0][8:] == ["density_g_per_cm3", "a_A", "b_A", "c_A", *ANGLES]


ANGLES = ["alpha_deg", "beta_deg", "gamma_deg"]


def test_table_with_a_column_of_a_later_version_is_refused(stopped, models):
    path = stopped / "thermo.csv"
    path.write_text(path.read_text().replace("time_fs", "time_of"))
    before = files_of(stopped)
    with pytest.raises(OutputError, match=r"thermo\.csv' has the columns time_of, which this ver"):
        resume_md(stopped, EqCalculator(models[0]))
    assert files_of(stopped) == before
    path.write_bytes(b"\xff" * 10000)
    with pytest.raises(OutputError, match=r"cannot read '.*thermo\.csv'"):
        resume_md(stopped, EqCalculator(models[0]))


def test_run_ends_in_good_order_when_its_hours_are_over(models, tmp_path):
    make = functools.partial(EqCalculator, models[0])
    settings = MDSettings("nvt-langevin", n_steps=400, guards=LOOSE, log_every=7)
    run_md(ethanol(), make(), settings, tmp_path / "whole")
    folder, hours = tmp_path / "parts", 0.1 / 3600
    with pytest.raises(StopRequested, match=r"stopped at step \d+ of 400") as caught:
        run_md(ethanol(), make(), settings, folder, max_hours=hours)
    assert caught.value.signal_number == signal.SIGALRM
    resumed = resume_md(folder, make(), max_hours=1.0)
    assert resumed.n_steps == 400
    assert files_of(folder) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("hours", [0.0, -1.0, math.nan, math.inf])
def test_hours_that_are_no_time_are_refused(hours, models, tmp_path):
    with pytest.raises(ConfigError, match="the hours of a run must be a number above 0, not"):
        run_md(ethanol(), EqCalculator(models[0]), MDSettings(), tmp_path / "run", max_hours=hours)
    assert not (tmp_path / "run").exists()


def rows_of(folder: Path) -> list[int]:
    return [
        int(line.split(",")[0]) for line in (folder / "thermo.csv").read_text().split("\n")[1:-1]
    ]


_VICTIM = """
import sys
import time
from pathlib import Path
from ase.io import read
from eqcalc import EqCalculator
from eqcalc.simulate import GuardSettings, MDSettings, resume_md, run_md
model, folder, n_steps, most = sys.argv[1:]
calculator = EqCalculator(model)
begun = None

def wait_to_be_killed(now):  # a test that looks late shall not find the whole run done
    global begun
    begun = now.thermo.step if begun is None else begun
    if now.thermo.step >= begun + int(most):
        time.sleep(600)

if Path(folder).exists():
    resume_md(folder, calculator, progress=wait_to_be_killed)
else:
    settings = MDSettings("nvt-langevin", n_steps=int(n_steps), log_every=3, checkpoint_every=10,
                          guards=GuardSettings.off())
    run_md(read("start.xyz"), calculator, settings, folder, progress=wait_to_be_killed)
"""


def test_run_that_is_killed_again_and_again_loses_nothing(models, tmp_path):
    ethanol().write(tmp_path / "start.xyz")
    command = [sys.executable, "-c", _VICTIM, str(models[0])]
    whole = subprocess.run([*command, "whole", "400", "1000"], cwd=tmp_path, check=False)
    assert whole.returncode == 0
    rng, folder, n_kills = random.Random(5), tmp_path / "parts", 0
    for _ in range(4):
        begun = checkpoint_step(folder)
        with subprocess.Popen([*command, "parts", "400", "80"], cwd=tmp_path) as process:
            deadline = time.monotonic() + 600.0
            while checkpoint_step(folder) < begun + 40 and process.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.01 * rng.random())
            n_kills += process.poll() is None
            process.kill()
    assert n_kills == 4
    last = subprocess.run([*command, "parts", "400", "1000"], cwd=tmp_path, check=False)
    assert last.returncode == 0
    assert files_of(folder) == files_of(tmp_path / "whole")


def test_part_that_was_killed_ended_at_the_checkpoint_from_which_the_run_goes_on(tmp_path):
    off = GuardSettings.off()
    settings = MDSettings("nve", n_steps=40, guards=off, log_every=5, checkpoint_every=10)

    def kill(now) -> None:  # what is there then is what a kill would leave
        if now.thermo.step == 25:
            shutil.copytree(tmp_path / "run", tmp_path / "killed")

    run_md(crystal(), EMT(), settings, tmp_path / "run", progress=kill)
    resume_md(tmp_path / "killed", EMT())
    manifest = json.loads((tmp_path / "killed" / "manifest.json").read_text())
    (part,) = manifest["earlier_parts"]
    assert (part["status"], part["steps_done"]) == ("running", 20)


def checkpoint_step(folder: Path) -> int:
    try:
        return read_checkpoint(folder).step
    except CheckpointError:
        return 0


# --- what does not fit ---------------------------------------------------------------------


@pytest.fixture
def stopped(models, tmp_path) -> Path:
    """The folder of a run that was stopped at step 15 of 40; checkpoints of 10 and of 15."""
    folder = tmp_path / "run"
    settings = MDSettings("nve", n_steps=N_STEPS, guards=LOOSE, log_every=5, checkpoint_every=10)
    with pytest.raises(StopRequested):
        run_md(ethanol(), EqCalculator(models[0]), settings, folder, progress=stop_at(15))
    return folder


@pytest.mark.parametrize("damage", ["missing", "cut", "changed", "empty"])
def test_previous_checkpoint_takes_the_place_of_a_damaged_one(damage, stopped, models, tmp_path):
    path = stopped / CHECKPOINT
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes({"cut": content[:500], "changed": content, "empty": b""}[damage])
    assert read_checkpoint(stopped).step < 15
    resume_md(stopped, EqCalculator(models[0]))
    whole = MDSettings("nve", n_steps=N_STEPS, guards=LOOSE, log_every=5)
    run_md(ethanol(), EqCalculator(models[0]), whole, tmp_path / "whole")
    assert files_of(stopped) == files_of(tmp_path / "whole")


@pytest.mark.parametrize("regular", [True, False])
def test_damaged_checkpoint_does_not_replace_the_one_before(regular, stopped):
    good = read_checkpoint(stopped)
    before = (stopped / PREVIOUS).read_bytes()
    content = bytearray((stopped / CHECKPOINT).read_bytes())
    content[len(content) // 2] ^= 1
    (stopped / CHECKPOINT).write_bytes(content)
    write_checkpoint(stopped, replace(good, facts={**good.facts, "regular": regular}))
    assert (stopped / PREVIOUS).read_bytes() == before
    assert read_checkpoint(stopped).step == good.step


def test_damaged_checkpoints_are_named(stopped, models):
    for name in (CHECKPOINT, PREVIOUS):
        (stopped / name).write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"checkpoint' is no checkpoint.*previous' is no ch"):
        resume_md(stopped, EqCalculator(models[0]))


def test_folder_without_a_run_is_refused(models, tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no folder '.*nowhere'"):
        resume_md(tmp_path / "nowhere", EqCalculator(models[0]))


def test_another_model_or_calculator_is_refused(stopped, models):
    with pytest.raises(CheckpointError, match=r"another model: sha256 \w+\.\.\., now sha256"):
        resume_md(stopped, EqCalculator(models[1]))
    with pytest.raises(CheckpointError, match="another calculator: EqCalculator, now EMT"):
        resume_md(stopped, EMT())


@pytest.mark.parametrize("other", ["parameters", "parts"])
def test_another_potential_of_the_same_class_is_refused(other, tmp_path):
    atoms = crystal()
    settings = MDSettings("nve", n_steps=N_STEPS, guards=GuardSettings.off())

    def make(energy_scale: float, n: int):
        return SumCalculator([LennardJones(epsilon=energy_scale, sigma=2.0) for _ in range(n)])

    with pytest.raises(StopRequested):
        run_md(atoms, make(0.01, 1), settings, tmp_path, progress=stop_at(10))
    changed = make(0.1, 1) if other == "parameters" else make(0.01, 2)
    with pytest.raises(
        CheckpointError, match=r"at step 1\d the run had the potential energy .* gi"
    ):
        resume_md(tmp_path, changed)
    assert resume_md(tmp_path, make(0.01, 1)).n_steps == N_STEPS


def test_steps_that_are_done_are_refused(stopped, models):
    with pytest.raises(ConfigError, match=r"at step \d+ of 40: nothing of 12 is left .* n_steps"):
        resume_md(stopped, EqCalculator(models[0]), n_steps=12)


@pytest.mark.parametrize("kind", ["free", "partly fixed"])
def test_run_that_was_made_longer_stays_so_when_it_is_killed(kind, models, tmp_path):
    """Before its next checkpoint; the one that there is says how long it is to be."""
    atoms = ethanol()
    if kind == "partly fixed":
        atoms.set_constraint(FixCartesian([0, 1], [True, False, True]))
    settings = MDSettings(n_steps=10, guards=LOOSE, log_every=5, checkpoint_every=1000)
    longer = replace(settings, n_steps=30)
    calculator = EqCalculator(models[0])
    run_md(atoms, calculator, longer, tmp_path / "whole")
    run_md(atoms, calculator, settings, tmp_path / "run")

    def killed(now) -> None:
        if now.thermo.step == 20:
            raise MemoryError("as if killed")

    with pytest.raises(MemoryError):
        resume_md(tmp_path / "run", calculator, n_steps=30, progress=killed)
    assert read_checkpoint(tmp_path / "run").step == 10
    result = resume_md(tmp_path / "run", calculator)
    assert result.n_steps == 30
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("n_steps", [20, 23])
@pytest.mark.parametrize("end", ["killed", "failed"])
def test_run_that_ended_before_its_last_files_were_written_writes_them(
    end, n_steps, models, tmp_path, monkeypatch
):
    """The last row of one that ends between two rows is none of the run's checkpoint."""
    settings = MDSettings(n_steps=n_steps, guards=LOOSE, log_every=5, checkpoint_every=10)
    calculator = EqCalculator(models[0])
    run_md(ethanol(), calculator, settings, tmp_path / "whole")
    with pytest.raises(ConfigError, match="nothing is left to do"):
        resume_md(tmp_path / "whole", calculator)

    def full(path: Path, *table: object, **options: object) -> None:
        (path.parent / "final.xyz").unlink()
        shutil.copytree(path.parent, tmp_path / "killed")
        raise OutputError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("eqcalc.simulate.md.plot_md", full)
        with pytest.raises(OutputError, match="disk is full"):
            run_md(ethanol(), calculator, settings, tmp_path / "failed")
    assert json.loads((tmp_path / "killed" / "manifest.json").read_text())["status"] == "running"
    result = resume_md(tmp_path / end, calculator)
    assert (result.n_steps, result.n_frames) == (n_steps, 5 + (n_steps % 5 > 0))
    assert files_of(tmp_path / end) == files_of(tmp_path / "whole")
    assert (tmp_path / end / "plot.png").exists()
    assert json.loads((tmp_path / end / "manifest.json").read_text())["status"] == "complete"
    with pytest.raises(ConfigError, match="nothing is left to do"):
        resume_md(tmp_path / end, calculator)


def test_table_that_lost_rows_is_refused(stopped, models):
    (stopped / "thermo.csv").write_text("step,time_fs\n")
    with pytest.raises(OutputLostError, match=r"thermo\.csv' has 13 bytes, and had"):
        resume_md(stopped, EqCalculator(models[0]))


@pytest.mark.parametrize("name", ["thermo.csv", "trajectory.traj"])
def test_file_that_was_removed_is_refused_and_the_other_is_not_touched(name, stopped, models):
    (stopped / name).unlink()
    before = files_of(stopped)
    with pytest.raises(OutputLostError, match=rf"{name}' has 0 bytes, and had \d+"):
        resume_md(stopped, EqCalculator(models[0]))
    assert files_of(stopped) == before


@pytest.mark.parametrize(
    ("was", "now"), [(b"\n", b"\r\n"), (b"5,2.5,", b"5.0,2.50,")], ids=["ends", "digits"]
)
def test_table_that_was_saved_in_another_way_is_refused_before_it_is_cut(was, now, stopped, models):
    table = stopped / "thermo.csv"
    table.write_bytes(table.read_bytes().replace(was, now))
    before = table.read_bytes()
    with pytest.raises(OutputLostError, match=r"thermo\.csv' is not what it was .*within a line"):
        resume_md(stopped, EqCalculator(models[0]))
    assert table.read_bytes() == before


def test_settings_of_another_version_are_named(stopped, models):
    checkpoint = read_checkpoint(stopped)
    checkpoint.facts["settings"]["wind"] = 3.0
    write_checkpoint(stopped, checkpoint)
    with pytest.raises(CheckpointError, match=r"has the settings wind, .* does not know"):
        resume_md(stopped, EqCalculator(models[0]))


def test_run_goes_on_in_its_own_folder_only(stopped, models, tmp_path):
    shutil.copytree(stopped, tmp_path / "other")
    before = files_of(tmp_path / "other")
    run = MDRun.resume(stopped, EqCalculator(models[0]))
    with pytest.raises(ConfigError, match=r"goes on in its own folder, '.*run', not in '.*other'"):
        run.run(tmp_path / "other")
    assert files_of(tmp_path / "other") == before


def test_run_that_has_gone_on_meanwhile_is_refused(stopped, models):
    late = MDRun.resume(stopped, EqCalculator(models[0]))
    resume_md(stopped, EqCalculator(models[0]))
    before = files_of(stopped)
    with pytest.raises(ConfigError, match=r"has gone on from step \d+ to 40 meanwhile"):
        late.run(stopped)
    assert files_of(stopped) == before


def test_structure_and_picture_of_the_earlier_end_do_not_outlive_it(stopped, models):
    seen = []

    def look(now) -> None:
        seen.append((stopped / "final.xyz").exists() or (stopped / "plot.png").exists())

    resume_md(stopped, EqCalculator(models[0]), progress=look)
    assert seen
    assert not any(seen)


def test_checkpoint_that_cannot_be_put_in_place_ends_the_run(models, tmp_path):
    folder = tmp_path / "run"

    def block(now) -> None:
        if now.thermo.step == 5:
            (folder / PREVIOUS).mkdir()

    settings = MDSettings("nve", n_steps=N_STEPS, guards=LOOSE, log_every=5, checkpoint_every=10)
    with pytest.raises(OutputError, match=r"cannot put '.*checkpoint' in place: "):
        run_md(ethanol(), EqCalculator(models[0]), settings, folder, progress=block)
    assert read_checkpoint(folder).step == 0


def test_checkpoint_with_another_content_is_named(stopped, models):
    content = io.BytesIO()
    np.savez(content, nothing=np.zeros(3))
    digest = hashlib.sha256(content.getvalue()).hexdigest().encode()
    whole = b"eqcalc md checkpoint 1\n" + digest + b"\n" + content.getvalue()
    for name in (CHECKPOINT, PREVIOUS):
        (stopped / name).write_bytes(whole)
    with pytest.raises(CheckpointError, match="checkpoint' cannot be read: 'facts'"):
        resume_md(stopped, EqCalculator(models[0]))
    for name in (CHECKPOINT, PREVIOUS):
        (stopped / name).unlink()
        (stopped / name).mkdir()
    with pytest.raises(CheckpointError, match=r"cannot read '.*checkpoint': Is a directory"):
        resume_md(stopped, EqCalculator(models[0]))


def test_integrator_that_carries_something_else_is_named():
    atoms = ethanol()
    dynamics = VelocityVerlet(atoms, 1.0)
    with pytest.raises(ConfigError, match=r"carries nothing, and .* has \.other; go on with the"):
        restore_integrator(dynamics, {".other": np.zeros(2)})


def test_run_that_still_goes_on_is_left_alone(stopped, models):
    with (
        closing(RunLock(stopped, required=False)),
        pytest.raises(ConfigError, match="is still going on in another process"),
    ):
        resume_md(stopped, EqCalculator(models[0]))


def test_run_that_has_begun_in_the_folder_meanwhile_is_left_alone(tmp_path):
    """As of two jobs that begin at once, with the same name for their folder."""
    settings = MDSettings("nve", n_steps=20, guards=LOOSE)

    class Slow(EMT):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            if not (tmp_path / "manifest.json").exists():
                run_md(crystal(), EMT(), settings, tmp_path)

    with pytest.raises(OutputExistsError, match=r"already holds a run \(manifest\.json, traj"):
        run_md(crystal(), Slow(), settings, tmp_path)
    assert len(ase.io.read(tmp_path / "trajectory.traj", ":")) == 3


def test_new_run_begins_where_another_one_is_only_if_it_is_told_to(tmp_path):
    settings = MDSettings("nve", n_steps=20, guards=LOOSE)
    with closing(RunLock(tmp_path, required=True)):
        with pytest.raises(ConfigError, match="is still going on in another process"):
            run_md(crystal(), EMT(), settings, tmp_path)
        assert run_md(crystal(), EMT(), settings, tmp_path, overwrite=True).n_steps == 20


def test_constraint_that_no_file_can_hold_is_named(models, tmp_path):
    class Own(FixAtoms):
        def todict(self):
            raise NotImplementedError

    atoms = ethanol()
    atoms.set_constraint(Own([0]))
    with (
        pytest.warns(DataWarning, match="constraints Own: .* and the run cannot be resumed"),
        pytest.raises(StopRequested),
    ):
        run_md(
            atoms,
            EqCalculator(models[0]),
            MDSettings("nve", n_steps=N_STEPS, guards=LOOSE, log_every=5),
            tmp_path / "run",
            progress=stop_at(15),
        )
    with pytest.raises(CheckpointError, match="had the constraints Own, which no file can hold"):
        resume_md(tmp_path / "run", EqCalculator(models[0]))


def test_other_precision_is_said_to_be_not_exact(stopped, models):
    run = MDRun.resume(stopped, EqCalculator(models[0], dtype="float64", threads=1))
    assert run.not_exact == []
    run = MDRun.resume(stopped, EqCalculator(models[0], dtype="float32"))
    assert run.not_exact == ["dtype float64, now float32"]


def test_part_that_was_not_exact_is_still_told_of_when_the_next_one_is(stopped, models):
    with pytest.raises(StopRequested):
        resume_md(stopped, EqCalculator(models[0], dtype="float32"), progress=stop_at(25))
    resume_md(stopped, EqCalculator(models[0], dtype="float32"))
    manifest = json.loads((stopped / "manifest.json").read_text())
    assert manifest["not_exact"] == []
    first, second = manifest["earlier_parts"]
    assert "not_exact" not in first
    assert second["resumed_at_step"] == first["steps_done"]
    assert "dtype float64, now float32" in second["not_exact"]


def test_a_gpu_is_said_to_be_not_exact(stopped, models, monkeypatch):
    run = MDRun.resume(stopped, EqCalculator(models[0], dtype="float64", threads=1))
    checkpoint = read_checkpoint(stopped)
    assert differences(run.atoms, checkpoint) == []
    monkeypatch.setattr(Model, "device", property(lambda model: torch.device("cuda")))
    assert "a GPU, where the order of sums varies" in differences(run.atoms, checkpoint)
