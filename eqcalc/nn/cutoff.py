"""Envelopes that take every edge's effect to zero at the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["polynomial_envelope"]


def polynomial_envelope(distances: Tensor, cutoff: float, p: int = 6) -> Tensor:
    """Return u(x) = 1 - (p+1)(p+2)/2 x^p + p(p+2) x^(p+1) - p(p+1)/2 x^(p+2), x = d/cutoff.

    u, u' and u'' vanish at the cutoff, so forces and their derivatives are
    continuous there; u is exactly zero beyond. The cosine cutoff jumps in u''.

    Source: Gasteiger et al., ICLR (2020), arXiv:2003.03123, eq. (8).

    >>> polynomial_envelope(torch.tensor([0.0, 2.5, 5.0, 6.0], dtype=torch.float64), 5.0)
    tensor([1.0000, 0.8555, 0.0000, 0.0000], dtype=torch.float64)

    Parameters
    ----------
    distances : (n_edges,), Å
    cutoff : Å

    Returns
    -------
    envelope : (n_edges,)
    """
    x = distances / cutoff
    a = 0.5 * (p + 1) * (p + 2)
    b = float(p * (p + 2))
    c = 0.5 * p * (p + 1)
    u = 1.0 - x.pow(p) * (a - x * (b - c * x))
    return torch.where(x < 1.0, u, torch.zeros_like(u))
