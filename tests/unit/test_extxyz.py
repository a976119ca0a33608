"""What ASE's reader of extended xyz passes over is told, by readers of data and of structures."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from ase.units import Bohr

from eqcalc.analysis.trajectory import Trajectory
from eqcalc.data import read_dataset
from eqcalc.data.ase_files import load_frames
from eqcalc.errors import DataError, StructureError
from eqcalc.extxyz import fault_in_extxyz
from eqcalc.simulate import read_structure
from eqcalc.simulate.structures import read_structures

WATER = """3
Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:pos:R:3:forces:R:3 energy=-2.5 pbc="T T F"
O 0.00 0.00 0.12 0.0 0.0 0.4
H 0.00 0.76 -0.48 0.0 0.1 -0.2
H 0.00 -0.76 -0.48 0.0 -0.1 -0.2
"""
PLAIN = """2
a comment, no_keys 1_0
H 0.0 0.0 0.0
H 0.0 0.0 0.7
"""


@pytest.mark.parametrize("name", ["water.xyz", "water.extxyz", "water.XYZ", "water.xyz.gz"])
@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("H 0.00 0.76", "H 0.00 0.76 0.76", "line 4 has 8 columns, where the frame has 7"),
        ("Lattice", "lattice", "line 2 says 'lattice', which is read as Lattice only where"),
        ("Properties", "#Properties", "line 2 says '#Properties'"),
        ('"T T F"', '"T T no"', "line 2 says pbc='T T no'; three of T and F are meant"),
        ("3\n", "1000000000\n", "it is cut off in line 5: a frame of 1000000000 atoms ends"),
        ('"T T F"', '"T T F', "line 2 has a quotation mark without an end"),
        ('"T T F"', '"1 1 2"', "three of T and F are meant"),
        ("species", "spezies", "line 2 names no column of elements"),
        ("-2.5", "-2_5", "line 2 says energy=-2_5, which only Python takes for a number"),
        ('"9 0', '"１ 0', "which only Python takes for a number"),
        ("energy", "energy=-20.0 energy", "line 2 says energy=-20.0 and energy=-2.5; remove the"),
        ('pbc="T T F"', 'pbc="T T F" pbc="T T T"', 'line 2 says pbc="T T F" and pbc="T T T"'),
        ("energy", "energy = -20.0 note='a b' energy", "says energy = -20.0 and energy=-2.5"),
        ("0.76", "0_7", "line 4 says '0_7', where a number is meant"),
        ("0.76", "１", "line 4 says '１', where a number is meant"),
        ("O 0.00", "HO 0.00", "line 3 says 'HO', which may be Ho, or an atom of H by its name"),
        ("O 0.00", "CA 0.00", "line 3 says 'CA', which may be Ca, or an atom of C"),
    ],
)
def test_what_would_be_read_otherwise_than_it_is_meant_is_refused(
    before, after, said, name, tmp_path
):
    path = tmp_path / name
    content = WATER.replace(before, after, 1).encode()
    path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    with pytest.raises(DataError, match=said):
        read_dataset(path)
    with pytest.raises(StructureError, match=said):
        read_structure(path)


def test_what_is_averaged_over_frames_is_refused_too(tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text(WATER + WATER.replace("H 0.00 0.76", "H 0.00 0.76 0.76"))
    with pytest.raises(StructureError, match="line 9 has 8 columns, where the frame has 7"):
        Trajectory(path)


def test_a_blank_line_before_the_last_frame_is_refused_everywhere(tmp_path):
    path = tmp_path / "water.xyz"
    path.write_text(WATER + "\n" + WATER.replace("0.76", "0.77"))
    match = "a blank line 6 ends the file before its last frame; remove it"
    with pytest.raises(DataError, match=match):
        read_dataset(path)
    with pytest.raises(StructureError, match=match):
        read_structure(path)


@pytest.mark.parametrize(
    "text",
    [
        WATER,
        WATER + WATER + "\n \n",
        PLAIN,
        PLAIN.replace("0.0\n", "0.0 0.4\n").replace("0.7\n", "0.7 0.4\n"),  # a charge behind it
        WATER.replace("energy", "run_id=1_0 energy"),
        WATER.replace("energy", "energy=-2.50 energy"),
        WATER.replace("energy", "note=\"energy=-1 energy=-3\" also='energy=-4' energy"),
        WATER.replace("energy", "note={energy=-1} of=[energy=-4] energy"),
        WATER.replace("energy", 'note="a \\" energy=-1" energy'),
        WATER.replace("energy", "the energy of the energy energy"),
        PLAIN + "VEC1 9.0 0.0 0.0\n",
    ],
)
def test_what_is_meant_so_passes(text, tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(text)
    assert fault_in_extxyz(path) is None


def test_rows_of_a_plain_file_have_as_many_columns_as_the_first(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(PLAIN.replace("0.7\n", "0.7 0.4\n"))
    with pytest.raises(StructureError, match="line 4 has 5 columns, where the frame has 4"):
        read_structure(path)


def test_a_number_of_columns_beyond_reason_is_refused_at_once(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(WATER.replace("forces:R:3", "forces:R:999999999999"))
    with pytest.raises(StructureError, match="has 7 columns, where the frame has 1000000000003"):
        read_structure(path)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("positions{atomic_unit}", r"line 2 says positions\{atomic_unit\} of i-PI, .*angstrom"),
        ("velocities{atomic_unit}", "line 2 says that these are velocities of i-PI"),
        ("forces{ev/ang}", "line 2 says that these are forces of i-PI"),
        ("positions{angstrom}", None),
    ],
)
def test_trajectories_of_i_pi_hold_positions_in_angstrom(tmp_path, said, words):
    cell = "CELL(abcABC):   37.8    37.8    37.8    90.0    90.0    90.0"
    path = tmp_path / "run.pos_0.xyz"
    path.write_text(
        f"2\n# {cell}  Step:  0  Bead:  0 {said}  cell{{atomic_unit}}\nO 0 0 0\nH 0 0 0.96\n"
    )
    if words is None:
        structure = read_structure(path)
        assert structure.pbc.all()
        np.testing.assert_allclose(structure.cell.cellpar(), [37.8 * Bohr] * 3 + [90.0] * 3)
        assert structure.info == {}
    else:
        with pytest.raises(StructureError, match=words):
            read_structure(path)


def test_a_cell_of_i_pi_is_that_of_every_reader(tmp_path):
    said = "positions{angstrom}  cell{angstrom}"
    frames = [
        f"2\n# CELL(abcABC): {a} 5.0 6.0 80.0 90.0 100.0  Step: 0  Bead: 0 {said}\n"
        "O 0 0 0\nH 0 0 0.96\n"
        for a in (4.0, 4.5)
    ]
    path = tmp_path / "run.pos_0.xyz"
    path.write_text("".join(frames))
    with Trajectory(path) as trajectory:
        analysed = [trajectory[k] for k in range(2)]
    for found in (read_structures(path), load_frames(path, "extxyz"), analysed):
        for a, atoms in zip((4.0, 4.5), found, strict=True):
            np.testing.assert_allclose(atoms.cell.cellpar(), [a, 5, 6, 80, 90, 100])
            assert atoms.pbc.all()


@pytest.mark.parametrize(
    "said", ["a CELL of quartz", "task=CELL_OPT", "CELL: none", "SUPERCELL(2)"]
)
def test_other_words_about_cells_are_none_of_i_pi(tmp_path, said):
    path = tmp_path / "quartz.xyz"
    path.write_text(f"2\n{said}\nO 0 0 0\nH 0 0 0.96\n")
    assert not read_structure(path).pbc.any()


@pytest.mark.parametrize(
    "said",
    [
        "CELL(abcABC): 20 20 20 90 90 90",
        "CELL(abcABC): 20 20 20 90 90 90 cell{furlong}",
        "CELL(abcABC): 20 20 20 90 90 cell{angstrom}",
        "CELL(abcABC): 20 20 20 90 90 1-2 cell{angstrom}",
        "CELL(abcABC): 20 20 20 120 120 120 cell{angstrom}",
        "CELL(abcABC): 20 20 20 170 10 90 cell{angstrom}",
        "CELL(abcABC): 0 20 20 90 90 90 cell{angstrom}",
        "CELL{H}: 20 0 0 0 20 0 0 0 20 cell{angstrom}",
    ],
)
def test_a_cell_of_i_pi_that_cannot_be_told_is_refused(tmp_path, said):
    path = tmp_path / "init.xyz"
    path.write_text(f"2\n# {said}\nO 0 0 0\nH 0 0 0.96\n")
    with pytest.raises(StructureError, match=r"line 2 has a cell of i-PI that cannot be read: .*"):
        read_structure(path)


def test_an_element_and_an_atomic_number_that_disagree_are_refused(tmp_path):
    content = WATER.replace("species:S:1:pos", "species:S:1:Z:I:1:pos")
    for number, line in enumerate(("O 0.00", "H 0.00 0.76", "H 0.00 -0.76")):
        z = (8, 1, 1)[number]
        content = content.replace(line, f"{line[0]} {z}{line[1:]}", 1)
    path = tmp_path / "water.xyz"
    path.write_text(content)
    assert fault_in_extxyz(path) is None
    assert list(read_structure(path).symbols) == ["O", "H", "H"]
    path.write_text(content.replace("O 8", "O 7"))
    with pytest.raises(DataError, match="line 3 says O and, beside it, the atomic number 7"):
        read_dataset(path)
    path.write_text(content.replace("O 8", "CL 8"))
    assert "says CL and, beside it, the atomic number 8" in fault_in_extxyz(path)
    for atomic_number, element in ((6, "C"), (20, "Ca")):  # beside which CA has one meaning
        path.write_text(content.replace("O 8", f"CA {atomic_number}"))
        assert read_structure(path).symbols[0] == element
