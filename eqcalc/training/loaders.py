"""Batches of ready graphs: in a new order every epoch, or as they come."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Union, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from eqcalc.data import LabelledFrame
from eqcalc.data.batches import LabelledGraph, collate
from eqcalc.errors import DataError
from eqcalc.training.batch_options import BatchOptions
from eqcalc.training.team import ALONE, Team

__all__ = [
    "FilledBatches",
    "n_replayed",
    "refuse_large_frames",
    "training_batches",
    "validation_batches",
]

_FEW_EDGES = 10_000  # of a validation batch, whose size changes no result: no memory to speak of


def training_batches(
    graphs: Sequence[LabelledGraph],
    options: BatchOptions,
    seed: int,
    *,
    replayed: Sequence[LabelledGraph] = (),
    fraction: float = 0.0,
    team: Team = ALONE,
) -> DataLoader[LabelledGraph]:
    """Return batches whose order depends on nothing but the seed and the epoch.

    Parameters
    ----------
    options : the bound of a batch
    replayed : old frames, of which other ones are drawn in each epoch
    fraction : of the frames of an epoch that are old ones
    team : processes that share the batches; a share without a frame is one frame without labels
    """
    n_drawn = n_replayed(len(graphs), fraction) if len(replayed) > 0 else 0
    order = _Shuffled(len(graphs), seed, len(replayed), n_drawn)
    every = [*graphs, *replayed]
    _, bound = options.batch_bound
    batches = FilledBatches(order, options.batch_weights(every), bound)
    batches.team = team
    return _loader(_Graphs(every), batch_sampler=batches)


def n_replayed(n_frames: int, fraction: float) -> int:
    """Return how many old frames an epoch of so many new ones has, at least one.

    >>> n_replayed(20, 0.2), n_replayed(3, 0.01)
    (5, 1)
    """
    return max(1, round(n_frames * fraction / (1.0 - fraction)))


def validation_batches(
    graphs: Sequence[LabelledGraph], options: BatchOptions
) -> DataLoader[LabelledGraph]:
    """Return batches in the order of the graphs, no larger than those of the training may be.

    With ``batch_size`` no larger than so many of the largest graph, or of few edges in any case.
    """
    name, bound = options.batch_bound
    if name == "batch_size":
        sizes = (each.graph for each in graphs)
        weights = [graph.edge_index.shape[1] + graph.atomic_numbers.shape[0] for graph in sizes]
        bound = max(bound * max(weights, default=0), _FEW_EDGES)
    else:
        weights = options.batch_weights(graphs)
    return _loader(graphs, batch_sampler=FilledBatches(range(len(graphs)), weights, bound))


def refuse_large_frames(
    frames: Sequence[LabelledFrame], graphs: Sequence[LabelledGraph], options: BatchOptions
) -> None:
    """Refuse frames that no batch has room for.

    Raises
    ------
    DataError : there is one; the message names the largest.
    """
    name, bound = options.batch_bound
    weights = options.batch_weights(graphs)
    largest = max(range(len(weights)), key=weights.__getitem__, default=None)
    if largest is None or weights[largest] <= bound:
        return
    n_large = sum(weight > bound for weight in weights)
    what = name.removeprefix("batch_")
    raise DataError(
        f"{frames[largest].origin or f'frame {largest}'} has {weights[largest]} {what}, more than "
        f"a batch may have ({name} = {bound}); so have {n_large} of {len(weights)} frames. Set "
        f"{name} = {weights[largest]} or more, or leave them out."
    )


def _loader(
    graphs: Union[Sequence[LabelledGraph], Dataset[LabelledGraph]], **options: Any
) -> DataLoader[LabelledGraph]:
    return DataLoader(
        cast("Dataset[LabelledGraph]", graphs),  # a list serves as one
        collate_fn=collate,
        generator=torch.Generator(),  # without one it draws from the global one
        **options,
    )


class FilledBatches(Sampler[list[int]]):
    """Batches that take frames in their order as long as the bound holds.

    Its number of batches may be another one in each epoch, so it has no length.

    sampler : the order; Lightning sets its epoch
    weights : what each frame takes of the bound
    bound : what a batch holds at most; a frame that takes more stands alone

    A process of several sees its share of each batch; where that is empty, ``~k`` for a frame k.
    """

    def __init__(self, sampler: Iterable[int], weights: Sequence[int], bound: int) -> None:
        self.sampler, self.weights, self.bound = sampler, weights, bound
        self.team = ALONE

    def __iter__(self) -> Iterator[list[int]]:
        batch: list[int] = []
        room = self.bound
        for k in self.sampler:
            if batch and self.weights[k] > room:
                yield self._share(batch)
                batch, room = [], self.bound
            batch.append(k)
            room -= self.weights[k]
        if batch:
            yield self._share(batch)

    def _share(self, batch: list[int]) -> list[int]:
        return list(self.team.share(batch)) or [~batch[0]]

    @property
    def n_batches(self) -> int:
        """How many batches the present epoch has."""
        return sum(1 for _ in self)


class _Graphs(Dataset[LabelledGraph]):
    """Graphs by their numbers; ``~k`` is that of k without its labels, which teaches nothing."""

    def __init__(self, graphs: Sequence[LabelledGraph]) -> None:
        self._graphs = graphs

    def __getitem__(self, k: int) -> LabelledGraph:
        if k >= 0:
            return self._graphs[k]
        graph, *labels = self._graphs[~k]
        return LabelledGraph(graph, *(torch.full_like(each, torch.nan) for each in labels))

    def __len__(self) -> int:
        return len(self._graphs)


class _Shuffled(Sampler[int]):
    """An order for every epoch that depends on nothing but seed and epoch.

    n_frames : which come all, before the old frames in the list
    n_old, n_drawn : old frames, and how many of them come in an epoch: different ones, as long
        as there are so many
    """

    def __init__(self, n_frames: int, seed: int, n_old: int = 0, n_drawn: int = 0) -> None:
        self.n_frames, self.seed, self.epoch = n_frames, seed, 0
        self.n_old, self.n_drawn = n_old, n_drawn

    def __len__(self) -> int:
        return self.n_frames + self.n_drawn

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.n_drawn == 0:
            return iter(torch.randperm(self.n_frames, generator=generator).tolist())
        drawn: list[int] = []
        while len(drawn) < self.n_drawn:
            drawn += torch.randperm(self.n_old, generator=generator).tolist()
        chosen = [*range(self.n_frames), *(self.n_frames + k for k in drawn[: self.n_drawn])]
        return iter([chosen[k] for k in torch.randperm(len(chosen), generator=generator)])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch
