"""The two-layer perceptron that every network is built from."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["MLP", "ShiftedSoftplus"]


class ShiftedSoftplus(nn.Module):
    """ssp(x) = softplus(x) - ln 2, so that ssp(0) = 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function elementwise."""
        return functional.softplus(x) - math.log(2.0)


class MLP(nn.Module):
    """linear, activation, linear: (..., n_in) -> (..., n_out)."""

    def __init__(self, n_in: int, n_hidden: int, n_out: int, activation: nn.Module) -> None:
        super().__init__()
        self.hidden = nn.Linear(n_in, n_hidden)
        self.activation = activation
        self.out = nn.Linear(n_hidden, n_out)
        for layer in (self.hidden, self.out):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., n_in) to (..., n_out)."""
        return self.out(self.activation(self.hidden(x)))
