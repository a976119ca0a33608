"""Lengths of irreps: what a rotation leaves alone."""

from __future__ import annotations

from torch import Tensor

from eqcalc.nn.norm import channel_norm

__all__ = ["irrep_norms"]


def irrep_norms(features: list[Tensor], epsilon: float = 1e-8) -> list[Tensor]:
    """Return √(Σ_m x_m² + epsilon) of each block, invariant under every rotation.

    Parameters
    ----------
    features : one tensor (n_atoms, 2l+1, n_channels) per irrep
    epsilon : keeps the derivatives finite at x = 0

    Returns
    -------
    norms : one tensor (n_atoms, n_channels) per irrep
    """
    return [channel_norm(block, epsilon) for block in features]
