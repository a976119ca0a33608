"""SchNet: continuous-filter convolutions.

Source: Schütt et al., NeurIPS (2017), arXiv:1706.08566; Nat. Commun. 8, 13890
(2017), doi:10.1038/ncomms13890.

    x_i⁰   = embedding(Z_i)
    φ_k(d) = exp(-γ (d - μ_k)²)
    W(d)   = MLP_ssp(φ(d)) · f_cut(d)             filter-generating network
    x_i   += L3 ssp(L2 Σ_j (L1 x_j) ∘ W(d_ij))    interaction
    E      = Σ_i L5 ssp(L4 x_i)
    ssp(x) = softplus(x) - ln 2

=============  ==============================================
symbol         variable
=============  ==============================================
x              ``features`` (n_atoms, hidden_dim)
φ(d)           ``radial`` (n_edges, num_filters)
W(d)           ``filters`` (n_edges, hidden_dim)
f_cut          ``envelope`` (n_edges, 1)
L1 ... L5      ``to_filter_space``, ``mix``, ``readout``
=============  ==============================================

Shapes: n_atoms, n_edges, hidden_dim, num_filters (Gaussians).

Deviations from the paper: with a cutoff the filters are multiplied by the
polynomial envelope (the paper has none), so that forces are smooth. With
``readout_activation="silu"`` the activation between L4 and L5 is silu, with ``envelope="cosine"``
f_cut is a cosine, and with a stored ``radial_basis`` φ is a table of the weights': all as in
schnetpack 2.
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from eqcalc.arguments import (
    require_at_least,
    require_choice,
    require_positive,
)
from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph
from eqcalc.nn.activation import ShiftedSoftplus
from eqcalc.nn.bare_inputs import refuse_self_loops, require_edge_index, require_shape
from eqcalc.nn.envelope import ENVELOPES, Envelope
from eqcalc.nn.mlp import MLP
from eqcalc.nn.radial import gaussian_basis
from eqcalc.nn.scatter import at_senders, sum_at_receivers
from eqcalc.nn.stored_basis import require_basis, stored_basis

__all__ = ["PUBLISHED", "Config", "SchNet"]


_ACTIVATIONS = {"ssp": ShiftedSoftplus, "silu": nn.SiLU}
_OWN = ("polynomial", "gaussian")


@dataclass(frozen=True)
class Config:
    """Options of :class:`SchNet`; the defaults are today's practice.

    num_interaction_blocks, hidden_dim : depth and width
    num_filters : Gaussians, evenly spaced from lower_bound to upper_bound
    cutoff : Å; None means no envelope (the bare-tensor interface only)
    lower_bound, upper_bound : Å; upper_bound None means the cutoff
    gamma : 1/Å²; None means 1/(2 Δμ²) of the spacing Δμ
    envelope : "polynomial", or "cosine" for weights trained with it: force constants
        jump at the cutoff then
    radial_basis : "gaussian", or "stored_gaussian" and "stored_sine", whose numbers are kept
        with the weights, for weights trained elsewhere; the bounds and gamma mean nothing then
    radial_unit : Å; unit of length of a stored basis
    readout_activation : "ssp" (shifted softplus), or "silu"
    """

    num_interaction_blocks: int = 6
    hidden_dim: int = 128
    num_filters: int = 50
    cutoff: Optional[float] = 5.0
    lower_bound: float = 0.0
    upper_bound: Optional[float] = None
    gamma: Optional[float] = None
    envelope: str = "polynomial"
    radial_basis: str = "gaussian"
    radial_unit: float = 1.0
    readout_activation: str = "ssp"

    def __post_init__(self) -> None:
        require_at_least(
            1, num_interaction_blocks=self.num_interaction_blocks, hidden_dim=self.hidden_dim
        )
        require_at_least(2, num_filters=self.num_filters)
        for name in ("cutoff", "upper_bound", "gamma"):
            value = getattr(self, name)
            if value is not None:
                require_positive(**{name: value})
        if not self.lower_bound < self.last_centre:
            raise ConfigError(
                f"upper_bound must exceed lower_bound ({self.lower_bound}), "
                f"found {self.last_centre}."
            )
        require_positive(radial_unit=self.radial_unit)
        require_choice(ENVELOPES, envelope=self.envelope)
        require_basis("gaussian", self.radial_basis, self.radial_unit)
        if self.cutoff is None and (self.envelope, self.radial_basis) != _OWN:
            raise ConfigError("envelope and radial_basis need a cutoff, found cutoff = None.")
        require_choice(_ACTIVATIONS, readout_activation=self.readout_activation)

    @property
    def last_centre(self) -> float:
        """Centre of the last Gaussian in Å: upper_bound, else the cutoff, else 30."""
        return self.upper_bound or self.cutoff or 30.0


PUBLISHED = Config(3, 64, 300, cutoff=30.0, upper_bound=30.0, gamma=10.0)
"""Sizes of the 2017 paper."""


class SchNet(nn.Module):
    """Predict energies from distances alone.

    Parameters
    ----------
    num_interaction_blocks, hidden_dim, num_filters : see :class:`Config`
    cutoff, lower_bound, upper_bound, gamma : see :class:`Config`
    envelope, radial_basis, radial_unit, readout_activation : see :class:`Config`

    Raises
    ------
    ConfigError : a size is not a positive number.
    """

    readout_modules = ("readout",)
    centres: Tensor

    def __init__(
        self,
        num_interaction_blocks: int,
        hidden_dim: int,
        num_filters: int,
        *,
        cutoff: Optional[float] = None,
        lower_bound: float = 0.0,
        upper_bound: Optional[float] = None,
        gamma: Optional[float] = None,
        envelope: str = "polynomial",
        radial_basis: str = "gaussian",
        radial_unit: float = 1.0,
        readout_activation: str = "ssp",
    ) -> None:
        super().__init__()
        self.config = Config(
            num_interaction_blocks=num_interaction_blocks,
            hidden_dim=hidden_dim,
            num_filters=num_filters,
            cutoff=cutoff,
            lower_bound=lower_bound,
            upper_bound=upper_bound,
            gamma=gamma,
            envelope=envelope,
            radial_basis=radial_basis,
            radial_unit=radial_unit,
            readout_activation=readout_activation,
        )
        self.vanishing_derivatives = 1 if envelope == "cosine" else 2
        self.cutoff = None if cutoff is None else float(cutoff)
        self.n_hops = num_interaction_blocks
        upper = self.config.last_centre
        spacing = (upper - lower_bound) / (num_filters - 1)
        self.gamma = gamma if gamma is not None else 0.5 / spacing**2
        # float64, so that a network cast to float64 is not left with rounded constants.
        centres = torch.linspace(lower_bound, upper, num_filters, dtype=torch.float64)
        self.register_buffer("centres", centres, persistent=False)
        self.stored_basis = (
            stored_basis(radial_basis, num_filters, self.cutoff, radial_unit)
            if self.cutoff is not None and radial_basis != "gaussian"
            else None
        )
        self.envelope = None if self.cutoff is None else Envelope(self.cutoff, envelope)

        self.embedding = nn.Embedding(N_ELEMENTS, hidden_dim)
        self.interactions = nn.ModuleList(
            Interaction(hidden_dim, num_filters) for _ in range(num_interaction_blocks)
        )
        self.readout = MLP(
            hidden_dim, max(hidden_dim // 2, 1), 1, _ACTIVATIONS[readout_activation]()
        )

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        return self._energies(
            graph.atomic_numbers, graph.edge_index, distances, self.radial(distances)
        )

    def radial(self, distances: Tensor) -> Tensor:
        """Return the basis (n_edges, num_filters) of distances (n_edges,), Å."""
        if self.stored_basis is not None:
            return self.stored_basis(distances)
        return gaussian_basis(distances, self.centres.to(distances.dtype), self.gamma)

    @torch.jit.unused
    def forward(
        self,
        atomic_num: Tensor,
        node_pos: Tensor,
        edge_index: Tensor,
        lower_bound: float = 0.0,
        upper_bound: float = 30.0,
        gamma: float = 10.0,
    ) -> Tensor:
        """Return the energy () of one open structure from bare tensors.

        Parameters
        ----------
        atomic_num : (n_atoms,); node_pos : (n_atoms, 3), Å
        edge_index : (2, n_edges); row 0 source j, row 1 target i, both directions
        lower_bound, upper_bound : Å; range of the Gaussians' centres
        gamma : 1/Å²

        Raises
        ------
        GraphError : a shape or an index does not match, or ``edge_index`` contains self-loops.
        ConfigError : the network has a stored basis, which is not these Gaussians.
        """
        if self.stored_basis is not None:
            raise ConfigError(
                f"this network has the basis '{self.config.radial_basis}', and forward computes "
                "Gaussians of its arguments; call atomic_energies."
            )
        require_shape("node_pos", node_pos, (atomic_num.shape[0], 3))
        require_edge_index(edge_index, atomic_num.shape[0])
        refuse_self_loops(edge_index)
        edge_vectors = node_pos[edge_index[0]] - node_pos[edge_index[1]]
        distances = torch.linalg.vector_norm(edge_vectors, dim=1)
        centres = torch.linspace(
            lower_bound,
            upper_bound,
            self.config.num_filters,
            dtype=distances.dtype,
            device=distances.device,
        )
        radial = gaussian_basis(distances, centres, gamma)
        return self._energies(atomic_num, edge_index, distances, radial).sum()

    def _energies(
        self, atomic_numbers: Tensor, edge_index: Tensor, distances: Tensor, radial: Tensor
    ) -> Tensor:
        if self.envelope is not None:
            envelope = self.envelope(distances)  # (n_edges, 1)
        else:
            envelope = torch.ones_like(distances).unsqueeze(1)
        features = self.embedding(atomic_numbers)  # (n_atoms, hidden_dim)
        for interaction in self.interactions:
            features = features + interaction(features, radial, envelope, edge_index)
        return self.readout(features).squeeze(1)


class Interaction(nn.Module):
    """One continuous-filter convolution with its atom-wise layers (figure 2)."""

    def __init__(self, n_features: int, n_gaussians: int) -> None:
        super().__init__()
        self.filter_network = MLP(n_gaussians, n_features, n_features, ShiftedSoftplus())
        self.to_filter_space = nn.Linear(n_features, n_features, bias=False)
        nn.init.xavier_uniform_(self.to_filter_space.weight)
        self.mix = MLP(n_features, n_features, n_features, ShiftedSoftplus())

    def forward(
        self, features: Tensor, radial: Tensor, envelope: Tensor, edge_index: Tensor
    ) -> Tensor:
        filters = self.filter_network(radial) * envelope  # (n_edges, n_features)
        messages = at_senders(self.to_filter_space(features), edge_index) * filters
        return self.mix(sum_at_receivers(messages, edge_index[1], features.shape[0]))
