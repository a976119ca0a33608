"""The untrained network of a training file, with what only the data can say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from eqcalc import architectures
from eqcalc.data import Dataset, average_neighbours
from eqcalc.data.batches import labelled_graphs
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form
from eqcalc.training.config import TrainingConfig

__all__ = ["build_network", "complete_architecture"]


def complete_architecture(config: TrainingConfig, train: Dataset) -> dict[str, Any]:
    """Return the arguments of ``architectures.build``, completed from the training frames.

    An architecture that has these options, where the training file leaves them out, gets
    ``elements``, those of the frames, and ``avg_num_neighbors``, the mean number of edges
    that an atom of the frames receives (1 where there are none).
    """
    arguments = config.architecture_arguments()
    options = {field.name for field in fields(architectures.config_class(arguments["name"]))}
    missing = options - set(arguments)
    if "elements" in missing:
        arguments["elements"] = list(train.elements)
    if "avg_num_neighbors" in missing:
        cutoff = Potential(architectures.build(**arguments)).cutoff
        graphs = [item.graph for item in labelled_graphs(train.frames, cutoff, source=train.source)]
        arguments["avg_num_neighbors"] = average_neighbours(graphs) or 1.0
    return arguments


def build_network(arguments: Mapping[str, Any], seed: int, dtype: str) -> nn.Module:
    """Build a network in a precision, with weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return exact_form(architectures.build(**arguments).to(getattr(torch, dtype)))
