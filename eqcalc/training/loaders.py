"""Batches of ready graphs: in a new order every epoch, or as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from eqcalc.data.batches import LabelledGraph, collate

__all__ = ["n_replayed", "training_batches", "validation_batches"]

_VALIDATION_BATCH = 50  # frames; its size changes no result


def training_batches(
    graphs: Sequence[LabelledGraph],
    batch_size: int,
    seed: int,
    *,
    replayed: Sequence[LabelledGraph] = (),
    fraction: float = 0.0,
) -> DataLoader[LabelledGraph]:
    """Return batches whose order depends on nothing but the seed and the epoch.

    Parameters
    ----------
    replayed : old frames, of which other ones are drawn in each epoch
    fraction : of the frames of an epoch that are old ones
    """
    n_drawn = n_replayed(len(graphs), fraction) if len(replayed) > 0 else 0
    order = _Shuffled(len(graphs), seed, len(replayed), n_drawn)
    return _loader([*graphs, *replayed], batch_size=batch_size, sampler=order)


def n_replayed(n_frames: int, fraction: float) -> int:
    """Return how many old frames an epoch of so many new ones has, at least one.

    >>> n_replayed(20, 0.2), n_replayed(3, 0.01)
    (5, 1)
    """
    return max(1, round(n_frames * fraction / (1.0 - fraction)))


def validation_batches(graphs: Sequence[LabelledGraph]) -> DataLoader[LabelledGraph]:
    """Return batches in the order of the graphs."""
    return _loader(graphs, batch_size=_VALIDATION_BATCH)


def _loader(graphs: Sequence[LabelledGraph], **options: Any) -> DataLoader[LabelledGraph]:
    return DataLoader(
        cast("Dataset[LabelledGraph]", graphs),  # a list serves as one
        collate_fn=collate,
        generator=torch.Generator(),  # without one it draws from the global one
        **options,
    )


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
