"""Turn ``ase.Atoms`` into an :class:`~eqcalc.graph.AtomicGraph`, fresh or from a skin list.

Shapes: n_atoms, n_edges; lengths in Å. ``lattice`` is the cell with zero rows along
open directions: what a user left in those rows is never read.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
import vesin
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.errors import ConfigError, GraphError, listing
from eqcalc.graph import AtomicGraph

__all__ = ["SkinList", "Structure", "build_graph"]

_COINCIDENT = 1e-3  # Å; no two nuclei of a meaningful structure come this close
_DEPENDENT = 1e-6  # volume of the normalised periodic vectors below which they are dependent
_ROUNDING = 1e-9  # Å; far above the float64 rounding of any distance
_MAX_BINS = 1e5  # vesin's MAX_NUMBER_OF_CELLS


class Structure(NamedTuple):
    """What the edges of a structure depend on, checked and copied from ``ase.Atoms``.

    numbers : (n_atoms,) int64
    positions : (n_atoms, 3) float64, Å
    lattice : (3, 3) float64, Å; rows are lattice vectors, zero along open directions
    pbc : (3,) bool
    """

    numbers: NDArray
    positions: NDArray
    lattice: NDArray
    pbc: NDArray


def build_graph(
    atoms: Atoms,
    cutoff: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> AtomicGraph:
    """Return the graph of all pairs closer than ``cutoff``, periodic images included.

    Parameters
    ----------
    atoms : periodic and open directions in any mixture, any cell, wrapped or not
    cutoff : Å
    dtype : of ``edge_vectors`` and ``cell``; differences are taken in float64 before

    Returns
    -------
    graph : one structure; edges in the order of receiver, sender and image shift

    Raises
    ------
    GraphError : zero atoms; a position or cell that is not finite; a periodic
        direction without a proper lattice vector; an atomic number outside
        1..118; coincident atoms; a cutoff that is not positive and finite.
    """
    _check_cutoff(cutoff)
    structure = _checked(atoms)
    pairs = _Pairs(structure, cutoff, torch.device(device))
    return pairs.graph(structure.positions, structure.lattice, cutoff, dtype)


class SkinList:
    """A list of all pairs within cutoff + skin, kept while it provably misses no edge.

    The graph is, bit for bit, the one that :func:`build_graph` returns for the same
    atoms; only the search is saved. A restart need not restore the list; to have it
    rebuilt at the same steps, call :meth:`graph` on atoms made from ``reference``.

    Why the list is complete: let F be any linear map (row vectors, v -> v F) that
    takes the periodic lattice vectors of the reference to the present ones, and
    u_k = r_k - r_ref,k F. Image shifts exist only along periodic directions, so for
    every pair, listed or not and of whatever shift,

        d_new = d_ref F + (u_j - u_i)
        |d_new| >= s_min(F) |d_ref| - 2u,    u = max_k |u_k|,

    s_min being the smallest singular value. A pair that is not listed has
    |d_ref| >= cutoff + skin, and therefore |d_new| >= cutoff as long as

        2u + max(0, 1 - s_min(F)) (cutoff + skin) <= skin.

    F is the identity for an unchanged lattice. Otherwise it also keeps the vectors
    perpendicular to the reference's periodic ones: the proof asks no more, so it
    covers slabs and wires too. Wrapped atoms show as a large u, hence a rebuild.

    Parameters
    ----------
    cutoff, skin : Å; with skin = 0 every call builds
    dtype, device : as in :func:`build_graph`

    Attributes
    ----------
    n_calls, n_builds : calls of :meth:`graph`, and how many of them built the list
    reference : the :class:`Structure` of the last build, None before the first

    Raises
    ------
    GraphError : the cutoff is not positive and finite.
    ConfigError : the skin is negative or not finite.
    """

    def __init__(
        self,
        cutoff: float,
        skin: float,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_cutoff(cutoff)
        if not 0.0 <= skin < math.inf:
            raise ConfigError(f"skin must be zero or positive and finite (Å), found {skin}.")
        self.cutoff, self.skin = float(cutoff), float(skin)
        self.dtype, self.device = dtype, torch.device(device)
        self.n_calls = self.n_builds = 0
        self.reference: Structure | None = None

    def graph(self, atoms: Atoms) -> AtomicGraph:
        """Return what ``build_graph(atoms, cutoff)`` returns.

        Raises
        ------
        GraphError : as :func:`build_graph`.
        """
        self.n_calls += 1
        lattice = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
        if self.reference is None or not self._is_complete(self.reference, atoms, lattice):
            structure = _checked(atoms)
            self._pairs = _Pairs(structure, self.cutoff + self.skin, self.device)
            # Bytes compare in a tenth of the time of array_equal; this runs at each MD step.
            self._identity = atoms.numbers.tobytes(), atoms.pbc.tobytes()
            self.reference = structure
            self.n_builds += 1
        return self._pairs.graph(atoms.positions, lattice, self.cutoff, self.dtype)

    def _is_complete(self, reference: Structure, atoms: Atoms, lattice: NDArray) -> bool:
        """Whether the proof holds; never for NaN, so that the rebuild names the atoms."""
        if (atoms.numbers.tobytes(), atoms.pbc.tobytes()) != self._identity:
            return False
        if not np.isfinite(atoms.cell.array).all():
            return False
        expected, shrinkage = reference.positions, 0.0
        if not np.array_equal(lattice, reference.lattice):
            before = _complete(reference.lattice, reference.pbc)
            after = np.where(reference.pbc[:, None], lattice, before)
            deformation = np.linalg.solve(before, after)
            expected = expected @ deformation
            shrinkage = max(0.0, 1.0 - np.linalg.svd(deformation, compute_uv=False)[-1])
        moved = atoms.positions - expected
        u = math.sqrt(np.einsum("kx,kx->k", moved, moved).max())
        return bool(2.0 * u + shrinkage * (self.cutoff + self.skin) < self.skin - _ROUNDING)


class _Pairs:
    """All pairs within a radius of one reference structure, as tensors on the device."""

    def __init__(self, structure: Structure, radius: float, device: torch.device) -> None:
        receivers, senders, shifts = _search(structure, radius)
        self.device = device
        self.numbers = torch.from_numpy(structure.numbers.copy()).to(device)
        self.structure_index = torch.zeros_like(self.numbers)
        self.edge_index = torch.from_numpy(np.stack([senders, receivers])).to(device)
        self.senders, self.receivers = self.edge_index.unbind(dim=0)
        columns = torch.from_numpy(shifts.T.astype(np.float64)).unsqueeze(2).to(device)
        # In an open or large box most directions have no shift at all.
        self.shifts = [(axis, columns[axis]) for axis in range(3) if shifts[:, axis].any()]

    def graph(
        self, positions: NDArray, lattice: NDArray, cutoff: float, dtype: torch.dtype
    ) -> AtomicGraph:
        """Return the graph of the pairs closer than ``cutoff`` at the given positions."""
        # A copy: torch warns of arrays that are read-only.
        r = torch.from_numpy(np.array(positions, dtype=np.float64)).to(self.device)
        cell = torch.from_numpy(lattice).to(self.device)
        edge_index = self.edge_index
        vectors = r.index_select(0, self.senders) - r.index_select(0, self.receivers)
        # Term by term: the rounding of a matrix product may depend on the number of
        # rows, and a kept list shall agree with a fresh one in every bit.
        for axis, shift in self.shifts:
            vectors.addcmul_(shift, cell[axis])
        if len(vectors) > 0:
            distances = torch.linalg.vector_norm(vectors, dim=1)  # (n_edges,)
            shortest, longest = distances.aminmax()
            if float(shortest) < _COINCIDENT:
                self._refuse_coincident(distances)
            if float(longest) >= cutoff:
                kept = (distances < cutoff).nonzero().squeeze(1)
                edge_index = edge_index.index_select(1, kept)
                vectors = vectors.index_select(0, kept)
        n_owned = len(self.numbers)
        cell = cell.unsqueeze(0).to(dtype)
        vectors = vectors.to(dtype)
        return AtomicGraph(
            self.numbers, edge_index, vectors, self.structure_index, 1, n_owned, cell
        )

    def _refuse_coincident(self, distances: Tensor) -> None:
        closest = int(distances.argmin())
        first, second = sorted(int(k) for k in self.edge_index[:, closest])
        raise GraphError(
            f"atoms {first} and {second} coincide"
            f"{' through a periodic image' if first == second else ''}: expected a distance of "
            f"at least {_COINCIDENT} Å, found {float(distances[closest]):.2g} Å; remove the "
            "duplicate or correct the cell."
        )


def _check_cutoff(cutoff: float) -> None:
    if not 0.0 < cutoff < math.inf:
        raise GraphError(f"cutoff must be positive and finite (Å), found {cutoff}.")


def _checked(atoms: Atoms) -> Structure:
    """Copy what the edges depend on, refusing structures without a meaningful graph."""
    if len(atoms) == 0:
        raise GraphError("the structure has zero atoms; at least one is needed.")
    numbers = np.array(atoms.numbers, dtype=np.int64)
    positions = np.array(atoms.positions, dtype=np.float64)
    strange = np.flatnonzero((numbers < 1) | (numbers > 118))
    if len(strange) > 0:
        raise GraphError(
            f"atomic numbers must lie in 1..118, found {listing(numbers[strange].tolist())} "
            f"on atoms {listing(strange.tolist())}; replace or delete these atoms."
        )
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    if len(broken) > 0:
        raise GraphError(
            f"positions must be finite, found NaN or infinity on atoms {listing(broken.tolist())}."
        )
    return Structure(numbers, positions, *_checked_lattice(atoms))


def _checked_lattice(atoms: Atoms) -> tuple[NDArray, NDArray]:
    if not np.isfinite(atoms.cell.array).all():
        raise GraphError(f"the cell must be finite, found {atoms.cell.array.tolist()}.")
    pbc = np.array(atoms.pbc, dtype=np.bool_)
    lattice = np.where(pbc[:, None], atoms.cell.array, 0.0)
    lengths = np.linalg.norm(lattice, axis=1)
    missing = np.flatnonzero(pbc & (lengths < _COINCIDENT))
    if len(missing) > 0:
        raise GraphError(
            f"pbc is on along directions {listing(missing.tolist())}, whose lattice vectors have "
            "zero length; set the cell, or pbc to False there."
        )
    normalised = lattice / np.where(pbc, lengths, 1.0)[:, None]
    if abs(np.linalg.det(_complete(normalised, pbc))) < _DEPENDENT:
        raise GraphError(
            f"the periodic lattice vectors {lattice[pbc].tolist()} are linearly dependent "
            "(the cell has zero volume); give independent vectors."
        )
    return lattice, pbc


def _complete(lattice: NDArray, pbc: NDArray) -> NDArray:
    """Fill the open rows with unit vectors perpendicular to all other rows."""
    completed = lattice.copy()
    if not pbc.any():
        completed[:] = np.eye(3)
    elif not pbc.all():
        completed[~pbc] = np.linalg.svd(lattice[pbc])[2][pbc.sum() :]
    return completed


def _search(structure: Structure, radius: float) -> tuple[NDArray, NDArray, NDArray]:
    """Return receivers, senders (n_edges,) and shifts (n_edges, 3) in order, all int64.

    vesin sees a box closed in all directions with the atoms inside, because it

    - divides an open direction into bins over its whole extent: two molecules 1e5 Å
      apart over a slab take a minute (and before 0.5.8 it loses pairs there);
    - counts shifts in int32: atoms very many cells away lose their edges;
    - rejects clusters by float32 bounding boxes, hence the margin that grows with
      the box. The true distances are then taken in float64.
    """
    numbers, positions, lattice, pbc = structure
    box = _complete(lattice, pbc)
    wraps = np.where(pbc, np.floor(positions @ np.linalg.inv(box)), 0.0)
    inside = positions - wraps @ lattice
    for axis in np.flatnonzero(~pbc):
        heights = positions @ box[axis]
        squeezed = _squeeze(heights, 2.0 * radius)
        inside += np.outer(squeezed - heights, box[axis])
        box[axis] *= squeezed.max() + 2.0 * radius
    margin = 1e-6 * (radius + np.abs(box).sum()) + 1e-14 * np.abs(positions).max()
    finder = vesin.NeighborList(cutoff=_search_radius(box, radius + margin), full_list=True)
    found = finder.compute(points=inside, box=box, periodic=True, quantities="ijS")
    i, j, shifts = (array.astype(np.int64) for array in found)
    true_shifts = shifts + (wraps[i] - wraps[j]).astype(np.int64)
    vectors = positions[j] - positions[i] + true_shifts @ lattice
    near = np.einsum("ex,ex->e", vectors, vectors) < (radius + _ROUNDING) ** 2
    near &= ~shifts[:, ~pbc].any(axis=1)
    i, j, shifts, true_shifts = i[near], j[near], shifts[near], true_shifts[near]
    if len(i) == 0:
        return i, j, true_shifts
    # For one pair (i, j) the two shifts differ by a constant, so they order alike;
    # those of the wrapped atoms are small enough for a single integer key.
    shifts -= shifts.min(axis=0)
    shape = (len(numbers), len(numbers), *(shifts.max(axis=0) + 1))
    order = np.argsort(np.ravel_multi_index((i, j, *shifts.T), shape))
    return i[order], j[order], true_shifts[order]


def _squeeze(heights: NDArray, gap: float) -> NDArray:
    """Shorten every empty stretch along a line to ``gap`` and start at zero."""
    order = np.argsort(heights)
    squeezed = np.zeros_like(heights)
    squeezed[order[1:]] = np.cumsum(np.minimum(np.diff(heights[order]), gap))
    return squeezed


def _search_radius(box: NDArray, radius: float) -> float:
    """Widen the radius where vesin's grid would break.

    Beyond _MAX_BINS bins vesin shrinks their three numbers in proportion and rounds
    down: to zero in a long or flat box, where the process then dies of a division.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    while True:
        bins = np.maximum(np.floor(heights / radius), 1.0)
        excess = bins.prod() / _MAX_BINS
        if excess <= 1.0 or bins.min() / np.cbrt(excess) >= 4.0:
            return radius
        radius *= 1.1
