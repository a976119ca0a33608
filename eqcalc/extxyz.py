"""What ASE's reader of extended xyz passes over in silence, found in the text itself.

The format: https://github.com/libAtoms/extxyz. A frame is a number of atoms, a line of key=value,
and for each atom a row of the columns that ``Properties`` names; without it, of an element, a
position, and whatever else the writer liked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.cell import Cell
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import open_with_compression
from ase.units import Bohr

__all__ = ["entries_of_comment", "fault_in_extxyz"]

_KEYS = {"lattice": "Lattice", "properties": "Properties", "pbc": "pbc"}
_PAIR = re.compile(r"""([^\s="']+)=("[^"]*"|'[^']*'|[^\s"']+)""")
# As ASE splits: what stands in quotes or brackets is part of a word, and so is what a backslash
# is before.
_QUOTED = r"""\\.|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|\{(?:\\.|[^}\\])*\}|\[(?:\\.|[^]\\])*\]"""
_ENTRY = re.compile(rf"(?:{_QUOTED}|[^\s=])+(\s*=\s*(?:{_QUOTED}|\S)*)?")
_OF_IPI = re.compile(r"\b([a-z]\w*)\{([^}]+)\}")
_CELL_OF_IPI = re.compile(r"CELL[([{]abcABC[)\]}]:((?:\s+[-+.\deE]+){6})(?=\s|$)")
_ANY_CELL_OF_IPI = re.compile(r"CELL[([{](abcABC|H|GENH)[)\]}]")
_FLAT = 1e-6  # of a brick's volume
_LENGTHS_OF_IPI = {"angstrom": 1.0, "ase": 1.0, "atomic_unit": Bohr}
_MEASURED = re.compile("lattice|energy|stress|virial", re.IGNORECASE)  # a run_id=1_0 is none
_LEAST, _MOST = 4, 100_000  # columns of a row: an element and a position, and beyond reason


class _Columns(NamedTuple):
    """What a row holds: how many columns, which are numbers, which an element or its number."""

    n_columns: int
    numeric: tuple[int, ...]
    symbol: int | None = 0
    number: int | None = None


def fault_in_extxyz(path: Path) -> str | None:
    """Return what is wrong with a file though ASE reads it, in a sentence; None where nothing is.

    A row of more columns than there are, whose numbers would move to others; a misspelt key, whose
    cell would be missing; a key that stands twice with different values, of which the last would
    be read; directions that are no flags, and would all become periodic; digits that only Python
    takes for a number; an element that may be another; a trajectory of i-PI that holds no positions
    or none in Å; a blank line, which would end the file.
    """
    with open_with_compression(str(path), "rt") as file:
        lines = enumerate(file, start=1)
        for number, line in lines:
            if not line.strip():
                if any(other.strip() for _, other in lines):
                    return f"a blank line {number} ends the file before its last frame; remove it"
                return None
            if not line.split()[0].isdigit():  # vectors of a cell behind the atoms, an old custom
                continue
            fault = _fault_in_frame(int(line.split()[0]), lines)
            if fault is not None:
                return fault
    return None


def entries_of_comment(line: str) -> dict[str, Any]:
    """Read a frame's line of key=value as ASE does, and the cell of i-PI, which ASE passes over.

    A ``properties_parser`` of ASE's reader. i-PI writes lengths in the unit of ``cell{...}`` and
    angles in degrees; whatever it moves is periodic.
    """
    cell = _cell_of_ipi(line)
    if cell is None:
        entries: dict[str, Any] = key_val_str_to_dict(line)
        return entries
    return {"Lattice": cell.array.T}  # whose columns are the vectors here, as ASE has it


def _cell_of_ipi(comment: str) -> Cell | None:
    found = _CELL_OF_IPI.search(comment)
    unit = dict(_OF_IPI.findall(comment)).get("cell")
    if found is None or unit not in _LENGTHS_OF_IPI:
        return None
    a, b, c, *angles = (float(word) for word in found[1].split())
    length = _LENGTHS_OF_IPI[unit]
    return Cell.fromcellpar([a * length, b * length, c * length, *angles])


def _fault_in_frame(n_atoms: int, lines: Iterator[tuple[int, str]]) -> str | None:
    number, comment = next(lines, (0, ""))
    try:
        keys = key_val_str_to_dict(comment)
    except ValueError:
        return None  # ASE refuses it too
    fault = _fault_in_keys(keys, comment, number) or _fault_of_ipi(comment, number)
    columns = _columns(keys.get("Properties"))
    for _ in range(n_atoms if fault is None else 0):
        following = next(lines, None)
        if following is None:  # ASE would go on looking for every atom there is said to be
            return (
                f"it is cut off in line {number}: a frame of {n_atoms} atoms ends before its last"
            )
        number, line = following
        row = line.split()
        if columns is None:
            columns = _Columns(max(len(row), _LEAST), (1, 2, 3))
        fault = _fault_in_row(row, columns, line, number)
        if fault is not None:
            break
    return fault


def _columns(properties: object) -> _Columns | None:
    """Return what ``Properties`` names; None where it is left out or is none."""
    if not isinstance(properties, str):
        return None
    words = properties.split(":")
    counts = [int(count) if count.isdigit() else 0 for count in words[2::3]]
    if sum(counts) > _MOST:
        return _Columns(sum(counts), ())
    kinds = "".join(kind * count for kind, count in zip(words[1::3], counts, strict=False))
    starts = dict(zip(words[::3], accumulate(counts, initial=0), strict=False))
    symbol, number = (
        next((starts[name] for name in names if name in starts), None)
        for names in (("species", "symbols"), ("Z", "numbers"))
    )
    numeric = tuple(k for k, kind in enumerate(kinds) if kind in "RI")
    return _Columns(sum(counts), numeric, symbol, number)


def _fault_in_keys(keys: dict[str, Any], comment: str, number: int) -> str | None:
    for key in keys:
        meant = _KEYS.get(re.sub("[^a-z]", "", key.lower()))
        if meant is not None and key != meant:
            return f"line {number} says '{key}', which is read as {meant} only where written so"
    if re.sub(r"\\.", "", comment).count('"') % 2:
        return f"line {number} has a quotation mark without an end"
    twice = _said_twice(keys, comment)
    if twice is not None:
        return f"line {number} says {twice[0]} and {twice[1]}; remove the one that is not meant"
    flags = keys.get("pbc", True)
    if isinstance(flags, str) or not np.isin(flags, (0, 1)).all():
        return f"line {number} says pbc='{flags}'; three of T and F are meant"
    names = str(keys.get("Properties", "species:pos")).split(":")
    if not {"species", "Z", "numbers", "symbols"} & set(names):
        return f"line {number} names no column of elements (species:S:1) in Properties"
    if "_" in comment or not comment.isascii():
        for key, value in _PAIR.findall(comment):
            stripped = value.replace("_JSON", "")
            odd = _MEASURED.search(key) and ("_" in stripped or not value.isascii())
            if odd and not isinstance(keys.get(key, ""), (str, dict, list)):
                return f"line {number} says {key}={value}, which only Python takes for a number"
    return None


def _fault_of_ipi(comment: str, number: int) -> str | None:
    """Find what i-PI says of its own trajectories in words that ASE does not look at."""
    if not _ANY_CELL_OF_IPI.search(comment):
        return None
    try:
        cell = _cell_of_ipi(comment)
    except (ValueError, AssertionError):  # ASE's, of angles that no three vectors have
        cell = None
    if cell is None or not cell.volume > _FLAT * cell.lengths().prod():
        return (
            f"line {number} has a cell of i-PI that cannot be read: CELL(abcABC): with three "
            "lengths, three angles and the unit, cell{angstrom} or cell{atomic_unit}, can, and "
            "files of format='ase'"
        )
    said = [words for words in _OF_IPI.findall(comment) if words[0] != "cell"]
    for what, unit in said:
        if what not in ("positions", "x_centroid"):
            return f"line {number} says that these are {what} of i-PI, and no positions"
        if unit not in ("angstrom", "ase"):
            return (
                f"line {number} says {what}{{{unit}}} of i-PI, and lengths are read in Å; let i-PI "
                "write positions{angstrom}, or format='ase'"
            )
    return None


def _said_twice(keys: dict[str, Any], comment: str) -> tuple[str, str] | None:
    """Return two entries of one key with different values, as they are written; else None."""
    found: dict[str, tuple[str, Any]] = {}
    for entry in _ENTRY.finditer(comment):
        if entry.group(1) is None:  # a word alone, as in a sentence
            continue
        try:
            read = list(key_val_str_to_dict(entry.group()).items())
        except ValueError:
            return None
        if len(read) != 1 or read[0][0] not in keys:
            return None  # split otherwise than ASE did: nothing is concluded
        key, value = read[0]
        first, before = found.setdefault(key, (entry.group(), value))
        if first != entry.group() and not np.array_equal(before, value):  # NaN is not itself
            return first, entry.group()
    return None


def _fault_in_row(row: list[str], columns: _Columns, line: str, number: int) -> str | None:
    if len(row) != columns.n_columns:
        return (
            f"line {number} has {len(row)} columns, where the frame has {columns.n_columns}: "
            "numbers would be taken for others"
        )
    if "_" in line or not line.isascii():
        for column in columns.numeric:
            if "_" in row[column] or not row[column].isascii():
                return f"line {number} says '{row[column]}', where a number is meant"
    return _fault_in_element(row, columns, number)


def _fault_in_element(row: list[str], columns: _Columns, number: int) -> str | None:
    """Find an element that may be another: ASE makes calcium of CA, and prefers a column Z."""
    if columns.symbol is None:
        return None
    symbol = row[columns.symbol]
    names = [symbol.capitalize()]
    if len(symbol) == 2 and symbol.isupper():  # or the name of an atom in a molecule
        names.append(symbol[0])
    readings = [name for name in names if name in atomic_numbers]
    if columns.number is not None and row[columns.number].isdigit():
        beside = int(row[columns.number])
        if readings and beside not in (atomic_numbers[name] for name in readings):
            return f"line {number} says {symbol} and, beside it, the atomic number {beside}"
    elif len(readings) > 1:
        return (
            f"line {number} says '{symbol}', which may be {readings[0]}, or an atom of "
            f"{readings[1]} by its name in a molecule; write elements as {readings[0]} or "
            f"{readings[1]}"
        )
    return None
