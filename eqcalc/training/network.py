"""What a training run starts from: the potential and the graphs, each built once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Optional

import torch
from ase.data import covalent_radii
from torch import nn

from eqcalc import architectures
from eqcalc.data import Dataset, average_neighbours, reference_energies
from eqcalc.data.batches import LabelledGraph, labelled_graphs
from eqcalc.data.plausibility import neighbour_findings
from eqcalc.elements import atomic_number, symbols_of
from eqcalc.errors import ConfigError, DataError, listing
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import TrainingData, named
from eqcalc.training.randomness import seeded
from eqcalc.training.scale import Scale, scale_of

__all__ = [
    "Start",
    "build_network",
    "build_start",
    "graphs_of",
    "notes_on_neighbours",
    "repulsion",
]


class Start(NamedTuple):
    """What a training run starts from.

    architecture : arguments of ``architectures.build``, completed from the training frames
    potential : of that network: seeded weights, reference energies, scale
    train, validation : the graph of every frame, with the potential's cutoff and dtype
    notes : what is odd about these graphs
    replayed, replay_validation : graphs of old frames, that are trained on and that are not
    said : what a user is told before the training begins
    model : the model file that a fine-tuning begins with; empty otherwise
    parent : what the run's manifest says of the model that it comes from
    """

    architecture: dict[str, Any]
    potential: Potential
    train: list[LabelledGraph]
    validation: list[LabelledGraph]
    notes: list[str]
    replayed: Sequence[LabelledGraph] = ()
    replay_validation: Sequence[LabelledGraph] = ()
    said: Sequence[str] = ()
    model: bytes = b""
    parent: Optional[Mapping[str, Any]] = None


def build_start(config: TrainingConfig, data: TrainingData) -> Start:
    """Build the untrained potential and the graphs.

    An architecture that has these options, where the training file leaves them out, gets
    ``elements``, those of the training frames, and ``avg_num_neighbors``, the mean number of
    edges that an atom of these frames receives (1 where there are none).

    The graph of every frame is built once, and the network once; only where
    ``avg_num_neighbors`` has to be counted is it built twice, as a network tells the cutoff
    that the counting needs.

    Raises
    ------
    ConfigError : an option that only building the network finds wrong, ``elements`` without
        one of the frames', or a cutoff that changes with ``avg_num_neighbors``.
    DataError : an element has no reference energy, no atom has a neighbour, or no label says
        how large the energies are.
    GraphError : a frame has NaN positions or coincident atoms.
    """
    arguments = config.architecture_arguments()
    options = {field.name for field in fields(architectures.config_class(arguments["name"]))}
    missing = options - set(arguments)
    if "elements" in missing:
        arguments["elements"] = list(data.train.elements)
    elif "elements" in options:
        _refuse_missing_elements(arguments["elements"], data.train)
    references = reference_energies(
        data.train.frames, config.reference_method, data.train.isolated_atoms
    )
    scale = scale_of(data.train, references, config.training)
    potential = _build_potential(config, arguments, references, scale)
    train, validation = (graphs_of(each, potential) for each in (data.train, data.validation))
    notes = notes_on_neighbours(data, (train, validation), potential.cutoff, config)
    if "avg_num_neighbors" in missing:
        n_neighbours = average_neighbours([item.graph for item in train]) or 1.0
        arguments["avg_num_neighbors"] = n_neighbours
        cutoff = potential.cutoff
        potential = _build_potential(config, arguments, references, scale)
        if potential.cutoff != cutoff:
            raise ConfigError(
                f"the cutoff of {arguments['name']} must not depend on avg_num_neighbors, found "
                f"{cutoff} Å by default and {potential.cutoff} Å with {n_neighbours:g}; state "
                "avg_num_neighbors in [architecture]."
            )
    return Start(
        arguments, potential, train, validation, [*notes, *([scale.note] if scale.note else [])]
    )


def build_network(arguments: Mapping[str, Any], seed: int, dtype: str) -> nn.Module:
    """Build a network in a precision, with weights that depend on the seed alone."""
    with seeded(seed):
        return exact_form(architectures.build(**arguments).to(getattr(torch, dtype)))


def repulsion(config: TrainingConfig, elements: Collection[int]) -> Optional[ZBL]:
    """Return the repulsion of nuclei that a training file asks for.

    Parameters
    ----------
    elements : atomic numbers of the potential
    """
    cutoff, scale = config.training.zbl_cutoff, config.training.zbl_radii
    if cutoff is not None:
        return ZBL(cutoff)
    if scale is None:
        return None
    radii = scale * covalent_radii[sorted(elements)]
    cutoffs = radii[:, None] + radii[None, :]
    return ZBL(cutoffs.max(), elements=sorted(elements), pair_cutoffs=cutoffs.tolist())


def graphs_of(dataset: Dataset, potential: Potential) -> list[LabelledGraph]:
    """Return the graph of every frame, with a potential's cutoff and precision."""
    dtype = next(potential.parameters()).dtype
    return labelled_graphs(dataset.frames, potential.cutoff, dtype, source=dataset.source)


def notes_on_neighbours(
    data: TrainingData,
    graphs: tuple[list[LabelledGraph], list[LabelledGraph]],
    cutoff: float,
    config: TrainingConfig,
) -> list[str]:
    """Refuse a cutoff below every distance; return what is odd about atoms without neighbours.

    Raises
    ------
    DataError : there is one, and ``trust_data`` is not said.
    """
    notes: list[str] = []
    for dataset, labelled in zip((data.train, data.validation), graphs, strict=True):
        found = neighbour_findings(dataset.frames, [item.graph for item in labelled], cutoff)
        if found.refused and not config.data.trust_data:
            raise DataError(
                f"{dataset.source}: {'; '.join(found.refused)}. trust_data = true in [data] "
                "takes the frames as they are."
            )
        notes += [f"{dataset.source}: {sentence}." for sentence in (*found.refused, *found.odd)]
    return notes


def _refuse_missing_elements(given: Collection[Any], train: Dataset) -> None:
    """Refuse a network without parameters for a frame's element: its energies would be NaN."""
    missing = set(train.elements) - {atomic_number(element) for element in given}
    if missing:
        frames = [f for f in train.frames if set(f.atoms.numbers.tolist()) & missing]
        raise ConfigError(
            f"elements in [architecture] lacks {listing(symbols_of(missing))} of the training "
            f"frames ({named(frames, train)}); add them, or leave elements out."
        )


def _build_potential(
    config: TrainingConfig,
    arguments: Mapping[str, Any],
    references: Mapping[int, float],
    scale: Scale,
) -> Potential:
    return Potential(
        build_network(arguments, config.seed, str(config.dtype)),
        references,
        scale=scale.value,
        exact_isolated_atoms=config.data.isolated_atoms_are_exact,
        zbl=repulsion(config, references),
    )
