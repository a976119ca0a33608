"""Rotations by a vector, with correct derivatives at zero."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["rotate"]


def rotate(rotation_vectors: Tensor, vectors: Tensor) -> Tensor:
    """Return Rot(ω) r, the vector r turned by the angle |ω| about ω.

        Rot(ω) r = r + sin|ω|/|ω| · ω×r + (1 - cos|ω|)/|ω|² · ω×(ω×r)

    Both coefficients are power series in |ω|², so nothing divides by |ω| and the
    gradient at ω = 0 is that of ω×r. (Through ω/|ω| it would silently be zero.)

    Source: Rodrigues' formula.

    >>> quarter = torch.tensor([[0.0, 0.0, torch.pi / 2]], dtype=torch.float64)
    >>> rotate(quarter, torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)).round(decimals=6)
    tensor([[0., 1., 0.]], dtype=torch.float64)

    Parameters
    ----------
    rotation_vectors : (n, 3), radians
    vectors : (n, 3)

    Returns
    -------
    rotated : (n, 3), as long as ``vectors`` to rounding
    """
    squared = rotation_vectors.square().sum(dim=1, keepdim=True)  # (n, 1)
    first = torch.linalg.cross(rotation_vectors, vectors, dim=1)
    second = torch.linalg.cross(rotation_vectors, first, dim=1)
    half = _sinc_of_root(0.25 * squared)  # 1 - cos x = 2 sin²(x/2)
    return vectors + _sinc_of_root(squared) * first + 0.5 * half.square() * second


def _sinc_of_root(t: Tensor) -> Tensor:
    """Return sin(√t)/√t, smooth at t = 0."""
    small = t < 0.25  # where the series' ninth term is below 1e-20: exact in float64
    # Each branch is kept away from the other's arguments: a NaN there would reach the gradient.
    root = torch.sqrt(torch.where(small, torch.ones_like(t), t))
    x = torch.where(small, t, torch.zeros_like(t))
    series = torch.ones_like(t)
    for k in range(8, 0, -1):  # Horner's scheme of Σ (-t)^k / (2k+1)!
        series = 1.0 - x * series / float(2 * k * (2 * k + 1))
    return torch.where(small, series, torch.sin(root) / root)
