"""How far atoms moved between two frames of the same crystal, liquid or slab.

Averages over many atoms, as the descriptor's, hardly tell one moment of a crystal from another,
and each is worth a label of its own. Where the order of atoms is the same and the cell holds the
structure's orientation, the displacements of the atoms tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray

__all__ = ["Places", "displacements", "places_of"]


class Places(NamedTuple):
    """Where the atoms of a frame are.

    fractions : (n_atoms, 3), of the vectors of ``cell`` (3, 3), Å; an open one is of length 1, at
        right angles to the others
    """

    numbers: NDArray
    pbc: NDArray
    cell: NDArray
    fractions: NDArray


def places_of(atoms: Atoms) -> Places | None:
    """Return where atoms are; None of what can turn, periodic in one direction or none."""
    if atoms.pbc.sum() < 2:
        return None
    # An open vector repeats nothing: whichever a file gives, a slab's atoms are where they are.
    cell = Cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)).complete()
    return Places(atoms.numbers, atoms.pbc, cell.array, cell.scaled_positions(atoms.positions))


def displacements(places: Sequence[Places | None], one: Places | None) -> NDArray[np.float64]:
    """Return the root mean square displacement, Å, of the atoms of each frame from those of one.

    By the nearest images, beyond a shift of the whole, in the cell of ``one``; 0 where frames
    cannot be compared: they may turn, or have other atoms, or the same in another order.
    """
    found = np.zeros(len(places))
    if one is None:
        return found
    alike = {k: each for k, each in enumerate(places) if each is not None and _are_alike(each, one)}
    if not alike:
        return found
    moved = np.array([each.fractions for each in alike.values()]) - one.fractions
    moved -= moved[:, :1]  # near the shift of the whole, so that the nearest image is the right one
    moved -= np.rint(moved) * one.pbc
    moved -= moved.mean(axis=1, keepdims=True)
    found[list(alike)] = np.sqrt(np.square(moved @ one.cell).sum(axis=2).mean(axis=1))
    return found


def _are_alike(each: Places, one: Places) -> bool:
    """Return whether atoms are the same, in the same order, and repeat in the same directions."""
    return np.array_equal(each.numbers, one.numbers) and np.array_equal(each.pbc, one.pbc)
