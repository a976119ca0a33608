"""A graph in blocks: some atoms, and every edge that their energies depend on.

An atom's energy depends on the edges that it receives, on those that their senders receive,
and so on for ``n_hops`` steps. A block owns some atoms and holds all these edges, so that
the energies of its owned atoms, and the gradients of their sum, are those of the whole
graph. Blocks that together own every atom once therefore add up to the whole, for any
architecture and whichever atoms a block owns: compact blocks only repeat less work.

Shapes: n_atoms, n_edges of a block or of the whole graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.graph import AtomicGraph

__all__ = ["Block", "BlockCutter", "box_coordinates", "halved", "side_by_side"]


class Block(NamedTuple):
    """A part of a graph whose owned atoms see all that they would see in the whole.

    atoms : (n_atoms,) int64, as the whole graph numbers them; the owned ones first
    n_owned : the first n_owned atoms contribute energy
    edges : (n_edges,) int64; positions in the whole graph's ``edge_index``
    edge_index : (2, n_edges) int64 in the block's own numbers, sorted by receiver
    """

    atoms: Tensor
    n_owned: int
    edges: Tensor
    edge_index: Tensor

    def of(self, graph: AtomicGraph) -> AtomicGraph:
        """Return this part of the whole graph, as one structure."""
        numbers = graph.atomic_numbers[self.atoms]
        return AtomicGraph(
            numbers,
            self.edge_index,
            graph.edge_vectors[self.edges],
            torch.zeros_like(numbers),
            1,
            self.n_owned,
            graph.cell[:1],
        )


class BlockCutter:
    """Cuts blocks out of one graph.

    Parameters
    ----------
    edge_index : (2, n_edges), sorted by receiver
    n_atoms : of the graph
    n_hops : steps over which atoms feel each other, at least 1

    >>> cutter = BlockCutter(torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]]), 3, n_hops=1)
    >>> block = cutter.cut(torch.tensor([2]))  # the last atom of a chain of three
    >>> block.atoms.tolist(), block.edges.tolist(), block.edge_index.tolist()
    ([2, 1], [3], [[1], [0]])
    """

    def __init__(self, edge_index: Tensor, n_atoms: int, n_hops: int) -> None:
        self.edge_index, self.n_hops = edge_index, n_hops
        self._n_received = torch.bincount(edge_index[1], minlength=n_atoms)
        self._first_edge = self._n_received.cumsum(0) - self._n_received
        self._number = torch.full_like(self._n_received, -1)  # of an atom within the block

    def cut(self, owned: Tensor) -> Block:
        """Return the block of some atoms, (n_owned,) int64 without repetition."""
        self._number[owned] = torch.arange(len(owned), device=owned.device)
        atoms, edges = [owned], []
        n_atoms = len(owned)
        for _ in range(self.n_hops):
            received = self._received_by(atoms[-1])
            senders = self.edge_index[0].index_select(0, received)
            new = torch.unique(senders[self._number.index_select(0, senders) < 0])
            self._number[new] = torch.arange(n_atoms, n_atoms + len(new), device=new.device)
            n_atoms += len(new)
            atoms.append(new)
            edges.append(received)
        all_atoms, all_edges = torch.cat(atoms), torch.cat(edges)
        # Atoms were numbered in the order in which their edges were taken: still sorted.
        edge_index = self._number[self.edge_index.index_select(1, all_edges)]
        self._number[all_atoms] = -1
        return Block(all_atoms, len(owned), all_edges, edge_index)

    def _received_by(self, atoms: Tensor) -> Tensor:
        """Return the positions of the edges that atoms receive, in the order of the atoms."""
        counts = self._n_received.index_select(0, atoms)
        starts = self._first_edge.index_select(0, atoms) - (counts.cumsum(0) - counts)
        steps = torch.arange(int(counts.sum()), device=atoms.device)
        return steps + torch.repeat_interleave(starts, counts)


def box_coordinates(atoms: Atoms) -> NDArray:
    """Return positions (n_atoms, 3) in Å along the lattice vectors, wrapped where periodic.

    Open directions go along unit vectors perpendicular to the periodic ones.
    """
    box = Cell(np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)).complete()
    scaled = atoms.positions @ np.linalg.inv(box.array)
    scaled[:, atoms.pbc] %= 1.0
    return scaled * box.lengths()


def side_by_side(coordinates: Sequence[NDArray]) -> NDArray:
    """Join the coordinates of several structures so that none overlaps another.

    >>> side_by_side([np.zeros((1, 3)), np.ones((2, 3))])[:, 0].tolist()
    [0.0, 1.0, 1.0]
    """
    shifted = []
    start = 0.0
    for each in coordinates:
        moved = each.copy()
        moved[:, 0] += start - each[:, 0].min()
        start = moved[:, 0].max() + 1.0
        shifted.append(moved)
    return np.concatenate(shifted)


def halved(owned: NDArray, coordinates: NDArray) -> tuple[NDArray, NDArray]:
    """Cut atoms into two halves across the direction in which they extend most.

    Parameters
    ----------
    owned : (n_owned,) int64; at least two atoms
    coordinates : (n_atoms, 3) of all atoms, Å

    >>> line = np.array([[0.0, 0, 0], [3.0, 0, 0], [1.0, 0, 0], [2.0, 0, 0]])
    >>> [half.tolist() for half in halved(np.arange(4), line)]
    [[0, 2], [1, 3]]
    """
    here = coordinates[owned]
    order = here[:, np.ptp(here, axis=0).argmax()].argsort(kind="stable")
    middle = len(owned) // 2
    # In order of their numbers: neighbours in a file mostly are neighbours in space.
    return np.sort(owned[order[:middle]]), np.sort(owned[order[middle:]])
