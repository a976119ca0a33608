"""A file from which elements would have to be guessed is refused."""

from __future__ import annotations

import pytest
from ase.build import molecule
from ase.io import write

from eqcalc.errors import StructureError
from eqcalc.simulate import read_structure

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
