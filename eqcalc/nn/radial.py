"""Radial bases: functions that expand a distance into features."""

import math

import torch
from torch import Tensor, nn

__all__ = ["SineBasis", "gaussian_basis"]


def gaussian_basis(distances: Tensor, centres: Tensor, gamma: float) -> Tensor:
    """Return exp(-gamma (d - mu_k)²), shape (n_edges, n_centres).

    Source: Schütt et al., NeurIPS (2017), arXiv:1706.08566, section 4.1.

    Parameters
    ----------
    distances : (n_edges,), Å
    centres : (n_centres,), Å
    gamma : 1/Å²
    """
    return torch.exp(-gamma * (distances.unsqueeze(1) - centres).square())


class SineBasis(nn.Module):
    """Expand distances as sin(n π d / cutoff) / d for n = 1 ... n_radial.

    Source: Gasteiger et al., ICLR (2020), arXiv:2003.03123, eq. (7), without its
    normalisation, as PaiNN uses it.
    """

    frequencies: Tensor

    def __init__(self, n_radial: int, cutoff: float) -> None:
        super().__init__()
        # float64, so that a network cast to float64 is not left with rounded constants.
        n = torch.arange(1, n_radial + 1, dtype=torch.float64)
        self.register_buffer("frequencies", n * (math.pi / cutoff), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Return (n_edges, n_radial) of distances (n_edges,), Å."""
        d = distances.unsqueeze(1)  # (n_edges, 1)
        return torch.sin(d * self.frequencies.to(d.dtype)) / d  # (n_edges, n_radial)
