"""Inputs of fixed size and place, for what can only be run again as it once ran.

A captured graph has the sizes and the addresses of its tensors frozen in. So inputs are
copied into buffers that are somewhat larger, a *bucket*, and what is left over is filled up
without an effect on the real atoms:

- pad atoms stand behind the real ones, hence are the last receivers;
- pad edges join pad atoms, stand behind the real ones, hence leave the edges sorted by
  receiver, and are longer than the cutoff, hence have no effect even there.

The reverse of a pad edge need not be among them: no network looks for it.

Shapes: n_atoms, n_edges of the structure; N_atoms, N_edges of its bucket.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch
from torch import Tensor

from eqcalc.graph import AtomicGraph

__all__ = ["Bucket", "Buffers", "bucket_of"]

# Pad edges are spread over as many atoms: sums of thousands at one place are slow on a GPU.
_PAD_ATOMS = 16
_FEWEST_ATOMS, _FEWEST_EDGES = 32, 128


class Bucket(NamedTuple):
    """Sizes of the buffers, and the count of owned atoms that is frozen in.

    n_owned : the first so many atoms of the buffers contribute energy
    """

    n_atoms: int
    n_edges: int
    n_owned: int


def bucket_of(n_atoms: int, n_edges: int, n_owned: int, *, with_weights: bool) -> Bucket:
    """Return the bucket of a graph.

    Sizes grow in steps of 1/16 to 1/8, so that the number of edges can change a little
    without another bucket and the work on pads stays small.

    >>> bucket_of(100, 3000, 100, with_weights=False)
    Bucket(n_atoms=120, n_edges=3072, n_owned=120)
    >>> bucket_of(100, 3000, 60, with_weights=False)
    Bucket(n_atoms=120, n_edges=3072, n_owned=60)

    Parameters
    ----------
    with_weights : what runs takes the owned atoms as a tensor of weights, which can change
        between runs; otherwise as a number, which cannot
    """
    atoms = max(_rounded_up(n_atoms + _PAD_ATOMS), _FEWEST_ATOMS)
    edges = max(_rounded_up(n_edges), _FEWEST_EDGES)
    # Without ghosts the pad atoms may be owned as well: they only add to the energy, by
    # what nobody reads. So one bucket serves structures of several sizes.
    is_whole = with_weights or n_owned == n_atoms
    return Bucket(atoms, edges, atoms if is_whole else n_owned)


class Buffers:
    """The inputs of one bucket; they stay where they are for as long as this lives.

    atomic_numbers : (N_atoms,) int64
    edge_vectors : (N_edges, 3), Å
    edge_index : (2, N_edges) int64
    weights : (N_atoms,) float64; 1 for the owned atoms of the structure, 0 for all others

    Parameters
    ----------
    reach : Å; length of the pad edges, beyond the cutoff
    """

    def __init__(
        self, bucket: Bucket, reach: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.bucket = bucket
        self.atomic_numbers = torch.ones(bucket.n_atoms, dtype=torch.int64, device=device)
        self.weights = torch.zeros(bucket.n_atoms, dtype=torch.float64, device=device)
        self._structure_index = torch.zeros_like(self.atomic_numbers)
        self._cell = torch.zeros((1, 3, 3), dtype=torch.float64, device=device)
        self._pad_edges = _pad_edges(bucket).to(device)  # (2, N_edges)
        self.edge_index = self._pad_edges.clone()
        self._pad_vector = torch.tensor([[reach, 0.0, 0.0]], dtype=dtype, device=device)
        self.edge_vectors = self._pad_vector.repeat(bucket.n_edges, 1)
        self._held = _NOTHING

    @property
    def graph(self) -> AtomicGraph:
        """The buffers as a graph; its tensors are the buffers themselves."""
        return AtomicGraph(
            self.atomic_numbers,
            self.edge_index,
            self.edge_vectors,
            self._structure_index,
            1,
            self.bucket.n_owned,
            self._cell,
        )

    @torch.no_grad()
    def fill(self, graph: AtomicGraph) -> None:
        """Copy a graph of this bucket, and put pads over all that the last one left behind."""
        atomic_numbers, edge_index, edge_vectors = graph[:3]
        n_owned = graph.n_owned
        n_atoms, n_edges = atomic_numbers.shape[0], edge_index.shape[1]
        held, self._held = self._held, _NOTHING  # until all is written: a user may interrupt
        self.edge_vectors[:n_edges].copy_(edge_vectors)
        # From step to step of a simulation the vectors alone change, and seldom the edges.
        if not _is_unchanged(edge_index, held.edges):
            self.edge_index[:, :n_edges].copy_(edge_index)
        if n_edges != held.n_edges:
            self.edge_vectors[n_edges:].copy_(self._pad_vector)
            self.edge_index[:, n_edges:].copy_(self._pad_edges[:, n_edges:])
        if not _is_unchanged(atomic_numbers, held.numbers) or n_owned != held.n_owned:
            self.atomic_numbers[:n_atoms].copy_(atomic_numbers)
            self.atomic_numbers[n_atoms:].copy_(atomic_numbers[0])  # an element that is known
            self.weights[:n_owned].fill_(1.0)
            self.weights[n_owned:].fill_(0.0)
        self._held = _Held(_state_of(edge_index), _state_of(atomic_numbers), n_edges, n_owned)


_State = tuple[Tensor, int]
"""A tensor, held so that no other takes its place, and how often it was written to."""


class _Held(NamedTuple):
    """What buffers hold."""

    edges: Optional[_State]
    numbers: Optional[_State]
    n_edges: int
    n_owned: int


_NOTHING = _Held(None, None, -1, -1)


def _state_of(tensor: Tensor) -> Optional[_State]:
    """Return the state of a tensor; None where torch does not count the changes."""
    return None if tensor.is_inference() else (tensor, tensor._version)


def _is_unchanged(tensor: Tensor, before: Optional[_State]) -> bool:
    return before is not None and tensor is before[0] and tensor._version == before[1]


def _rounded_up(n: int) -> int:
    """Return n with four significant binary digits, rounded up."""
    step = 1 << max((n - 1).bit_length() - 4, 0)
    return -(-n // step) * step


def _pad_edges(bucket: Bucket) -> Tensor:
    """Return the edge at every place (2, N_edges) as if it were a pad.

    The last eighth, which alone is pads in most buckets, is spread over all pad atoms.
    """
    most = max(bucket.n_edges // 8, _FEWEST_EDGES)
    from_end = torch.arange(bucket.n_edges - 1, -1, -1)
    place = (_PAD_ATOMS - 1 - from_end * _PAD_ATOMS // most).clamp(min=0)  # never decreases
    first = bucket.n_atoms - _PAD_ATOMS
    return torch.stack([first + (place + 1) % _PAD_ATOMS, first + place])
