"""Parts of a structure that no link joins."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

__all__ = ["connected_parts"]


def connected_parts(n_atoms: int, i: NDArray[Any], j: NDArray[Any]) -> NDArray[np.int32]:
    """Return the number of the part, from 0 on, to which each atom belongs (n_atoms,).

    Parameters
    ----------
    i, j : (n_links,), the atoms that each link joins
    """
    # Of numbers of 64 bits scipy 1.11 makes no parts, and raises nothing.
    ends = (i.astype(np.int32), j.astype(np.int32))
    links = coo_array((np.ones(len(i)), ends), shape=(n_atoms, n_atoms))
    return np.asarray(connected_components(links, directed=False)[1])
