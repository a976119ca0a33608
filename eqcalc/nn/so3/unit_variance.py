"""Scalar layers that keep the variance at one, as e3nn scales them.

A linear layer divides by √n_in, an activation f by the root of its second moment
⟨f(z)²⟩ over a standard normal z. The moment is an integral, computed below to
rounding; e3nn estimates it from 10⁶ random numbers, to 1e-3.
"""

import math
from collections.abc import Callable
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["UnitVarianceLinear", "UnitVarianceSiLU", "UnitVarianceTanh", "second_moment_factor"]


def second_moment_factor(function: Callable[[NDArray], NDArray]) -> float:
    """Return 1/√⟨f(z)²⟩ for a standard normal z.

    By the trapezoidal rule: for a smooth integrand that decays on both sides it
    converges exponentially.

    >>> round(second_moment_factor(np.tanh), 6)
    1.592537
    """
    z, step = np.linspace(-14.0, 14.0, 1401, retstep=True)
    density = np.exp(-0.5 * z**2) / np.sqrt(2.0 * np.pi)
    return float(1.0 / np.sqrt(step * np.sum(function(z) ** 2 * density)))


class UnitVarianceLinear(nn.Module):
    """x W / √n_in with weights of unit variance: (..., n_in) -> (..., n_out).

    Parameters
    ----------
    n_constants : as of :class:`eqcalc.nn.so3.EquivariantLinear`; without them there is no bias
    """

    def __init__(self, n_in: int, n_out: int, n_constants: int = 0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_in, n_out))
        self.fan_in = n_in + n_constants
        self.bias = nn.Parameter(torch.randn(n_out)) if n_constants > 0 else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        y = x @ (self.weight / math.sqrt(self.fan_in))
        if self.bias is not None:
            y = y + self.bias / math.sqrt(self.fan_in)
        return y


class UnitVarianceSiLU(nn.Module):
    """c · silu(x), zero at zero.

    Parameters
    ----------
    factor : c; None: that of unit variance
    """

    def __init__(self, factor: Optional[float] = None) -> None:
        super().__init__()
        exact = second_moment_factor(lambda z: z / (1.0 + np.exp(-z)))
        self.factor = exact if factor is None else float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function elementwise."""
        return self.factor * functional.silu(x)


class UnitVarianceTanh(nn.Module):
    """c · tanh(x), odd.

    Parameters
    ----------
    factor : c; None: that of unit variance
    """

    def __init__(self, factor: Optional[float] = None) -> None:
        super().__init__()
        self.factor = second_moment_factor(np.tanh) if factor is None else float(factor)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function elementwise."""
        return self.factor * torch.tanh(x)
