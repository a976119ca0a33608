"""The envelope of a network that may have one of several, by the name a configuration stores."""

import math

import torch
from torch import Tensor, nn

from eqcalc.nn.arguments import require_choice
from eqcalc.nn.cutoff import polynomial_envelope

__all__ = ["ENVELOPES", "Envelope", "cosine_envelope"]

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
