"""Stress of one structure, of a model or of a committee, from edge gradients.

Shapes: n_atoms, n_edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.calculator.results import spread
from eqcalc.derivatives import (
    atomic_virials_from_edge_gradients,
    virials_from_edge_gradients,
    voigt,
)
from eqcalc.graph import AtomicGraph

__all__ = ["stress_results"]


def stress_results(
    graph: AtomicGraph,
    volume: float,
    of_members: Sequence[Tensor],
    *,
    per_atom: bool,
    restored: Callable[[NDArray], NDArray],
) -> dict[str, Any]:
    """Return ``stress`` (6,) in eV/Å³ with ASE's sign and order, and its spread.

    Parameters
    ----------
    volume : Å³
    of_members : edge gradients (n_edges, 3) of every model, eV/Å
    per_atom : whether to return ``stresses`` (n_atoms, 6) too, which sum to ``stress``
    restored : puts the rows of an array into the order of the structure's atoms
    """
    gradients = of_members[0]
    if len(of_members) > 1:
        gradients = torch.stack(list(of_members)).mean(dim=0)

    def whole(of: Tensor) -> NDArray:  # (6,)
        return voigt(virials_from_edge_gradients(of, graph)[0]).cpu().numpy() / volume

    def of_atoms(of: Tensor) -> NDArray:  # (n_atoms, 6)
        virials = atomic_virials_from_edge_gradients(
            of, graph.edge_vectors, graph.edge_index, graph.n_owned
        )
        return restored(voigt(virials).cpu().numpy()) / volume

    found: dict[str, Any] = {}
    if len(of_members) > 1:
        found["stress_spread"] = spread([whole(each) for each in of_members])
        if per_atom:
            found["stresses_spread"] = spread([of_atoms(each) for each in of_members])
    if not per_atom:
        return found | {"stress": whole(gradients)}
    stresses = of_atoms(gradients)
    return found | {"stresses": stresses, "stress": stresses.sum(axis=0)}
