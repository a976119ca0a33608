"""Means of what is correlated in time, and the error of such a mean.

Neighbouring values of a run resemble each other, so that σ/√n is too small an error. Means over
blocks that are longer than the correlation are independent (Flyvbjerg and Petersen, J. Chem.
Phys. 91, 461 (1989), doi 10.1063/1.457480).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["N_BLOCKS", "block_error", "error_of_blocks"]

N_BLOCKS = 5
"""Blocks of a trajectory whose spread is the error of functions, such as g(r)."""

_FEWEST = 8  # blocks whose spread still says something of the error of a mean


def block_error(values: ArrayLike) -> float | None:
    """Return the standard error of the mean of successive values, None for too few of them.

    Blocks are doubled until only some are left; the largest error of all sizes is taken, since
    it grows until blocks are longer than the correlation.

    >>> block_error([1.0, 2.0])
    >>> round(block_error([0.0, 1.0] * 50), 3)
    0.05
    """
    blocks = np.asarray(values, dtype=np.float64)
    found: list[float] = []
    while len(blocks) >= _FEWEST:
        found.append(float(blocks.std(ddof=1) / math.sqrt(len(blocks))))
        even = len(blocks) // 2 * 2
        blocks = (blocks[0:even:2] + blocks[1:even:2]) / 2
    return max(found) if found else None


def error_of_blocks(means: ArrayLike) -> NDArray[np.float64]:
    """Return the standard error of the mean over blocks.

    Parameters
    ----------
    means : (n_blocks, ...); fewer than two blocks have no spread, and the error is NaN
    """
    blocks = np.asarray(means, dtype=np.float64)
    if len(blocks) < 2:
        return np.full(blocks.shape[1:], np.nan)
    return np.asarray(blocks.std(axis=0, ddof=1) / math.sqrt(len(blocks)))
