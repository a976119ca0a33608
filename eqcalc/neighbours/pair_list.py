"""The pairs of a structure that a search found, and the edges among them at new positions.

Shapes: n_atoms, n_pairs, n_edges. ``lattice`` is the cell (Å) with zero rows along open directions.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.errors import GraphError
from eqcalc.graph import AtomicGraph
from eqcalc.native.operators import find_operator
from eqcalc.neighbours.search import pairs_of
from eqcalc.neighbours.structure import COINCIDENT, Structure
from eqcalc.neighbours.transfers import Transfers

__all__ = ["PairList"]

# Up to so many pairs a processor makes the vectors: a GPU would have to be told a dozen operations,
# and be waited for twice. By estimate; not timed on a GPU.
_FEW_PAIRS = 4000
# Tells the operator a precision; a tensor costs less to pass than a torch.dtype.
_EMPTY = {
    dtype: torch.empty(0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)
}


class PairList:
    """All pairs within a radius of one reference structure.

    On a CPU an operator of the C++ library makes the vectors, or numpy (its calls cost less
    than torch's, which counts for small molecules): the same edges and vectors in every bit.
    For a GPU it does so too where pairs are few; of many torch makes them on the device. Each sums
    vectors and lengths term by term: the rounding of a matrix product may depend on the number of
    rows, and a kept list shall agree with a fresh one in every bit.
    """

    def __init__(self, structure: Structure, radius: float, device: torch.device) -> None:
        receivers, senders, shifts = pairs_of(structure, radius, device)
        self.numbers = torch.from_numpy(structure.numbers.copy()).to(device)
        self.structure_index = torch.zeros_like(self.numbers)
        self._is_on_cpu = device.type == "cpu" or len(receivers) <= _FEW_PAIRS
        if self._is_on_cpu:
            receivers, senders, shifts = receivers.cpu(), senders.cpu(), shifts.cpu()
        self.edge_index = torch.stack([senders, receivers])  # (2, n_pairs)
        self._index_on_device = self.edge_index.to(device)
        columns = shifts.T.to(torch.float64).contiguous().unsqueeze(2)  # (3, n_pairs, 1)
        self.shifts = [(axis, columns[axis]) for axis in range(3) if bool(shifts[:, axis].any())]
        self._lattice: NDArray | None = None

    def graph(
        self,
        positions: NDArray,
        lattice: NDArray,
        cutoff: float,
        dtype: torch.dtype,
        transfers: Transfers,
    ) -> AtomicGraph:
        """Return the graph of the pairs closer than ``cutoff`` at the given positions.

        An array ``lattice`` that was passed before must not have changed.
        """
        if self._is_on_cpu:
            if lattice is not self._lattice:
                cell = torch.from_numpy(lattice.copy())
                self._use(lattice, cell)
                self.cell = cell.unsqueeze(0).to(transfers.device)
            edge_index, vectors = self._on_cpu(positions, cutoff, dtype)
            if transfers.needed:
                is_whole = edge_index is self.edge_index
                edge_index = self._index_on_device if is_whole else transfers.sent(edge_index)
                vectors = transfers.sent(vectors)
        else:
            r, cell = transfers.upload(positions, lattice)
            if lattice is not self._lattice:
                self._use(lattice, cell)
            edge_index, vectors = self._on_device(r, cutoff, dtype)
        n_atoms = self.numbers.shape[0]
        return AtomicGraph(
            self.numbers, edge_index, vectors, self.structure_index, 1, n_atoms, self.cell
        )

    def _use(self, lattice: NDArray, cell: Tensor) -> None:
        """Make what depends on the lattice alone."""
        self._lattice = None  # until all of it is made: memory may run out, a user may interrupt
        # The cell stays float64: only the volume is taken from it.
        self.cell = cell.unsqueeze(0)
        self.offsets = cell.new_empty((0, 3))  # (n_pairs, 3), Å; none without images
        for axis, column in self.shifts:
            term = column * cell[axis]
            self.offsets = term if len(self.offsets) == 0 else self.offsets.add_(term)
        self._lattice = lattice

    def _on_cpu(
        self, positions: NDArray, cutoff: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        r = np.ascontiguousarray(positions, dtype=np.float64)
        make, like = find_operator("edge_vectors"), _EMPTY.get(dtype)
        if make is not None and like is not None:
            r = r if r.flags.writeable else r.copy()  # torch has no read-only tensors
            found = make(torch.from_numpy(r), self.edge_index, self.offsets, cutoff, like)
            if found[2] < COINCIDENT:
                self._refuse_coincident(self._vectors(r))
            return found[0], found[1]
        vectors = self._vectors(r)
        edge_index = self.edge_index
        if len(vectors) > 0:
            distances = _lengths(vectors)
            if distances.min() < COINCIDENT:
                self._refuse_coincident(vectors)
            if distances.max() >= cutoff:
                kept = (distances < cutoff).nonzero()[0]
                edge_index = torch.from_numpy(edge_index.numpy().take(kept, axis=1))
                vectors = vectors.take(kept, axis=0)
        return edge_index, torch.from_numpy(vectors).to(dtype)

    def _vectors(self, r: NDArray) -> NDArray:
        """Return the vectors (n_pairs, 3) of all pairs."""
        senders, receivers = self.edge_index.numpy()
        vectors = r.take(senders, axis=0)
        vectors -= r.take(receivers, axis=0)
        if len(self.offsets) > 0:
            vectors += self.offsets.numpy()
        return vectors

    def _on_device(self, r: Tensor, cutoff: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        edge_index = self.edge_index
        vectors = r.index_select(0, edge_index[0]) - r.index_select(0, edge_index[1])
        if len(self.offsets) > 0:
            vectors += self.offsets
        if len(vectors) > 0:
            distances = torch.linalg.vector_norm(vectors, dim=1)  # (n_pairs,)
            # One wait for both.
            shortest, longest = torch.stack(distances.aminmax()).tolist()
            if shortest < COINCIDENT:
                self._refuse_coincident(vectors.cpu().numpy())
            if longest >= cutoff:
                kept = (distances < cutoff).nonzero().squeeze(1)
                edge_index = edge_index.index_select(1, kept)
                vectors = vectors.index_select(0, kept)
        return edge_index, vectors.to(dtype)

    def _refuse_coincident(self, vectors: NDArray) -> None:
        distances = np.linalg.norm(vectors, axis=1)
        first, second = sorted(self.edge_index[:, int(distances.argmin())].tolist())
        raise GraphError(
            f"atoms {first} and {second} coincide: expected a distance (to any image) of at least "
            f"{COINCIDENT} Å, found {float(distances.min()):.2g} Å; remove one or mend the cell."
        )


def _lengths(vectors: NDArray) -> NDArray:
    """Return the lengths (n,) of vectors (n, 3), rounded as the C++ library rounds them.

    einsum and norm may fuse products with sums, or add in another order: an edge as long as
    the cutoff to the last digit would be in one list and not in the other.
    """
    squares = vectors * vectors
    lengths = squares[:, 0] + squares[:, 1]
    lengths += squares[:, 2]
    return np.sqrt(lengths, out=lengths)
