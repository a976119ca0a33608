"""LAMMPS data files: what is read, what is refused, and that they survive the way and back."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io.lammpsdata import read_lammps_data

from eqcalc.errors import ConfigError, StructureError
from eqcalc.simulate.lammps_style.data_file import read_data_file, write_data, write_data_file
from eqcalc.simulate.lammps_style.unit_system import unit_system

METAL = unit_system("metal")
FRAME = Path(__file__).parents[1] / "data" / "water_frame.xyz"

WATER = """water in a box

3 atoms
2 atom types

-1.0 9.0 xlo xhi
-2.0 10.0 ylo yhi
0.0 11.0 zlo zhi
0.5 -0.25 1.5 xy xz yz

Masses

1 15.9994 # oxygen
2 1.008

Atoms # full

3 1 2 0.4 0.24 0.93 5.0 0 0 -1
1 1 1 -0.8 0.0 0.0 5.0 1 0 0
2 1 2 0.4 0.96 0.0 5.0

Velocities

2 1.0 2.0 3.0
1 0.1 0.2 0.3
3 -4.0 5.0 -6.0
"""


def written(tmp_path, text):
    path = tmp_path / "a.data"
    path.write_text(text)
    return path


def moving(atoms):
    atoms.set_velocities(np.random.default_rng(1).normal(size=(len(atoms), 3)) * 0.01)
    return atoms


def test_data_file_gives_atoms_in_the_order_of_their_ids(tmp_path):
    data = read_data_file(written(tmp_path, WATER), "full", METAL)
    cell = [[10, 0, 0], [0.5, 12, 0], [-0.25, 1.5, 11]]
    assert np.array_equal(data.atoms.cell, cell)
    assert data.types.tolist() == [1, 2, 2]
    assert data.masses.tolist() == [15.9994, 1.008]
    assert data.origin.tolist() == [-1.0, -2.0, 0.0]
    assert data.atoms.get_masses().tolist() == [15.9994, 1.008, 1.008]
    assert data.atoms.get_initial_charges().tolist() == [-0.8, 0.4, 0.4]
    assert data.atoms.arrays["mol-id"].tolist() == [1, 1, 1]
    expected = [[10.0, 0, 5.0], [0.96, 0, 5.0], [0.24 + 0.25, 0.93 - 1.5, 5.0 - 11]]
    assert np.allclose(data.atoms.positions, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("name", "fs"), [("metal", 1000.0), ("real", 1.0)])
def test_velocities_are_those_of_the_unit_system(tmp_path, name, fs):
    data = read_data_file(written(tmp_path, WATER), "full", unit_system(name))
    expected = np.array([[0.1, 0.2, 0.3], [1, 2, 3], [-4, 5, -6]])
    assert np.allclose(data.atoms.get_velocities() * fs * units.fs, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", ["metal", "real"])
def test_written_data_file_reads_back_as_it_was(tmp_path, name):
    system = unit_system(name)
    data = read_data_file(written(tmp_path, WATER), "full", system)
    write_data_file(tmp_path / "b.data", data, system)
    again = read_data_file(tmp_path / "b.data", "full", system)
    assert np.allclose(again.atoms.positions, data.atoms.positions, rtol=0, atol=1e-14)
    assert np.allclose(again.atoms.get_momenta(), data.atoms.get_momenta(), rtol=1e-14, atol=0)
    for name in ("initial_charges", "mol-id", "masses"):
        assert np.array_equal(again.atoms.arrays[name], data.atoms.arrays[name])
    assert np.array_equal(again.atoms.cell, data.atoms.cell)
    assert np.array_equal(again.origin, data.origin)
    assert np.array_equal(again.types, data.types)


def test_written_data_file_is_read_by_ase_alike(tmp_path):
    data = read_data_file(written(tmp_path, WATER), "full", METAL)
    write_data_file(tmp_path / "b.data", data, METAL)
    atoms = read_lammps_data(tmp_path / "b.data", atom_style="full")
    assert str(atoms.symbols) == "OH2"
    assert np.allclose(atoms.positions, data.atoms.positions, rtol=0, atol=1e-14)
    assert np.allclose(atoms.get_velocities(), data.atoms.get_velocities(), rtol=1e-12, atol=0)


def test_positions_in_the_file_lie_in_the_box(tmp_path):
    data = read_data_file(written(tmp_path, WATER), "full", METAL)
    data.atoms.positions += [33.0, -47.0, 12.0]
    write_data_file(tmp_path / "b.data", data, METAL)
    inside = read_lammps_data(tmp_path / "b.data", atom_style="full", read_image_flags=False)
    inside.positions -= data.origin
    fractions = inside.get_scaled_positions(wrap=False)
    assert ((fractions > -1e-12) & (fractions < 1 + 1e-12)).all()


@pytest.mark.parametrize("angle", [0.0, 35.0])
def test_box_begins_where_the_cell_does(tmp_path, angle):
    """Along an open direction LAMMPS takes no atom that lies outside of its box."""
    places = [[1.0, 2.0, 3.0], [2.0, 5.0, 9.0]]
    rows = Atoms("H6", [*places, *np.diag([7.0, 8.0, 10.0]), (-3.0, 4.0, -6.0)])
    rows.rotate(angle, (1, 2, 3))
    positions, cell, origin = np.split(rows.positions, [2, 5])
    atoms = Atoms("Cu2", positions + origin, cell=cell, pbc=(1, 1, 0), celldisp=origin)
    write_data(tmp_path / "cu.data", atoms, ["Cu"])
    data = read_data_file(tmp_path / "cu.data", "atomic", METAL)
    assert np.allclose(data.atoms.positions - data.origin, places, rtol=0, atol=1e-12)
    assert angle > 0 or data.origin.tolist() == [-3.0, 4.0, -6.0]


def test_turned_cell_keeps_energy_forces_and_kinetic_energy(tmp_path):
    atoms = bulk("Cu") * (2, 2, 3)
    atoms.rattle(0.1, seed=2)
    atoms.rotate(35.0, (1, 2, 3), rotate_cell=True)
    moving(atoms)
    atoms.calc = EMT()
    write_data(tmp_path / "cu.data", atoms, ["Cu"])
    turned = read_data_file(tmp_path / "cu.data", "atomic", METAL).atoms
    turned.numbers[:] = 29
    turned.calc = EMT()
    turn = np.linalg.solve(atoms.cell, turned.cell)  # (3, 3), rows on the left
    assert np.linalg.det(turn) == pytest.approx(1.0)
    assert turned.get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert np.allclose(turned.get_forces(), atoms.get_forces() @ turn, rtol=0, atol=1e-10)
    assert np.allclose(turned.get_velocities(), atoms.get_velocities() @ turn, rtol=0, atol=1e-14)


def test_two_types_of_one_element_keep_their_masses(tmp_path):
    text = WATER.replace("2 atom types", "3 atom types").replace("2 1.008", "2 1.008\n3 2.014")
    text = text.replace("3 1 2 0.4 0.24", "3 1 3 0.4 0.24")
    data = read_data_file(written(tmp_path, text), "full", METAL)
    write_data_file(tmp_path / "b.data", data, METAL)
    again = read_data_file(tmp_path / "b.data", "full", METAL)
    assert again.masses.tolist() == [15.9994, 1.008, 2.014]
    assert again.atoms.get_masses().tolist() == [15.9994, 1.008, 2.014]


def test_type_without_atoms_is_kept(tmp_path):
    water = molecule("H2O", vacuum=5.0)
    write_data(tmp_path / "b.data", water, ["O", "C", "H"])
    data = read_data_file(tmp_path / "b.data", "atomic", METAL)
    assert np.allclose(data.masses, [15.999, 12.011, 1.008])
    assert sorted(set(data.types.tolist())) == [1, 3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("3 atoms\n", "", "no line 'N atoms'"),
        ("2 atom types\n", "", "no line 'N atom types'"),
        ("-1.0 9.0 xlo xhi\n", "", "no line 'LOW HIGH xlo xhi'"),
        ("-1.0 9.0 xlo", "9.0 -1.0 xlo", "xlo xhi must be finite and grow, not 9 -1"),
        ("2 1.008", "2 zero", "a mass above 0 to each of the types 1 to 2"),
        ("2 1.008", "2 -1.008", "a mass above 0"),
        ("2 1.008", "1 1.008", "a mass above 0"),
        ("Masses\n\n1 15.9994 # oxygen\n2 1.008\n", "", "0 sections 'Masses'"),
        ("2 1 2 0.4 0.96", "1 1 2 0.4 0.96", "must be 1 to 3, each once"),
        ("2 1 2 0.4 0.96", "2 1 2 0.4 nan", "positions that are NaN or infinite: atoms 2"),
        ("2 1 2 0.4 0.96", "2 1 3 0.4 0.96", "cannot read the data file .* KeyError"),
        ("1 0.1 0.2 0.3", "1 0.1 0.2 inf", "velocities that are NaN or infinite: atoms 1"),
        ("1 0.1 0.2 0.3\n", "", "cannot read the data file .* as many of Velocities"),
        ("0 0 -1", "0", "Number of fields: 8"),
        ("Velocities", "Bonds\n\n1 1 1 2\n\nVelocities", "takes no topology"),
        ("Velocities", "Pair Coeffs # lj\n\n1 1 1\n\nVelocities", "option nocoeff"),
        ("Velocities", "Atom Type Labels\n\n1 O\n\nVelocities", "section 'Atom Type Labels'"),
        ("0.0 11.0 zlo zhi", "1 0 0 avec\n0.0 11.0 zlo zhi", "general triclinic box"),
    ],
)
def test_data_file_that_would_be_misread_is_refused(tmp_path, old, new, message):
    assert old in WATER
    with pytest.raises(StructureError, match=message):
        read_data_file(written(tmp_path, WATER.replace(old, new)), "full", METAL)


def test_data_file_of_one_atom_is_refused(tmp_path):
    write_data(tmp_path / "h.data", Atoms("H", cell=[5, 5, 5]), ["H"])
    with pytest.raises(StructureError, match="two atoms are the fewest"):
        read_data_file(tmp_path / "h.data", "atomic", METAL)


def test_missing_data_file_is_refused(tmp_path):
    with pytest.raises(StructureError, match="cannot read the data file"):
        read_data_file(tmp_path / "none.data", "atomic", METAL)


@pytest.mark.parametrize(
    "title", ["LAMMPS data file via write_data, timestep = 50, units = real", "box, units real"]
)
def test_other_units_than_the_files_are_refused(tmp_path, title):
    path = written(tmp_path, WATER.replace("water in a box", title))
    with pytest.raises(ConfigError, match="says units real, and the script has units metal"):
        read_data_file(path, "full", METAL)
    assert len(read_data_file(path, "full", unit_system("real")).atoms) == 3


def test_another_atom_style_than_the_files_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="says atom_style full, and read_data was told charge"):
        read_data_file(written(tmp_path, WATER), "charge", METAL)
    with pytest.raises(ConfigError, match="atom_style 'sphere' is not supported"):
        read_data_file(written(tmp_path, WATER), "sphere", METAL)


@pytest.mark.parametrize(
    ("atoms", "elements", "message"),
    [
        (molecule("H2O"), ["O", "H"], "needs a box"),
        (Atoms("H2", cell=[[0, 5, 0], [5, 0, 0], [0, 0, 5]]), ["H"], "left-handed"),
        (molecule("H2O", vacuum=3), ["O"], "has H, which is not among the elements O"),
        (molecule("H2O", vacuum=3), ["O", "H", "H"], "named twice"),
        (Atoms("H2", masses=[1, 2], cell=[5, 5, 5]), ["H"], "have the masses 1.0, 2.0"),
    ],
)
def test_structure_that_no_data_file_can_hold_is_refused(tmp_path, atoms, elements, message):
    with pytest.raises(ConfigError, match=message):
        write_data(tmp_path / "a.data", atoms, elements)
    assert not (tmp_path / "a.data").exists()


@pytest.mark.parametrize("name", ["lj", "si", "Metal"])
def test_other_unit_systems_are_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=f"units '{name}' are not supported"):
        unit_system(name)


def test_units_are_the_exact_ones():
    metal, real = unit_system("metal"), unit_system("real")
    assert metal.energy == 1.0
    assert real.energy == pytest.approx(4184.0 / 6.022140857e23 / 1.6021766208e-19, rel=1e-14)
    assert metal.pressure == pytest.approx(1e5 * units.Pascal, rel=1e-14)
    assert real.pressure == pytest.approx(101325 * units.Pascal, rel=1e-14)
    assert metal.velocity * 1000 == pytest.approx(1 / units.fs, rel=1e-14)


def test_frame_of_ase_needs_no_turn(tmp_path):
    frame = ase.io.read(FRAME)
    frame.set_cell(np.diag(np.diag(frame.cell)))
    moving(frame)
    write_data(tmp_path / "w.data", frame, ["O", "H"])
    data = read_data_file(tmp_path / "w.data", "atomic", METAL)
    assert np.allclose(data.atoms.positions, frame.positions, rtol=0, atol=1e-14)
    assert np.allclose(data.atoms.get_velocities(), frame.get_velocities(), rtol=1e-13, atol=0)
