"""Frames that are written in another format and read again: the same to the last digit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from small_models import ETHANOL_FRAMES

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.data import writers as writers_module
from eqcalc.data.frames import LabelRequest
from eqcalc.data.readers import read_whole_frames
from eqcalc.data.writers import WRITERS, write_frames
from eqcalc.errors import ConfigError, DataError, OutputError

INFO = {
    "config_type": "liquid",
    "id": 7,
    "weight": 0.1 + 0.2,
    "is_good": True,
    "vector": np.array([0.1, 1e-17, 3.0]),
    "words with blanks": 'a "quoted" word',
}
TEXT_AND_TABLES = [suffix for suffix in WRITERS if suffix != ".npz"]


@pytest.fixture
def frames() -> list[LabelledFrame]:
    """Return frames of several sizes and kinds of periodicity with numbers of all digits."""
    rng = np.random.default_rng(0)
    found = []
    for k, (symbols, pbc) in enumerate((("H2O", False), ("Si3", True), ("OCu", [True, True, 0]))):
        cell = None if pbc is False else rng.normal(size=(3, 3)) + 9 * np.eye(3)
        n = len(Atoms(symbols))
        atoms = Atoms(symbols, rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-9, 2), cell=cell)
        atoms.pbc = pbc
        stress = rng.normal(size=6) if k == 1 else None
        info = INFO if k == 0 else {"config_type": "solid"}
        labels = (float(rng.normal()) * 1e4, rng.normal(size=(n, 3)), stress)
        found.append(LabelledFrame(atoms, *labels, info=info))
    return found


def numbers_of(frame: LabelledFrame) -> list[bytes]:
    """Return every number of a frame, bit by bit."""
    atoms = frame.atoms
    arrays = [atoms.numbers.astype(int), atoms.positions, atoms.cell.array, atoms.pbc, frame.energy]
    labels = [b"" if label is None else label for label in (frame.forces, frame.stress)]
    return [np.asarray(values).tobytes() for values in (*arrays, *labels)]


def read(path: Path) -> list[LabelledFrame]:
    return read_dataset(path, exclude_isolated=False, trust_data=True).frames


@pytest.mark.parametrize("suffix", TEXT_AND_TABLES)
def test_frames_come_back_bit_by_bit_with_their_info(frames, suffix, tmp_path):
    path = tmp_path / f"data{suffix}"
    assert write_frames(path, frames) == (3, [])
    found = read(path)
    assert [numbers_of(frame) for frame in found] == [numbers_of(frame) for frame in frames]
    for key, value in INFO.items():
        assert np.array_equal(found[0].info[key], value), key
    assert dict(found[1].info) == {"config_type": "solid"}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_npz_holds_one_molecule_bit_by_bit(tmp_path):
    molecules = read(ETHANOL_FRAMES.with_suffix(".npz"))
    assert write_frames(tmp_path / "a.npz", molecules) == (len(molecules), [])
    found = read(tmp_path / "a.npz")
    assert [numbers_of(frame) for frame in found] == [numbers_of(frame) for frame in molecules]


def test_npz_says_that_it_has_no_info(tmp_path):
    molecules = [replace(frame, info={"id": 1}) for frame in read(ETHANOL_FRAMES)]
    assert write_frames(tmp_path / "a.npz", molecules).lost_info == ["id"]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda f: replace(f, atoms=Atoms("C2OH6", f.atoms.positions, pbc=True)), "1 frames have"),
        (lambda f: replace(f, atoms=Atoms("CO2H6", f.atoms.positions)), "have other atoms"),
        (lambda f: replace(f, atoms=Atoms("C2OH6", f.atoms.positions, cell=[9] * 3)), "have a c"),
    ],
)
def test_npz_refuses_what_it_cannot_hold(change, match, tmp_path):
    molecules = read(ETHANOL_FRAMES)
    with pytest.raises(ConfigError, match=match + ".* Write extxyz"):
        write_frames(tmp_path / "a.npz", [*molecules, change(molecules[0])])
    assert list(tmp_path.iterdir()) == []


def test_npz_refuses_frames_without_forces(tmp_path):
    molecules = [replace(frame, forces=None) for frame in read(ETHANOL_FRAMES)]
    with pytest.raises(ConfigError, match="have no forces"):
        write_frames(tmp_path / "a.npz", molecules)


@pytest.mark.parametrize("suffix", TEXT_AND_TABLES)
def test_each_frame_keeps_the_labels_that_it_has(frames, suffix, tmp_path):
    solid = frames[1]
    some = [solid, replace(solid, forces=None), replace(solid, stress=None), frames[0]]
    write_frames(tmp_path / f"a{suffix}", some)
    whole = read_whole_frames(tmp_path / f"a{suffix}", LabelRequest())
    assert [numbers_of(frame) for frame in whole.dataset.frames] == [numbers_of(f) for f in some]


@pytest.mark.parametrize("suffix", [".xyz", ".db", ".traj", ".h5"])
def test_frames_without_forces_are_written_without(frames, suffix, tmp_path):
    bare = [replace(frame, forces=None, stress=None) for frame in frames]
    write_frames(tmp_path / f"a{suffix}", bare)
    assert [f.forces for f in read(tmp_path / f"a{suffix}")] == [None] * 3


def test_no_frames_and_unknown_formats_are_refused(frames, tmp_path):
    with pytest.raises(DataError, match="expected frames to write, found none"):
        write_frames(tmp_path / "a.xyz", [])
    with pytest.raises(ConfigError, match=r"known suffixes: .*Did you mean '.traj'"):
        write_frames(tmp_path / "a.tra", frames)


@pytest.mark.parametrize(
    ("virial", "is_kept"),
    [
        (np.arange(9.0).reshape(3, 3), True),
        (np.arange(6.0), False),
        ("none", False),
        ([[1], []], False),
    ],
)
def test_a_virial_that_extxyz_cannot_hold_is_left_out_and_named(virial, is_kept, frames, tmp_path):
    frames[0] = replace(frames[0], info={"virial": virial, "id": 7})
    path = tmp_path / "data.xyz"
    assert write_frames(path, frames).lost_info == ([] if is_kept else ["virial"])
    assert set(read(path)[0].info) == ({"virial", "id"} if is_kept else {"id"})


def test_info_that_a_format_changes_is_left_out_and_named(frames, tmp_path):
    odd = {"number": "12", "broken": "two\nlines", "Lattice": "cubic", "kept": "word"}
    changed = [replace(frames[0], info=odd), *frames[1:]]
    assert write_frames(tmp_path / "a.xyz", changed).lost_info == ["Lattice", "broken", "number"]
    assert dict(read(tmp_path / "a.xyz")[0].info) == {"kept": "word"}
    assert write_frames(tmp_path / "a.db", changed).lost_info == []


def test_a_file_that_does_not_read_back_is_not_put_in_place(frames, tmp_path, monkeypatch):
    def rounds(path, given, infos):
        moved = [replace(frame, energy=frame.energy + 1e-9) for frame in given]
        writers_module._write_extxyz(path, moved, infos)

    (tmp_path / "a.xyz").write_text("old")
    monkeypatch.setitem(WRITERS, ".xyz", rounds)
    with pytest.raises(OutputError, match=r"would not hold what was written: 3 of 3 .* 0, 1, 2"):
        write_frames(tmp_path / "a.xyz", frames)
    assert (tmp_path / "a.xyz").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there_is_an_error_of_the_output(frames, tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        write_frames(tmp_path / "none" / "a.xyz", frames)


def test_ase_finds_labels_where_it_looks_for_them(frames, tmp_path):
    write_frames(tmp_path / "a.xyz", frames)
    atoms = ase.io.read(tmp_path / "a.xyz", index=1)
    assert atoms.get_potential_energy() == frames[1].energy
    assert np.array_equal(atoms.get_forces(), frames[1].forces)
    assert np.array_equal(atoms.get_stress(), frames[1].stress)
    write_frames(tmp_path / "a.db", frames)
    rows = list(ase.db.connect(tmp_path / "a.db").select(config_type="solid"))
    assert [row.energy for row in rows] == [frames[1].energy, frames[2].energy]
