"""Real LAMMPS with a model behind fix external: the calculator's numbers, on one rank or two."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from eqcalc import EqCalculator
from eqcalc.simulate.lammps_style import LammpsScript, write_data

pytestmark = pytest.mark.hosts

EXAMPLE = Path(__file__).parents[2] / "examples" / "07_lammps_style"
RUN = Path(__file__).parent / "run_lammps.py"
COLUMNS = ("step", "temp", "pe", "ke", "etotal", "press", "vol")


def run_lammps(
    folder, *, commands, model="painn-ethanol", elements=("C", "H", "O"), ranks=1, **how
):
    """Run LAMMPS in processes of its own; return the ended process and the rows of its output."""
    job = folder / "job.json"
    job.write_text(
        json.dumps({"commands": commands, "model": model, "elements": list(elements), **how})
    )
    command = [sys.executable, str(RUN), str(job)]
    if ranks > 1:
        mpirun = Path(sys.executable).parent / "mpirun"
        command = [str(mpirun), "-np", str(ranks), *command]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    rows = folder / "rows.json"
    return done, json.loads(rows.read_text()) if rows.exists() else None


def ethanol_in_a_sheared_box(folder, units="metal"):
    """Write two molecules that move, in a triclinic box."""
    atoms = molecule("CH3CH2OH")
    atoms.rotate(40, (1, 2, 3))
    atoms.set_cell([[9.0, 0, 0], [1.5, 10.0, 0], [-1.0, 2.0, 11.0]])
    atoms.pbc = True
    atoms = atoms * (2, 1, 1)
    write_data(folder / "a.data", atoms, ["C", "H", "O"], units=units)
    script = LammpsScript(units, screen=False)
    script.read_data(folder / "a.data")
    script.velocity_create(400.0, 4711)
    script.write_data(folder / "a.data")


def head(units="metal", pair="pair_style zero 5.0"):
    return [
        f"units {units}",
        "atom_style atomic",
        "read_data a.data",
        pair,
        "pair_coeff * *" if pair.startswith("pair_style zero") else "",
        f"timestep {0.0005 if units == 'metal' else 0.5}",
    ]


def run_script(folder, units, fix):
    script = LammpsScript(units, screen=False)
    script.read_data(folder / "a.data")
    script.pair_style("eqcalc", precision="float64", engine="torchscript")
    script.pair_coeff("painn-ethanol", "C", "H", "O")
    script.timestep(0.0005 if units == "metal" else 0.5)
    script.thermo(10)
    script.thermo_style("custom", *COLUMNS)
    fix(script)
    return script.run(50)


@pytest.mark.parametrize(
    ("units", "ranks", "fix", "ours"),
    [
        ("metal", 1, "fix f all nve", lambda s: s.fix_nve()),
        ("metal", 2, "fix f all nve", lambda s: s.fix_nve()),
        ("real", 1, "fix f all nve", lambda s: s.fix_nve()),
        ("metal", 1, "fix f all nvt temp 300 300 0.1", lambda s: s.fix_nvt((300, 300, 0.1))),
    ],
)
def test_lammps_and_a_script_in_its_words_have_the_same_numbers(tmp_path, units, ranks, fix, ours):
    ethanol_in_a_sheared_box(tmp_path, units)
    done, rows = run_lammps(tmp_path, commands=[*head(units), fix], ranks=ranks, runs=[10] * 5)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = run_script(tmp_path, units, ours)
    assert [row["step"] for row in rows] == [0, 10, 20, 30, 40, 50]
    for row, one in zip(rows, expected, strict=True):
        assert row["pe"] == pytest.approx(one["pe"], rel=1e-9)
        # LAMMPS's constants are older: 6e-8 in its kinetic energy, 1.5e-6 in temperatures.
        assert row["etotal"] == pytest.approx(one["etotal"], rel=1e-9)
        assert row["ke"] == pytest.approx(one["ke"], rel=1e-5)
        assert row["temp"] == pytest.approx(one["temp"], rel=1e-5)
        assert row["press"] == pytest.approx(one["press"], rel=1e-5, abs=1e-2)
        assert row["vol"] == pytest.approx(one["vol"], rel=1e-12)


def test_example_prints_in_lammps_what_the_script_prints(tmp_path):
    shutil.copy(EXAMPLE / "ethanol.data", tmp_path)
    lines = [line for line in (EXAMPLE / "in.lammps").read_text().splitlines() if line]
    pair = next(number for number, line in enumerate(lines) if line.startswith("pair_style"))
    before = [*lines[:pair], "pair_style zero 5.0", "pair_coeff * *"]
    done, _ = run_lammps(tmp_path, commands=before, after=lines[pair + 2 :], runs=[])
    assert done.returncode == 0, done.stdout + done.stderr
    script = subprocess.run(
        [sys.executable, str(EXAMPLE / "script.py")], capture_output=True, text=True, check=True
    )
    assert numbers(done.stdout) == numbers(script.stdout)
    assert len(numbers(script.stdout)) == 12


def numbers(text):
    """Return the rows of four columns that begin with a step."""
    rows = [line.split() for line in text.splitlines()]
    return [row for row in rows if len(row) == 4 and row[0].isdigit()]


def test_forces_and_energies_of_atoms_are_those_of_the_calculator(tmp_path):
    ethanol_in_a_sheared_box(tmp_path)
    done, rows = run_lammps(
        tmp_path, commands=[*head(), "fix f all nve"], ranks=2, runs=[], atoms=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    script = LammpsScript(screen=False)
    script.read_data(tmp_path / "a.data")
    script.pair_style("eqcalc", precision="float64", engine="torchscript")
    script.pair_coeff("painn-ethanol", "C", "H", "O")
    atoms = script.atoms
    assert np.allclose(rows[0]["forces"], atoms.get_forces(), rtol=0, atol=1e-10)
    energies = np.array(rows[0]["energies"])
    assert np.allclose(energies, atoms.get_potential_energies(), rtol=1e-12, atol=0)


def test_lammps_relaxes_with_the_model_s_forces_and_virial(tmp_path):
    ethanol_in_a_sheared_box(tmp_path)
    relax = ["min_style fire", "minimize 0.0 0.01 300 1000"]
    done, rows = run_lammps(tmp_path, commands=head(), after=relax, runs=[])
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Stopping criterion = force tolerance" in done.stdout
    assert rows[-1]["pe"] < rows[0]["pe"] - 0.05


def test_pressure_of_a_box_that_is_not_periodic_is_no_number(tmp_path):
    atoms = molecule("CH3CH2OH", vacuum=6.0)
    write_data(tmp_path / "a.data", atoms, ["C", "H", "O"])
    commands = head()
    commands.insert(2, "boundary f f f")
    done, rows = run_lammps(tmp_path, commands=[*commands, "fix f all nve"], runs=[5])
    assert done.returncode == 0, done.stdout + done.stderr
    assert np.isnan(rows[0]["press"])
    atoms.calc = EqCalculator("painn-ethanol", dtype="float64", engine="torchscript")
    assert rows[0]["pe"] == pytest.approx(atoms.get_potential_energy(), rel=1e-12)


@pytest.mark.parametrize("ranks", [1, 2])
def test_error_of_the_model_ends_lammps_on_all_ranks(tmp_path, ranks):
    write_data(tmp_path / "a.data", bulk("Cu", cubic=True), ["Cu"])
    done, rows = run_lammps(
        tmp_path, commands=[*head(), "fix f all nve"], elements=["Cu"], ranks=ranks, runs=[10]
    )
    assert done.returncode != 0
    assert "does not know Cu" in done.stdout + done.stderr
    assert rows is None


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        ({}, {"elements": ["H", "C", "O"]}, "type 1 is H"),
        ({}, {"model": "no-such-model"}, "no-such-model"),
        ({0: "units lj"}, {}, "units 'lj' are not supported"),
        ({2: ""}, {}, "LAMMPS has no box yet"),
    ],
)
def test_attach_refuses_on_all_ranks(tmp_path, change, how, message, ranks):
    ethanol_in_a_sheared_box(tmp_path)
    commands = [change.get(number, line) for number, line in enumerate(head())]
    if 2 in change:
        commands = commands[:2]
    done, rows = run_lammps(tmp_path, commands=commands, runs=[], ranks=ranks, **how)
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert rows is None
