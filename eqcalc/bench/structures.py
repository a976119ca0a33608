"""Structures that every report of speed can use, and copies of them that grow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk, molecule

from eqcalc.errors import ConfigError, StructureError, did_you_mean
from eqcalc.simulate.structures import read_structure

__all__ = ["load_structure", "parse_sizes", "repeated"]

_PER_CELL = {"water": 3, "cu": 4}  # atoms of the cell that is repeated n x n x n
_NAMES = ["ethanol", *(f"{k}{m * n**3}" for k, m in _PER_CELL.items() for n in range(2, 8))]


def load_structure(name: str) -> Atoms:
    """Return the structure of a file, or one of those that every report can use.

    "ethanol"; "water192": water molecules, turned at random, on a cubic grid at the density
    of the liquid; "cu108": rattled fcc copper. The number is that of the atoms.

    Raises
    ------
    StructureError : neither a readable file nor such a name.

    >>> len(load_structure("water24")), len(load_structure("cu32"))
    (24, 32)
    """
    path = Path(name)
    if name and (path.exists() or path.suffix or len(path.parts) > 1):
        return read_structure(path)
    if name == "ethanol":
        return molecule("CH3CH2OH")
    match = re.fullmatch(r"(water|cu)(\d{1,9})", name)
    if match:
        kind, n_atoms = match[1], int(match[2])
        per_cell = _PER_CELL[kind]
        n = max(1, math.floor((n_atoms / per_cell) ** (1 / 3) + 1e-6))  # the root is rounded
        if n_atoms == per_cell * n**3:
            return _water(n) if kind == "water" else _copper(n)
        raise StructureError(
            f"'{name}': expected {per_cell} n³ atoms with a whole n, as in "
            f"{kind}{per_cell * n**3} or {kind}{per_cell * (n + 1) ** 3}."
        )
    raise StructureError(
        f"'{name}' is neither a file nor a structure known by name: ethanol, water24, "
        f"water192, ... (3 n³ atoms), cu32, cu108, ... (4 n³)." + did_you_mean(name, _NAMES)
    )


def _water(n: int) -> Atoms:
    spacing = 3.1  # Å; 1.0 g/cm³
    generator = np.random.default_rng(0)
    box = Atoms(cell=[n * spacing] * 3, pbc=True)
    for place in np.ndindex(n, n, n):
        one = molecule("H2O")
        one.positions -= one.get_center_of_mass()
        one.rotate(generator.uniform(0.0, 360.0), generator.normal(size=3))
        one.positions += spacing * np.array(place)
        box += one
    box.wrap()
    return box


def _copper(n: int) -> Atoms:
    crystal = bulk("Cu", cubic=True).repeat((n, n, n))
    crystal.rattle(0.05, seed=1)
    return crystal


def parse_sizes(text: str) -> list[int]:
    """Return the numbers of cells of ``--sizes``.

    Raises
    ------
    ConfigError : not two or more different whole numbers above zero.

    >>> parse_sizes("8, 1,2")
    [1, 2, 8]
    """
    words = [word.strip() for word in text.split(",")]
    sizes = sorted({int(word) for word in words if word.isdecimal()})
    if len(sizes) != len(words) or len(sizes) < 2 or sizes[0] < 1:
        raise ConfigError(
            "--sizes takes two or more different numbers of cells, such as 1,2,4,8; "
            f"found '{text}'."
        )
    return sizes


def repeated(atoms: Atoms, n_cells: int, name: str) -> Atoms:
    """Repeat a structure along its periodic directions, the shortest first.

    Raises
    ------
    ConfigError : no direction is periodic.

    >>> len(repeated(load_structure("cu32"), 6, "cu32"))
    192
    """
    if not atoms.pbc.any():
        raise ConfigError(
            f"--sizes repeats a periodic structure; '{name}' is open in all directions."
        )
    repeats = np.ones(3, dtype=int)
    for factor in sorted(_prime_factors(n_cells), reverse=True):
        lengths = np.where(atoms.pbc, repeats * atoms.cell.lengths(), np.inf)
        repeats[int(lengths.argmin())] *= factor
    return atoms.repeat(repeats)


def _prime_factors(n: int) -> Iterator[int]:
    divisor = 2
    while n > 1:
        while n % divisor == 0:
            yield divisor
            n //= divisor
        divisor += 1
