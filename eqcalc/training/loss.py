"""The loss, as one function of tensors that can be traced and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Optional

import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from eqcalc.data.batches import LabelledGraph
from eqcalc.derivatives import (
    forces_from_edge_gradients,
    stress_from_edge_gradients,
    voigt,
    volumes,
)
from eqcalc.graph import AtomicGraph, sum_over_structures

__all__ = [
    "LossFunction",
    "LossWeights",
    "Residuals",
    "error_counts",
    "error_sums",
    "known_counts",
    "loss",
    "mean_loss",
    "residuals",
]


class LossWeights(NamedTuple):
    """Weights of the terms of a loss, in the inverse units of what they multiply."""

    energy: float
    forces: float
    stress: float


class LossFunction(NamedTuple):
    """What is made of the errors: Σ weight · mean(f(error)).

    weights : of the energy term, the forces term and the stress term
    kind : "mse", f(e) = e²; "mae", f(e) = |e|; or "huber", f(e) = e²/2 up to δ and
        δ (|e| - δ/2) beyond
    per_atom_energy : an energy error is divided by the number of atoms first
    deltas : δ of "huber": eV/atom (eV of total energies), eV/Å, eV/Å³
    """

    weights: LossWeights
    kind: str = "mse"
    per_atom_energy: bool = True
    deltas: LossWeights = LossWeights(0.01, 0.01, 0.01)


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


def loss(found: Residuals, function: LossFunction, counts: Optional[Tensor] = None) -> Tensor:
    """Return the weighted sum of the means of the terms, ().

    The stress is that of the structures that have one: molecules may stand beside crystals.

    Parameters
    ----------
    counts : (3,), float64; how many energies, components of forces and of stress the means are
        over; by default those that are there. With those of a whole batch, losses of its parts
        add up
    """
    sums = error_sums(found, function)
    return mean_loss(sums, known_counts(found) if counts is None else counts, function.weights)


def mean_loss(sums: Tensor, counts: Tensor, weights: LossWeights) -> Tensor:
    """Return the loss of sums (3,) of f(error) over as many energies, forces and stresses, ()."""
    total = weights.energy * sums[0] / counts[0] + weights.forces * sums[1] / counts[1]
    if weights.stress > 0:
        total = total + weights.stress * sums[2] / counts[2].clamp(min=1)
    return total


def error_sums(found: Residuals, function: LossFunction) -> Tensor:
    """Return the sums of f(error) over energies, forces and the stresses that are known, (3,)."""
    energy = found.energy_per_atom if function.per_atom_energy else found.energy
    # Zero in place of NaN before the square: NaN in a branch not taken spoils gradients.
    stress = torch.where(torch.isfinite(found.stress), found.stress, 0.0)
    errors = (energy, found.forces, stress)
    return torch.stack(
        [
            _of_errors(each, function.kind, delta).sum()
            for each, delta in zip(errors, function.deltas, strict=True)
        ]
    )


def known_counts(found: Residuals) -> Tensor:
    """Return how many energies, components of forces and of stress were compared, (3,), float64."""
    return _counts(found.energy, found.forces, torch.isfinite(found.stress))


def error_counts(batch: LabelledGraph) -> Tensor:
    """Return how many energies, components of forces and of stress of a batch are labelled, (3,).

    They are what the means of :func:`loss` are over; float64, on the batch's device.
    """
    has_stress = torch.isfinite(batch.stress) & (volumes(batch.graph.cell) > 0)[:, None]
    return _counts(batch.energy, batch.forces, has_stress)


def _counts(energy: Tensor, forces: Tensor, has_stress: Tensor) -> Tensor:
    # Filled in where they are: a GPU would wait for numbers that are copied to it.
    n_errors = (energy.numel(), forces.numel())
    sizes = [energy.new_full((1,), n, dtype=torch.float64) for n in n_errors]
    return torch.cat([*sizes, has_stress.sum().reshape(1).to(torch.float64)])


def _of_errors(errors: Tensor, kind: str, delta: float) -> Tensor:
    if kind == "mse":
        return errors.square()
    if kind == "mae":
        return errors.abs()
    return huber_loss(errors, torch.zeros_like(errors), reduction="none", delta=delta)
