"""The moving average of the weights, which is what is validated and saved.

    w̄ <- d w̄ + (1 - d) w,    d = min(decay, (1 + n) / (10 + n))    after n steps

A decay of 0.999 remembers a thousand steps. In a run that has not made so many the average
would still be the weights it began with; so it begins short, and grows with the steps made
(as in the moving averages of TensorFlow).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["decay_after", "warming_average"]


def decay_after(n_steps: int, decay: float) -> float:
    """Return the decay that is used after so many steps.

    >>> decay_after(0, 0.999), round(decay_after(280, 0.999), 3), decay_after(10**6, 0.999)
    (0.1, 0.969, 0.999)
    """
    return min(decay, (1.0 + n_steps) / (10.0 + n_steps))


def warming_average(
    decay: float,
) -> Callable[[list[Tensor], list[Tensor], Tensor | int], None]:
    """Return what :class:`torch.optim.swa_utils.AveragedModel` takes as ``multi_avg_fn``."""

    @torch.no_grad()
    def average(averaged: list[Tensor], current: list[Tensor], n_averaged: Tensor | int) -> None:
        weight = 1.0 - decay_after(int(n_averaged), decay)
        pairs = zip(averaged, current, strict=True)
        moving = [(mean, value) for mean, value in pairs if mean.is_floating_point()]
        torch._foreach_lerp_(
            [mean for mean, _ in moving], [value.to(mean.dtype) for mean, value in moving], weight
        )
        for mean, value in zip(averaged, current, strict=True):
            if not mean.is_floating_point():
                mean.copy_(value)

    return average
