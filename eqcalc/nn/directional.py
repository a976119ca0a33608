"""Blocks of directional message passing, whose messages live on edges j→i.

Source: Gasteiger, Groß, Günnemann, ICLR (2020), arXiv:2003.03123, figure 4. The equations
stand in :mod:`eqcalc.architectures.dimenet`.

Shapes: n_atoms, n_edges, n_columns (edges that an atom receives or sends, see
:mod:`eqcalc.nn.triplets`), F features, n_radial, n_spherical, n_out.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqcalc.elements import N_ELEMENTS
from eqcalc.nn.bessel import legendre_basis
from eqcalc.nn.scatter import sum_at_receivers
from eqcalc.nn.triplets import Triplets, lay_out

__all__ = [
    "AngularBasis",
    "Embedding",
    "Interaction",
    "Output",
    "Residual",
    "angular_basis",
    "dense",
    "radial_weights",
]


class AngularBasis(NamedTuple):
    """The factors of sbf_kji = bessel_kj · harmonics_kji, laid out by the middle atom j.

    bessel : (n_spherical, n_atoms * n_columns, n_radial); of the edges k→j, zero for fillings
    harmonics : (n_atoms, n_columns, n_spherical, n_columns), [j, in, l, out]; zero where
        there is no triplet
    received, sent : (n_edges,); places of the edges, see :class:`Triplets`
    """

    bessel: Tensor
    harmonics: Tensor
    received: Tensor
    sent: Tensor


class Embedding(nn.Module):
    """m_ji = σ(W [h_j, h_i, σ(W rbf_ji + b)] + b): the embedding block, (n_edges, F)."""

    def __init__(self, n_features: int, n_radial: int, activation: nn.Module) -> None:
        super().__init__()
        self.species = nn.Embedding(N_ELEMENTS, n_features)
        self.radial = dense(n_radial, n_features)
        self.mix = dense(3 * n_features, n_features)
        self.activation = activation

    def forward(self, atomic_numbers: Tensor, edge_index: Tensor, radial: Tensor) -> Tensor:
        """Return the first messages (n_edges, F) from rbf (n_edges, n_radial)."""
        species = self.species(atomic_numbers)  # (n_atoms, F)
        # The columns of W that act on h are applied to atoms, not to edges.
        of_sender, of_receiver, of_edge = self.mix.weight.chunk(3, dim=1)
        radial = self.activation(self.radial(radial))
        mixed = functional.linear(radial, of_edge, self.mix.bias)
        mixed = mixed + functional.linear(species, of_sender).index_select(0, edge_index[0])
        mixed = mixed + functional.linear(species, of_receiver).index_select(0, edge_index[1])
        return self.activation(mixed)


class Interaction(nn.Module):
    """Update the messages from their neighbours: the interaction block.

    Parameters
    ----------
    n_before_skip, n_after_skip : residual layers before and after m is added
    radial : n_radial -> F, applied to rbf_kj
    gather : (x_kj, angular) -> Σ_k over the triplets of each edge, (n_edges, F)
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

    def forward(self, messages: Tensor, radial: Tensor, angular: AngularBasis) -> Tensor:
        """Return new messages (n_edges, F) of messages (n_edges, F) and rbf (n_edges, n_radial)."""
        x_ji = self.activation(self.own(messages))  # (n_edges, F)
        x_kj = self.activation(self.neighbour(messages)) * self.radial(radial)
        y = self.before_skip(x_ji + self.gather(x_kj, angular))
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

    def forward(self, messages: Tensor, radial: Tensor, receivers: Tensor, n_atoms: int) -> Tensor:
        """Return (n_atoms, n_out) of messages (n_edges, F) and rbf (n_edges, n_radial)."""
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
        """Keep the shape (..., F)."""
        return y + self.activation(self.second(self.activation(self.first(y))))


def angular_basis(bessel: Tensor, cosines: Tensor, triplets: Triplets) -> AngularBasis:
    """Lay out both factors of sbf.

    Parameters
    ----------
    bessel : (n_edges, n_spherical, n_radial)
    cosines : (n_atoms, n_columns, n_columns), of the triplets' cells
    """
    n_atoms, n_columns = cosines.shape[0], cosines.shape[1]
    harmonics = legendre_basis(cosines, bessel.shape[1], dim=2)
    harmonics = harmonics * triplets.is_triplet.to(harmonics.dtype).unsqueeze(2)
    bessel = lay_out(bessel, triplets.received, n_atoms, n_columns).flatten(0, 1)
    return AngularBasis(bessel.transpose(0, 1), harmonics, triplets.received, triplets.sent)


def radial_weights(weight: Tensor, bessel: Tensor) -> Tensor:
    """Return Σ_n W_b,(l n) bessel_ln of the edges k→j, (n_atoms * n_columns, n_spherical, n_b).

    What W does to sbf before it meets the harmonics: once per edge, not once per triplet.

    Parameters
    ----------
    weight : (n_b, n_spherical * n_radial); a linear map of sbf
    bessel : of :class:`AngularBasis`
    """
    weight = weight.view(weight.shape[0], bessel.shape[0], bessel.shape[2])
    return torch.bmm(bessel, weight.permute(1, 2, 0)).transpose(0, 1)


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
