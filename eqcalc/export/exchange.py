"""A potential on one rank of a host: energies of owned atoms, features of ghosts by exchange.

What a network has to do for it is to read its neighbours by :mod:`eqcalc.nn.scatter` alone. Those
that cannot say so (``no_exchange``); of others it is tried: a frame is evaluated with ghosts that
are copies of its own atoms. A network that takes a ghost's row of features that were not exchanged
reads beyond their end, which torch refuses.

Shapes: n_owned atoms of a rank, n_all with its ghosts, n_edges that owned atoms receive.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Optional

import numpy as np
import torch
from torch import Tensor, nn

from eqcalc.errors import EngineError, EqcalcError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile
from eqcalc.model_file.passport import read_passport, verify
from eqcalc.native.build import find_library
from eqcalc.native.exchange import exchange, exchanged_by
from eqcalc.nn.scatter import exchanging
from eqcalc.potential import Potential

__all__ = ["differentiate", "evaluate_owned", "verify_exchange", "why_no_exchange"]

Evaluate = Callable[..., tuple[Tensor, Tensor]]
"""(atomic_numbers, edge_vectors, edge_index, weights, all_atoms) -> energies, edge gradients."""


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


def verify_exchange(file: ModelFile, evaluate: Evaluate, dtype: torch.dtype, label: str) -> None:
    """Replay a model's passport with ghosts: every other edge is sent by a copy of its sender.

    Raises
    ------
    ModelFileError : numbers differ by more than the passport allows.
    EngineError : the network reads ghosts otherwise than by exchange; or the C++ library was not
        built.
    """
    library = find_library()
    if library is None:
        raise EngineError("ranks exchange features by eqcalc's C++ library, which was not built.")

    def forward(rows: np.ndarray, n_owned: int) -> None:
        rows[n_owned:] = rows[: len(rows) - n_owned]

    def reverse(rows: np.ndarray, n_owned: int) -> None:
        rows[: len(rows) - n_owned] += rows[n_owned:]

    def with_ghosts(graph: AtomicGraph) -> tuple[Tensor, Tensor]:
        n_atoms = graph.atomic_numbers.shape[0]
        index = graph.edge_index.clone()
        index[0, 1::2] += n_atoms
        weights = torch.ones(n_atoms, dtype=torch.float64)
        all_atoms = graph.atomic_numbers.repeat(2)
        with exchanged_by(library, forward, reverse):
            return evaluate(graph.atomic_numbers, graph.edge_vectors, index, weights, all_atoms)

    name = f"{file.path} for ranks that exchange features, {label}"
    try:
        verify(read_passport(file), with_ghosts, file.card.cutoff, dtype, torch.device("cpu"), name)
    except (IndexError, RuntimeError) as error:
        if isinstance(error, EqcalcError):
            raise
        reason = str(error).strip().partition("\n")[0]
        raise EngineError(
            f"the network of '{file.path}' cannot exchange features between ranks: a call with "
            f"ghost atoms fails ({reason}). Networks read features of neighbours by "
            "eqcalc.nn.scatter.at_senders alone."
        ) from error
