"""The state of a run from which it goes on exactly: one file, of which the last two are kept.

A checkpoint holds what the next step depends on, to the last bit: positions, momenta and cell,
thermostat, barostat and random numbers, and the order in which the calculator sums atoms. (Its
neighbour list needs no place here: a graph is that of the positions, whatever list it came from.)
It also says how much of trajectory and table was written by then; what came later is cut off.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.io.jsonio import decode, encode
from numpy.typing import NDArray

from eqcalc.errors import CheckpointError, OutputError
from eqcalc.files import ARRAY_DAMAGE, json_default, write_whole
from eqcalc.simulate.frame_content import restore_constraints, store_constraints

__all__ = [
    "CHECKPOINT",
    "EARLIER",
    "PREVIOUS",
    "MDCheckpoint",
    "read_checkpoint",
    "read_earlier",
    "restore_previous",
    "write_checkpoint",
]

CHECKPOINT, PREVIOUS = "checkpoint", "checkpoint.previous"
EARLIER = "checkpoint.earlier"
"""Is there where the last one was written because the run was interrupted."""
_FIRST_LINE = b"eqcalc md checkpoint 1\n"
_ATOMS, _HELD = "atoms/", "constraints/"  # beginnings of names of arrays


@dataclass(frozen=True)
class MDCheckpoint:
    """The state of a run after a step.

    atoms : with the user's constraints; no calculator
    arrays : of integrator and calculator, by name
    facts : what JSON can hold: settings, random numbers, sizes of files, versions
    """

    step: int
    atoms: Atoms
    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Any]


def write_checkpoint(folder: Path, checkpoint: MDCheckpoint, *, instead: bool = False) -> None:
    """Write a checkpoint; the one before becomes the previous one, unless it is damaged.

    Where ``facts["regular"]`` is false, the previous one stays as an earlier one: the last two
    regular ones are there, with those that a run has which was never interrupted.

    Parameters
    ----------
    instead : it takes the place of the one before, and the previous one stays

    Raises
    ------
    OutputError : it cannot be written; the last two stay.
    """
    atoms = checkpoint.atoms.copy()
    held = _arrays_of_constraints(store_constraints(atoms))
    arrays = {_ATOMS + name: values for name, values in atoms.arrays.items()}
    arrays |= {"cell": atoms.cell.array, "pbc": atoms.pbc, "origin": atoms.get_celldisp().ravel()}
    info = encode(_storable(atoms.info))
    facts = {"step": checkpoint.step, "info": info, **checkpoint.facts}
    text = np.frombuffer(json.dumps(facts, default=json_default).encode(), dtype=np.uint8)
    content = _npz({"facts": text, **arrays, **held, **checkpoint.arrays})
    digest = hashlib.sha256(content).hexdigest().encode() + b"\n"
    new = folder / f"{CHECKPOINT}.new"
    write_whole(new, _FIRST_LINE + digest + content)
    try:
        # A damaged one takes nobody's place: the previous one is all there is to go back to.
        if not instead and _is_whole(folder / CHECKPOINT):
            is_regular = checkpoint.facts.get("regular", True)
            if not is_regular and (folder / PREVIOUS).exists():
                os.replace(folder / PREVIOUS, folder / EARLIER)
            os.replace(folder / CHECKPOINT, folder / PREVIOUS)
        os.replace(new, folder / CHECKPOINT)
    except OSError as error:
        raise OutputError(
            f"cannot put '{folder / CHECKPOINT}' in place: {error.strerror or error}"
        ) from error


def read_checkpoint(folder: Path) -> MDCheckpoint:
    """Read the last checkpoint of a run, or the one before where the last is damaged.

    Raises
    ------
    CheckpointError : there is none, or none can be read.
    """
    paths = [path for path in (folder / CHECKPOINT, folder / PREVIOUS) if path.exists()]
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder '{folder}'; give the folder of the run that is to go on."
        )
    if not paths:
        raise CheckpointError(
            f"there is no checkpoint in '{folder}', from which a run could go on; give the folder "
            "of a run of molecular dynamics (checkpoints are written by eqcalc 0.1 and later)."
        )
    reasons = []
    for path in paths:
        try:
            return _read(path)
        except CheckpointError as error:
            reasons.append(str(error))
    raise CheckpointError("; ".join(reasons))


def read_earlier(folder: Path) -> list[MDCheckpoint]:
    """Return what can be read of the previous and the earlier checkpoint, in this order."""
    found = []
    for name in (PREVIOUS, EARLIER):
        with contextlib.suppress(CheckpointError):
            found.append(_read(folder / name))
    return found


def restore_previous(folder: Path) -> None:
    """Let the earlier checkpoint be the previous one again; nothing where there is none.

    Raises
    ------
    OutputError : it cannot be moved.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / EARLIER, folder / PREVIOUS)
    except OSError as error:
        raise OutputError(
            f"cannot put '{folder / PREVIOUS}' in place: {error.strerror or error}"
        ) from error


def _read(path: Path) -> MDCheckpoint:
    arrays = _checked_content(path)
    try:
        return _checkpoint_of(arrays)
    except ARRAY_DAMAGE as error:
        raise CheckpointError(f"'{path}' cannot be read: {error}") from error


def _is_whole(path: Path) -> bool:
    try:
        _checked_content(path)
    except CheckpointError:
        return False
    return True


def _checked_content(path: Path) -> bytes:
    """Return what follows the checksum of a checkpoint, which must be that of it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror or error}") from error
    first, rest = content[: len(_FIRST_LINE)], content[len(_FIRST_LINE) :]
    if first != _FIRST_LINE:
        raise CheckpointError(f"'{path}' is no checkpoint of a run that this version can read")
    digest, _, arrays = rest.partition(b"\n")
    if hashlib.sha256(arrays).hexdigest().encode() != digest:
        raise CheckpointError(f"'{path}' is damaged: its checksum is another one")
    return arrays


def _checkpoint_of(content: bytes) -> MDCheckpoint:
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    facts = json.loads(arrays.pop("facts").tobytes())
    own = _taken(arrays, _ATOMS)
    atoms = Atoms(
        numbers=own.pop("numbers"),
        positions=own.pop("positions"),
        cell=arrays.pop("cell"),
        pbc=arrays.pop("pbc"),
        celldisp=arrays.pop("origin"),
        info=decode(facts.pop("info"), always_array=False),
    )
    atoms.arrays.update(own)
    restore_constraints(atoms)
    for name, values in _taken(arrays, _HELD).items():
        number, _, attribute = name.partition("/")
        setattr(atoms.constraints[int(number)], attribute, values)
    return MDCheckpoint(facts.pop("step"), atoms, arrays, facts)


def _npz(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the content of an npz file without any pickle.

    Before numpy 2.1 ``np.savez`` itself takes ``allow_pickle`` for the name of an array.
    """
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, values in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(values), allow_pickle=False)
    return content.getvalue()


def _arrays_of_constraints(constraints: list[Any]) -> dict[str, NDArray[Any]]:
    """Return what constraints took from the first positions, such as the lengths of rigid bonds.

    Lengths that a user gave, as a list too: what ASE writes of rigid bonds has none.
    """
    return {
        f"{_HELD}{number}/{name}": np.asarray(value)
        for number, constraint in enumerate(constraints)
        for name, value in vars(constraint).items()
        if (isinstance(value, np.ndarray) and value.dtype.kind in "biuf") or _are_lengths(value)
    }


def _are_lengths(value: Any) -> bool:
    is_several = isinstance(value, (list, tuple)) and len(value) > 0
    return is_several and all(isinstance(each, float) for each in value)


def _taken(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    """Take the arrays with a prefix out of the others."""
    names = [name for name in arrays if name.startswith(prefix)]
    return {name.removeprefix(prefix): arrays.pop(name) for name in names}


def _storable(info: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that ASE's own trajectories can hold too."""
    kept = {}
    for key, value in info.items():
        try:
            encode(value)
        except TypeError:
            continue
        kept[key] = value
    return kept
