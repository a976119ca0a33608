"""Processes that train together: each has a share of every batch, and all have the same weights.

The gradients come from one traced graph of loss and forces, not from torch's ``backward``, whose
hooks torch's DistributedDataParallel waits for; so they are added up here. Losses and gradients
are sums over frames, divided by the counts of the whole batch: their sum over the processes is what
one process has, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["ALONE", "LostContact", "Team"]

_Item = TypeVar("_Item")


class LostContact(RuntimeError):
    """Another process has ended: what it raised is the reason, if it could say so."""


@contextmanager
def _in_contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise
        raise LostContact(str(error)) from error


@dataclass(frozen=True)
class Team:
    """The place of this process among those that train together.

    rank : from 0; that of 0 writes the files
    size : how many there are
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes the files."""
        return self.rank == 0

    def share(self, batch: Sequence[_Item]) -> Sequence[_Item]:
        """Return this process's part of a batch; of a short one it may be empty."""
        return batch[self.rank :: self.size]

    def total(self, values: Tensor) -> Tensor:
        """Return the sum of all processes' values."""
        if self.size == 1:
            return values
        values = values.clone()
        with _in_contact():
            dist.all_reduce(values)
        return values

    def leader_s(self, values: dict[str, float]) -> dict[str, float]:
        """Return the values of the process that leads, so that all decide the same."""
        if self.size == 1:
            return values
        content = [values]
        with _in_contact():
            dist.broadcast_object_list(content, src=0)
        return content[0]

    def add_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace gradients by their sum; one that no process has stays None."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        device = trained[0].device
        known = torch.tensor([float(p.grad is not None) for p in trained], device=device)
        known = self.total(known)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        together = self.total(torch.cat([part.flatten() for part in parts]))
        pieces = together.split([part.numel() for part in parts])
        for parameter, piece, is_known in zip(trained, pieces, known.tolist(), strict=True):
            # In the order in memory of the weight: AdamW's fused step takes it for that.
            total = torch.empty_like(parameter).copy_(piece.view_as(parameter))
            parameter.grad = total if is_known else None


ALONE = Team()
