"""The loss, as one function of tensors that can be traced and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from eqcalc.data.batches import LabelledGraph
from eqcalc.derivatives import forces_from_edge_gradients, stress_from_edge_gradients, voigt
from eqcalc.graph import AtomicGraph, sum_over_structures

__all__ = ["LossWeights", "Residuals", "loss", "residuals"]


class LossWeights(NamedTuple):
    """Weights of the mean squared errors: (eV/atom)⁻², (eV/Å)⁻², (eV/Å³)⁻²."""

    energy: float
    forces: float
    stress: float


class Residuals(NamedTuple):
    """Predicted minus labelled values, float64.

    energy : (n_structures,), eV
    energy_per_atom : (n_structures,), eV/atom
    forces : (n_atoms, 3), eV/Å
    stress : (n_structures, 6), eV/Å³; NaN for open structures or missing labels
    """

    energy: Tensor
    energy_per_atom: Tensor
    forces: Tensor
    stress: Tensor


def residuals(
    potential: Callable[[AtomicGraph], tuple[Tensor, Tensor]],
    batch: LabelledGraph,
    with_stress: bool,
) -> Residuals:
    """Evaluate a potential on a batch; call it with grad enabled."""
    graph = batch.graph
    n_structures = batch.energy.shape[0]
    n_atoms = graph.atomic_numbers.shape[0]
    energies, gradients = potential(graph)
    energy = sum_over_structures(energies, graph.structure_index, n_structures)
    ones = torch.ones_like(energies)
    sizes = sum_over_structures(ones, graph.structure_index, n_structures)
    forces = forces_from_edge_gradients(gradients, graph.edge_index, n_atoms)
    stress = torch.full_like(batch.stress, torch.nan)
    if with_stress:
        stress = voigt(stress_from_edge_gradients(gradients, graph))
    error = energy - batch.energy
    return Residuals(error, error / sizes, forces - batch.forces, stress - batch.stress)


def loss(found: Residuals, weights: LossWeights) -> Tensor:
    """Return the weighted sum of mean squared errors, ().

    The stress is that of the structures that have one: molecules may stand beside crystals.
    """
    total = weights.energy * found.energy_per_atom.square().mean()
    total = total + weights.forces * found.forces.square().mean()
    if weights.stress > 0:
        # Zero in place of NaN before the square: NaN in a branch not taken spoils gradients.
        is_known = torch.isfinite(found.stress)
        squares = torch.where(is_known, found.stress, 0.0).square()
        total = total + weights.stress * squares.sum() / is_known.sum().clamp(min=1)
    return total
