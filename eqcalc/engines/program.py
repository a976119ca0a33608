"""What runs a function of a package's tensors, for any number of atoms and edges."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from eqcalc.engines.engine import Target
from eqcalc.graph import AtomicGraph

__all__ = ["Call", "Program"]

Call = Callable[[list[Tensor]], Sequence[Tensor]]
"""Atomic numbers, edge vectors, edge index and weights -> energies and edge gradients."""

_FEWEST = 2  # atoms and edges: the compiler takes sizes 0 and 1 for constants


class Program:
    """A function of tensors that was traced or compiled, called as an engine is.

    Parameters
    ----------
    call : takes two atoms and two edges at least
    reach : Å; beyond every network's cutoff
    """

    def __init__(self, call: Call, target: Target, *, reach: float) -> None:
        self.device, self.dtype = target
        self._reach = reach
        self._call = call
        # One tuple, replaced as a whole: several threads may use this engine.
        self._weights = (0, torch.ones(0, dtype=torch.float64, device=self.device))

    def __call__(self, graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å."""
        atomic_numbers, edge_index, edge_vectors = graph[:3]
        n_atoms, n_edges = atomic_numbers.shape[0], edge_index.shape[1]
        is_small = n_atoms < _FEWEST or n_edges < _FEWEST
        if is_small:
            atomic_numbers, edge_vectors, edge_index = self._padded(
                atomic_numbers, edge_vectors, edge_index
            )
        weights = self._weights_of(atomic_numbers.shape[0], graph.n_owned)
        energies, gradients = self._call([atomic_numbers, edge_vectors, edge_index, weights])
        if is_small:  # atoms and edges come last; the members of a committee before them
            return energies[..., :n_atoms], gradients[..., :n_edges, :]
        return energies, gradients

    def run(self, graph: AtomicGraph, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Run the function on two atoms and two edges at least."""
        energies, gradients = self._call(
            [graph.atomic_numbers, graph.edge_vectors, graph.edge_index, weights]
        )
        return energies, gradients

    def _padded(
        self, atomic_numbers: Tensor, edge_vectors: Tensor, edge_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Add two atoms, and two edges between them that are longer than the cutoff."""
        n = atomic_numbers.shape[0]
        pair = torch.tensor([[n, n + 1], [n + 1, n]], device=edge_index.device)
        vectors = edge_vectors.new_zeros((2, 3))
        vectors[:, 0] = self._reach
        return (
            torch.cat([atomic_numbers, atomic_numbers[:1].expand(2)]),
            torch.cat([edge_vectors, vectors]),
            torch.cat([edge_index, pair], dim=1),
        )

    def _weights_of(self, n_atoms: int, n_owned: int) -> Tensor:
        """Return the weights; in a simulation they are those of the step before."""
        kept, weights = self._weights
        if weights.shape[0] != n_atoms or kept != n_owned:
            weights = torch.ones(n_atoms, dtype=torch.float64, device=self.device)
            weights[n_owned:] = 0.0
            self._weights = n_owned, weights
        return weights
