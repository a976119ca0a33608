"""DimeNet: directional message passing.

Source: Gasteiger, Groß, Günnemann, ICLR (2020), arXiv:2003.03123, figure 4; equation
numbers below are the paper's. Messages live on edges j→i; N(j) are the senders to j.

    m_ji⁰  = σ(W [h_j, h_i, σ(W rbf_ji + b)] + b),  h = embedding(Z)   embedding block
    x_ji   = σ(W m_ji + b)                                              interaction block
    x_kj   = σ(W m_kj + b) ∘ (W rbf_kj)
    y_ji   = x_ji + Σ_{k ∈ N(j), k ≠ i} (W sbf_kji)ᵀ 𝐖 x_kj             bilinear layer
    m_ji  += σ(W res(y_ji) + b), then res                               res(y) = y + σ(W σ(W y))
    t_i    = dense(Σ_j (W rbf_ji) ∘ m_ji)                               output block
    E      = Σ_i Σ_blocks t_i
    rbf_n  = u(x)/x sin(ν_n π x),  x = d_ji / c                         eq. (7)
    sbf_ln = u(x)/x √2/|j_{l+1}(z_ln)| j_l(z_ln x) Y_l(α),  x = d_kj/c  eq. (6)

=============  ==========================================================
symbol         variable
=============  ==========================================================
m              ``messages`` (n_edges, F)
rbf            ``radial`` (n_edges, n_radial)
cos α          ``cosines`` (n_atoms, n_columns, n_columns), [j, k→j, j→i]
sbf            ``angular``: ``bessel`` of k→j times ``harmonics`` of the cell
(W sbf)_b      ``weights`` (n_atoms, n_columns, n_columns * n_bilinear)
=============  ==========================================================

Shapes: n_atoms, n_edges, n_columns (edges that an atom receives or sends, see
:mod:`eqcalc.nn.triplets`), n_triplets, F = embedding_dim, n_bilinear = bilinear_dim,
n_radial = num_radial_basis, n_spherical = num_spherical_basis.

Triplets k→j→i are the cells of one table per middle atom j, and Σ_k is a product of matrices
of each j. W sbf = Σ_l (Σ_n W_ln bessel_ln) harmonics_l: the sum over n needs edges only.

An edge at the cutoff has no effect: its rbf vanishes in the output block and in x_kj, its
sbf in the bilinear layer, each as u with two derivatives.

Deviations from the paper: α is the interior angle at j between i and k, as the paper
defines it (its published code measures another one); k = i is excluded for the same
periodic image only; the last layer starts with random weights instead of zeros, the
bilinear one with smaller ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_at_least, require_positive
from eqcalc.errors import GraphError, listing
from eqcalc.graph import AtomicGraph
from eqcalc.nn.activation import activation_name, build_activation
from eqcalc.nn.bare_inputs import refuse_self_loops, require_edge_index, require_shape
from eqcalc.nn.bessel import BesselBasis, SphericalBesselBasis
from eqcalc.nn.directional import (
    AngularBasis,
    Embedding,
    Interaction,
    Output,
    angular_basis,
    dense,
    radial_weights,
)
from eqcalc.nn.triplets import (
    Triplets,
    build_triplets,
    cosines_at_middle,
    lay_out,
    tabulate_triplets,
    validate_angle_index,
)

__all__ = ["Config", "DimeNet"]


@dataclass(frozen=True)
class Config:
    """Options of :class:`DimeNet`; the defaults are the paper's.

    num_radial_basis, num_spherical_basis : radial functions n, angular orders l
    embedding_dim, bilinear_dim : width of messages and of the bilinear layer
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
    bilinear_dim: int = 8
    out_dim: int = 1
    cut_off: float = 5.0
    envelope_exponent: int = 5
    num_interaction_blocks: int = 6
    num_layers_before_skip: int = 1
    num_layers_after_skip: int = 2
    num_output_linear_layers: int = 3
    activation: Optional[str] = None

    def __post_init__(self) -> None:
        require_at_least(1, bilinear_dim=self.bilinear_dim)
        require_directional_sizes(self)


def require_directional_sizes(config: Any) -> None:
    """Check the options that DimeNet and DimeNet++ share.

    Raises
    ------
    ConfigError : a size is not a positive number, or the activation is unknown.
    """
    positive = (
        "num_radial_basis",
        "num_spherical_basis",
        "embedding_dim",
        "out_dim",
        "envelope_exponent",
        "num_interaction_blocks",
    )
    layers = ("num_layers_before_skip", "num_layers_after_skip", "num_output_linear_layers")
    require_at_least(1, **{name: getattr(config, name) for name in positive})
    require_at_least(0, **{name: getattr(config, name) for name in layers})
    require_positive(cut_off=config.cut_off)
    activation_name(config.activation)


class DirectionalNetwork(nn.Module):
    """What DimeNet and DimeNet++ share: bases, embedding, order of the blocks, both doors.

    Parameters
    ----------
    config : sizes
    activation : one instance for all blocks
    interactions : one per step; outputs : one before the first step and one after each
    """

    no_exchange = (
        "its messages live on edges, and each is made of messages between two other atoms, so "
        "that a rank would need edges of its ghosts too; run it with ghosts as far as all "
        "layers reach (n_hops times the cutoff)."
    )

    readout_modules = ("first_output.out", "outputs.*.out")

    def __init__(
        self,
        config: Any,
        activation: nn.Module,
        interactions: Sequence[nn.Module],
        outputs: Sequence[nn.Module],
    ) -> None:
        super().__init__()
        self.config = config
        self.cutoff = float(config.cut_off)
        self.n_hops = config.num_interaction_blocks + 1  # the embedding block sees two atoms
        p = config.envelope_exponent + 1
        self.radial_basis = BesselBasis(config.num_radial_basis, self.cutoff, p)
        self.spherical_basis = SphericalBesselBasis(
            config.num_spherical_basis, config.num_radial_basis, self.cutoff, p
        )
        self.embedding = Embedding(config.embedding_dim, config.num_radial_basis, activation)
        self.interactions = nn.ModuleList(interactions)
        self.first_output = outputs[0]
        self.outputs = nn.ModuleList(outputs[1:])

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        n_atoms = graph.atomic_numbers.shape[0]
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        triplets = build_triplets(graph.edge_index, graph.edge_vectors, n_atoms)
        cosines = cosines_at_middle(graph.edge_vectors, distances, triplets)
        return self._atomic_outputs(
            graph.atomic_numbers, graph.edge_index, triplets, distances, cosines
        ).sum(dim=1)

    @torch.jit.unused
    def forward(
        self,
        atomic_number: Tensor,
        edge_index: Tensor,
        angle_index: Tensor,
        distance: Tensor,
        angle: Tensor,
    ) -> Tensor:
        """Return the sum over atoms (out_dim,) of one open structure.

        Parameters
        ----------
        atomic_number : (n_atoms,)
        edge_index : (2, n_edges); row 0 source j, row 1 target i, both directions
        angle_index : (2, n_triplets); row 0 the edge id of k→j, row 1 of j→i, k ≠ i
        distance : (n_edges,), Å
        angle : (n_triplets,), radians; the interior angle at j

        Raises
        ------
        GraphError : a shape or an index does not match, a self-loop, a distance that is
            not positive.
        """
        _validate_bare(atomic_number, edge_index, angle_index, distance, angle)
        triplets, cells = tabulate_triplets(edge_index, angle_index, atomic_number.shape[0])
        cosines = angle.new_zeros(triplets.is_triplet.numel()).index_copy(0, cells, angle.cos())
        return self._atomic_outputs(
            atomic_number, edge_index, triplets, distance, cosines.view_as(triplets.is_triplet)
        ).sum(dim=0)

    def _atomic_outputs(
        self,
        atomic_numbers: Tensor,
        edge_index: Tensor,
        triplets: Triplets,
        distances: Tensor,
        cosines: Tensor,
    ) -> Tensor:
        n_atoms = atomic_numbers.shape[0]
        radial = self.radial_basis(distances)  # (n_edges, n_radial)
        angular = angular_basis(self.spherical_basis(distances), cosines, triplets)
        messages = self.embedding(atomic_numbers, edge_index, radial)  # (n_edges, F)
        total = self.first_output(messages, radial, edge_index[1], n_atoms)
        for interaction, output in zip(self.interactions, self.outputs):  # noqa: B905
            messages = interaction(messages, radial, angular)
            total = total + output(messages, radial, edge_index[1], n_atoms)
        return total  # (n_atoms, out_dim)


class DimeNet(DirectionalNetwork):
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
        bilinear_dim: int,
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
            bilinear_dim,
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
                dense(num_radial_basis, embedding_dim, bias=False),
                Bilinear(embedding_dim, n_angular, bilinear_dim),
            )
            for _ in range(num_interaction_blocks)
        ]
        outputs = [
            Output(
                dense(num_radial_basis, embedding_dim, bias=False),
                nn.Identity(),
                embedding_dim,
                num_output_linear_layers,
                out_dim,
                act,
            )
            for _ in range(num_interaction_blocks + 1)
        ]
        super().__init__(config, act, interactions, outputs)


class Bilinear(nn.Module):
    """Return Σ_k (W sbf)_b 𝐖_bhi x_kj,h for every edge j→i.

    The sum over k comes first: one matrix product per edge instead of one per triplet.
    The first weights are a tenth of the published ones: sbf is of size 10, and messages
    would otherwise grow fivefold in every block.
    """

    def __init__(self, n_features: int, n_angular: int, n_bilinear: int) -> None:
        super().__init__()
        self.angular = dense(n_angular, n_bilinear, bias=False)
        self.mix = nn.Linear(n_bilinear * n_features, n_features, bias=False)
        nn.init.normal_(self.mix.weight, std=0.2 / n_features)

    def forward(self, x_kj: Tensor, angular: AngularBasis) -> Tensor:
        n_atoms, n_columns, n_spherical, _ = angular.harmonics.shape
        x = lay_out(x_kj, angular.received, n_atoms, n_columns)  # (n_atoms, n_columns, F)
        radial = radial_weights(self.angular.weight, angular.bessel)  # (..., n_spherical, n_b)
        harmonics = angular.harmonics.view(n_atoms * n_columns, n_spherical, n_columns)
        weights = torch.bmm(harmonics.transpose(1, 2), radial)  # Σ_l
        weights = weights.view(n_atoms, n_columns, n_columns * radial.shape[2])
        sums = torch.bmm(weights.transpose(1, 2), x)  # Σ_k, (n_atoms, n_columns * n_b, F)
        sums = sums.view(n_atoms * n_columns, radial.shape[2] * x.shape[2])
        # Mixed before edges take their rows: a few rows too many, but n_b times as narrow.
        return self.mix(sums).index_select(0, angular.sent)  # (n_edges, F)


def _validate_bare(
    atomic_number: Tensor, edge_index: Tensor, angle_index: Tensor, distance: Tensor, angle: Tensor
) -> None:
    require_edge_index(edge_index, atomic_number.shape[0])
    refuse_self_loops(edge_index)
    validate_angle_index(edge_index, angle_index)
    require_shape("distance", distance, (edge_index.shape[1],))
    require_shape("angle", angle, (angle_index.shape[1],))
    wrong = torch.nonzero(~(distance > 0.0)).squeeze(1).tolist()
    if wrong:
        raise GraphError(f"distance must be positive; it is not at edges {listing(wrong)}.")
