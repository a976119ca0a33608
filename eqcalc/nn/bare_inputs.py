"""Refuse bare tensors whose shapes or indices do not fit together, naming each one."""

from __future__ import annotations

import torch
from torch import Tensor

from eqcalc.errors import GraphError, listing

__all__ = ["refuse_self_loops", "require_edge_index", "require_shape"]


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Check the shape of a named input.

    Raises
    ------
    GraphError : it differs.
    """
    if tuple(tensor.shape) != tuple(shape):
        raise GraphError(f"{name} must have shape {tuple(shape)}, found {tuple(tensor.shape)}.")


def require_edge_index(edge_index: Tensor, n_atoms: int) -> None:
    """Check the shape and range of ``edge_index`` (2, n_edges).

    Raises
    ------
    GraphError : not two rows, or an atom that does not exist.
    """
    if edge_index.dim() != 2 or edge_index.shape[0] != 2:
        raise GraphError(
            f"edge_index must have shape (2, n_edges), found {tuple(edge_index.shape)}."
        )
    outside = ((edge_index < 0) | (edge_index >= n_atoms)).any(dim=0)
    edges = torch.nonzero(outside).squeeze(1).tolist()
    if edges:
        raise GraphError(
            f"edge_index must lie in 0..{n_atoms - 1}; out of range at edges {listing(edges)}."
        )


def refuse_self_loops(edge_index: Tensor) -> None:
    """Check the bare-tensor interface's promise that no atom is its own neighbour.

    Without periodic images a self-loop has length zero, and with it no direction.

    Raises
    ------
    GraphError : some column of ``edge_index`` (2, n_edges) joins an atom to itself.
    """
    loops = torch.nonzero(edge_index[0] == edge_index[1]).flatten().tolist()
    if loops:
        raise GraphError(
            f"edge_index must not contain self-loops; found them at edges {listing(loops)}."
        )
