"""silu for training by forces, whose second derivative is what a step spends its time on.

torch makes the derivative of ``silu_backward`` of some thirty operations over all edges; here it
is one expression,

    silu'' = s (1 - s) (2 + x (1 - 2 s)),   s = sigmoid(x).

Higher derivatives are those of these operations, and none is an approximation.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["silu"]


def silu(x: Tensor) -> Tensor:
    """Return x sigmoid(x), elementwise."""
    return _Silu.apply(x)


class _Silu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return functional.silu(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _SiluBackward.apply(gradient, x)


class _SiluBackward(torch.autograd.Function):
    """gradient · silu'(x)."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(gradient, x)
        return torch.ops.aten.silu_backward(gradient, x)

    @staticmethod
    def backward(ctx: Any, other: Tensor) -> tuple[Tensor, Tensor]:
        gradient, x = ctx.saved_tensors
        s = torch.sigmoid(x)
        second = torch.addcmul(s, s, s, value=-1.0) * torch.addcmul(x + 2.0, x, s, value=-2.0)
        return _SiluBackward.apply(other, x), other * gradient * second
