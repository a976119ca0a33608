"""Each atom's nearest distance beside the covalent radii: what a wrong unit of length changes."""

from __future__ import annotations

import numpy as np
from ase.data import covalent_radii
from numpy.typing import NDArray

from eqcalc.graph import AtomicGraph

__all__ = ["is_as_in_bohr", "nearest_ratios", "typical_ratio"]

_NO_NEIGHBOUR = 9.0
# Bonds are 0.9 to 1.3 of the sum of covalent radii, in metals up to 1.4; 1 Å is 1.89 Bohr.
_TOO_LONG, _FAR = 1.55, 2.6
_NOBLE = (2, 10, 18, 36, 54, 86)


def nearest_ratios(graph: AtomicGraph) -> NDArray[np.float64]:
    """Return (n_atoms,) nearest distances over the sum of the two covalent radii.

    What has no neighbour in the graph has 9, more than any bond.
    """
    numbers = graph.atomic_numbers.cpu().numpy()
    nearest = np.full(len(numbers), _NO_NEIGHBOUR)
    senders, receivers = graph.edge_index.cpu().numpy()
    distances = np.linalg.norm(graph.edge_vectors.detach().cpu().numpy(), axis=1)
    radii = covalent_radii[numbers]
    np.minimum.at(nearest, receivers, distances / (radii[senders] + radii[receivers]))
    return nearest


def typical_ratio(graph: AtomicGraph) -> float | None:
    """Return the median of :func:`nearest_ratios`, or None of what need not have any bond."""
    numbers = graph.atomic_numbers.cpu().numpy()
    if len(numbers) == 0 or np.isin(numbers, _NOBLE).any():
        return None
    return float(np.median(nearest_ratios(graph)))


def is_as_in_bohr(ratio: float) -> bool:
    """Return whether a typical ratio is that of bonds whose lengths in Bohr were taken for Å."""
    return _TOO_LONG < ratio < _FAR
