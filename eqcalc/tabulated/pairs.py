"""The two directions of a pair of atoms, which have one distance and so one set of weights.

A radial network takes most of a training step's time. Evaluated once for both directions, its
derivative by the distance counts for one edge in place of two; forces and stress are the same,
since that edge's vector is the negative of the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

__all__ = ["Pairs", "given_pairs", "pair_distances", "pairs_of"]

# Of the vectors of a pair, relative: they are rounded apart from each other.
_SAME = 1e-6
# No two images of an atom lie as far along it, short of a coincidence, which is found out.
_DIRECTION = np.array([0.8660254, 0.3819660, 0.3247])


class Pairs(NamedTuple):
    """first : (n_pairs,), the edge that stands for both; rows : (n_edges,), each edge's pair."""

    first: Tensor
    rows: Tensor


_given: ContextVar[Optional[Pairs]] = ContextVar("given pairs", default=None)


@contextmanager
def given_pairs(pairs: Optional[Pairs]) -> Iterator[None]:
    """Give the pairs of a graph whose edges have no numbers, because a tracer looks at them."""
    token = _given.set(pairs)
    try:
        yield
    finally:
        _given.reset(token)


def pair_distances(edge_index: Tensor, edge_vectors: Tensor) -> tuple[Tensor, Optional[Tensor]]:
    """Return the distances of all pairs and each edge's pair, or of all edges and None.

    Returns
    -------
    distances : (n_pairs,) or (n_edges,), Å
    rows : (n_edges,) int64, as :class:`eqcalc.tabulated.products.PathProducts` takes them
    """
    pairs = pairs_of(edge_index, edge_vectors)
    if pairs is None:
        return torch.linalg.vector_norm(edge_vectors, dim=1), None
    first = edge_vectors.index_select(0, pairs.first)
    return torch.linalg.vector_norm(first, dim=1), pairs.rows


def pairs_of(edge_index: Tensor, edge_vectors: Tensor) -> Optional[Pairs]:
    """Return the pairs of a list of edges, or None where some edge has no opposite.

    Where the edges have no numbers they are those that were given, for a graph that has edges.
    """
    if isinstance(edge_index, FakeTensor):  # what atoms make alone is traced beside it
        return None if edge_index.shape[1] == 0 else _given.get()
    senders, receivers = edge_index.numpy()
    vectors = edge_vectors.detach().numpy()
    along = vectors @ _DIRECTION
    # Sorted by the same three numbers, an edge and its opposite have the same place.
    opposite = np.empty(len(senders), dtype=np.int64)
    opposite[np.lexsort((along, senders, receivers))] = np.lexsort((-along, receivers, senders))
    numbers = np.arange(len(senders))
    is_first = numbers < opposite
    ends = senders[opposite] == receivers
    allowed = _SAME * np.abs(vectors).max(initial=0.0)
    if not (
        2 * np.count_nonzero(is_first) == len(senders)
        and ends.all()
        and (opposite[opposite] == numbers).all()
        and np.abs(vectors + vectors[opposite]).max(initial=0.0) <= allowed
    ):
        return None
    first = np.flatnonzero(is_first)
    rows = np.empty(len(senders), dtype=np.int64)
    rows[first] = rows[opposite[first]] = np.arange(len(first))
    return Pairs(torch.from_numpy(first), torch.from_numpy(rows))
