"""Averages over all origins of time, by Fourier transforms.

Shapes: n_frames, n_atoms, n_lags.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from eqcalc.errors import NotEnoughMemoryError

__all__ = ["autocorrelation", "mean_square_displacement", "require_memory"]

_PIECE = 4_000_000  # numbers that are transformed at once
_COPIES = 2.5  # of the values of all frames, which an average takes at most

Series = NDArray[np.float64]


def require_memory(n_frames: int, n_atoms: int, what: str) -> None:
    """Refuse what does not fit, before it is read.

    Raises
    ------
    NotEnoughMemoryError : three numbers of each atom in each frame take more than there is.
    """
    from eqcalc.blockwise.memory import available_memory  # needs engines, the page of a run none

    needed = int(_COPIES * 24 * n_frames * n_atoms)
    there = available_memory(torch.device("cpu"))
    if there is not None and needed > there:
        raise NotEnoughMemoryError(
            f"{what} of {n_atoms} atoms in {n_frames} frames take {needed / 1e9:.1f} GB, and "
            f"{there / 1e9:.1f} GB are left; take every tenth frame, fewer elements or a part of "
            "the trajectory."
        )


def autocorrelation(values: Series, n_lags: int) -> Series:
    """Return ⟨v(t)·v(t + lag)⟩ (n_atoms, n_lags) of vectors (n_frames, n_atoms, 3)."""
    return np.concatenate([_products(piece, n_lags).sum(axis=-1).T for piece in _pieces(values)])


def mean_square_displacement(positions: Series, n_lags: int) -> Series:
    """Return ⟨|r(t + lag) − r(t)|²⟩ (n_atoms, n_lags) of positions (n_frames, n_atoms, 3).

    The square is multiplied out; positions are taken from the first, which keeps the digits.
    """
    n_frames = len(positions)
    found = []
    for piece in _pieces(positions):
        from_first = piece - piece[0]
        squares = (from_first**2).sum(axis=-1)  # (n_frames, n_piece)
        sums = np.concatenate([np.zeros_like(squares[:1]), np.cumsum(squares, axis=0)])
        lags = np.arange(n_lags)
        both = sums[n_frames - lags] + sums[n_frames] - sums[lags]
        mixed = _products(from_first, n_lags).sum(axis=-1)
        found.append((both / (n_frames - lags)[:, None] - 2 * mixed).T)
    return np.maximum(np.concatenate(found), 0.0)


def _products(values: Series, n_lags: int) -> Series:
    """Return the mean over t of v(t) v(t + lag) for each component: (n_lags, n_atoms, 3)."""
    n_frames = len(values)
    n_all = fft.next_fast_len(2 * n_frames, real=True)  # zeros behind, lest ends meet
    spectrum = fft.rfft(values, n=n_all, axis=0)
    sums = fft.irfft(np.abs(spectrum) ** 2, n=n_all, axis=0)[:n_lags]
    return np.asarray(sums / (n_frames - np.arange(n_lags))[:, None, None])


def _pieces(values: Series) -> Iterator[Series]:
    """Yield the values of some atoms at a time."""
    n_frames, n_atoms, _ = values.shape
    width = max(1, _PIECE // (3 * n_frames))
    for start in range(0, n_atoms, width):
        yield np.asarray(values[:, start : start + width])
