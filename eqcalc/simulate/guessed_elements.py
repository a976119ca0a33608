"""Files from which ASE has to guess elements or units: the wrong guess is another molecule.

A LAMMPS dump without a column of elements has types, which ASE takes for atomic numbers. Files of
GROMACS, GROMOS and DL_POLY, and a PDB file whose element columns are blank, have names: NA is
nitrogen to one of ASE's readers and sodium to the next. A POSCAR of VASP 4 has a comment. And the
velocities of a dump are in whatever units the run had, its scaled positions in a box that begins
anywhere, and the models of a PDB file in one cell that stands before the first.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from typing import IO, cast

import ase.io
import numpy as np
from ase import Atoms, units
from ase.data import atomic_numbers
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression

from eqcalc.errors import DataWarning, StructureError

__all__ = ["read_pdb", "refuse_guessed_elements", "settle_positions", "settle_velocities"]

_DUMP_HEADER_LINES = 100
_ELEMENT, _NAME, _RESIDUE = slice(76, 78), slice(12, 16), slice(17, 21)  # columns of a PDB file
_COUNTS = 5  # line of a POSCAR's elements, or of their numbers where it has none
_UNCONVERTED = {"qbox": "Qbox", "abinit-out": "ABINIT"}
_PER_PS = 1000 * units.fs
_FASTER = {"metal": 1.0, "real": 1e3}  # LAMMPS units of a length in Å: their Å/time in Å/ps


def refuse_guessed_elements(path: Path, atoms: Atoms) -> None:
    """Refuse a structure whose elements, or lengths, are not what the file says.

    Raises
    ------
    StructureError : a LAMMPS dump without elements, a name that may be read as two elements and
        no element beside it, a POSCAR without a line of elements whose comment is not one, or an
        output whose lengths ASE does not convert.
    """
    kind = _kind(path)
    if kind in _UNCONVERTED:
        raise StructureError(
            f"'{path}' is an output of {_UNCONVERTED[kind]}, whose lengths ASE takes as they are "
            "printed, in Bohr, or a part of them; make an extxyz in Å of it."
        )
    if kind == "lammps-dump-text":
        _refuse_types(path)
    elif kind == "proteindatabank":
        _refuse_names(path, atoms)
    elif kind == "gromacs":
        names, residues = (list(atoms.arrays.get(key, ())) for key in ("atomtypes", "residuenames"))
        _refuse_two_readings(path, atoms, names, residues)
    elif kind == "gromos":
        fields = [line.split() for line in _block(path, "POSITION")]
        names, residues = [each[2] for each in fields], [each[1] for each in fields]
        _refuse_two_readings(path, atoms, names, residues)
    elif kind in ("dlp4", "dlp-history"):
        rest = atoms.arrays.get("dlp4_labels", ())
        names = [symbol + label for symbol, label in zip(atoms.symbols, rest, strict=False)]
        _refuse_two_readings(path, atoms, names, [""] * len(names))
    elif kind == "vasp":
        _refuse_comment(path)


def read_pdb(path: Path, index: int | str) -> Atoms | list[Atoms] | None:
    """Read a PDB file of several models as the format means it; None of any other file.

    The format has one CRYST1, which ASE gives to the first model alone, and an END, after which ASE
    makes a frame without atoms.
    """
    if _kind(path) != "proteindatabank":
        return None
    frames = cast("list[Atoms]", ase.io.read(path, index=":", format="proteindatabank"))
    while len(frames) > 1 and len(frames[-1]) == 0:
        frames.pop()
    first = frames[0]
    bare = [frame for frame in frames[1:] if first.pbc.any() and not frame.pbc.any()]
    for frame in bare:
        frame.set_cell(first.cell)
        frame.pbc = first.pbc
    if bare:
        warnings.warn(
            f"'{path}' has one cell (CRYST1) for its {len(frames)} models, which all are given; "
            "where a barostat changed it, the file does not say so.",
            DataWarning,
            stacklevel=2,
        )
    return frames if isinstance(index, str) else frames[index]


def settle_positions(path: Path, atoms: Atoms) -> None:
    """Move atoms, in place, to where a LAMMPS dump with scaled columns has them.

    ASE makes fractions of the box into positions as if the box began at zero.
    """
    if _kind(path) != "lammps-dump-text":
        return
    with _open(path) as file:
        lines = (line.split() for line in islice(file, _DUMP_HEADER_LINES))
        columns = next((line[2:] for line in lines if line[:2] == ["ITEM:", "ATOMS"]), [])
    scaled, plain = "xs" in columns, "xu" in columns
    if "x" not in columns and (scaled or ("xsu" in columns and not plain)):
        atoms.positions += atoms.get_celldisp().ravel()


def settle_velocities(path: Path, atoms: Atoms) -> None:
    """Take velocities, in place, in the unit that the file has them in, or as of unknown unit.

    Those of unknown unit become columns ``vx``, ``vy`` and ``vz`` as the file has them, which
    dynamics refuses; whatever asks for no velocities can have the structure.

    Raises
    ------
    StructureError : a LAMMPS dump says units in which a length is not in Å.
    """
    kind = _kind(path)
    if kind not in ("lammps-dump-text", "gpumd"):
        return
    unit = _units_of_dump(path) if kind == "lammps-dump-text" else None
    if unit is not None and unit not in _FASTER:
        raise StructureError(
            f"'{path}' is in LAMMPS units {unit}, and is read as if lengths were in Å; dump from a "
            f"run in units {' or '.join(_FASTER)}, or write the structure as extxyz."
        )
    if not atoms.has("momenta"):
        return
    if unit is not None:
        atoms.set_momenta(_FASTER[unit] * atoms.get_momenta(), apply_constraint=False)
        return
    velocities = atoms.get_velocities()
    if kind == "lammps-dump-text":
        velocities = velocities * _PER_PS  # ASE took them for Å/ps
    del atoms.arrays["momenta"]
    for name, column in zip(("vx", "vy", "vz"), np.transpose(velocities), strict=True):
        atoms.set_array(name, column)


def _kind(path: Path) -> str | None:
    with suppress(UnknownFileTypeError, OSError, ValueError):
        kind: str = filetype(str(path), guess=False)
        return kind
    return None


def _open(path: Path) -> IO[str]:
    file: IO[str] = open_with_compression(str(path), "rt")
    return file


def _refuse_types(path: Path) -> None:
    with _open(path) as file:
        for line in islice(file, _DUMP_HEADER_LINES):
            if line.startswith("ITEM: ATOMS") and "element" not in line.split():
                raise StructureError(
                    f"'{path}' has no column of elements, and LAMMPS types are no atomic numbers; "
                    "write it with 'element' among the columns (dump ... custom ... element, "
                    "dump_modify ... element Si O)."
                )


def _units_of_dump(path: Path) -> str | None:
    with _open(path) as file:
        lines = [line.strip() for line in islice(file, _DUMP_HEADER_LINES)]
    return lines[lines.index("ITEM: UNITS") + 1] if "ITEM: UNITS" in lines[:-1] else None


def _refuse_names(path: Path, atoms: Atoms) -> None:
    with _open(path) as file:
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


def _refuse_two_readings(
    path: Path, atoms: Atoms, names: Iterable[str], residues: Iterable[str]
) -> None:
    """Refuse names of atoms that do not begin with one element alone, which ASE took."""
    for number, (name, residue, symbol) in enumerate(
        zip(names, residues, atoms.symbols, strict=False)
    ):
        readings = _readings(name)
        # SOD and CLA, alone in a residue of their name, are ions and no sulfur or carbon.
        is_ion = name == residue and len(name) > 2
        if readings != [symbol] or is_ion:
            raise StructureError(
                f"'{path}' has names in place of elements, and '{name}' of atom {number}, which "
                f"ASE reads as {symbol}, may be another "
                f"({' or '.join(readings) or 'none'}{' or an ion' if is_ion else ''}); write the "
                "structure in a format with elements, such as extxyz."
            )


def _readings(name: str) -> list[str]:
    """Return the elements that the letters of a name may begin with; Na is sodium, NA may be."""
    letters = re.sub(r"^[^A-Za-z]*", "", name)
    two = letters[:2]
    if len(two) == 2 and two[1].islower() and two.capitalize() in atomic_numbers:
        return [two.capitalize()]
    found = {letters[:1].upper(), two.capitalize() if two.isalpha() else ""}
    return sorted(symbol for symbol in found if symbol in atomic_numbers)


def _refuse_comment(path: Path) -> None:
    with _open(path) as file:
        lines = list(islice(file, _COUNTS + 1))
    counts = lines[_COUNTS].split() if len(lines) > _COUNTS else [""]
    if not counts[0].isdigit():
        return
    n_kinds = sum(1 for _ in takewhile(str.isdigit, counts))
    words = lines[0].split()
    if len(words) != n_kinds or not all(word in atomic_numbers for word in words):
        raise StructureError(
            f"'{path}' has no line of elements, and its comment '{lines[0].strip()}' is no list of "
            f"{n_kinds} of them; put their symbols into a line before the numbers of atoms, as "
            "VASP 5 does."
        )


def _block(path: Path, name: str) -> list[str]:
    """Return the lines of a block of a GROMOS file."""
    with _open(path) as file:
        lines = [line.rstrip("\n") for line in file]
    begin = next(k for k, line in enumerate(lines) if name in line) + 1
    end = next(k for k in range(begin, len(lines)) if "END" in lines[k])
    return lines[begin:end]
