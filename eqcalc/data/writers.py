"""Write labelled frames so that :func:`eqcalc.data.read_dataset` reads the same numbers again."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.core import check
from ase.io.extxyz import key_val_dict_to_str
from ase.stress import voigt_6_to_full_3x3_stress

from eqcalc.data.frames import LabelledFrame, LabelRequest
from eqcalc.data.hdf5_file import save_hdf5
from eqcalc.data.readers import read_whole_frames
from eqcalc.errors import ConfigError, DataError, OutputError, did_you_mean, listing
from eqcalc.files import write_through

__all__ = ["WRITERS", "Written", "write_frames", "writer_of"]


_OF_EXTXYZ = ("Lattice", "Properties", "pbc")

Writer = Callable[[Path, Sequence[LabelledFrame], Sequence[dict[str, Any]]], None]


class Written(NamedTuple):
    """What a file holds; ``lost_info`` names entries of the frames' info that its format has not.

    n_frames : as many as were given
    """

    n_frames: int
    lost_info: list[str]


def write_frames(path: Path, frames: Sequence[LabelledFrame]) -> Written:
    """Write frames in eV and Å, read them back, and put the file in its place if all is equal.

    Each frame keeps the labels that it has; those that it lacks are lacking in the file.

    Parameters
    ----------
    path : its suffix chooses the format, see ``WRITERS``; an older file is replaced in one step

    Raises
    ------
    ConfigError : an unknown suffix, or frames that the format cannot hold.
    DataError : no frames.
    OutputError : the file cannot be written, or does not hold what was written.
    """
    writer = writer_of(path)
    if not frames:
        raise DataError("expected frames to write, found none.")
    infos = [dict(frame.info) for frame in frames]
    with write_through(path) as part:
        writer(part, frames, infos)
        lost = _lost_info(frames, _read_back(part, frames, path))
        if lost:  # what came back changed would be taken for what it was
            infos = [{k: v for k, v in info.items() if k not in lost} for info in infos]
            part.unlink()
            writer(part, frames, infos)
            _read_back(part, frames, path)
    return Written(len(frames), sorted(lost))


def writer_of(path: Path) -> Writer:
    """Return what writes the format that a file's name asks for.

    Raises
    ------
    ConfigError : an unknown suffix.
    """
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ConfigError(
            f"'{path}' names no format that is written; known suffixes: {', '.join(WRITERS)}."
            + did_you_mean(path.suffix, WRITERS)
        )
    return writer


def _read_back(part: Path, frames: Sequence[LabelledFrame], path: Path) -> Sequence[LabelledFrame]:
    found = read_whole_frames(part, LabelRequest(), exclude_isolated=False).dataset.frames
    wrong = [k for k, pair in enumerate(zip(frames, found, strict=False)) if not _same(*pair)]
    if wrong or len(found) != len(frames):
        raise OutputError(
            f"'{path}' would not hold what was written: {len(found)} of {len(frames)} frames came "
            f"back, changed are {listing(wrong) or 'none'}; choose another format."
        )
    return found


def _same(one: LabelledFrame, other: LabelledFrame) -> bool:
    pairs = (
        (one.atoms.numbers, other.atoms.numbers),
        (one.atoms.positions, other.atoms.positions),
        (one.atoms.cell.array, other.atoms.cell.array),
        (one.atoms.pbc, other.atoms.pbc),
        (one.energy, other.energy),
        (one.forces, other.forces),
        (one.stress, other.stress),
    )
    return all(_equal(a, b) for a, b in pairs)


def _equal(one: Any, other: Any) -> bool:
    """Compare values of an info: numbers exactly, a list with the array that holds it."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_equal(one[key], other[key]) for key in one)
    if one is None or other is None or isinstance(one, (str, bool)):
        return type(one) is type(other) and one == other
    try:
        a, b = np.asarray(one), np.asarray(other)
    except ValueError:  # a list of lists of several lengths
        return type(one) is type(other) and one == other
    return a.dtype.kind == b.dtype.kind and np.array_equal(a, b)


def _lost_info(frames: Sequence[LabelledFrame], found: Sequence[LabelledFrame]) -> set[str]:
    lost: set[str] = set()
    for one, other in zip(frames, found, strict=True):
        lost |= {
            key
            for key, value in one.info.items()
            if key not in other.info or not _equal(_plain(value), _plain(other.info[key]))
        }
    return lost


def _plain(value: Any) -> Any:
    """Return numpy's scalars as Python's, which a file cannot tell apart."""
    return value.item() if isinstance(value, np.generic) else value


def _labelled_atoms(frame: LabelledFrame) -> Atoms:
    """Return the atoms with their labels as ASE keeps them."""
    atoms = frame.atoms.copy()
    labels = {"energy": frame.energy, "forces": frame.forces, "stress": frame.stress}
    given = {name: value for name, value in labels.items() if value is not None}
    atoms.calc = SinglePointCalculator(atoms, **given)
    return atoms


def _write_extxyz(
    path: Path, frames: Sequence[LabelledFrame], infos: Sequence[dict[str, Any]]
) -> None:
    """Write as ASE does, but with all digits: ASE keeps eight behind the point."""
    text = io.StringIO()
    for frame, info in zip(frames, infos, strict=True):
        atoms = frame.atoms
        columns = "species:S:1:pos:R:3" + (":forces:R:3" if frame.forces is not None else "")
        entries: dict[str, Any] = {}
        if atoms.cell.array.any():
            entries["Lattice"] = " ".join(map(repr, atoms.cell.array.ravel().tolist()))
        free = {key: value for key, value in info.items() if _is_free(key, value)}
        entries |= {"Properties": columns, **free, "energy": frame.energy}
        if frame.stress is not None:
            entries["stress"] = voigt_6_to_full_3x3_stress(frame.stress)
        entries["pbc"] = " ".join("FT"[int(flag)] for flag in atoms.pbc)
        with warnings.catch_warnings():  # of an info that is left out, which is found and said
            warnings.simplefilter("ignore")
            comment = key_val_dict_to_str(entries)
        if "\n" in comment or "\r" in comment:
            comment = key_val_dict_to_str({k: v for k, v in entries.items() if not _breaks(v)})
        text.write(f"{len(atoms)}\n{comment}\n")
        numbers = atoms.positions
        if frame.forces is not None:
            numbers = np.hstack([numbers, frame.forces])
        for symbol, row in zip(atoms.symbols, numbers.tolist(), strict=True):
            text.write(f"{symbol} {' '.join(map(repr, row))}\n")
    path.write_text(text.getvalue(), encoding="utf-8")


def _is_free(key: str, value: Any) -> bool:
    """Tell an entry that ASE reads again; as a virial it takes nine numbers and nothing else."""
    if key != "virial":
        return key not in _OF_EXTXYZ
    try:
        virial = np.asarray(value)
    except ValueError:  # a list of lists of several lengths
        return False
    return virial.size == 9 and virial.dtype.kind in "if"


def _breaks(value: Any) -> bool:
    return isinstance(value, str) and ("\n" in value or "\r" in value)


def _write_traj(
    path: Path, frames: Sequence[LabelledFrame], infos: Sequence[dict[str, Any]]
) -> None:
    images = [_labelled_atoms(frame) for frame in frames]
    for atoms, info in zip(images, infos, strict=True):
        atoms.info.update(info)
    with warnings.catch_warnings():  # of an info that is left out, which is found and said
        warnings.simplefilter("ignore")
        ase.io.write(path, images, format="traj")


def _write_database(
    path: Path, frames: Sequence[LabelledFrame], infos: Sequence[dict[str, Any]]
) -> None:
    with ase.db.connect(path, use_lock_file=False) as rows:
        for frame, info in zip(frames, infos, strict=True):
            words = {key: value for key, value in info.items() if _is_word(key, value)}
            data = {key: _plain(value) for key, value in info.items() if key not in words}
            rows.write(_labelled_atoms(frame), key_value_pairs=words, data=data)


def _is_word(key: str, value: Any) -> bool:
    """Tell what ``ase db`` can select by; the rest stands in the row's data."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check({key: value})
    except (ValueError, UserWarning):
        return False
    return isinstance(value, str)


def _write_hdf5(
    path: Path, frames: Sequence[LabelledFrame], infos: Sequence[dict[str, Any]]
) -> None:
    save_hdf5(path, [_labelled_atoms(frame) for frame in frames], infos)


def _write_npz(
    path: Path, frames: Sequence[LabelledFrame], infos: Sequence[dict[str, Any]]
) -> None:
    """Write sGDML's keys with their units: one molecule, without a cell, with forces."""
    first = frames[0].atoms.numbers
    unfit = {
        "have a cell or are periodic": lambda f: f.atoms.pbc.any() or f.atoms.cell.array.any(),
        "have other atoms than the first": lambda f: not np.array_equal(f.atoms.numbers, first),
        "have no forces": lambda f: f.forces is None,
    }
    for what, is_unfit in unfit.items():
        found = [str(frame.origin or k) for k, frame in enumerate(frames) if is_unfit(frame)]
        if found:
            raise ConfigError(
                f"npz holds frames of one molecule with forces; {len(found)} frames {what}: "
                f"{listing(found, limit=5)}. Write extxyz, a database, a trajectory or HDF5."
            )
    np.savez(
        path,
        z=first,
        R=np.array([frame.atoms.positions for frame in frames]),
        E=np.array([frame.energy for frame in frames]),
        F=np.array([frame.forces for frame in frames]),
        e_unit="eV",
        r_unit="Angstrom",
    )


WRITERS: dict[str, Writer] = {
    ".xyz": _write_extxyz,
    ".extxyz": _write_extxyz,
    ".npz": _write_npz,
    ".traj": _write_traj,
    ".db": _write_database,
    ".json": _write_database,
    ".h5": _write_hdf5,
}
"""Suffix -> what writes frames, and beside them what is left of their infos."""
