"""Blocks of directional message passing, whose messages live on edges j→i.

Source: Gasteiger, Groß, Günnemann, ICLR (2020), arXiv:2003.03123, figure 4. The equations
stand in :mod:`eqcalc.architectures.dimenet`.

Shapes: n_atoms, n_edges, n_columns (edges k→j of an edge j→i, see
:mod:`eqcalc.nn.triplets`), F features, n_radial, n_out.
"""

import torch
from torch import Tensor, nn

from eqcalc.nn.scatter import sum_at_receivers

__all__ = ["Embedding", "Interaction", "Output", "Residual", "dense"]

_N_ELEMENTS = 119  # row 0 is unused: atomic numbers index the embedding directly


class Embedding(nn.Module):
    """m_ji = σ(W [h_j, h_i, σ(W rbf_ji + b)] + b): the embedding block, (n_edges, F)."""

    def __init__(self, n_features: int, n_radial: int, activation: nn.Module) -> None:
        super().__init__()
        self.species = nn.Embedding(_N_ELEMENTS, n_features)
        self.radial = dense(n_radial, n_features)
        self.mix = dense(3 * n_features, n_features)
        self.activation = activation

    def forward(self, atomic_numbers: Tensor, edge_index: Tensor, radial: Tensor) -> Tensor:
        species = self.species(atomic_numbers)  # (n_atoms, F)
        senders = species.index_select(0, edge_index[0])
        receivers = species.index_select(0, edge_index[1])
        radial = self.activation(self.radial(radial))
        return self.activation(self.mix(torch.cat([senders, receivers, radial], dim=1)))


class Interaction(nn.Module):
    """Update the messages from their neighbours: the interaction block.

    Parameters
    ----------
    n_before_skip, n_after_skip : residual layers before and after m is added
    radial : n_radial -> F, applied to rbf_kj
    gather : (x_kj, angular, incoming) -> Σ_k over the triplets of each edge, (n_edges, F)
    """

    def __init__(
        self,
        n_features: int,
        n_before_skip: int,
        n_after_skip: int,
        activation: nn.Module,
        radial: nn.Module,
        gather: nn.Module,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.own = dense(n_features, n_features)
        self.neighbour = dense(n_features, n_features)
        self.radial = radial
        self.gather = gather
        self.before_skip = nn.Sequential(
            *(Residual(n_features, activation) for _ in range(n_before_skip))
        )
        self.skip = dense(n_features, n_features)
        self.after_skip = nn.Sequential(
            *(Residual(n_features, activation) for _ in range(n_after_skip))
        )

    def forward(
        self, messages: Tensor, radial: Tensor, angular: Tensor, incoming: Tensor
    ) -> Tensor:
        x_ji = self.activation(self.own(messages))  # (n_edges, F)
        x_kj = self.activation(self.neighbour(messages)) * self.radial(radial)
        y = self.before_skip(x_ji + self.gather(x_kj, angular, incoming))
        return self.after_skip(messages + self.activation(self.skip(y)))


class Output(nn.Module):
    """Sum the messages that an atom receives and read them out: (n_atoms, out_dim).

    Parameters
    ----------
    radial : n_radial -> F, applied to rbf_ji
    widen : F -> n_hidden, applied to the sum over j
    n_layers : dense layers between the sum and the last, linear one
    """

    def __init__(
        self,
        radial: nn.Module,
        widen: nn.Module,
        n_hidden: int,
        n_layers: int,
        n_out: int,
        activation: nn.Module,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.radial = radial
        self.widen = widen
        layers: list[nn.Module] = []
        for _ in range(n_layers):
            layers += [dense(n_hidden, n_hidden), activation]
        self.layers = nn.Sequential(*layers)
        self.out = dense(n_hidden, n_out, bias=False)

    def forward(
        self, messages: Tensor, radial: Tensor, receivers: Tensor, n_atoms: int
    ) -> Tensor:
        summed = sum_at_receivers(self.radial(radial) * messages, receivers, n_atoms)
        return self.out(self.layers(self.widen(summed)))


class Residual(nn.Module):
    """y + σ(W σ(W y + b) + b)."""

    def __init__(self, n_features: int, activation: nn.Module) -> None:
        super().__init__()
        self.first = dense(n_features, n_features)
        self.second = dense(n_features, n_features)
        self.activation = activation

    def forward(self, y: Tensor) -> Tensor:
        return y + self.activation(self.second(self.activation(self.first(y))))


def dense(n_in: int, n_out: int, bias: bool = True) -> nn.Linear:
    """Return a linear layer with random orthogonal weights of Glorot's variance, b = 0."""
    layer = nn.Linear(n_in, n_out, bias=bias)
    nn.init.orthogonal_(layer.weight)
    with torch.no_grad():
        variance = layer.weight.square().mean()
        layer.weight.mul_(torch.sqrt(2.0 / ((n_in + n_out) * variance)))
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
