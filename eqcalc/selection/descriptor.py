"""What tells one structure from another: the distances of its pairs, smeared, element by element.

For elements A and B, D_AB(r) = Σ w(r_ij) g(r - r_ij) / N_A over atoms i of A and j of B, on a grid
of r. g is a Gaussian whose square sums to 1 on the grid, w = (1 + cos(π r/cutoff))/2 lets pairs
come and go without a step, N_A is the number of atoms of A. D does not depend on the order of the
atoms, on where the structure stands, how it is turned or how often its cell is repeated, and takes
mirror images for the same, as energies do.

The distance of two structures is √2 σ |D - D'|, in Å: for small changes the root of the summed
squares of the changes of the pair distances, as an atom of each element sees them (and each pair
is seen twice). A random displacement of every coordinate of ethanol by 0.02 Å is 0.06 Å.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqcalc.neighbours.search import distances_of
from eqcalc.neighbours.structure import check_structure

__all__ = ["closest_pair", "descriptor", "distances_to"]

_SIGMA, _STEP = 0.15, 0.1  # Å: width of the Gaussian, and spacing of the grid


def descriptor(atoms: Atoms, elements: Sequence[int], cutoff: float) -> NDArray[np.float64]:
    """Return D times √2 σ, so that a difference's length is a distance in Å; flat.

    Parameters
    ----------
    elements : atomic numbers of all structures that are compared, in rising order
    cutoff : Å

    Raises
    ------
    GraphError : the structure has no meaningful distances.
    """
    i, j, r = distances_of(check_structure(atoms), cutoff)
    kind = np.searchsorted(elements, atoms.numbers)
    n, grid = len(elements), np.arange(0.0, cutoff + _STEP / 2, _STEP)
    found = np.zeros((n * n, len(grid)))
    weights = 0.5 * (1.0 + np.cos(np.pi * r / cutoff))
    reach = int(np.ceil(4 * _SIGMA / _STEP))
    nearest = np.rint(r / _STEP).astype(np.int64)
    for offset in range(-reach, reach + 1):
        k = nearest + offset
        inside = (k >= 0) & (k < len(grid))
        values = (weights * np.exp(-0.5 * np.square((k * _STEP - r) / _SIGMA)))[inside]
        # A pair is seen from both of its atoms.
        for one, other in ((i, j), (j, i)):
            np.add.at(found, (kind[one[inside]] * n + kind[other[inside]], k[inside]), values)
    norm = np.sqrt(_SIGMA * np.sqrt(np.pi) / _STEP)  # of the Gaussian on the grid
    counts = np.bincount(kind, minlength=n)
    per_atom = found.reshape(n, -1) / np.maximum(counts, 1)[:, None]
    return np.asarray(per_atom.ravel() * (np.sqrt(2.0) * _SIGMA / norm))


def distances_to(descriptors: NDArray, one: NDArray) -> NDArray[np.float64]:
    """Return the distance (Å) of each row to one."""
    return np.asarray(np.linalg.norm(descriptors - one, axis=1))


def closest_pair(atoms: Atoms, radii: NDArray, within: float = 1.0) -> tuple[float, float, str]:
    """Return the smallest distance in Å, the smallest share of covalent radii, and whose it is.

    Of the pairs within 3 Å or that share of the largest radii; infinity and no names where there
    are none.

    Parameters
    ----------
    radii : Å, by atomic number
    within : no pair of a smaller share of the sum of two covalent radii is missed
    """
    farthest = max(3.0, 2.0 * within * float(radii[atoms.numbers].max()))
    i, j, r = distances_of(check_structure(atoms), farthest)
    if len(r) == 0:
        return np.inf, np.inf, ""
    share = r / (radii[atoms.numbers[i]] + radii[atoms.numbers[j]])
    k = int(share.argmin())
    one, other = sorted(int(atoms.numbers[a[k]]) for a in (i, j))
    names = f"{chemical_symbols[one]}-{chemical_symbols[other]}"
    return float(r.min()), float(share[k]), f"{names} {r[k]:.2f} Å"
