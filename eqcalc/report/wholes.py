"""Atoms put back into the cell for the eye: molecules stay whole, crystals stay where they are.

A run never puts atoms back, so that they leave their cell as they diffuse. Which atoms belong
together is read off the first frame; a group that is bonded to its own image (a crystal) is
taken atom by atom.
"""

from __future__ import annotations

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from eqcalc.neighbours.search import pairs_of
from eqcalc.neighbours.structure import check_structure

__all__ = ["BOND_TOLERANCE", "Wholes"]

BOND_TOLERANCE = 0.4
"""Å beyond the sum of covalent radii within which two atoms are drawn as bonded."""

_EDGE = 0.1  # of the cell; so far a group may lie outside before it is put back
_GROWN = 2.0  # times its first size, at which a group has come apart
_SLACK = 3.0  # Å, added to that


class Wholes:
    """Shifts by lattice vectors that show the frames of a run within the cell.

    Parameters
    ----------
    first : the frame from which molecules are read

    Raises
    ------
    GraphError : it has no meaningful distances.
    """

    def __init__(self, first: Atoms):
        self._pbc = first.pbc.copy()
        n_atoms = len(first)
        self._group = np.arange(n_atoms)
        self._joined = np.zeros((n_atoms, 3))
        if self._pbc.any():
            self._group, self._joined = _molecules(first)
        self._n_groups = int(self._group.max()) + 1
        self._sizes = np.bincount(self._group, minlength=self._n_groups)
        self._extent: NDArray[np.float64] | None = None
        self._kept: NDArray[np.float64] | None = None

    def place(self, frame: Atoms) -> NDArray[np.float64]:
        """Return the positions (n_atoms, 3) at which the atoms of a frame are shown (Å)."""
        if not self._pbc.any():
            return np.array(frame.positions)
        cell = frame.cell.complete().array
        positions = frame.positions + self._joined @ cell
        centres = self._centres(positions)
        spread = np.linalg.norm(positions - centres[self._group], axis=1)
        extent = np.zeros(self._n_groups)
        np.maximum.at(extent, self._group, spread)
        if self._extent is None:
            self._extent = extent
        places = centres @ np.linalg.inv(cell)
        if self._kept is None:
            # Atoms that rest on a face of the cell are not to jump to the other one.
            self._kept = -np.floor(places + 1e-3) * self._pbc
        outside = places + self._kept
        far = (outside < -_EDGE) | (outside > 1 + _EDGE)
        shifts = np.where(far, -np.floor(places), self._kept) * self._pbc
        shown = positions + shifts[self._group] @ cell
        apart = (extent > _GROWN * self._extent + _SLACK)[self._group]
        if apart.any():  # what has reacted is put back atom by atom
            single = frame.positions[apart] @ np.linalg.inv(cell)
            shown[apart] = (single - np.floor(single) * self._pbc) @ cell
        return np.asarray(shown)

    def _centres(self, positions: NDArray[np.float64]) -> NDArray[np.float64]:
        sums = [np.bincount(self._group, column, self._n_groups) for column in positions.T]
        return np.stack(sums, axis=1) / self._sizes[:, None]


def _molecules(atoms: Atoms) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the group of each atom, and the lattice vectors that make groups whole."""
    n_atoms = len(atoms)
    structure = check_structure(atoms)
    radii = covalent_radii[atoms.numbers]
    reach = float(2 * radii.max() + BOND_TOLERANCE)
    i, j, shifts = (part.numpy() for part in pairs_of(structure, reach, torch.device("cpu")))
    vectors = structure.positions[j] - structure.positions[i] + shifts @ structure.lattice
    bonded = np.linalg.norm(vectors, axis=1) < radii[i] + radii[j] + BOND_TOLERANCE
    i, j, shifts = i[bonded], j[bonded], shifts[bonded]
    group, joined = _walk(n_atoms, i, j, shifts)
    # In a molecule every bond agrees with the walk; in a crystal one leads to an image.
    broken = np.unique(group[i[(joined[j] != joined[i] + shifts).any(axis=1)]])
    alone = np.isin(group, broken)
    joined[alone] = 0
    group[alone] = group.max() + 1 + np.arange(int(alone.sum()))
    return np.unique(group, return_inverse=True)[1].reshape(-1), joined.astype(np.float64)


def _walk(n_atoms: int, i: NDArray, j: NDArray, shifts: NDArray) -> tuple[NDArray, NDArray]:
    """Return the group of each atom, and the lattice vectors by which it follows its first.

    Parameters
    ----------
    i, j, shifts : (n_bonds,) and (n_bonds, 3); both directions of each bond, in the order of i
    """
    begin = np.searchsorted(i, np.arange(n_atoms + 1)).tolist()
    others, steps = j.tolist(), shifts.tolist()
    group = [-1] * n_atoms
    joined: list[list[int]] = [[0, 0, 0] for _ in range(n_atoms)]
    for start in range(n_atoms):
        if group[start] >= 0:
            continue
        group[start] = start
        pending = [start]
        while pending:
            atom = pending.pop()
            for bond in range(begin[atom], begin[atom + 1]):
                other = others[bond]
                if group[other] < 0:
                    group[other] = start
                    joined[other] = [x + y for x, y in zip(joined[atom], steps[bond], strict=True)]
                    pending.append(other)
    return np.array(group), np.array(joined)
