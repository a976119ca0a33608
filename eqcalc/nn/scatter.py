"""Sum edge features at their receivers."""

from __future__ import annotations

from torch import Tensor

__all__ = ["sum_at_receivers"]


def sum_at_receivers(edge_features: Tensor, receivers: Tensor, n_atoms: int) -> Tensor:
    """Return Σ over each atom's incoming edges: (n_edges, ...) -> (n_atoms, ...).

    index_add is the fastest portable sum on sorted receivers with one CPU thread,
    and it is differentiable any number of times.
    """
    shape = [n_atoms] + list(edge_features.shape[1:])  # noqa: RUF005  (TorchScript: no unpacking)
    total = edge_features.new_zeros(shape)
    return total.index_add(0, receivers, edge_features)
