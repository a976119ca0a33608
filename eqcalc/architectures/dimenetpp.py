"""DimeNet++: directional message passing with a cheaper sum over triplets.

Source: Gasteiger, Giri, Margraf, Günnemann, Machine Learning for Molecules Workshop,
NeurIPS (2020), arXiv:2011.14115. All that is not stated here is DimeNet's
(:mod:`eqcalc.architectures.dimenet`).

    x_kj  = σ(W m_kj + b) ∘ (W W rbf_kj)             two steps, through B functions
    y_ji  = x_ji + σ(W↑ Σ_k σ(W↓ x_kj) ∘ (W W sbf_kji))
    t_i   = W dense(W↑ Σ_j (W rbf_ji) ∘ m_ji)

=============  ==========================================================
symbol         variable
=============  ==========================================================
W↓, W↑         ``down``, ``up``: F -> interaction_dim -> F
W W sbf        ``radial`` (n_atoms * n_columns, n_spherical, interaction_dim) of k→j,
               summed over l with ``harmonics`` of the cell
B              ``basis_dim``
=============  ==========================================================

Shapes: n_atoms, n_edges, n_columns (edges that an atom receives or sends),
F = embedding_dim, n_spherical = num_spherical_basis.

Deviations from the paper: those of DimeNet; the weights of sbf start smaller.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Optional, Union

import torch
from torch import Tensor, nn

from eqcalc.architectures.dimenet import DirectionalNetwork, require_directional_sizes
from eqcalc.arguments import require_at_least
from eqcalc.nn.activation import activation_name, build_activation
from eqcalc.nn.directional import AngularBasis, Interaction, Output, dense, radial_weights
from eqcalc.nn.triplets import lay_out

__all__ = ["Config", "DimeNetPP"]


@dataclass(frozen=True)
class Config:
    """Options of :class:`DimeNetPP`; the defaults are the paper's.

    num_radial_basis, num_spherical_basis : radial functions n, angular orders l
    embedding_dim : width F of messages
    interaction_dim : width of the sum over triplets
    basis_dim : width between the two steps of the bases
    output_dim : width of the output block
    out_dim : outputs per atom, summed to the energy
    cut_off : Å
    envelope_exponent : the envelope's power p less one
    num_interaction_blocks : steps of message passing
    num_layers_before_skip, num_layers_after_skip : residual layers of a block
    num_output_linear_layers : dense layers of an output block
    activation : name of the activation function; None means SiLU
    """

    num_radial_basis: int = 6
    num_spherical_basis: int = 7
    embedding_dim: int = 128
    interaction_dim: int = 64
    basis_dim: int = 8
    output_dim: int = 256
    out_dim: int = 1
    cut_off: float = 5.0
    envelope_exponent: int = 5
    num_interaction_blocks: int = 4
    num_layers_before_skip: int = 1
    num_layers_after_skip: int = 2
    num_output_linear_layers: int = 3
    activation: Optional[str] = None

    def __post_init__(self) -> None:
        require_at_least(
            1,
            interaction_dim=self.interaction_dim,
            basis_dim=self.basis_dim,
            output_dim=self.output_dim,
        )
        require_directional_sizes(self)


class DimeNetPP(DirectionalNetwork):
    """Predict energies from distances and angles.

    Parameters
    ----------
    num_radial_basis ... num_output_linear_layers : see :class:`Config`
    activation : None (SiLU), a name, a module or a function

    Raises
    ------
    ConfigError : a size is not a positive number, or the activation is unknown.
    """

    def __init__(
        self,
        num_radial_basis: int,
        num_spherical_basis: int,
        embedding_dim: int,
        interaction_dim: int,
        basis_dim: int,
        output_dim: int,
        out_dim: int,
        cut_off: float,
        envelope_exponent: int,
        num_interaction_blocks: int,
        num_layers_before_skip: int,
        num_layers_after_skip: int,
        num_output_linear_layers: int,
        activation: Union[str, Callable[[Tensor], Tensor], None] = None,
    ) -> None:
        config = Config(
            num_radial_basis,
            num_spherical_basis,
            embedding_dim,
            interaction_dim,
            basis_dim,
            output_dim,
            out_dim,
            cut_off,
            envelope_exponent,
            num_interaction_blocks,
            num_layers_before_skip,
            num_layers_after_skip,
            num_output_linear_layers,
            activation_name(activation),
        )
        act = build_activation(activation)
        n_angular = num_spherical_basis * num_radial_basis
        interactions = [
            Interaction(
                embedding_dim,
                num_layers_before_skip,
                num_layers_after_skip,
                act,
                two_steps(num_radial_basis, basis_dim, embedding_dim),
                Hadamard(embedding_dim, n_angular, basis_dim, interaction_dim, act),
            )
            for _ in range(num_interaction_blocks)
        ]
        outputs = [
            Output(
                dense(num_radial_basis, embedding_dim, bias=False),
                dense(embedding_dim, output_dim, bias=False),
                output_dim,
                num_output_linear_layers,
                out_dim,
                act,
            )
            for _ in range(num_interaction_blocks + 1)
        ]
        super().__init__(config, act, interactions, outputs)


class Hadamard(nn.Module):
    """σ(W↑ Σ_k σ(W↓ x_kj) ∘ (W W sbf)) for every edge j→i."""

    def __init__(
        self, n_features: int, n_angular: int, n_basis: int, n_narrow: int, activation: nn.Module
    ) -> None:
        super().__init__()
        self.activation = activation
        # sbf is of size 10: messages would otherwise grow tenfold in every block.
        self.angular = two_steps(n_angular, n_basis, n_narrow, size=0.1)
        self.down = dense(n_features, n_narrow, bias=False)
        self.up = dense(n_narrow, n_features, bias=False)

    def forward(self, x_kj: Tensor, angular: AngularBasis) -> Tensor:
        n_atoms, n_columns, n_spherical, _ = angular.harmonics.shape
        narrow = self.activation(self.down(x_kj))  # (n_edges, interaction_dim)
        narrow = lay_out(narrow, angular.received, n_atoms, n_columns).flatten(0, 1)
        radial = radial_weights(self.angular_weight(), angular.bessel)
        terms = (narrow.unsqueeze(1) * radial).reshape(n_atoms, n_columns * n_spherical, -1)
        harmonics = angular.harmonics.view(n_atoms, n_columns * n_spherical, n_columns)
        summed = torch.bmm(harmonics.transpose(1, 2), terms)  # Σ_kl, at each edge that j sends
        summed = summed.flatten(0, 1).index_select(0, angular.sent)  # (n_edges, interaction_dim)
        return self.activation(self.up(summed))  # (n_edges, F)

    def angular_weight(self) -> Tensor:
        """Return both linear maps of sbf as one, (interaction_dim, n_spherical * n_radial)."""
        first, second = self.angular[0].weight, self.angular[1].weight
        return torch.mm(second, first)  # type: ignore[arg-type]


def two_steps(n_in: int, n_between: int, n_out: int, size: float = 1.0) -> nn.Sequential:
    """Return two linear layers without bias or activation; ``size`` scales the result."""
    first, second = dense(n_in, n_between, bias=False), dense(n_between, n_out, bias=False)
    with torch.no_grad():
        second.weight.mul_(size)
    return nn.Sequential(first, second)
