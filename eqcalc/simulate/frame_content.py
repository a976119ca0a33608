"""What of the user's structure goes into the frames that a run writes, so that they read back.

Structure files bring columns of their own. Some say what is no longer true once atoms have
moved (forces of another method), some cannot be written and read again (empty residue names),
and some say what constraints the format has no column for.
"""

from __future__ import annotations

import json
import warnings
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms, dict2constraint
from ase.io.jsonio import decode, encode
from numpy.typing import NDArray

from eqcalc.errors import DataWarning, StructureError

__all__ = [
    "VELOCITY_NAMES",
    "drop_stale",
    "for_extxyz",
    "for_traj",
    "restore_constraints",
    "restore_origin",
    "store_constraints",
    "store_origin",
    "unkept_constraints",
    "warn_of_unkept_constraints",
]

# Names by which other programs write velocities. ASE reads none of them, and their units differ.
VELOCITY_NAMES = ("v", "vel", "vels", "velo", "velos", "velocity", "velocities", "momentum")

_LABEL_WORDS = ("force", "energ", "stress", "virial", "gradient")
_CONSTRAINTS = "eqcalc_constraints"  # entry of a frame's info
_ORIGIN = "Origin"  # likewise; LAMMPS and OVITO call it so

# Columns that extxyz writes in any case, and names that its reader takes for something else.
_WRITTEN = {"symbols": 1, "species": 1, "positions": 3, "pos": 3, "momenta": 3, "forces": 3}
_MEANT_OTHERWISE = {"numbers", "Z", "charge", "move_mask", *all_properties}
_HEADER = {"Lattice", "Properties", "pbc", "virial", *all_properties}  # entries of its own
_LARGEST = 2**31 - 1  # integer that its reader takes

# What constraints, which anyone may write, raise where they cannot be stored or made again.
_CONSTRAINT_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)


def drop_stale(frame: Atoms) -> None:
    """Remove columns, in place, that are no longer true once atoms have moved."""
    for name in list(frame.arrays):
        is_label = any(word in name.lower() for word in _LABEL_WORDS)
        if is_label or name.lower() in (*VELOCITY_NAMES, "vx", "vy", "vz"):
            del frame.arrays[name]


def for_extxyz(atoms: Atoms) -> Atoms:
    """Return a copy, with the same calculator, that extxyz gives back as it is.

    Without columns and entries of info that cannot be read again; with the constraints in its
    info, where the format has no column for them (see :func:`restore_constraints`).
    """
    frame = atoms.copy()
    frame.calc = atoms.calc
    taken = {field for name, n in _WRITTEN.items() for field in _fields(name, n)}
    for name, values in list(frame.arrays.items()):
        if name in ("numbers", "positions", "momenta"):
            continue
        fields = set(_fields(name, values.shape[1] if values.ndim > 1 else 1))
        if fields & taken or not _can_be_read_again(name, values):
            del frame.arrays[name]
        else:
            taken |= fields
    frame.info = {k: v for k, v in frame.info.items() if _is_readable_entry(k, v)}
    # A FixCartesian would come back as one for each atom of the structure.
    if not all(type(constraint) is FixAtoms for constraint in frame.constraints):
        frame.set_constraint(store_constraints(frame))
    store_origin(frame)
    return frame


def store_origin(atoms: Atoms) -> None:
    """Put where the cell begins into the structure's info, in place: no format has it otherwise."""
    origin = atoms.get_celldisp().ravel()
    if origin.any():
        atoms.info[_ORIGIN] = origin


def restore_origin(atoms: Atoms) -> None:
    """Take where the cell begins out of a frame's info, in place, if it is a place."""
    origin = np.asarray(atoms.info.get(_ORIGIN))
    if origin.dtype.kind in "fi" and origin.shape == (3,) and np.isfinite(origin).all():
        atoms.set_celldisp(origin)
        del atoms.info[_ORIGIN]


def store_constraints(atoms: Atoms) -> list[Any]:
    """Put the constraints into the structure's info, in place; return those that it can hold.

    :func:`restore_constraints` takes them out again.
    """
    kept = [each for each in atoms.constraints if _content(each) is not None]
    atoms.info[_CONSTRAINTS] = encode([_content(each) for each in kept])
    return kept


def for_traj(frame: Atoms) -> Atoms:
    """Return the frame, or a copy without what ASE's trajectories cannot hold as it is."""
    kept = [each for each in frame.constraints if _content(each) is not None]
    if len(kept) == len(frame.constraints) and not frame.get_celldisp().any():
        return frame
    twin = frame.copy()
    twin.calc = frame.calc
    twin.set_constraint(kept)
    store_origin(twin)
    return twin


def restore_constraints(atoms: Atoms) -> None:
    """Take constraints out of a frame's info and put them on the atoms, in place.

    Raises
    ------
    StructureError : they are not readable, or hold atoms that are not there.
    """
    text: Any = atoms.info.pop(_CONSTRAINTS, None)
    if text is None:
        return
    try:
        held = decode(text if isinstance(text, str) else json.dumps(text))
        constraints = [dict2constraint(content) for content in held]
        indices = [
            int(k) for c in constraints for k in np.atleast_1d(getattr(c, "get_indices", tuple)())
        ]
    except _CONSTRAINT_ERRORS as error:
        raise StructureError(
            f"the constraints in this structure's '{_CONSTRAINTS}' are not readable "
            f"({type(error).__name__}: {error}); remove the entry to go on without them."
        ) from error
    if indices and not -len(atoms) <= min(indices) <= max(indices) < len(atoms):
        raise StructureError(
            f"the constraints in this structure's '{_CONSTRAINTS}' hold atoms {min(indices)} to "
            f"{max(indices)}, and there are {len(atoms)} atoms; remove the entry to go on without "
            "them."
        )
    atoms.set_constraint(constraints)


def unkept_constraints(atoms: Atoms) -> list[str]:
    """Return the class names of constraints that no file can hold."""
    lost = [constraint for constraint in atoms.constraints if _content(constraint) is None]
    return [type(constraint).__name__ for constraint in lost]


def warn_of_unkept_constraints(atoms: Atoms, so: str) -> None:
    """Warn before a run begins of constraints that no file can hold, and of what follows.

    Parameters
    ----------
    so : what follows
    """
    lost = unkept_constraints(atoms)
    if lost:
        warnings.warn(
            f"no file can hold the constraints {', '.join(lost)}: frames are without them, {so}.",
            DataWarning,
            stacklevel=3,
        )


def _fields(name: str, n_columns: int) -> list[str]:
    """Return the names that the columns of an array have inside the format."""
    return [name] if n_columns == 1 else [f"{name}{column}" for column in range(n_columns)]


def _can_be_read_again(name: str, values: NDArray[Any]) -> bool:
    is_name = name.replace("_", "").replace("-", "").isalnum()
    if not is_name or name in _MEANT_OTHERWISE or values.ndim > 2 or values.size == 0:
        return False
    if values.dtype.kind == "U":
        return all(str(word).split() == [str(word)] for word in values.flat)
    return _are_readable_numbers(values)


def _is_readable_entry(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or not key.isidentifier() or key in _HEADER:
        return False
    if isinstance(value, str):
        return bool(value) and value.isprintable()
    kinds = (bool, int, float, np.number, np.ndarray)  # numbers of a file that was read are numpy's
    values = np.asarray(value) if isinstance(value, kinds) else None
    return values is not None and values.size > 0 and _are_readable_numbers(values)


def _are_readable_numbers(values: NDArray[Any]) -> bool:
    kind = values.dtype.kind
    return kind in "fb" or (kind == "i" and bool((np.abs(values) <= _LARGEST).all()))


def _are_same(left: Any, right: Any) -> bool:
    """Whether two contents are the same but for rounding: a direction is normalised once more."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_are_same(left[k], right[k]) for k in left)
    one, other = np.asarray(left), np.asarray(right)
    if one.dtype.kind in "fi" and other.dtype.kind in "fi" and one.shape == other.shape:
        return bool(np.allclose(one, other, rtol=1e-9, atol=1e-12))
    return bool(encode(left) == encode(right))


def _content(constraint: Any) -> dict[str, Any] | None:
    """Return what ASE makes the constraint of again, or None where it cannot."""
    try:
        content: dict[str, Any] = constraint.todict()
        again = dict2constraint(decode(encode(content)))
        is_same = type(again) is type(constraint) and _are_same(again.todict(), content)
    except _CONSTRAINT_ERRORS:
        return None
    return content if is_same else None
