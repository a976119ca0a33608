"""Turn ``ase.Atoms`` into an :class:`~eqcalc.graph.AtomicGraph`, fresh or from a skin list."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from numbers import Real

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, GraphError, did_you_mean
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours.lattice import complete
from eqcalc.neighbours.pair_list import PairList
from eqcalc.neighbours.search import ROUNDING
from eqcalc.neighbours.skin_tuner import SkinTuner
from eqcalc.neighbours.structure import Structure, check_structure
from eqcalc.neighbours.transfers import Transfers

__all__ = ["SkinList", "build_graph"]


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
        direction without a proper lattice vector; an atomic number of no
        element; coincident atoms, or so many within reach that lengths cannot be
        in Å; a cutoff that is not positive and finite.
    """
    _check_cutoff(cutoff)
    structure = check_structure(atoms)
    transfers = Transfers(torch.device(device))
    pairs = PairList(structure, cutoff, transfers.device)
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
    skin : Å; with 0 every call builds; "auto" lets the
        :class:`~eqcalc.neighbours.skin_tuner.SkinTuner` choose the skin of each list from the
        times of those before
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
            structure = check_structure(atoms)
            skin = self.skin if self.tuner is None else self.tuner.next_skin()
            self._pairs = PairList(structure, self.cutoff + skin, self.device)
            # Only now: where the search failed, the old list and its skin still belong together.
            self.skin = skin
            self._identity = atoms.numbers.tobytes(), atoms.pbc.tobytes()
            self._reference_box = box
            self.reference = structure
            self.n_builds += 1
        return self._pairs.graph(atoms.positions, lattice, self.cutoff, self.dtype, self.transfers)

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


def _checked_skin(skin: float | str) -> float:
    if isinstance(skin, str):
        raise ConfigError(
            f"skin must be zero or positive and finite (Å), or 'auto'; found '{skin}'."
            + did_you_mean(skin, ["auto"])
        )
    is_number = isinstance(skin, Real) and not isinstance(skin, bool)
    if not is_number or not 0.0 <= skin < math.inf:
        raise ConfigError(f"skin must be zero or positive and finite (Å), found {skin}.")
    return float(skin)


def _check_cutoff(cutoff: float) -> None:
    if not 0.0 < cutoff < math.inf:
        raise GraphError(f"cutoff must be positive and finite (Å), found {cutoff}.")
