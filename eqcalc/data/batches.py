"""Labelled frames as graphs, one by one and in batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from eqcalc.data.frames import LabelledFrame
from eqcalc.errors import DataError, GraphError
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import build_graph

__all__ = ["LabelledGraph", "collate", "labelled_graphs"]


class LabelledGraph(NamedTuple):
    """A graph and the labels of its structures, float64.

    graph : one or several structures
    energy : (n_structures,), eV
    forces : (n_atoms, 3), eV/Å; NaN where the data set has none
    stress : (n_structures, 6), eV/Å³, Voigt; NaN where the data set has none
    """

    graph: AtomicGraph
    energy: Tensor
    forces: Tensor
    stress: Tensor


def labelled_graphs(
    frames: Iterable[LabelledFrame],
    cutoff: float,
    dtype: torch.dtype = torch.float64,
    *,
    first: int = 0,
    source: str = "",
) -> list[LabelledGraph]:
    """Build the graph of every frame; edge vectors have ``dtype``.

    Parameters
    ----------
    cutoff : Å
    first, source : number of the first frame and name of the file, for messages on frames
        that do not know their origin

    Raises
    ------
    GraphError : a frame has no atoms, NaN positions or coincident atoms.
    """
    graphs = []
    for index, frame in enumerate(frames, start=first):
        try:
            graphs.append(_labelled(frame, cutoff, dtype))
        except GraphError as error:
            numbered = f"frame {index}" + (f" of {source}" if source else "")
            raise GraphError(f"{frame.origin or numbered}: {error}") from error
    return graphs


def collate(samples: Sequence[LabelledGraph]) -> LabelledGraph:
    """Join labelled graphs into one batch.

    Raises
    ------
    DataError : no sample is given.
    """
    if len(samples) == 0:
        raise DataError("a batch needs at least one frame, found none.")
    return LabelledGraph(
        graph=batch_graphs([sample.graph for sample in samples]),
        energy=torch.cat([sample.energy for sample in samples]),
        forces=torch.cat([sample.forces for sample in samples]),
        stress=torch.cat([sample.stress for sample in samples]),
    )


def _labelled(frame: LabelledFrame, cutoff: float, dtype: torch.dtype) -> LabelledGraph:
    n_atoms = len(frame.atoms)
    graph = build_graph(frame.atoms, cutoff, dtype=dtype)
    with torch.device("cpu"):  # whatever device the process makes its own tensors on
        forces = torch.full((n_atoms, 3), torch.nan, dtype=torch.float64)
        if frame.forces is not None:
            forces = torch.tensor(frame.forces, dtype=torch.float64)
        stress = torch.full((1, 6), torch.nan, dtype=torch.float64)
        if frame.stress is not None:
            stress = torch.tensor(frame.stress, dtype=torch.float64).reshape(1, 6)
        energy = torch.tensor([frame.energy], dtype=torch.float64)
    return LabelledGraph(graph, energy, forces, stress)
