"""Envelopes that take every edge's effect to zero at the cutoff, and the choice of one by name."""

import math

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_choice

__all__ = ["ENVELOPES", "Envelope", "cosine_envelope", "polynomial_envelope", "xplor_envelope"]

ENVELOPES = ("polynomial", "cosine")


class Envelope(nn.Module):
    """Take every edge's effect to zero at the cutoff.

    Parameters
    ----------
    cutoff : Å
    form : "polynomial", or "cosine" for weights that were trained with it elsewhere

    Raises
    ------
    ConfigError : another form.
    """

    def __init__(self, cutoff: float, form: str = "polynomial") -> None:
        super().__init__()
        require_choice(ENVELOPES, envelope=form)
        self.cutoff = float(cutoff)
        self.is_cosine = form == "cosine"

    def forward(self, distances: Tensor) -> Tensor:
        """Return factors: (n_edges,), Å -> (n_edges, 1)."""
        if self.is_cosine:
            return cosine_envelope(distances, self.cutoff).unsqueeze(1)
        return polynomial_envelope(distances, self.cutoff).unsqueeze(1)


def cosine_envelope(distances: Tensor, cutoff: float) -> Tensor:
    """Return (1 + cos(π d/cutoff)) / 2, and zero from the cutoff on: (n_edges,).

    Value and slope vanish at the cutoff, the second derivative jumps there: forces are
    continuous, force constants are not.

    Source: Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717, eq. (4).

    >>> cosine_envelope(torch.tensor([0.0, 2.5, 5.0, 6.0], dtype=torch.float64), 5.0)
    tensor([1.0000, 0.5000, 0.0000, 0.0000], dtype=torch.float64)
    """
    u = 0.5 * (torch.cos(distances * (math.pi / cutoff)) + 1.0)
    return torch.where(distances < cutoff, u, torch.zeros_like(u))


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
