"""Batches of ready graphs: in a new order every epoch, or as they come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from eqcalc.data.batches import LabelledGraph, collate

__all__ = ["training_batches", "validation_batches"]

_VALIDATION_BATCH = 50  # frames; its size changes no result


def training_batches(
    graphs: Sequence[LabelledGraph], batch_size: int, seed: int
) -> DataLoader[LabelledGraph]:
    """Return batches whose order depends on nothing but the seed and the epoch."""
    return _loader(graphs, batch_size=batch_size, sampler=_Shuffled(len(graphs), seed))


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
    """An order for every epoch that depends on nothing but seed and epoch."""

    def __init__(self, n_frames: int, seed: int) -> None:
        self.n_frames, self.seed, self.epoch = n_frames, seed, 0

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.n_frames, generator=generator).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch
