"""A potential on one rank of a host: energies of owned atoms, features of ghosts by exchange.

What a network has to do for it is to read its neighbours by :mod:`eqcalc.nn.scatter` alone. Those
that cannot say so (``no_exchange``); of others it is tried
(:mod:`eqcalc.model_file.exchange_proof`).

Shapes: n_owned atoms of a rank, n_all with its ghosts, n_edges that owned atoms receive.
"""

from __future__ import annotations

import functools
from typing import Optional

import torch
from torch import Tensor, nn

from eqcalc.graph import AtomicGraph
from eqcalc.native.exchange import exchange
from eqcalc.nn.scatter import exchanging
from eqcalc.potential import Potential

__all__ = ["differentiate", "evaluate_owned", "why_no_exchange"]


def differentiate(
    potential: Potential,
    atomic_numbers: Tensor,
    edge_vectors: Tensor,
    edge_index: Tensor,
    weights: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return energies (n_atoms,) and the edge gradients (n_edges, 3) of their weighted sum."""
    with torch.enable_grad():
        graph = AtomicGraph(
            atomic_numbers,
            edge_index,
            edge_vectors,
            torch.zeros_like(atomic_numbers),
            1,
            atomic_numbers.shape[0],
            edge_vectors.new_zeros((1, 3, 3)),
        )
        energies, gradients = potential.differentiate(graph, weights)
    return energies.detach(), gradients


def evaluate_owned(
    potential: Potential,
    atomic_numbers: Tensor,
    edge_vectors: Tensor,
    edge_index: Tensor,
    weights: Tensor,
    all_atoms: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return energies (n_owned,) and the edge gradients (n_edges, 3) of the sum of all ranks'.

    See :func:`eqcalc.export.compile.compile_exchange` for the tensors.
    """
    with exchanging(functools.partial(exchange, n_all=all_atoms.shape[0])):
        return differentiate(potential, atomic_numbers, edge_vectors, edge_index, weights)


def why_no_exchange(network: nn.Module) -> Optional[str]:
    """Return why features of a network's atoms cannot be exchanged, as far as it is declared."""
    why = getattr(network, "no_exchange", None)
    if why is None:
        return None
    return f"{type(network).__name__} cannot exchange features between ranks: {why}"
