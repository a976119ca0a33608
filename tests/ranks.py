"""A host in Python: threads of one process play the ranks that share out a periodic structure.

What LAMMPS does over MPI: a rank has the atoms of its part of the box, and as ghosts everything
within one cutoff of them, periodic images of its own atoms included.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from torch import Tensor

from eqcalc.derivatives import forces_from_edge_gradients
from eqcalc.native.build import find_library
from eqcalc.native.exchange import exchanged_by
from eqcalc.neighbours import build_graph

__all__ = ["Evaluate", "Ranks", "Results", "Share", "share_out", "slices"]

Evaluate = Callable[..., tuple[Tensor, Tensor]]

_PATIENCE = 600.0  # seconds until a rank that waits for others gives up


class Share(NamedTuple):
    """One rank's part of a structure.

    tensors : atomic_numbers, edge_vectors, edge_index, weights, all_atoms
    atoms : (n_all,) of all its atoms, ghosts last: their numbers in the structure
    owners, rows : (n_ghosts,) of each ghost: the rank of its owner, and its row there
    """

    tensors: tuple[Tensor, ...]
    atoms: np.ndarray
    owners: np.ndarray
    rows: np.ndarray


class Results(NamedTuple):
    """energies (n_atoms,), forces (n_atoms, 3), virial (3, 3): eV, eV/Å."""

    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray


def slices(atoms: Atoms, n_ranks: int, axis: int = 0) -> np.ndarray:
    """Return the rank of each atom: the box cut into equal parts along one axis."""
    scaled = atoms.get_scaled_positions()[:, axis]
    return np.minimum((scaled * n_ranks).astype(int), n_ranks - 1)


def share_out(
    atoms: Atoms, cutoff: float, rank_of: np.ndarray, n_ranks: int, dtype: torch.dtype
) -> list[Share]:
    """Return the share of every rank; some may have no atom."""
    graph = build_graph(atoms, cutoff)
    senders, receivers = graph.edge_index.numpy()
    between = atoms.positions[senders] - atoms.positions[receivers]
    inverse = np.linalg.inv(atoms.cell.complete().array)
    shifts = np.rint((graph.edge_vectors.numpy() - between) @ inverse).astype(int)
    row_of = np.zeros(len(atoms), dtype=int)  # of each atom among those of its owner
    for rank in range(n_ranks):
        row_of[rank_of == rank] = np.arange((rank_of == rank).sum())
    shares = []
    for rank in range(n_ranks):
        owned = np.flatnonzero(rank_of == rank)
        ghosts: dict[tuple[int, ...], int] = {}
        mine = np.flatnonzero(rank_of[receivers] == rank)
        sources = []
        for edge in mine:
            sender, shift = senders[edge], tuple(shifts[edge])
            if rank_of[sender] == rank and not any(shift):
                sources.append(row_of[sender])
            else:
                ghost = ghosts.setdefault((int(sender), *shift), len(ghosts))
                sources.append(len(owned) + ghost)
        of_ghosts = np.array([key[0] for key in ghosts], dtype=int)
        index = np.array([sources, row_of[receivers[mine]]], dtype=int).reshape(2, -1)
        tensors = (
            torch.from_numpy(atoms.numbers[owned]).to(torch.int64),
            graph.edge_vectors[torch.from_numpy(mine)].to(dtype),
            torch.from_numpy(index),
            torch.ones(len(owned), dtype=torch.float64),
            torch.zeros(len(owned) + len(ghosts), dtype=torch.int64),
        )
        everything = np.concatenate([owned, of_ghosts])
        shares.append(Share(tensors, everything, rank_of[of_ghosts], row_of[of_ghosts]))
    return shares


class Ranks:
    """The ranks of one structure.

    Parameters
    ----------
    shares : from :func:`share_out`
    breaks : called in each exchange of rank 0, with its number; may raise

    Attributes
    ----------
    calls : (name, width) of every exchange, as all ranks made it; widths in numbers
    """

    def __init__(
        self, shares: Sequence[Share], breaks: Callable[[int], None] = lambda number: None
    ) -> None:
        self.shares, self.breaks = shares, breaks
        self.calls: list[tuple[str, int]] = []
        self._barrier = threading.Barrier(len(shares))
        self._rows: list[np.ndarray] = [np.empty(0)] * len(shares)
        self._named: list[tuple[str, int]] = [("", 0)] * len(shares)

    def run(self, evaluates: Sequence[Evaluate], n_atoms: int) -> Results:
        """Return what all ranks find together, each by its own function.

        Raises
        ------
        Exception : the first that a rank raised; the others are let go.
        """
        found: list[tuple[Tensor, Tensor] | None] = [None] * len(self.shares)
        raised: list[Exception] = []
        library = find_library()
        assert library is not None

        def work(rank: int) -> None:
            try:
                with exchanged_by(
                    library, self._call(rank, "forward"), self._call(rank, "reverse")
                ):
                    found[rank] = evaluates[rank](*self.shares[rank].tensors)
            except Exception as error:  # handed to the caller
                raised.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=work, args=(k,)) for k in range(len(self.shares))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if raised:
            raise raised[0]
        energies, forces, virial = np.zeros(n_atoms), np.zeros((n_atoms, 3)), np.zeros((3, 3))
        for share, answer in zip(self.shares, found, strict=True):
            assert answer is not None
            n_owned = len(share.tensors[0])
            energies[share.atoms[:n_owned]] = answer[0].numpy()
            gradients, vectors = answer[1].double(), share.tensors[1].double()
            local = forces_from_edge_gradients(gradients, share.tensors[2], len(share.atoms))
            np.add.at(forces, share.atoms, local.numpy())
            virial += (vectors.T @ gradients).numpy()
        return Results(energies, forces, (virial + virial.T) / 2)

    def _call(self, rank: int, name: str) -> Callable[[np.ndarray, int], None]:
        share = self.shares[rank]

        def forward(rows: np.ndarray, n_owned: int) -> None:
            self._meet(rank, name, rows)
            for owner in np.unique(share.owners):
                mine = share.owners == owner
                # Ghosts come last: dummy atoms may stand between them and the owned ones.
                rows[n_owned:][mine] = self._rows[owner][share.rows[mine]]
            self._barrier.wait(_PATIENCE)

        def reverse(rows: np.ndarray, n_owned: int) -> None:
            self._meet(rank, name, rows)
            total = rows[:n_owned].copy()
            for other, theirs in zip(self.shares, self._rows, strict=True):
                mine = other.owners == rank
                first = len(theirs) - len(other.owners)
                np.add.at(total, other.rows[mine], theirs[first:][mine])
            self._barrier.wait(_PATIENCE)
            rows[:n_owned] = total

        return forward if name == "forward" else reverse

    def _meet(self, rank: int, name: str, rows: np.ndarray) -> None:
        """Wait until every rank has made the same call."""
        if rank == 0:
            self.breaks(len(self.calls))
            self.calls.append((name, rows.shape[1]))
        self._rows[rank], self._named[rank] = rows, (name, rows.shape[1])
        self._barrier.wait(_PATIENCE)
        assert set(self._named) == {(name, rows.shape[1])}, f"ranks differ: {self._named}"
