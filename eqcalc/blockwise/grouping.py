"""Many structures through a model in few calls.

Shapes: n_atoms, n_edges, n_structures of the joined graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import NamedTuple, Optional, TypeVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.derivatives import (
    ForceSum,
    forces_from_edge_gradients,
    stress_from_edge_gradients,
    voigt,
)
from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph

__all__ = [
    "MAX_EDGES",
    "Predictions",
    "check_max_edges",
    "collect",
    "grouped",
    "largest_group",
    "on_device",
    "size_of",
]

MAX_EDGES = 20_000
"""Edges of one model call: enough to keep a processor busy, small enough for any memory."""

T = TypeVar("T")


class Predictions(NamedTuple):
    """What a model says of all structures of a graph, float64.

    energies : (n_atoms,), eV
    forces : (n_atoms, 3), eV/Å
    stress : (n_structures, 6), eV/Å³, Voigt; NaN where a direction is open
    """

    energies: NDArray
    forces: NDArray
    stress: NDArray


def grouped(items: Iterable[T], size: Callable[[T], int], largest: int) -> Iterator[list[T]]:
    """Yield neighbouring items whose sizes add up to ``largest`` at most; items are asked for late.

    An item that is larger stands alone.

    >>> list(grouped([3, 4, 2, 9, 1], size=lambda item: item, largest=8))
    [[3, 4], [2], [9], [1]]
    """
    group: list[T] = []
    total = 0
    for item in items:
        n = size(item)
        if group and total + n > largest:
            yield group
            group, total = [], 0
        group.append(item)
        total += n
    if group:
        yield group


def size_of(graph: AtomicGraph) -> int:
    """Return the number of edges, or of atoms where there are more of them."""
    return max(graph.edge_index.shape[1], graph.atomic_numbers.shape[0])


def largest_group(max_edges: Optional[int]) -> int:
    """Return up to how many edges structures are joined where a call has ``max_edges`` at most.

    >>> largest_group(None), largest_group(500), largest_group(200_000)
    (20000, 500, 20000)
    """
    return MAX_EDGES if max_edges is None else min(MAX_EDGES, max_edges)


def check_max_edges(max_edges: Optional[int]) -> None:
    """Refuse a limit that no call can keep.

    Raises
    ------
    ConfigError : it is no whole number, or below 1.
    """
    if max_edges is None:
        return
    is_whole = isinstance(max_edges, Integral) and not isinstance(max_edges, bool)
    if not is_whole or max_edges < 1:
        raise ConfigError(f"max_edges must be at least 1, found {max_edges}.")


def on_device(graph: AtomicGraph, device: torch.device) -> AtomicGraph:
    """Return a graph whose tensors lie on a device."""
    return graph._replace(
        atomic_numbers=graph.atomic_numbers.to(device),
        edge_index=graph.edge_index.to(device),
        edge_vectors=graph.edge_vectors.to(device),
        structure_index=graph.structure_index.to(device),
        cell=graph.cell.to(device),
    )


def collect(
    graph: AtomicGraph,
    energies: Tensor,
    gradients: Tensor,
    sum_forces: ForceSum = forces_from_edge_gradients,
) -> Predictions:
    """Return what a model's answer says of all structures.

    Parameters
    ----------
    energies : (n_atoms,), eV; gradients : (n_edges, 3), eV/Å
    sum_forces : one of :data:`eqcalc.derivatives.REDUCTIONS`
    """
    forces = sum_forces(gradients, graph.edge_index, graph.atomic_numbers.shape[0])
    stress = voigt(stress_from_edge_gradients(gradients, graph))
    return Predictions(
        energies.to(torch.float64).cpu().numpy(), forces.cpu().numpy(), stress.cpu().numpy()
    )
