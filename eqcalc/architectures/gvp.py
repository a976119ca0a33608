"""GVP: graph network of geometric vector perceptrons.

Source: Jing, Eismann, Suriana, Townshend, Dror, ICLR (2021), arXiv:2009.01411, algorithm 1;
the vector gate and the sizes are from Jing, Eismann, Soni, Dror (2021), arXiv:2106.03843.

    perceptron  V_h = W_h V,  s_m = W_m [s, |V_h|] + b,  V_μ = W_v V_h
                s' = σ(s_m),  V' = sigmoid(W_g σ⁺(s_m) + b) V_μ
    norm        s: layer norm,  V / √(mean_c |V_c|² + ε)
    message     m_ij = f_cut(d_ij) · P₃P₂P₁([s_j, e_ij, s_i], [V_j, V_ij, V_i])
    layer       x = norm(x + dropout(Σ_j m_ij / √n̄)),  x = norm(x + dropout(P₂P₁(x)))
    edges       (e, V)_ij = P(norm([exp(-γ (d_ij - μ_k)²)], [r̂_ij]))
    energy      E = Σ_i MLP(P(norm(x_i))),  s_i⁰ = embedding(Z_i),  V_i⁰ = 0

=============  ==========================================================
symbol         variable
=============  ==========================================================
s, V           ``scalars`` (n_rows, S), ``vectors`` (n_rows, 3, C)
x              the pair of both
V_h, V_μ       ``hidden`` (n_rows, 3, H), ``mixed`` (n_rows, 3, C)
f_cut / √n̄     ``edge_weights`` (n_edges, 1); n̄ is ``avg_num_neighbors``
=============  ==========================================================

Shapes: n_atoms, n_edges, n_rows (of either), S scalar and C vector channels, H = max of the
vector channels in and out.

Deviations from the papers, so that energies are smooth: the envelope; SiLU instead of ReLU;
the sum over √n̄ instead of the mean, which jumps as neighbours enter; |V| is √(Σ V² + 1) - 1
instead of √(Σ V² + 1e-8), whose kink at zero shows at every site of high symmetry
(:mod:`eqcalc.nn.norm`; ``vector_norm="published"`` is the paper's);
ε = 1 instead of 1e-8, without which a vector that passes through zero, as where a site is
symmetric or a last neighbour leaves, turns the energy over within 1e-4 of its size; no
dropout by default, since it makes forces random.
"""

import functools
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqcalc.arguments import require_at_least, require_choice, require_fraction, require_positive
from eqcalc.elements import N_ELEMENTS
from eqcalc.graph import AtomicGraph
from eqcalc.nn.envelope import polynomial_envelope
from eqcalc.nn.mlp import MLP
from eqcalc.nn.norm import NORMS, ChannelNorm
from eqcalc.nn.radial import gaussian_basis
from eqcalc.nn.scatter import of_all_atoms, sum_at_receivers

__all__ = [
    "BEFORE",
    "GVP",
    "PUBLISHED",
    "Config",
    "GVPConvolution",
    "GVPLayerNorm",
    "GeometricVectorPerceptron",
    "VectorDropout",
]


@dataclass(frozen=True)
class Config:
    """Options of :class:`GVP`; the defaults are the paper's for molecules, without dropout.

    scalar_dim, vector_dim : channels of an atom
    edge_scalar_dim, edge_vector_dim : channels of an edge
    num_layers : convolutions
    num_radial_basis : Gaussians from 0 to the cutoff
    cutoff : Å
    drop_rate : fraction of scalars, and of whole vectors, dropped in training
    avg_num_neighbors : mean number of neighbours within the cutoff
    vector_norm : "smooth", or "published" for weights trained with √(Σ V² + 1e-8)
    """

    scalar_dim: int = 100
    vector_dim: int = 16
    edge_scalar_dim: int = 32
    edge_vector_dim: int = 1
    num_layers: int = 5
    num_radial_basis: int = 16
    cutoff: float = 4.5
    drop_rate: float = 0.0
    avg_num_neighbors: float = 16.0
    vector_norm: str = "smooth"

    def __post_init__(self) -> None:
        require_at_least(
            1,
            vector_dim=self.vector_dim,
            edge_scalar_dim=self.edge_scalar_dim,
            edge_vector_dim=self.edge_vector_dim,
            num_layers=self.num_layers,
        )
        # The layer norm of a single scalar is zero.
        require_at_least(2, scalar_dim=self.scalar_dim, num_radial_basis=self.num_radial_basis)
        require_positive(cutoff=self.cutoff, avg_num_neighbors=self.avg_num_neighbors)
        require_fraction(drop_rate=self.drop_rate)
        require_choice(NORMS, vector_norm=self.vector_norm)


PUBLISHED = Config(drop_rate=0.1)
"""Sizes and dropout of the 2021 paper on atomic structures."""


BEFORE = {"vector_norm": "published"}
"""Of model files from before the option."""


class GVP(nn.Module):
    """Predict energies by messages of scalars and vectors.

    Parameters
    ----------
    scalar_dim ... vector_norm : see :class:`Config`

    Raises
    ------
    ConfigError : a size is not a positive number, or drop_rate is no fraction.
    """

    readout_modules = ("readout",)
    centres: Tensor

    def __init__(
        self,
        scalar_dim: int,
        vector_dim: int,
        edge_scalar_dim: int,
        edge_vector_dim: int,
        num_layers: int,
        num_radial_basis: int,
        cutoff: float,
        *,
        drop_rate: float = 0.0,
        avg_num_neighbors: float = 16.0,
        vector_norm: str = "smooth",
    ) -> None:
        super().__init__()
        self.config = Config(
            scalar_dim=scalar_dim,
            vector_dim=vector_dim,
            edge_scalar_dim=edge_scalar_dim,
            edge_vector_dim=edge_vector_dim,
            num_layers=num_layers,
            num_radial_basis=num_radial_basis,
            cutoff=cutoff,
            drop_rate=drop_rate,
            avg_num_neighbors=avg_num_neighbors,
            vector_norm=vector_norm,
        )
        self.cutoff = float(cutoff)
        self.n_hops = num_layers
        self.smooth_at_symmetric_sites = vector_norm == "smooth"
        self.message_scale = float(avg_num_neighbors) ** -0.5
        self.gamma = (num_radial_basis / self.cutoff) ** 2
        centres = torch.linspace(0.0, self.cutoff, num_radial_basis)
        self.register_buffer("centres", centres, persistent=False)
        atom, edge = (scalar_dim, vector_dim), (edge_scalar_dim, edge_vector_dim)
        self.vector_dim = vector_dim

        self.embedding = nn.Embedding(N_ELEMENTS, scalar_dim)
        self.edge_norm = GVPLayerNorm(num_radial_basis, epsilon=1.0)
        self.edge_embedding = GeometricVectorPerceptron(
            (num_radial_basis, 1), edge, vector_norm=vector_norm
        )
        self.layers = nn.ModuleList(
            GVPConvolution(atom, edge, drop_rate, epsilon=1.0, vector_norm=vector_norm)
            for _ in range(num_layers)
        )
        self.readout_norm = GVPLayerNorm(scalar_dim, epsilon=1.0)
        self.to_scalars = GeometricVectorPerceptron(
            atom, (scalar_dim, 0), nn.SiLU(), vector_norm=vector_norm
        )
        self.readout = MLP(scalar_dim, 2 * scalar_dim, 1, nn.SiLU())

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        directions = (graph.edge_vectors / distances.unsqueeze(1)).unsqueeze(2)
        edge_weights = self.message_scale * polynomial_envelope(distances, self.cutoff).unsqueeze(1)
        radial = gaussian_basis(distances, self.centres, self.gamma)
        edge_scalars, edge_vectors = self.edge_norm(radial, directions)
        edge_scalars, edge_vectors = self.edge_embedding(edge_scalars, edge_vectors)

        scalars = self.embedding(graph.atomic_numbers)  # (n_atoms, S)
        vectors = scalars.new_zeros((scalars.shape[0], 3, self.vector_dim))  # (n_atoms, 3, C)
        for layer in self.layers:
            scalars, vectors = layer(
                scalars, vectors, edge_scalars, edge_vectors, edge_weights, graph.edge_index
            )
        scalars, vectors = self.readout_norm(scalars, vectors)
        scalars, _ = self.to_scalars(scalars, vectors)
        return self.readout(scalars).squeeze(1)


class GVPConvolution(nn.Module):
    """Gather messages, then transform every atom by itself; each with norm and residual.

    Parameters
    ----------
    atom, edge : (scalars, vectors), channels of atoms and edges
    drop_rate : see :class:`VectorDropout`
    epsilon : see :class:`GVPLayerNorm`
    vector_norm : see :class:`eqcalc.nn.norm.ChannelNorm`
    """

    def __init__(
        self,
        atom: tuple[int, int],
        edge: tuple[int, int],
        drop_rate: float = 0.0,
        epsilon: float = 1e-8,
        vector_norm: str = "smooth",
    ) -> None:
        super().__init__()
        (s, v), (edge_s, edge_v), act = atom, edge, nn.SiLU()
        self.atom, self.edge = atom, edge
        perceptron = functools.partial(GeometricVectorPerceptron, vector_norm=vector_norm)
        self.messages = nn.ModuleList(
            [
                perceptron((2 * s + edge_s, 2 * v + edge_v), atom, act),
                perceptron(atom, atom, act),
                perceptron(atom, atom),
            ]
        )
        self.transform = nn.ModuleList(
            [
                perceptron(atom, (4 * s, 2 * v), act),
                perceptron((4 * s, 2 * v), atom),
            ]
        )
        self.message_norm = GVPLayerNorm(s, epsilon)
        self.transform_norm = GVPLayerNorm(s, epsilon)
        self.dropout = VectorDropout(drop_rate)

    def forward(
        self,
        scalars: Tensor,
        vectors: Tensor,
        edge_scalars: Tensor,
        edge_vectors: Tensor,
        edge_weights: Tensor,
        edge_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return new scalars (n_atoms, S) and vectors (n_atoms, 3, C).

        Parameters
        ----------
        edge_scalars, edge_vectors : (n_edges, edge_s), (n_edges, 3, edge_v)
        edge_weights : (n_edges, 1); the weight of each message in its receiver's sum
        """
        s, v = self.gather(scalars, vectors, edge_scalars, edge_vectors, edge_weights, edge_index)
        return self.finish(scalars, vectors, s, v)

    def gather(
        self,
        scalars: Tensor,
        vectors: Tensor,
        edge_scalars: Tensor,
        edge_vectors: Tensor,
        edge_weights: Tensor,
        edge_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Return each atom's sum of messages (n_atoms, S), (n_atoms, 3, C)."""
        j, i = edge_index[0], edge_index[1]
        s_j, v_j = of_all_atoms([scalars, vectors])
        s = torch.cat([s_j.index_select(0, j), edge_scalars, scalars.index_select(0, i)], dim=1)
        v = torch.cat([v_j.index_select(0, j), edge_vectors, vectors.index_select(0, i)], dim=2)
        for message in self.messages:
            s, v = message(s, v)  # (n_edges, S), (n_edges, 3, C)
        n_atoms = scalars.shape[0]
        return (
            sum_at_receivers(s * edge_weights, i, n_atoms),
            sum_at_receivers(v * edge_weights.unsqueeze(2), i, n_atoms),
        )

    def finish(
        self, scalars: Tensor, vectors: Tensor, s: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Add sums of messages (s, v) to an atom's features, and transform them."""
        s, v = self.dropout(s, v)
        scalars, vectors = self.message_norm(scalars + s, vectors + v)

        s, v = scalars, vectors
        for transform in self.transform:
            s, v = transform(s, v)
        s, v = self.dropout(s, v)
        return self.transform_norm(scalars + s, vectors + v)


class GeometricVectorPerceptron(nn.Module):
    """Map scalars and vectors to scalars and vectors, equivariantly.

    Parameters
    ----------
    n_in, n_out : (scalars, vectors), channels; at least one vector in, none out is allowed
    activation : σ of the scalars; None means the identity
    gate_activation : σ⁺ of the vectors' gate; None means the identity
    vector_norm : see :class:`eqcalc.nn.norm.ChannelNorm`

    Raises
    ------
    ConfigError : a number of channels is too small.
    """

    def __init__(
        self,
        n_in: tuple[int, int],
        n_out: tuple[int, int],
        activation: Optional[nn.Module] = None,
        gate_activation: Optional[nn.Module] = None,
        *,
        vector_norm: str = "smooth",
    ) -> None:
        super().__init__()
        require_at_least(1, scalars_in=n_in[0], vectors_in=n_in[1], scalars_out=n_out[0])
        require_at_least(0, vectors_out=n_out[1])
        n_hidden = max(n_in[1], n_out[1])
        self.norm = ChannelNorm(vector_norm)
        self.activation = nn.Identity() if activation is None else activation
        self.gate_activation = nn.Identity() if gate_activation is None else gate_activation
        self.to_hidden = nn.Linear(n_in[1], n_hidden, bias=False)  # W_h
        self.mix_scalars = nn.Linear(n_in[0] + n_hidden, n_out[0])  # W_m
        has_vectors = n_out[1] > 0
        self.mix_vectors = nn.Linear(n_hidden, n_out[1], bias=False) if has_vectors else None
        self.gate = nn.Linear(n_out[0], n_out[1]) if has_vectors else None  # W_g

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Map (n_rows, S), (n_rows, 3, C) to the same with the channels out."""
        hidden = self.to_hidden(vectors)  # V_h (n_rows, 3, H)
        mixed = self.mix_scalars(torch.cat([scalars, self.norm(hidden)], dim=1))  # s_m
        return self.finish(mixed, hidden)

    def finish(self, mixed_scalars: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return s', V' from s_m (n_rows, S) and V_h (n_rows, 3, H)."""
        if self.mix_vectors is not None and self.gate is not None:
            gate = torch.sigmoid(self.gate(self.gate_activation(mixed_scalars))).unsqueeze(1)
            vectors = gate * self.mix_vectors(hidden)
        else:
            vectors = hidden.new_zeros((hidden.shape[0], 3, 0))
        return self.activation(mixed_scalars), vectors


class GVPLayerNorm(nn.Module):
    """Layer norm of the scalars; vectors by their root mean square: V / √(mean_c |V_c|² + ε).

    Parameters
    ----------
    n_scalars : channels
    epsilon : the squared length below which vectors keep their size; published 1e-8
    """

    def __init__(self, n_scalars: int, epsilon: float = 1e-8) -> None:
        super().__init__()
        require_at_least(1, n_scalars=n_scalars)
        require_positive(epsilon=epsilon)
        self.scalar_norm = nn.LayerNorm(n_scalars)
        self.epsilon = epsilon

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the shapes (n_rows, S), (n_rows, 3, C)."""
        squares = vectors.square().sum(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        return self.scalar_norm(scalars), vectors * torch.rsqrt(squares + self.epsilon)


class VectorDropout(nn.Module):
    """Drop scalars one by one and vectors as a whole, in training mode only.

    Parameters
    ----------
    rate : fraction dropped; what is left is scaled up by 1/(1 - rate)

    Raises
    ------
    ConfigError : not at least 0 and below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        require_fraction(drop_rate=rate)
        self.rate = float(rate)

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Keep the shapes (n_rows, S), (n_rows, 3, C)."""
        if not self.training or self.rate == 0.0:
            return scalars, vectors
        kept = torch.ones_like(vectors[:, :1])  # (n_rows, 1, C): the three components together
        kept = functional.dropout(kept, self.rate, True)
        return functional.dropout(scalars, self.rate, True), vectors * kept
