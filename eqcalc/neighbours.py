"""Turn ``ase.Atoms`` into an :class:`~eqcalc.graph.AtomicGraph`, fresh or from a skin list.

Shapes: n_atoms, n_edges. ``lattice`` is the cell (Å) with zero rows along open directions.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.errors import ConfigError, GraphError, did_you_mean, listing
from eqcalc.graph import AtomicGraph
from eqcalc.lattice import complete, reduced
from eqcalc.operators import find_operator
from eqcalc.pair_search import ROUNDING, Structure, pairs_of
from eqcalc.skin_tuner import SkinTuner
from eqcalc.transfers import Transfers

__all__ = ["SkinList", "Structure", "build_graph"]

_COINCIDENT = 1e-3  # Å; no two nuclei of a meaningful structure come this close
_DEPENDENT = 1e-6  # volume of the box over the product of its edges; 0 for dependent vectors
# Tells the operator a precision; a tensor costs less to pass than a torch.dtype.
_EMPTY = {
    dtype: torch.empty(0, dtype=dtype, device="cpu") for dtype in (torch.float32, torch.float64)
}


def build_graph(
    atoms: Atoms,
    cutoff: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> AtomicGraph:
    """Return all pairs closer than ``cutoff``, ordered by receiver, sender and image shift.

    Parameters
    ----------
    atoms : periodic and open directions in any mixture, any cell, wrapped or not
    cutoff : Å
    dtype : of ``edge_vectors``; differences are taken in float64 before

    Raises
    ------
    GraphError : zero atoms; a position or cell that is not finite; a periodic
        direction without a proper lattice vector; an atomic number outside
        1..118; coincident atoms; a cutoff that is not positive and finite.
    """
    _check_cutoff(cutoff)
    structure = _checked(atoms)
    transfers = Transfers(torch.device(device))
    pairs = _Pairs(structure, cutoff, transfers.device)
    return pairs.graph(structure.positions, structure.lattice, cutoff, dtype, transfers)


class SkinList:
    """A list of all pairs within cutoff + skin, kept while it provably misses no edge.

    The graph is, bit for bit, that of :func:`build_graph`; only the search is saved.

    Why the list is complete: let F be any linear map (row vectors, v -> v F) that
    takes the periodic lattice vectors of the reference to the present ones, s_min its
    smallest singular value, u_k = r_k - r_ref,k F and u = max_k |u_k|. Image shifts
    exist only along periodic directions, so for every pair, listed or not, and shift

        d_new = d_ref F + (u_j - u_i),    |d_new| >= s_min |d_ref| - 2u.

    A pair not listed has |d_ref| >= cutoff + skin, hence |d_new| >= cutoff as long as
    2u + max(0, 1 - s_min) (cutoff + skin) <= skin.

    F is the identity for an unchanged lattice. Otherwise it also keeps the vectors
    perpendicular to the reference's periodic ones: the proof asks no more, so it
    covers slabs and wires too. Wrapped atoms show as a large u, hence a rebuild.

    Parameters
    ----------
    skin : Å; with 0 every call builds; "auto" lets a :class:`~eqcalc.skin_tuner.SkinTuner`
        choose the skin of each list from the times of those before
    clock : seconds, for "auto"

    Attributes
    ----------
    cutoff, skin : Å; of the present list
    transfers : what moves data to the device and back
    tuner : what chooses the skin, None where it is fixed
    n_calls, n_builds : calls of :meth:`graph`, and how many of them built the list
    reference : the :class:`Structure` of the last build, None before the first

    Raises
    ------
    GraphError : the cutoff is not positive and finite.
    ConfigError : the skin is negative, not finite, or another word than "auto".
    """

    def __init__(
        self,
        cutoff: float,
        skin: float | str,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        _check_cutoff(cutoff)
        self.tuner = SkinTuner(clock) if skin == "auto" else None
        self.cutoff = float(cutoff)
        self.skin = _checked_skin(skin) if self.tuner is None else self.tuner.skin
        self.dtype, self.device = dtype, torch.device(device)
        self.transfers = Transfers(self.device)
        self.n_calls = self.n_builds = 0
        self.reference: Structure | None = None
        self._box: tuple[bytes, bytes] | None = None

    def graph(self, atoms: Atoms) -> AtomicGraph:
        """Return what ``build_graph(atoms, cutoff)`` returns, and raise what it raises."""
        if self.tuner is None:
            return self._graph(atoms)
        start, n_builds = self.tuner.clock(), self.n_builds
        graph = self._graph(atoms)
        self.tuner.note(self.tuner.clock() - start, built=self.n_builds > n_builds)
        return graph

    def _graph(self, atoms: Atoms) -> AtomicGraph:
        self.n_calls += 1
        # Bytes compare in a tenth of the time of array_equal; this runs at each MD step.
        box = atoms.cell.array.tobytes(), atoms.pbc.tobytes()
        if box != self._box:
            self._lattice = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
            self._box = box
        lattice = self._lattice
        is_due = self.tuner is not None and self.tuner.is_due
        if (
            self.reference is None
            or is_due
            or not self._is_complete(self.reference, atoms, lattice)
        ):
            structure = _checked(atoms)
            skin = self.skin if self.tuner is None else self.tuner.next_skin()
            self._pairs = _Pairs(structure, self.cutoff + skin, self.device)
            # Only now: where the search failed, the old list and its skin still belong together.
            self.skin = skin
            self._identity = atoms.numbers.tobytes(), atoms.pbc.tobytes()
            self._reference_box = box
            self.reference = structure
            self.n_builds += 1
        return self._pairs.graph(
            atoms.positions, lattice, self.cutoff, self.dtype, self.transfers
        )

    def _is_complete(self, reference: Structure, atoms: Atoms, lattice: NDArray) -> bool:
        """Whether the proof holds; never for NaN, so that the rebuild names the atoms."""
        if (atoms.numbers.tobytes(), atoms.pbc.tobytes()) != self._identity:
            return False
        expected, shrinkage = reference.positions, 0.0
        if self._box != self._reference_box:
            if not np.isfinite(atoms.cell.array).all():
                return False
            before = complete(reference.lattice, reference.pbc)
            after = np.where(reference.pbc[:, None], lattice, before)
            deformation = np.linalg.solve(before, after)
            expected = expected @ deformation
            shrinkage = max(0.0, 1.0 - np.linalg.svd(deformation, compute_uv=False)[-1])
        moved = atoms.positions - expected
        u = math.sqrt(np.einsum("kx,kx->k", moved, moved).max())
        return bool(2.0 * u + shrinkage * (self.cutoff + self.skin) < self.skin - ROUNDING)


class _Pairs:
    """All pairs within a radius of one reference structure.

    On a CPU an operator of the C++ library makes the vectors, or numpy (its calls cost less
    than torch's, which counts for small molecules); elsewhere torch does on the device. Each
    sums them term by term: the rounding of a matrix product may depend on the number of rows,
    and a kept list shall agree with a fresh one in every bit.
    """

    def __init__(self, structure: Structure, radius: float, device: torch.device) -> None:
        receivers, senders, shifts = pairs_of(structure, radius, device)
        self.numbers = torch.from_numpy(structure.numbers.copy()).to(device)
        self.structure_index = torch.zeros_like(self.numbers)
        self.edge_index = torch.stack([senders, receivers])  # (2, n_pairs)
        columns = shifts.T.to(torch.float64).contiguous().unsqueeze(2)  # (3, n_pairs, 1)
        self.shifts = [
            (axis, columns[axis]) for axis in range(3) if bool(shifts[:, axis].any())
        ]
        self._lattice: NDArray | None = None

    def graph(
        self, positions: NDArray, lattice: NDArray, cutoff: float, dtype: torch.dtype,
        transfers: Transfers,
    ) -> AtomicGraph:  # fmt: skip
        """Return the graph of the pairs closer than ``cutoff`` at the given positions.

        An array ``lattice`` that was passed before must not have changed.
        """
        if transfers.needed:
            r, cell = transfers.upload(positions, lattice)
            if lattice is not self._lattice:
                self._use(lattice, cell)
            edge_index, vectors = self._on_device(r, cutoff, dtype)
        else:
            if lattice is not self._lattice:
                self._use(lattice, torch.from_numpy(lattice.copy()))
            edge_index, vectors = self._on_cpu(positions, cutoff, dtype)
        n_atoms = self.numbers.shape[0]
        return AtomicGraph(
            self.numbers, edge_index, vectors, self.structure_index, 1, n_atoms, self.cell
        )

    def _use(self, lattice: NDArray, cell: Tensor) -> None:
        """Make what depends on the lattice alone."""
        self._lattice = lattice
        # The cell stays float64: only the volume is taken from it.
        self.cell = cell.unsqueeze(0)
        self.offsets = cell.new_empty((0, 3))  # (n_pairs, 3), Å; none without images
        for axis, column in self.shifts:
            term = column * cell[axis]
            self.offsets = term if len(self.offsets) == 0 else self.offsets.add_(term)

    def _on_cpu(
        self, positions: NDArray, cutoff: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        r = np.ascontiguousarray(positions, dtype=np.float64)
        make, like = find_operator("edge_vectors"), _EMPTY.get(dtype)
        if make is not None and like is not None:
            r = r if r.flags.writeable else r.copy()  # torch has no read-only tensors
            found = make(torch.from_numpy(r), self.edge_index, self.offsets, cutoff, like)
            if found[2] < _COINCIDENT:
                self._refuse_coincident(self._vectors(r))
            return found[0], found[1]
        vectors = self._vectors(r)
        edge_index = self.edge_index
        if len(vectors) > 0:
            distances = np.sqrt(np.einsum("ex,ex->e", vectors, vectors))  # (n_pairs,)
            if distances.min() < _COINCIDENT:
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

    def _on_device(
        self, r: Tensor, cutoff: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        edge_index = self.edge_index
        vectors = r.index_select(0, edge_index[0]) - r.index_select(0, edge_index[1])
        if len(self.offsets) > 0:
            vectors += self.offsets
        if len(vectors) > 0:
            distances = torch.linalg.vector_norm(vectors, dim=1)  # (n_pairs,)
            # One wait for both.
            shortest, longest = torch.stack(distances.aminmax()).tolist()
            if shortest < _COINCIDENT:
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
            f"{_COINCIDENT} Å, found {float(distances.min()):.2g} Å; remove one or mend the cell."
        )


def _checked_skin(skin: float | str) -> float:
    if isinstance(skin, str):
        raise ConfigError(
            f"skin must be zero or positive and finite (Å), or 'auto'; found '{skin}'."
            + did_you_mean(skin, ["auto"])
        )
    if not 0.0 <= skin < math.inf:
        raise ConfigError(f"skin must be zero or positive and finite (Å), found {skin}.")
    return float(skin)


def _check_cutoff(cutoff: float) -> None:
    if not 0.0 < cutoff < math.inf:
        raise GraphError(f"cutoff must be positive and finite (Å), found {cutoff}.")


def _checked(atoms: Atoms) -> Structure:
    """Copy what the edges depend on, refusing structures without a meaningful graph."""
    if len(atoms) == 0:
        raise GraphError("the structure has zero atoms; at least one is needed.")
    numbers = np.array(atoms.numbers, dtype=np.int64)
    strange = np.flatnonzero((numbers < 1) | (numbers > 118))
    if len(strange) > 0:
        raise GraphError(
            f"atomic numbers must lie in 1..118, found {listing(numbers[strange].tolist())} "
            f"on atoms {listing(strange.tolist())}; replace or delete these atoms."
        )
    positions = np.array(atoms.positions, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1)).tolist()
    if broken:
        raise GraphError(f"positions must be finite, found NaN or inf on atoms {listing(broken)}.")
    if not np.isfinite(atoms.cell.array).all():
        raise GraphError(f"the cell must be finite, found {atoms.cell.array.tolist()}.")
    pbc = np.array(atoms.pbc, dtype=np.bool_)
    lattice = np.where(pbc[:, None], atoms.cell.array, 0.0)
    box = complete(lattice, pbc)
    flat = abs(np.linalg.det(box)) <= _DEPENDENT * np.linalg.norm(box, axis=1).prod()
    if flat or np.linalg.norm(reduced(box, pbc)[0], axis=1).min() < _COINCIDENT:
        raise GraphError(
            f"the lattice vectors {lattice[pbc].tolist()} along the periodic directions are zero "
            f"or linearly dependent; set the cell, or pbc (now {pbc.tolist()}) to False there."
        )
    return Structure(numbers, positions, lattice, pbc)
