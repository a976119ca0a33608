"""Read the structure a run starts from."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError

from eqcalc.errors import StructureError

__all__ = ["read_structure"]

_FORMATS = "extxyz, xyz, traj, cif, POSCAR/CONTCAR, pdb and the other formats that ASE reads"

# What ASE's readers raise on a file that is not what its name promises; they
# have no common class.
_READER_ERRORS = (
    UnknownFileTypeError,
    OSError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    StopIteration,
    EOFError,
    RuntimeError,
    SyntaxError,
    AssertionError,
    ArithmeticError,
    NotImplementedError,
    ImportError,
)


def read_structure(path: str | Path, index: int = -1) -> Atoms:
    """Return one structure of a file.

    Parameters
    ----------
    path : any format that ASE recognises by name or content
    index : which structure of a file that holds several; -1 is the last

    Raises
    ------
    StructureError : the file is missing, empty or unreadable, has no structure
        with that index, or the structure has no atoms.
    """
    path = Path(path)
    if not path.exists():
        raise StructureError(f"no structure file '{path}'; expected a path to {_FORMATS}.")
    if path.is_dir():
        raise StructureError(f"'{path}' is a folder; expected a structure file ({_FORMATS}).")
    try:
        if path.stat().st_size == 0:
            raise StructureError(f"the structure file '{path}' is empty.")
        atoms = ase.io.read(path, index=index)
    except StructureError:
        raise
    except _READER_ERRORS as error:
        which = "" if index == -1 else f" (index {index})"
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise StructureError(
            f"cannot read a structure from '{path}'{which}: {reason}. Readable are {_FORMATS}; "
            "the suffix must tell which it is."
        ) from error
    if not isinstance(atoms, Atoms) or len(atoms) == 0:
        raise StructureError(f"the structure in '{path}' has no atoms.")
    return atoms
