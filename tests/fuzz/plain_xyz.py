"""An extended-xyz file read by the letter of its format, to compare readers with.

https://github.com/libAtoms/extxyz: a number of atoms, a line of key=value with ``Properties``
and ``Lattice`` (the three vectors, one after the other), and a line of columns for each atom.
"""

from __future__ import annotations

import re
from typing import Any

from ase.data import atomic_numbers

_PAIR = re.compile(r"""([^\s="']+)\s*=\s*("([^"]*)"|'([^']*)'|[^\s"']+)""")
_NUMBER = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)([eEdD][-+]?\d+)?", re.ASCII)
_FLAGS = {
    word: word[0] in "Tt" for word in ["T", "F", "true", "false", "True", "False", "TRUE", "FALSE"]
}
_WIDTHS = {"S": str, "R": float, "I": int, "L": str}


def frames_of(text: str) -> list[list[Any]]:
    """Return [numbers, positions, cell, pbc, energy, forces] of every frame.

    Raises
    ------
    ValueError, KeyError, IndexError : the text is no such file.
    """
    lines = text.split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    frames = []
    while lines:
        n_atoms = int(lines[0])
        rows = [line.split() for line in lines[2 : 2 + n_atoms]]
        if len(rows) < n_atoms or n_atoms < 1:
            raise ValueError("too few lines")
        frames.append(_frame(lines[1], rows))
        lines = lines[2 + n_atoms :]
    return frames


def _frame(comment: str, rows: list[list[str]]) -> list[Any]:
    found = {}
    for key, bare, *quoted in _PAIR.findall(comment):
        found[key] = bare if bare[0] not in "\"'" else "".join(quoted)
    columns: dict[str, list[Any]] = {}
    words = found["Properties"].split(":")
    start = 0
    for name, kind, count in zip(words[::3], words[1::3], words[2::3], strict=True):
        stop = start + int(count)
        columns[name] = [[_value(kind, word) for word in row[start:stop]] for row in rows]
        start = stop
    if any(len(row) != start for row in rows):
        raise ValueError("columns that nothing names")
    lattice = [_value("R", word) for word in found.get("Lattice", "0 " * 9).split()]
    cell = [lattice[0:3], lattice[3:6], lattice[6:9]]
    default = "T T T" if "Lattice" in found else "F F F"
    pbc = [_FLAGS[word] for word in found.get("pbc", default).split()]
    numbers = [atomic_numbers[symbol] for (symbol,) in columns["species"]]
    energy = _value("R", found["energy"]) if "energy" in found else None
    return [numbers, columns["pos"], cell, pbc, energy, columns.get("forces")]


def _value(kind: str, word: str) -> Any:
    if kind == "R" and not _NUMBER.fullmatch(word):
        raise ValueError(f"{word} is no number")
    return _WIDTHS[kind](word.replace("d", "e").replace("D", "E") if kind == "R" else word)
