"""Lengths of vector features that stay differentiable at zero."""

import torch
from torch import Tensor

__all__ = ["channel_norm"]


def channel_norm(vectors: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Return √(Σ_x v_x² + epsilon): (n_atoms, 3, n_channels) -> (n_atoms, n_channels).

    Without epsilon the first derivative at v = 0 is NaN; torch's own norm has a
    NaN second derivative there, which force training would meet.
    """
    return torch.sqrt(vectors.square().sum(dim=1) + epsilon)
