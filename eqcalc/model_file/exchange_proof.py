"""The passport of a model, replayed as one rank of a host would compute it.

A frame is evaluated with ghosts that are copies of its own atoms. A network that takes a ghost's
row of features that were not exchanged reads beyond their end, which torch refuses.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from eqcalc.errors import EngineError, EqcalcError
from eqcalc.graph import AtomicGraph
from eqcalc.model_file.archive import ModelFile
from eqcalc.model_file.passport import read_passport, verify
from eqcalc.native.build import find_library
from eqcalc.native.exchange import exchanged_by

__all__ = ["Evaluate", "verify_exchange"]

Evaluate = Callable[..., tuple[Tensor, Tensor]]
"""(atomic_numbers, edge_vectors, edge_index, weights, all_atoms) -> energies, edge gradients."""


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
