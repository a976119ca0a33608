"""Files from which ASE has to guess elements: the wrong guess is another molecule.

A LAMMPS dump without a column of elements has types, which ASE takes for atomic numbers. A PDB
file whose element columns are blank has names, of which CA is calcium to ASE, and HG1 mercury.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype

from eqcalc.errors import StructureError

__all__ = ["refuse_guessed_elements"]

_DUMP_HEADER_LINES = 100
_ELEMENT, _NAME, _RESIDUE = slice(76, 78), slice(12, 16), slice(17, 21)  # columns of a PDB file


def refuse_guessed_elements(path: Path, atoms: Atoms) -> None:
    """Refuse a structure whose elements are not what the file says.

    Raises
    ------
    StructureError : a LAMMPS dump without elements, or a PDB file with a name that may be
        read as two elements and no element beside it.
    """
    try:
        kind = filetype(str(path), guess=False)
    except (UnknownFileTypeError, OSError, ValueError):
        return
    if kind == "lammps-dump-text":
        _refuse_types(path)
    elif kind == "proteindatabank":
        _refuse_names(path, atoms)


def _refuse_types(path: Path) -> None:
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in islice(file, _DUMP_HEADER_LINES):
            if line.startswith("ITEM: ATOMS") and "element" not in line.split():
                raise StructureError(
                    f"'{path}' has no column of elements, and LAMMPS types are no atomic numbers; "
                    "write it with 'element' among the columns (dump ... custom ... element, "
                    "dump_modify ... element Si O)."
                )


def _refuse_names(path: Path, atoms: Atoms) -> None:
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\n") for line in file if line.startswith(("ATOM  ", "HETATM"))]
    # Of several models ASE returns one; names are the same in all.
    for number, (line, symbol) in enumerate(zip(lines, atoms.symbols, strict=False)):
        is_ion = line[_RESIDUE].strip().upper() == symbol.upper()
        if len(symbol) == 2 and not line[_ELEMENT].strip() and not is_ion:
            raise StructureError(
                f"'{path}': the name '{line[_NAME].strip()}' of atom {number} is read as the "
                f"element {symbol}, and the file's element columns (77 and 78) are blank; fill "
                "them, or write the structure as extxyz."
            )
