"""The two-layer perceptron that every network is built from."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["MLP"]


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
