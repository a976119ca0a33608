"""Envelopes that take every edge's effect to zero at the cutoff."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["polynomial_envelope", "xplor_envelope"]


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


def xplor_envelope(distances: Tensor, cutoff: float, onset: float) -> Tensor:
    """Return 1 up to the onset a, then (c² - d²)² (c² + 2d² - 3a²) / (c² - a²)³ to the cutoff c.

    The value and one derivative vanish at the cutoff. The second derivative jumps there and at
    the onset: forces have kinks. Networks trained elsewhere have it; prefer the polynomial.

    Source: the switching function of X-PLOR and CHARMM, Brooks et al., J. Comput. Chem. 4, 187
    (1983), doi:10.1002/jcc.540040211.

    >>> xplor_envelope(torch.tensor([4.0, 4.75, 5.0], dtype=torch.float64), 5.0, 4.5)
    tensor([1.0000, 0.5197, 0.0000], dtype=torch.float64)

    Parameters
    ----------
    distances : Å, of any shape
    cutoff, onset : Å

    Returns
    -------
    envelope : of the shape of ``distances``
    """
    d2, c2, a2 = distances * distances, cutoff * cutoff, onset * onset
    switch = (c2 - d2) ** 2 * (c2 + 2.0 * d2 - 3.0 * a2) / (c2 - a2) ** 3
    inside = torch.where(distances < onset, torch.ones_like(distances), switch)
    return torch.where(distances < cutoff, inside, torch.zeros_like(distances))
