"""What of the user's structure goes into the frames that a run writes, so that they read back.

Structure files bring columns of their own. Some say what is no longer true once atoms have
moved (forces of another method), some cannot be written and read again (empty residue names),
and some say what constraints the format has no column for.
"""

from __future__ import annotations

import json
from typing import Any

from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.constraints import FixAtoms, FixCartesian, dict2constraint
from ase.io.jsonio import decode, encode
from numpy.typing import NDArray

from eqcalc.errors import StructureError

__all__ = ["drop_unwritable", "hold_constraints", "restore_constraints", "unkept_constraints"]

_LABEL_WORDS = ("force", "energ", "stress", "virial", "gradient")
_CONSTRAINTS = "eqcalc_constraints"  # entry of a frame's info
_IN_FORMAT = (FixAtoms, FixCartesian)  # extxyz has columns for these


def drop_unwritable(frame: Atoms) -> None:
    """Remove columns that are stale, or that a file could not give back, in place."""
    for name, values in list(frame.arrays.items()):
        if name in ("numbers", "positions", "momenta"):
            continue
        is_stale = any(word in name.lower() for word in _LABEL_WORDS)
        if is_stale or not _can_be_written(name, values):
            del frame.arrays[name]


def _can_be_written(name: str, values: NDArray) -> bool:
    if not name.replace("_", "").replace("-", "").isalnum() or values.ndim > 2:
        return False
    if values.dtype.kind in "US":
        return all(str(word) and not set(str(word)) & set(" \t\n\"'{}[]=") for word in values.flat)
    return values.dtype.kind in "ifb"


def hold_constraints(frame: Atoms) -> None:
    """Put constraints that extxyz has no column for into the frame's info, in place."""
    if all(isinstance(constraint, _IN_FORMAT) for constraint in frame.constraints):
        return
    held = [c.todict() for c in frame.constraints if hasattr(c, "todict")]
    frame.info[_CONSTRAINTS] = encode(held)


def restore_constraints(atoms: Atoms) -> None:
    """Take constraints out of a frame's info and put them on the atoms, in place.

    Raises
    ------
    StructureError : they are not readable.
    """
    text: Any = atoms.info.pop(_CONSTRAINTS, None)
    if text is None:
        return
    try:
        held = decode(text if isinstance(text, str) else json.dumps(text))
        atoms.set_constraint([dict2constraint(content) for content in held])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StructureError(
            f"the constraints in this structure's '{_CONSTRAINTS}' are not readable: {error}; "
            "remove the entry to go on without them."
        ) from error


def unkept_constraints(atoms: Atoms) -> list[str]:
    """Return the names of constraints that no file can hold: ASE knows no way to write them."""
    lost = []
    for constraint in atoms.constraints:
        try:
            dict2constraint(constraint.todict())
        except (AttributeError, KeyError, TypeError, ValueError, PropertyNotImplementedError):
            lost.append(type(constraint).__name__)
    return lost
