"""A file from which elements, units or masses would have to be guessed is refused."""

from __future__ import annotations

import gzip
from pathlib import Path

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.io import read, write

from eqcalc.errors import ConfigError, DataWarning, StructureError
from eqcalc.simulate import read_structure
from eqcalc.simulate.structures import read_structures
from eqcalc.simulate.velocities import has_velocities

DUMP = """ITEM: TIMESTEP
0
ITEM: NUMBER OF ATOMS
2
ITEM: BOX BOUNDS pp pp pp
0 10
0 10
0 10
ITEM: ATOMS id type {columns}x y z
1 1 {first}0 0 0
2 6 {second}1 0 0
"""
LINE = "ATOM      1 {name} {residue} A   1       0.000   0.000   0.000  {occupancy}  0.00{tail}\n"


def pdb(name="C   ", residue="ALA", occupancy="1.00", tail="") -> str:
    return LINE.format(name=name, residue=residue, occupancy=occupancy, tail=tail)


@pytest.mark.parametrize("suffix", ["lammpstrj", "dump"])
def test_types_of_a_lammps_dump_are_no_elements(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    path.write_text(DUMP.format(columns="", first="", second=""))
    with pytest.raises(StructureError, match=r"no column of elements, and LAMMPS types are no at"):
        read_structure(path)


def test_a_lammps_dump_with_elements_is_read(tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(DUMP.format(columns="element ", first="Si ", second="O "))
    assert read_structure(path).get_chemical_formula() == "OSi"


@pytest.mark.parametrize("columns", ["x y z", "xs ys zs", "xu yu zu", "xsu ysu zsu"])
def test_atoms_of_a_dump_are_where_its_box_is(columns, tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(
        DUMP.format(columns="element ", first="Si ", second="O ")
        .replace("0 10", "-4 6")
        .replace("x y z", columns)
        .replace("Si 0 0 0", "Si 0.5 0.5 0.5" if "s" in columns else "Si 1 1 1")
    )
    atoms = read_structure(path)
    np.testing.assert_allclose(atoms.get_celldisp().ravel(), -4.0)
    np.testing.assert_allclose(atoms.positions[0], 1.0)


def test_models_of_a_pdb_file_have_its_one_cell(tmp_path):
    frames = [bulk("Ar", a=5.3, cubic=True) * (2, 1, 1) for _ in range(3)]
    for k, frame in enumerate(frames):
        frame.positions += 0.1 * k
    write(tmp_path / "a.pdb", frames)
    one_cell, *rest = (tmp_path / "a.pdb").read_text().split("CRYST1")[1:]
    text = "CRYST1" + one_cell + "".join(part.split("\n", 1)[1] for part in rest) + "END\n"
    assert text.count("CRYST1") == 1
    (tmp_path / "b.pdb").write_text(text)
    with pytest.warns(DataWarning, match=r"one cell \(CRYST1\) for its 3 models"):
        found = read_structures(tmp_path / "b.pdb")
    assert len(found) == 3
    for frame in found:
        np.testing.assert_allclose(frame.cell.lengths(), [10.6, 5.3, 5.3])
        assert frame.pbc.all()
    with pytest.warns(DataWarning, match="barostat"):
        assert read_structure(tmp_path / "b.pdb").pbc.all()


@pytest.mark.parametrize(
    ("name", "symbol"), [(" CA ", "Ca"), (" HG1", "Hg"), (" CD ", "Cd"), ("HE21", "He")]
)
def test_names_of_a_pdb_file_that_may_be_two_elements_are_refused(name, symbol, tmp_path):
    (tmp_path / "a.pdb").write_text(pdb() + pdb(name))
    with pytest.raises(
        StructureError, match=rf"'{name.strip()}' of atom 1 is read as the element {symbol}, and"
    ):
        read_structure(tmp_path / "a.pdb")


@pytest.mark.parametrize(
    ("line", "symbol"),
    [
        (pdb(" CA ", tail=" " * 10 + " C"), "C"),
        (pdb("CA  ", residue=" CA"), "Ca"),
        (pdb(" N  "), "N"),
        (pdb("ZN  ", tail=" " * 10 + "ZN"), "Zn"),
    ],
)
def test_elements_that_a_pdb_file_says_are_read(line, symbol, tmp_path):
    (tmp_path / "a.pdb").write_text(line)
    assert str(read_structure(tmp_path / "a.pdb").symbols) == symbol


@pytest.mark.parametrize("suffix", ["xyz", "traj", "pdb", "cif"])
def test_files_that_ase_writes_are_read(suffix, tmp_path):
    atoms = molecule("CH3CH2OH", vacuum=3.0)
    write(tmp_path / f"a.{suffix}", atoms)
    assert str(read_structure(tmp_path / f"a.{suffix}").symbols) == str(atoms.symbols)


def test_alternate_places_of_an_atom_in_a_pdb_file_are_disorder(tmp_path):
    (tmp_path / "a.pdb").write_text(pdb(" N  ") + pdb(" O  ", occupancy="0.50"))
    with pytest.raises(StructureError, match=r"is disordered: atom 1 has the occupancy 0\.5"):
        read_structure(tmp_path / "a.pdb")


@pytest.mark.parametrize(("symbol", "text"), [("Na+", "Na+"), ("1", "1"), ("Ha", "Ha")])
def test_what_is_no_element_is_named(symbol, text, tmp_path):
    (tmp_path / "a.xyz").write_text(f"2\n\nO 0 0 0\n{symbol} 0 0 1\n")
    with pytest.raises(StructureError, match=rf"'{text}' is no element".replace("+", r"\+")):
        read_structure(tmp_path / "a.xyz")


def test_a_file_that_ases_readers_fail_on_in_their_own_way_is_refused(tmp_path):
    old = "x\n1.0\n5 0 0\n0 5 0\n0 0 5\n1 1\nDirect\n0 0 0\n.5 .5 .5\n"  # a POSCAR without symbols
    (tmp_path / "POSCAR").write_text(old)
    with pytest.raises(StructureError, match=r"ParseError: Could not determine chemical symbols"):
        read_structure(tmp_path / "POSCAR")


def test_types_in_a_compressed_dump_are_no_elements_either(tmp_path):
    path = tmp_path / "a.lammpstrj.gz"
    path.write_bytes(gzip.compress(DUMP.format(columns="", first="", second="").encode()))
    with pytest.raises(StructureError, match=r"no column of elements, and LAMMPS types are no at"):
        read_structure(path)


GRO = "x\n{n}\n{lines}\n 3.0 3.0 3.0\n"
GRO_ATOM = "    1{residue:<5}{name:>5}{number:5}   {x:5.3f}   0.000   0.000"


def gro(*atoms: tuple[str, str]) -> str:
    lines = [
        GRO_ATOM.format(residue=residue, name=name, number=k + 1, x=0.3 * k)
        for k, (residue, name) in enumerate(atoms)
    ]
    return GRO.format(n=len(atoms), lines="\n".join(lines))


@pytest.mark.parametrize(
    ("residue", "name", "symbol", "others"),
    [
        ("NA", "NA", "N", "N or Na"),
        ("CL", "CL", "C", "C or Cl"),
        ("ALA", "CA", "C", "C or Ca"),
        ("SOD", "SOD", "S", "S or an ion"),
        ("ALA", "HG1", "H", "H or Hg"),
        ("SOL", "MW", "W", "none"),
    ],
)
def test_names_of_a_gromacs_file_that_may_be_another_element_are_refused(
    residue, name, symbol, others, tmp_path
):
    (tmp_path / "a.gro").write_text(gro(("SOL", "OW"), (residue, name)))
    with pytest.raises(
        StructureError, match=rf"'{name}' of atom 1, which ASE reads as {symbol}, .*\({others}\)"
    ):
        read_structure(tmp_path / "a.gro")


def test_names_of_a_gromacs_file_with_one_reading_are_read(tmp_path):
    names = [("SOL", "OW"), ("SOL", "HW1"), ("SOL", "HW2"), ("ION", "Na"), ("ETH", "C1")]
    (tmp_path / "a.gro").write_text(gro(*names))
    assert list(read_structure(tmp_path / "a.gro").symbols) == ["O", "H", "H", "Na", "C"]


def test_names_of_a_gromos_file_are_held_to_the_same(tmp_path):
    text = "TITLE\nx\nEND\nPOSITION\n{}END\nBOX\n 3 3 3\nEND\n"
    line = "    1 {residue:<5} {name:<5} {number:6}    0.1    0.2    {number}\n"
    fine = line.format(residue="SOL", name="OW", number=1)
    (tmp_path / "a.g96").write_text(text.format(fine))
    assert list(read_structure(tmp_path / "a.g96").symbols) == ["O"]
    (tmp_path / "a.g96").write_text(
        text.format(fine + line.format(residue="NA", name="NA", number=2))
    )
    with pytest.raises(StructureError, match=r"'NA' of atom 1, which ASE reads as N, may be anoth"):
        read_structure(tmp_path / "a.g96")


def test_names_of_a_dl_poly_file_are_held_to_the_same(tmp_path):
    path = tmp_path / "CONFIG"
    write(path, bulk("NaCl", "rocksalt", 5.64), format="dlp4")
    assert sorted(read_structure(path).symbols) == ["Cl", "Na"]
    path.write_text(path.read_text().replace("Na", "NA"))
    with pytest.raises(StructureError, match=r"'NA' of atom 0, which ASE reads as N, may be anoth"):
        read_structure(path)


POSCAR = "{comment}\n1.0\n5 0 0\n0 5 0\n0 0 5\n{elements}1 1\nDirect\n0 0 0\n.5 .5 .5\n"


@pytest.mark.parametrize("comment", ["In bulk Si O", "O2 C", "Mg"])
def test_comment_of_an_old_poscar_is_no_list_of_elements(comment, tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR.format(comment=comment, elements=""))
    with pytest.raises(StructureError, match=r"no line of elements, and its comment|chemical symb"):
        read_structure(tmp_path / "POSCAR")


@pytest.mark.parametrize(("comment", "elements"), [("Mg O", ""), ("In bulk Si O", "Mg O\n")])
def test_elements_that_a_poscar_says_are_read(comment, elements, tmp_path):
    (tmp_path / "POSCAR").write_text(POSCAR.format(comment=comment, elements=elements))
    assert read_structure(tmp_path / "POSCAR").get_chemical_formula() == "MgO"


MOVING = DUMP.replace("x y z", "x y z vx vy vz").replace("0 0 0\n", "0 0 0 1 2 3\n")
MOVING = MOVING.replace("1 0 0\n", "1 0 0 4 5 6\n").format(
    columns="element ", first="Si ", second="O "
)
IN_FILE = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def test_velocities_of_a_dump_that_says_no_units_are_of_unknown_unit(tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(MOVING)
    atoms = read_structure(path)
    assert not atoms.has("momenta")
    np.testing.assert_allclose(
        np.transpose([atoms.arrays[name] for name in ("vx", "vy", "vz")]), IN_FILE, rtol=1e-12
    )
    with pytest.raises(ConfigError, match=r"columns 'vx', 'vy' and 'vz' of velocities, whose unit"):
        has_velocities(atoms)


@pytest.mark.parametrize(("name", "per_ase"), [("metal", 1000 * units.fs), ("real", units.fs)])
def test_velocities_of_a_dump_are_in_the_units_that_it_says(name, per_ase, tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(f"ITEM: UNITS\n{name}\n{MOVING}")
    atoms = read_structure(path)
    np.testing.assert_allclose(atoms.get_velocities() * per_ase, IN_FILE, rtol=1e-12)


@pytest.mark.parametrize("name", ["si", "lj", "electron", "nano"])
def test_a_dump_in_units_of_another_length_is_refused(name, tmp_path):
    path = tmp_path / "a.lammpstrj"
    path.write_text(f"ITEM: UNITS\n{name}\n{MOVING}")
    with pytest.raises(StructureError, match=rf"in LAMMPS units {name}, and is read as if lengths"):
        read_structure(path)


def test_velocities_of_gpumd_are_of_unknown_unit(tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_velocities(np.full((4, 3), 0.01))
    write(tmp_path / "xyz.in", atoms, format="gpumd")
    assert read(tmp_path / "xyz.in").has("momenta")
    assert not read_structure(tmp_path / "xyz.in").has("momenta")


DEUTERATED = (
    "3\nProperties=species:S:1:pos:R:3:{name}:R:1\nO 0 0 0 15.999\nH 0 0 1 {mass}\nH 0 1 0 1.008\n"
)


@pytest.mark.parametrize("name", ["mass", "Mass", "atomic_masses"])
def test_masses_under_a_name_that_ase_does_not_take_are_refused(name, tmp_path):
    (tmp_path / "a.xyz").write_text(DEUTERATED.format(name=name, mass=2.014))
    with pytest.raises(
        StructureError,
        match=rf"column '{name}' with 2\.014 for atom 1, whose mass is .* 1\.008 amu",
    ):
        read_structure(tmp_path / "a.xyz")


def test_masses_that_are_those_of_the_elements_or_are_used_pass(tmp_path):
    (tmp_path / "a.xyz").write_text(DEUTERATED.format(name="mass", mass=1.00784))
    assert read_structure(tmp_path / "a.xyz").get_masses()[1] == pytest.approx(1.008)
    (tmp_path / "a.xyz").write_text(DEUTERATED.format(name="masses", mass=2.014))
    assert read_structure(tmp_path / "a.xyz").get_masses()[1] == pytest.approx(2.014)


def test_output_whose_lengths_ase_does_not_convert_is_refused(tmp_path):
    qbox = Path(ase.__file__).parent / "test" / "testdata" / "qbox_test.xml"
    path = tmp_path / "run.xml"
    path.write_bytes(qbox.read_bytes())
    with pytest.raises(StructureError, match=r"an output of Qbox, whose lengths .* in Bohr"):
        read_structure(path)
