"""What a law is tested on, and how two evaluations are compared.

A law sees a :class:`Subject`: anything that maps a graph to an
:class:`~eqcalc.potential.Evaluation` (the eager network, the exported file, ...).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from ase import Atoms
from tolerances import TOLERANCES, Tolerance
from torch import Tensor

from eqcalc.derivatives import (
    forces_from_edge_gradients,
    stress_from_edge_gradients,
    volumes,
)
from eqcalc.engines import Model
from eqcalc.graph import AtomicGraph, sum_over_structures
from eqcalc.neighbours import build_graph
from eqcalc.potential import Evaluation, Potential

__all__ = [
    "Subject",
    "assert_close",
    "assert_same_evaluation",
    "evaluate",
    "exported_subject",
    "potential_subject",
]


@dataclass(frozen=True)
class Subject:
    """A potential as the laws see it.

    label : for messages
    call : graph -> Evaluation; it may raise
    cutoff : Å; n_hops : message-passing steps
    dtype : of the graphs to pass
    """

    label: str
    call: Callable[[AtomicGraph], Evaluation]
    cutoff: float
    n_hops: int
    dtype: torch.dtype

    @property
    def tolerance(self) -> Tolerance:
        """Rounding allowed in this subject's precision."""
        return TOLERANCES[self.dtype]

    def graph(self, atoms: Atoms, cutoff: float | None = None) -> AtomicGraph:
        """Return the graph of a structure, by default with the subject's own cutoff."""
        return build_graph(atoms, self.cutoff if cutoff is None else cutoff, dtype=self.dtype)


def potential_subject(potential: Potential, label: str = "eager") -> Subject:
    """Return an eager potential as a subject; it is put into evaluation mode."""
    dtype = next(potential.parameters()).dtype
    potential.eval()
    return Subject(label, potential.evaluate, potential.cutoff, potential.n_hops, dtype)


def exported_subject(model: Model, label: str = "exported") -> Subject:
    """Return a loaded model file as a subject: a host that sums what the file returns."""

    def call(graph: AtomicGraph) -> Evaluation:
        energies, gradients = model(graph)
        n_atoms = graph.atomic_numbers.shape[0]
        owned = graph.structure_index[: graph.n_owned]
        stress = None
        if bool((volumes(graph.cell) > 0).all()):
            stress = stress_from_edge_gradients(gradients, graph)
        return Evaluation(
            sum_over_structures(energies[: graph.n_owned], owned, graph.n_structures),
            energies,
            forces_from_edge_gradients(gradients, graph.edge_index, n_atoms),
            stress,
        )

    return Subject(label, call, model.card.cutoff, model.card.n_hops, model.dtype)


def evaluate(subject: Subject, structure: Atoms | AtomicGraph, case: str) -> Evaluation:
    """Evaluate a structure; a failure, a wrong shape or a NaN breaks the law at hand."""
    graph = structure if isinstance(structure, AtomicGraph) else subject.graph(structure)
    n_atoms = graph.atomic_numbers.shape[0]
    try:
        found = subject.call(graph)
    except Exception as error:
        raise AssertionError(
            f"{subject.label}: {case}: evaluation failed with {type(error).__name__}: {error}"
        ) from error
    shapes = {
        "energy": (found.energy, (graph.n_structures,)),
        "energies": (found.energies, (n_atoms,)),
        "forces": (found.forces, (n_atoms, 3)),
    }
    if found.stress is not None:
        shapes["stress"] = (found.stress, (graph.n_structures, 3, 3))
    for quantity, (tensor, shape) in shapes.items():
        assert tuple(tensor.shape) == shape, (
            f"{subject.label}: {case}: {quantity} has shape {tuple(tensor.shape)}, expected {shape}"
        )
        assert tensor.dtype == torch.float64, (
            f"{subject.label}: {case}: {quantity} is {tensor.dtype}, expected torch.float64"
        )
        assert bool(torch.isfinite(tensor).all()), (
            f"{subject.label}: {case}: {quantity}: NaN or infinite values"
        )
    return found


def assert_close(
    found: Tensor | np.ndarray,
    expected: Tensor | np.ndarray,
    tolerance: Tolerance,
    what: str,
    quantity: str,
) -> None:
    """Compare and say by how much they differ; NaN never passes.

    Parameters
    ----------
    quantity : "energy", "energies", "forces" or "stress": it selects the absolute part
    """
    found, expected = (torch.as_tensor(x).detach().to(torch.float64) for x in (found, expected))
    assert found.shape == expected.shape, (
        f"{what}: {quantity} have shape {tuple(found.shape)}, expected {tuple(expected.shape)}"
    )
    if expected.numel() == 0:
        return
    is_energy = quantity in ("energy", "energies")
    difference = float((found - expected).abs().max())
    allowed = tolerance.energy if is_energy else tolerance.derivative
    allowed += tolerance.relative * float(expected.abs().max())
    assert difference <= allowed, (
        f"{what}: {quantity} differ by {difference:.3g}, allowed {allowed:.3g}"
    )


def assert_same_evaluation(
    subject: Subject,
    found: Evaluation,
    expected: Evaluation,
    case: str,
    tolerance: Tolerance | None = None,
) -> None:
    """Compare every quantity of two evaluations, by default within the subject's rounding."""
    tolerance = subject.tolerance if tolerance is None else tolerance
    what = f"{subject.label}: {case}"
    for quantity in ("energy", "energies", "forces", "stress"):
        left, right = getattr(found, quantity), getattr(expected, quantity)
        if left is None or right is None:
            assert left is right, f"{what}: {quantity} exists for one of two only"
        else:
            assert_close(left, right, tolerance, what, quantity)
