"""Lattice vectors made ready for a search: complete, and short.

``lattice`` (3, 3) holds lattice vectors (Å) in its rows, zero along open directions.
"""

from __future__ import annotations

import numpy as np
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

__all__ = ["complete", "reduced"]


def complete(lattice: NDArray, pbc: NDArray) -> NDArray:
    """Fill the open rows with unit vectors perpendicular to all other rows."""
    completed = lattice.copy()
    if not pbc.any():
        completed[:] = np.eye(3)
    elif not pbc.all():
        completed[~pbc] = np.linalg.svd(lattice[pbc])[2][pbc.sum() :]
    return completed


def reduced(box: NDArray, pbc: NDArray) -> tuple[NDArray, NDArray]:
    """Return short vectors of the same lattice and the integers that make them from box.

    In a skewed box a search would go through a cube of images where a line contains them.
    """
    if abs(np.linalg.det(box)) > 0.1 * np.linalg.norm(box, axis=1).prod():
        return box, np.eye(3, dtype=np.int64)
    return minkowski_reduce(box, pbc)
