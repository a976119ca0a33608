"""Call a model on graphs of any size: whole where memory suffices, else in blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch
from ase.data import chemical_symbols
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.blockwise.blocks import Block, BlockCutter, halved
from eqcalc.blockwise.grouping import MAX_EDGES, check_max_edges
from eqcalc.blockwise.memory import (
    MemoryLaw,
    available_memory,
    measure_law,
    release_free_memory,
)
from eqcalc.device_use import is_out_of_memory
from eqcalc.engines import Model
from eqcalc.errors import ConfigError, EqcalcError, NotEnoughMemoryError
from eqcalc.graph import AtomicGraph

__all__ = ["Blockwise", "MemoryForecast"]

_SHARE = 0.8  # of the available memory: allocators lose some, other programs take some
_STEP_DOWN = 0.75  # of the edges with which memory ran out
_GROWTH = 1.1  # edges of a structure, over the last one that was judged, before a new look

Coordinates = Callable[[], NDArray]
"""Asked for late: (n_atoms, 3) of the graph's atoms, Å, for blocks that are compact."""


@dataclass(frozen=True)
class MemoryForecast:
    """What evaluating a structure takes.

    needed : bytes of one model call on the whole
    available : bytes; None where the system does not tell
    n_blocks : model calls of an evaluation; 1 means the whole
    work : edges of all blocks over edges of the structure
    """

    needed: int
    available: Optional[int]
    n_blocks: int
    work: float

    def __str__(self) -> str:
        """Describe it in a line.

        >>> print(MemoryForecast(1_240_000_000, 20_000_000_000, 1, 1.0))
        about 1.2 GB of 20 GB
        >>> print(MemoryForecast(60_000_000_000, 20_000_000_000, 8, 2.7))
        about 60 GB, 20 GB are available: evaluated in 8 blocks, 2.7 times the work
        """
        if self.n_blocks == 1:
            of = "" if self.available is None else f" of {_gb(self.available)}"
            return f"about {_gb(self.needed)}{of}"
        there = "" if self.available is None else f", {_gb(self.available)} are available"
        return (
            f"about {_gb(self.needed)}{there}: evaluated in {self.n_blocks} blocks, "
            f"{self.work:.2g} times the work"
        )


class Blockwise:
    """Calls one model, in blocks where a call would be too large.

    Parameters
    ----------
    max_edges : of one call at most; None: as many as the forecast finds memory for, and
        fewer once memory has run out

    Raises
    ------
    ConfigError : ``max_edges`` below 1.
    """

    def __init__(self, max_edges: Optional[int] = None) -> None:
        check_max_edges(max_edges)
        self.max_edges = max_edges
        self.law: Optional[MemoryLaw] = None
        self.available: Optional[int] = None  # when it was last looked at
        self._judged_edges = float(MAX_EDGES)  # below, no network needs a forecast
        self._most_edges = math.inf  # of a call, learnt where memory ran out

    def __call__(
        self, model: Model, graph: AtomicGraph, coordinates: Coordinates
    ) -> tuple[Tensor, Tensor]:
        """Return energies (n_atoms,) in eV and edge_gradients (n_edges, 3) in eV/Å.

        Raises
        ------
        NotEnoughMemoryError : memory does not suffice for the smallest block.
        ConfigError : ``max_edges`` is less than the smallest block has.
        """
        if self.max_edges is None:
            self._look(model, graph)
        if self._fits(graph.edge_index.shape[1], graph.atomic_numbers.shape[0]):
            outputs = self._attempt(model, graph)
            if outputs is not None:
                return outputs
        energies = torch.zeros(
            graph.atomic_numbers.shape, dtype=torch.float64, device=graph.edge_vectors.device
        )
        gradients = torch.zeros_like(graph.edge_vectors)

        def evaluate(block: Block) -> bool:
            outputs = self._attempt(model, block.of(graph))
            if outputs is None:
                return False
            owned = slice(0, block.n_owned)
            energies[block.atoms[owned]] = outputs[0][owned].to(torch.float64)
            gradients.index_add_(0, block.edges, outputs[1])
            return True

        self._for_each_block(model, graph, coordinates(), evaluate)
        return energies, gradients

    def forecast(
        self, model: Model, graph: AtomicGraph, coordinates: Coordinates
    ) -> Optional[MemoryForecast]:
        """Return what evaluating a graph will take; None for one that fits any memory.

        None as well where the system does not tell what a call needs.

        Raises
        ------
        NotEnoughMemoryError, ConfigError : as a call does.
        """
        n_edges, n_atoms = graph.edge_index.shape[1], graph.atomic_numbers.shape[0]
        if n_edges <= MAX_EDGES:
            return None
        self._look(model, graph)
        if self.law is None:
            return None
        blocks: list[int] = []

        def count(block: Block) -> bool:
            blocks.append(len(block.edges))
            return True

        if self._fits(n_edges, n_atoms):
            blocks.append(n_edges)
        else:
            self._for_each_block(model, graph, coordinates(), count)
        needed = self.law.needed(n_edges, n_atoms)
        return MemoryForecast(needed, self.available, len(blocks), sum(blocks) / n_edges)

    def _look(self, model: Model, graph: AtomicGraph) -> None:
        """Measure the model once, and look at the memory again where a structure is larger."""
        n_edges = graph.edge_index.shape[1]
        if n_edges <= self._judged_edges:
            return
        self._judged_edges = _GROWTH * n_edges
        if self.law is None:
            self.law = measure_law(model.plain, graph)
        self.available = available_memory(model.device)

    def _fits(self, n_edges: int, n_atoms: int) -> bool:
        if self.max_edges is not None:
            return n_edges <= min(self.max_edges, self._most_edges)
        if n_edges > self._most_edges:
            return False
        if self.law is None or self.available is None:
            return True
        return self.law.needed(n_edges, n_atoms) <= _SHARE * self.available

    def _attempt(self, model: Model, graph: AtomicGraph) -> Optional[tuple[Tensor, Tensor]]:
        """Return the model's answer, or None where memory ran out."""
        n_edges = graph.edge_index.shape[1]
        try:
            return model(graph)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Not inside the handler: there, the traceback still holds what the call had made.
        self._most_edges = min(self._most_edges, int(_STEP_DOWN * n_edges))
        release_free_memory(model.device)
        return None

    def _for_each_block(
        self,
        model: Model,
        graph: AtomicGraph,
        coordinates: NDArray,
        use: Callable[[Block], bool],
    ) -> None:
        """Cut blocks that fit and use each; one that cannot be used is cut again."""
        cutter = BlockCutter(graph.edge_index, graph.atomic_numbers.shape[0], model.card.n_hops)
        device = graph.edge_index.device
        waiting = [np.arange(graph.n_owned)]
        while waiting:
            owned = waiting.pop()
            block = cutter.cut(torch.from_numpy(owned).to(device))
            if self._fits(len(block.edges), len(block.atoms)) and use(block):
                continue
            if len(owned) == 1:
                raise self._refusal(model, graph, block)
            waiting += reversed(halved(owned, coordinates))

    def _refusal(self, model: Model, graph: AtomicGraph, block: Block) -> EqcalcError:
        """Return what is wrong where even the block of one atom is too large."""
        n_edges = len(block.edges)
        # By its element: its number here need not be that in the user's structure.
        symbol = chemical_symbols[int(graph.atomic_numbers[block.atoms[0]])]
        alone = (
            f"the energy of one {symbol} atom alone depends on {n_edges} edges within "
            f"{model.card.n_hops} steps"
        )
        if self.max_edges is not None and n_edges > self.max_edges:
            return ConfigError(
                f"max_edges={self.max_edges} is too few: {alone}; give at least so many, and "
                "several times as many for speed."
            )
        n_atoms, whole = graph.atomic_numbers.shape[0], graph.edge_index.shape[1]
        needs = ""
        if self.law is not None:
            needs = f", which takes about {_gb(self.law.needed(n_edges, len(block.atoms)))}"
            if self.available is not None:
                needs += f" of {_gb(self.available)}"
        return NotEnoughMemoryError(
            f"the memory of {model.device} does not suffice for model '{model.card.name}' on "
            f"these {n_atoms} atoms with {whole} edges, not even in blocks: {alone}{needs}. Free "
            "memory, use float32, or a model of fewer channels or a shorter cutoff."
        )


def _gb(n_bytes: float) -> str:
    """Return two digits of gigabytes."""
    gigabytes = n_bytes / 1e9
    return f"{gigabytes:.2g} GB" if gigabytes < 100 else f"{gigabytes:.0f} GB"
