"""Number the atoms of large structures so that neighbours lie close in memory.

A network gathers the features of every atom's neighbours. Once the features of all atoms no
longer fit the processor's cache, it matters in which order they lie: PaiNN takes half as long
again for 8000 atoms of water whose molecules come in no order.

Shapes: n_atoms.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.blockwise.blocks import box_coordinates
from eqcalc.errors import ConfigError

__all__ = ["AtomOrder"]

FEWEST = 3000  # atoms; with fewer, no order was faster than another
_LEVELS = 10  # of halved cubes; the smallest are a thousandth of the structure wide


class AtomOrder:
    """Orders atoms along a curve through cubes within cubes (Morton's), and results back.

    The order is chosen where a structure of another size or of other elements is met, and then
    kept: any order is right for any positions, so that nothing can be stale but its use, which
    fades as atoms diffuse.
    """

    def __init__(self) -> None:
        self._numbers = b""
        self._order: NDArray | None = None

    @property
    def order(self) -> NDArray | None:
        """The present order (n_atoms,), None where atoms keep their own."""
        return self._order

    def keep(self, numbers: NDArray, order: NDArray | None) -> None:
        """Take an order that was chosen before, for the structure of these atomic numbers.

        Raises
        ------
        ConfigError : it does not name each atom once.
        """
        if order is not None and not np.array_equal(np.sort(order), np.arange(len(numbers))):
            raise ConfigError(
                f"an order of {len(numbers)} atoms names each of 0..{len(numbers) - 1} once; this "
                f"one has {len(order)} entries and does not."
            )
        self._numbers, self._order = numbers.tobytes(), order

    def ordered(self, atoms: Atoms) -> Atoms:
        """Return the structure with its atoms in order: itself where that would not pay."""
        numbers = atoms.numbers.tobytes()
        if numbers != self._numbers:
            self._order = _order_of(atoms) if len(atoms) >= FEWEST else None
            self._numbers = numbers
        if self._order is None:
            return atoms
        return Atoms(
            numbers=atoms.numbers[self._order],
            positions=atoms.positions[self._order],
            cell=atoms.cell,
            pbc=atoms.pbc,
        )

    def restored(self, values: NDArray) -> NDArray:
        """Return values (n_atoms, ...) of the last ordered structure in its own order."""
        if self._order is None:
            return values
        restored = np.empty_like(values)
        restored[self._order] = values
        return restored


def _order_of(atoms: Atoms) -> NDArray | None:
    """Return atoms' numbers along the curve; None where positions or cell mean nothing."""
    if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
        return None
    try:
        coordinates = box_coordinates(atoms)
    except np.linalg.LinAlgError:
        return None
    coordinates -= coordinates.min(axis=0)
    width = coordinates.max()
    if width == 0.0:
        return None
    cubes = (coordinates * ((1 << _LEVELS) - 1) / width).astype(np.int64)  # (n_atoms, 3)
    places = np.zeros(len(atoms), dtype=np.int64)
    for level in range(_LEVELS):
        for axis in range(3):
            places |= (cubes[:, axis] >> level & 1) << (3 * level + axis)
    return np.argsort(places, kind="stable")
