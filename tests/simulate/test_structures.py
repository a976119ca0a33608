"""Structure files, good and bad."""

from pathlib import Path

import ase.io
import pytest
from ase.build import bulk, molecule

from eqcalc.errors import StructureError
from eqcalc.simulate import read_structure
from eqcalc.simulate.structures import read_structures


def test_read_structure_takes_the_last_of_several(tmp_path):
    first, last = molecule("H2O"), molecule("CH4")
    ase.io.write(tmp_path / "two.xyz", [first, last])
    assert read_structure(tmp_path / "two.xyz").get_chemical_formula() == "CH4"
    assert read_structure(str(tmp_path / "two.xyz"), index=0).get_chemical_formula() == "H2O"


def test_frame_of_a_large_file_is_taken_by_its_number(tmp_path, monkeypatch):
    monkeypatch.setattr("eqcalc.simulate.structures._MOST_BYTES", 10)
    frames = [molecule("H2O"), molecule("CH4"), molecule("NH3")]
    ase.io.write(tmp_path / "three.xyz", frames)
    assert read_structure(tmp_path / "three.xyz", index=-2).get_chemical_formula() == "CH4"
    with pytest.raises(StructureError, match=r"has 3 frames and none with the index -4: 0 is"):
        read_structure(tmp_path / "three.xyz", index=-4)


@pytest.mark.parametrize("name", ["water.data", "data.water", "water.lmp"])
def test_a_data_file_of_lammps_is_named_with_what_reads_it(tmp_path, name):
    atoms = molecule("H2O", vacuum=5.0)
    ase.io.write(tmp_path / name, atoms, format="lammps-data")
    with pytest.raises(
        StructureError, match=r"data file of LAMMPS, .* LammpsScript\.read_data, or"
    ):
        read_structure(tmp_path / name)


@pytest.mark.parametrize("index", [3, -4])
@pytest.mark.parametrize("name", ["three.xyz", "three.traj"])
def test_frame_beyond_either_end_is_refused(tmp_path, name, index):
    """ASE gives the first frame for an index before it."""
    ase.io.write(tmp_path / name, [molecule("H2O"), molecule("CH4"), molecule("NH3")])
    with pytest.raises(StructureError, match=rf"has 3 frames and none with the index {index}: 0"):
        read_structure(tmp_path / name, index=index)


@pytest.mark.parametrize("name", ["one.cif", "POSCAR"])
def test_index_of_a_file_of_one_structure_is_not_ignored(tmp_path, name):
    ase.io.write(tmp_path / name, bulk("Cu"))
    assert len(read_structure(tmp_path / name, index=0)) == 1
    with pytest.raises(StructureError, match="has one frame and none with the index 2"):
        read_structure(tmp_path / name, index=2)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.xyz", None, "no structure file '.*missing.xyz'.*extxyz"),
        ("empty.xyz", "", "file '.*empty.xyz' is empty"),
        ("broken.xyz", "3\nwater\nO 0 0 0\nH 0 zero 0\n", "cannot read a structure from '.*broken"),
        ("short.xyz", "9\nethanol\nO 0 0 0\n", "cannot read a structure"),
        ("what.dat", "some text\n", "cannot read a structure from '.*what.dat'"),
        ("what.json", "{", "cannot read a structure from '.*what.json'"),
        ("what.cif", "loop_\n_x\n", "cannot read a structure|no atoms"),
        ("POSCAR", "nothing\n", "cannot read a structure"),
        ("none.xyz", "0\n\n", "has no atoms"),
    ],
)
def test_bad_structure_file_is_named(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(StructureError, match=message):
        read_structure(tmp_path / name)


def test_file_without_frames_holds_no_structure(tmp_path):
    ase.io.Trajectory(tmp_path / "none.traj", "w").close()
    for index in (-1, 0, 3):
        with pytest.raises(StructureError, match=r"none\.traj' holds no structure"):
            read_structure(tmp_path / "none.traj", index)
    with pytest.raises(StructureError, match=r"none\.traj' holds no structure"):
        read_structures(tmp_path / "none.traj")


def test_folder_is_not_a_structure(tmp_path):
    with pytest.raises(StructureError, match="is a folder"):
        read_structure(tmp_path)


def test_missing_frame_is_named(tmp_path):
    ase.io.write(tmp_path / "one.xyz", molecule("H2O"))
    with pytest.raises(StructureError, match="has one frame and none with the index 5"):
        read_structure(tmp_path / "one.xyz", index=5)


def test_message_leaves_out_what_says_nothing(tmp_path, monkeypatch):
    def fail(path, index):
        raise AssertionError

    (tmp_path / "a.cif").write_text("garbage")
    monkeypatch.setattr(ase.io, "read", fail)
    with pytest.raises(StructureError, match=r"from '.*a\.cif': AssertionError\. Readable are"):
        read_structure(tmp_path / "a.cif")


@pytest.mark.parametrize(
    ("name", "number", "said"),
    [
        ("positions", "nan", "the positions in '.*POSCAR' hold NaN or infinity"),
        ("cell", "inf", "the cell in '.*POSCAR' hold NaN or infinity"),
    ],
)
def test_what_is_no_number_in_a_structure_file_is_refused(name, number, said, tmp_path):
    path = tmp_path / "POSCAR"
    cell, position = ("9.0", number) if name == "positions" else (number, "0.0")
    path.write_text(f"Si\n1.0\n{cell} 0 0\n0 9 0\n0 0 9\nSi\n1\nCartesian\n{position} 0 0\n")
    with pytest.raises(StructureError, match=said):
        read_structure(path)


def test_velocities_and_masses_that_are_no_numbers_are_refused(tmp_path):
    for column in ("momenta:R:3", "masses:R:1"):
        path = tmp_path / "one.xyz"
        values = " ".join(["nan"] * int(column[-1]))
        path.write_text(f"1\nProperties=species:S:1:pos:R:3:{column}\nH 0 0 0 {values}\n")
        with pytest.raises(StructureError, match=f"{column[:6]}.* NaN or infinity"):
            read_structure(path)


def test_numbers_of_no_element_are_refused(tmp_path):
    atoms = molecule("H2O")
    atoms.numbers[1] = 200
    ase.io.write(tmp_path / "water.traj", atoms)
    with pytest.raises(StructureError, match="atomic numbers of no element, such as 200"):
        read_structure(tmp_path / "water.traj")


def test_an_occupancy_that_is_no_number_is_refused(tmp_path):
    cif = Path(__file__).parents[2] / "examples" / "rutile.cif"
    path = tmp_path / "rutile.cif"
    head, _, rows = cif.read_text().rpartition("Ti ")
    path.write_text(f"{head}Ti {rows.replace('1.0', 'what', 1)}")
    with pytest.raises(StructureError, match=r"is disordered: site .* has the occupancy what Ti"):
        read_structure(path)
