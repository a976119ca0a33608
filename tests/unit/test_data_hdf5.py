"""HDF5 files of frames: read as written, and nothing of them believed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from small_models import ETHANOL_FRAMES
from test_training import write_config

from eqcalc.data import read_dataset
from eqcalc.data.hdf5_file import stamp
from eqcalc.data.writers import write_frames
from eqcalc.errors import DataError, MissingDependencyError
from eqcalc.training.config import read_config
from eqcalc.training.data import read_training_data


@pytest.fixture
def path(tmp_path) -> Path:
    """Return a file of ethanol."""
    write_frames(tmp_path / "data.h5", read_dataset(ETHANOL_FRAMES).frames)
    return tmp_path / "data.h5"


def changed(path: Path, change: Callable[[Any], None]) -> Path:
    """Return the file after a change by somebody who knows the checksum."""
    with h5py.File(path, "r+") as file:
        change(file)
    stamp(path)
    return path


def put(name: str, **options: Any) -> Callable[[Any], None]:
    """Return a change that puts another array in the place of one."""

    def change(file: Any) -> None:
        del file[name]
        file.create_dataset(name, **options)

    return change


def link(name: str, target: Any) -> Callable[[Any], None]:
    """Return a change that puts a link in the place of an array."""

    def change(file: Any) -> None:
        del file[name]
        file[name] = target

    return change


def virtual(file: Any) -> None:
    n = len(file["energy"])
    layout = h5py.VirtualLayout(shape=(n,), dtype="f8")
    layout[:] = h5py.VirtualSource("elsewhere.h5", "energy", shape=(n,))
    del file["energy"]
    file.create_virtual_dataset("energy", layout)


def external(file: Any) -> None:
    n = len(file["energy"])
    put("energy", shape=(n,), dtype="f8", external=[("/etc/hostname", 0, 8 * n)])(file)


def unallocated(file: Any) -> None:
    """Claim an array of which no byte was written, so that the file stays small."""
    n = len(file["energy"])
    del file["energy"]
    described = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    described.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space, kind = h5py.h5s.create_simple((n,)), h5py.h5t.NATIVE_DOUBLE
    h5py.h5d.create(file.id, b"energy", kind, space, described)


def huge(file: Any) -> None:
    del file["energy"]
    described = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    described.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)
    space, kind = h5py.h5s.create_simple((10**12,)), h5py.h5t.NATIVE_DOUBLE
    h5py.h5d.create(file.id, b"energy", kind, space, described)


def info(text: bytes) -> Callable[[Any], None]:
    return put("info", data=np.frombuffer(text, np.uint8))


def values(name: str, value: Any) -> Callable[[Any], None]:
    """Return a change of the first value of an array."""

    def change(file: Any) -> None:
        file[name][0] = value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda file: file.pop("energy"), "missing are energy, unknown none"),
        (
            lambda file: file.create_dataset("labels", data=[1.0]),
            "missing are none, unknown labels",
        ),
        (link("energy", h5py.ExternalLink("other.h5", "/energy")), r"is a link \(ExternalLink\)"),
        (link("energy", h5py.SoftLink("/forces")), r"is a link \(SoftLink\)"),
        (lambda file: (file.pop("energy"), file.create_group("energy")), "found a group"),
        (put("energy", data=["a", "b"], dtype=h5py.string_dtype()), "found object"),
        (put("energy", data=np.zeros(2, [("a", "f8")])), "must hold float64"),
        (put("energy", data=np.zeros(6, "f4")), "found float32"),
        (put("positions", data=np.zeros((9, 2))), r"of shape \(9, 2\)"),
        (put("energy", shape=(6,), dtype="f8", chunks=(2,)), "it is chunked, virtual"),
        (put("energy", data=np.zeros(6), compression="gzip"), "it is chunked, virtual"),
        (virtual, "it is chunked, virtual"),
        (external, "in an external file"),
        (huge, "claims 8000000000000 bytes and holds 0"),
        (unallocated, "bytes and holds 0"),
        (put("energy", data=np.zeros(5)), "'energy' must have 6 rows, found 5"),
        (values("n_atoms", 0), "'n_atoms' must be at least 1"),
        (values("n_atoms", 2**62), "'n_atoms' must be at least 1, and no more"),
        (values("n_atoms", 8), "'forces' must have 53 rows, found 54"),
        (values("numbers", 119), "'numbers' must lie in 1"),
        (values("pbc", 7), "'pbc' must be 0 or 1"),
        (values("energy", np.nan), "must be finite, found NaN"),
        (info(b"[{}]"), "'info' must be a JSON array of 6 objects"),
        (info(b"[1, 2, 3, 4, 5, 6]"), "'info' must be a JSON array of 6 objects"),
        (info(b"[{"), "cannot be read as hdf5"),
        (info(b"[" * 100_000), "cannot be read as hdf5"),
    ],
)
def test_what_a_file_claims_is_not_believed(change, match, path):
    with pytest.raises(DataError, match=match):
        read_dataset(changed(path, change))


def test_a_file_larger_in_words_than_on_the_disk_is_refused(path):
    def crowd(file: Any) -> None:
        for name in ("energy", "n_atoms"):  # one array under two names counts twice
            del file[name]
        file.create_dataset("n_atoms", data=np.ones(4000, "i8"))
        file["numbers_"] = file["n_atoms"]
        del file["numbers"]
        file["numbers"] = file["n_atoms"]
        del file["numbers_"]
        file.create_dataset("energy", data=np.zeros(6))

    with pytest.raises(DataError, match="'numbers' claims more than the file's"):
        read_dataset(changed(path, crowd))


@pytest.mark.parametrize("place", [20, 100, 511, 512, -1])
def test_a_changed_byte_and_a_missing_end_are_refused(place, path):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="its checksum is not that of its content"):
        read_dataset(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="it may be truncated"):
        read_dataset(path)


def ani(file: Any) -> None:
    group = file.create_group("gdb11_s01/gdb11_s01-0")
    group["coordinates"], group["energies"] = np.zeros((2, 5, 3)), np.zeros(2)
    group["species"] = [b"C", b"H", b"H", b"H", b"H"]


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (ani, r"is an ANI data set \(coordinates, energies, species\)"),
        (lambda file: file.create_group("config_batch_0"), "is an HDF5 data set of MACE"),
        (lambda file: file.create_dataset("xyz", data=[1]), "unknown layout, with xyz at its root"),
        (lambda file: None, "unknown layout, with nothing at its root"),
        (lambda file: file.update({"a": h5py.ExternalLink("b.h5", "/")}), "with a at"),
    ],
)
def test_layouts_of_others_are_refused_by_name(content, match, tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        content(file)
    with pytest.raises(DataError, match=match):
        read_dataset(tmp_path / "other.h5")


def test_what_is_no_hdf5_is_refused(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"not at all")
    with pytest.raises(DataError, match="is not a readable HDF5 file"):
        read_dataset(tmp_path / "a.h5")
    (tmp_path / "a.h5.gz").write_bytes(b"")
    with pytest.raises(DataError, match="known are"):
        read_dataset(tmp_path / "a.h5.gz")


def test_without_h5py_the_extra_is_named(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'eqcalc\[hdf5\]'"):
        read_dataset(path)


def test_a_training_reads_rows_of_it(path, tmp_path):
    config = write_config(tmp_path, data__path="data.h5")
    found, expected = (
        read_training_data(read_config(each)) for each in (config, write_config(tmp_path))
    )
    assert found.train.rows == expected.train.rows
    for one, other in zip(found.train.frames, expected.train.frames, strict=True):
        assert one.energy == other.energy
        assert np.array_equal(one.forces, other.forces)


def test_frames_of_one_atom_and_of_no_info_are_read(tmp_path):
    ase.io.write(tmp_path / "plain.xyz", [Atoms("He")] * 2)
    lines = (tmp_path / "plain.xyz").read_text().replace("pbc=", "energy=-1.5 pbc=")
    (tmp_path / "plain.xyz").write_text(lines)
    write_frames(tmp_path / "a.h5", read_dataset(tmp_path / "plain.xyz").frames)
    assert [frame.energy for frame in read_dataset(tmp_path / "a.h5").frames] == [-1.5, -1.5]
