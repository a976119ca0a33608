"""From atoms to edges and back: features of the senders, and sums at the receivers.

A network reads its neighbours' features here and nowhere else. Where a host has shared out the
atoms of a structure among ranks (:mod:`eqcalc.native.exchange`), a network sees the owned atoms
of one rank, and edges whose senders may be ghosts: atoms of other ranks, or periodic images. Their
features are then those that their owners have made; no arithmetic is done twice.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

__all__ = ["at_senders", "exchanging", "of_all_atoms", "sum_at_receivers"]


class _Exchange(threading.local):
    """How features of owned atoms become those of all atoms, in this thread; None: they are."""

    call: Callable[[Tensor], Tensor] | None = None


_exchange = _Exchange()


def at_senders(features: Tensor, edge_index: Tensor) -> Tensor:
    """Return the features of each edge's sender: (n_atoms, ...) -> (n_edges, ...)."""
    if not torch.jit.is_scripting():
        features = _exchanged([features])[0]
    return features.index_select(0, edge_index[0])


def of_all_atoms(features: list[Tensor]) -> list[Tensor]:
    """Return features (n_atoms, ...), each, in which rows can be taken at the senders of edges.

    These are the same tensors, unless within :func:`exchanging`. A layer that reads several
    tensors at its senders, or one of them twice, asks for all of them at once: they travel in one
    message.
    """
    if not torch.jit.is_scripting():
        features = _exchanged(features)
    return features


@contextmanager
def exchanging(to_all: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Let networks see owned atoms only, and edges whose senders lie among all atoms.

    Parameters
    ----------
    to_all : features (n_owned, ...) -> those of all atoms (n_all, ...), differentiable; used in
        this thread, within the block
    """
    before, _exchange.call = _exchange.call, to_all
    try:
        yield
    finally:
        _exchange.call = before


def _exchanged(features: list[Tensor]) -> list[Tensor]:
    to_all = _exchange.call
    if to_all is None:
        return features
    if len(features) == 1:
        return [to_all(features[0])]
    rows = [each.flatten(1) for each in features]
    found = to_all(torch.cat(rows, dim=1))  # (n_all, Σ widths)
    parts = found.split([row.shape[1] for row in rows], dim=1)
    return [
        part.reshape(found.shape[0], *each.shape[1:])
        for part, each in zip(parts, features, strict=True)
    ]


def sum_at_receivers(edge_features: Tensor, receivers: Tensor, n_atoms: int) -> Tensor:
    """Return Σ over each atom's incoming edges: (n_edges, ...) -> (n_atoms, ...).

    index_add is the fastest portable sum on sorted receivers with one CPU thread,
    and it is differentiable any number of times.
    """
    shape = [n_atoms] + list(edge_features.shape[1:])  # noqa: RUF005  (TorchScript: no unpacking)
    total = edge_features.new_zeros(shape)
    return total.index_add(0, receivers, edge_features)
