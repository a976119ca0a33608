"""PaiNN: the polarizable atom interaction neural network.

Source: Schütt, Unke, Gastegger, ICML (2021), arXiv:2102.03150; equation numbers
below are the paper's.

    s_i⁰ = embedding(Z_i),  v_i⁰ = 0
    W_ij = (W φ(d_ij) + b) · f_cut(d_ij)                    filter, section 3.1
    Δs_i = Σ_j  a_ij                                        message, eq. (7)
    Δv_i = Σ_j (b_ij r̂_ij + c_ij v_j)                       message, eq. (8)
           (a, b, c)_ij = MLP(s_j) ∘ W_ij
    Δs_i = a_ss + a_sv ⟨V v_i, W v_i⟩                       update, eq. (9)
    Δv_i = a_vv W v_i                                       update, eq. (10)
           (a_ss, a_vv, a_sv) = MLP[s_i, ‖V v_i‖]
    E    = Σ_i MLP(s_i)

=============  ==================================================
symbol         variable
=============  ==================================================
s, v           ``scalars`` (n_atoms, F), ``vectors`` (n_atoms, 3, F)
φ(d)           ``radial`` (n_edges, n_radial)
W_ij           ``filters`` (n_edges, 3F) for each block
r̂_ij           ``directions`` (n_edges, 3)
V v, W v       ``left``, ``right`` (n_atoms, 3, F)
=============  ==================================================

Shapes: n_atoms, n_edges, F = embedding_dim, n_radial = num_radial_basis.

Deviations from the paper: the envelope is the polynomial with two vanishing
derivatives instead of the cosine, so that forces are smooth at the cutoff; the
norm is √(Σ V² + 1) - 1 instead of √(Σ V² + 1e-8), whose kink at zero shows at every site of
high symmetry (:mod:`eqcalc.nn.norm`). ``envelope="cosine"`` and
``vector_norm="published"`` are the paper's.
"""

from dataclasses import dataclass
from typing import Union

import torch
from torch import Tensor, nn

from eqcalc.arguments import (
    require_at_least,
    require_bools,
    require_choice,
    require_positive,
)
from eqcalc.elements import N_ELEMENTS
from eqcalc.graph import AtomicGraph
from eqcalc.nn.bare_inputs import refuse_self_loops, require_edge_index, require_shape
from eqcalc.nn.envelope import ENVELOPES, Envelope
from eqcalc.nn.mlp import MLP
from eqcalc.nn.norm import NORMS, ChannelNorm
from eqcalc.nn.radial import SineBasis
from eqcalc.nn.scatter import of_all_atoms, sum_at_receivers
from eqcalc.nn.stored_basis import require_basis, stored_basis

__all__ = ["BEFORE", "Config", "PaiNN"]


@dataclass(frozen=True)
class Config:
    """Options of :class:`PaiNN` as a potential; the defaults are the paper's.

    embedding_dim : channels F of scalars and vectors
    num_blocks : message + update blocks
    num_radial_basis : functions of the distance
    cut_off : Å
    out_dim : outputs per atom, summed to the energy
    return_potential_energy, return_force_vectors : what the bare-tensor ``forward`` returns;
        a potential has the energy alone
    vector_norm : "smooth", or "published" for weights trained with √(Σ V² + 1e-8)
    envelope : "polynomial", or "cosine" for weights trained with it: force constants
        jump at the cutoff then
    radial_basis : "sine", or "stored_sine" and "stored_gaussian", whose numbers are kept with
        the weights, for weights trained elsewhere
    radial_unit : Å; unit of length of a stored basis
    """

    embedding_dim: int = 128
    num_blocks: int = 3
    num_radial_basis: int = 20
    cut_off: float = 5.0
    out_dim: int = 1
    return_potential_energy: bool = True
    return_force_vectors: bool = False  # the direct force head is not part of a potential
    vector_norm: str = "smooth"
    envelope: str = "polynomial"
    radial_basis: str = "sine"
    radial_unit: float = 1.0

    def __post_init__(self) -> None:
        require_at_least(
            1,
            num_blocks=self.num_blocks,
            num_radial_basis=self.num_radial_basis,
            out_dim=self.out_dim,
        )
        require_at_least(2, embedding_dim=self.embedding_dim)
        require_positive(cut_off=self.cut_off, radial_unit=self.radial_unit)
        require_choice(NORMS, vector_norm=self.vector_norm)
        require_bools(self)
        require_choice(ENVELOPES, envelope=self.envelope)
        require_basis("sine", self.radial_basis, self.radial_unit)


BEFORE = {"vector_norm": "published"}
"""Of model files from before the option."""


class PaiNN(nn.Module):
    """Predict energies, and by the documented ``forward`` direct force vectors.

    Parameters
    ----------
    embedding_dim, num_blocks, num_radial_basis, cut_off, out_dim : see :class:`Config`
    return_potential_energy : ``forward`` returns the energy
    return_force_vectors : ``forward`` returns forces of a direct vector head; the
        calculator's forces are always the energy's gradient
    vector_norm, envelope, radial_basis, radial_unit : see :class:`Config`

    Raises
    ------
    ConfigError : a size is not a positive number.
    """

    readout_modules = ("readout",)

    def __init__(
        self,
        embedding_dim: int,
        num_blocks: int,
        num_radial_basis: int,
        cut_off: float,
        out_dim: int,
        return_potential_energy: bool = True,
        return_force_vectors: bool = True,
        *,
        vector_norm: str = "smooth",
        envelope: str = "polynomial",
        radial_basis: str = "sine",
        radial_unit: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = Config(
            embedding_dim=embedding_dim,
            num_blocks=num_blocks,
            num_radial_basis=num_radial_basis,
            cut_off=cut_off,
            out_dim=out_dim,
            return_potential_energy=return_potential_energy,
            return_force_vectors=return_force_vectors,
            vector_norm=vector_norm,
            envelope=envelope,
            radial_basis=radial_basis,
            radial_unit=radial_unit,
        )
        self.cutoff = float(cut_off)
        self.vanishing_derivatives = 1 if envelope == "cosine" else 2
        self.smooth_at_symmetric_sites = vector_norm == "smooth"
        self.n_hops = num_blocks
        self.n_channels = embedding_dim
        self.embedding = nn.Embedding(N_ELEMENTS, embedding_dim)
        self.envelope = Envelope(self.cutoff, envelope)
        self.radial_basis = (
            SineBasis(num_radial_basis, self.cutoff)
            if radial_basis == "sine"
            else stored_basis(radial_basis, num_radial_basis, self.cutoff, radial_unit)
        )
        # The filters of all blocks in one matrix product: they depend on d alone.
        self.filters = nn.Linear(num_radial_basis, num_blocks * 3 * embedding_dim)
        nn.init.xavier_uniform_(self.filters.weight)
        nn.init.zeros_(self.filters.bias)
        self.messages = nn.ModuleList(Message(embedding_dim) for _ in range(num_blocks))
        self.updates = nn.ModuleList(Update(embedding_dim, vector_norm) for _ in range(num_blocks))
        self.readout = MLP(embedding_dim, max(embedding_dim // 2, 1), out_dim, nn.SiLU())
        self.force_head = ForceHead(embedding_dim, vector_norm) if return_force_vectors else None

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        scalars, _ = self._features(graph.atomic_numbers, graph.edge_index, graph.edge_vectors)
        return self.readout(scalars).sum(dim=1)

    @torch.jit.unused
    def forward(
        self, atomic_num: Tensor, node_pos: Tensor, edge_index: Tensor
    ) -> Union[Tensor, tuple[Tensor, Tensor]]:
        """Evaluate one open structure from bare tensors.

        Parameters
        ----------
        atomic_num : (n_atoms,); node_pos : (n_atoms, 3), Å
        edge_index : (2, n_edges); row 0 source j, row 1 target i, both directions

        Returns
        -------
        energy () and forces (n_atoms, 3), or one of them, or per-atom scalars
        (n_atoms, out_dim) where neither was asked for in the constructor.

        Raises
        ------
        GraphError : a shape or an index does not match, or ``edge_index`` contains self-loops.
        """
        require_shape("node_pos", node_pos, (atomic_num.shape[0], 3))
        require_edge_index(edge_index, atomic_num.shape[0])
        refuse_self_loops(edge_index)
        edge_vectors = node_pos[edge_index[0]] - node_pos[edge_index[1]]
        scalars, vectors = self._features(atomic_num, edge_index, edge_vectors)
        outputs = self.readout(scalars)  # (n_atoms, out_dim)
        if self.force_head is None:
            return outputs.sum() if self.config.return_potential_energy else outputs
        forces = self.force_head(scalars, vectors)
        return (outputs.sum(), forces) if self.config.return_potential_energy else forces

    def block_filters(self, distances: Tensor) -> list[Tensor]:
        """Return the filters (n_edges, 3F) of every block."""
        filters = self.filters(self.radial_basis(distances)) * self.envelope(distances)
        return filters.split(3 * self.n_channels, dim=1)

    def _features(
        self, atomic_numbers: Tensor, edge_index: Tensor, edge_vectors: Tensor
    ) -> tuple[Tensor, Tensor]:
        n_atoms = atomic_numbers.shape[0]
        distances = torch.linalg.vector_norm(edge_vectors, dim=1)  # (n_edges,)
        directions = edge_vectors / distances.unsqueeze(1)  # (n_edges, 3)
        block_filters = self.block_filters(distances)  # (n_edges, 3F) each

        scalars = self.embedding(atomic_numbers)  # (n_atoms, F)
        vectors = scalars.new_zeros((n_atoms, 3, scalars.shape[1]))  # (n_atoms, 3, F)
        for block, (message, update) in enumerate(zip(self.messages, self.updates)):  # noqa: B905
            scalars, vectors = message(
                scalars, vectors, block_filters[block], directions, edge_index
            )
            scalars, vectors = update(scalars, vectors)
        return scalars, vectors


class Message(nn.Module):
    """Gather filtered features from the neighbours: eqs. (7) and (8)."""

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.mix = MLP(n_channels, n_channels, 3 * n_channels, nn.SiLU())

    def forward(
        self,
        scalars: Tensor,
        vectors: Tensor,
        filters: Tensor,
        directions: Tensor,
        edge_index: Tensor,
    ) -> tuple[Tensor, Tensor]:
        n_atoms = scalars.shape[0]
        senders, receivers = edge_index[0], edge_index[1]
        # The MLP acts on atoms, then its result is gathered: n_atoms rows, not n_edges.
        mixed, neighbours = of_all_atoms([self.mix(scalars), vectors])
        mixed = mixed.index_select(0, senders) * filters  # (n_edges, 3F)
        a, b, c = mixed.split(self.n_channels, dim=1)  # (n_edges, F) each
        edge_vectors = directions.unsqueeze(2) * b.unsqueeze(1) + neighbours.index_select(
            0, senders
        ) * c.unsqueeze(1)  # (n_edges, 3, F)
        scalars = scalars + sum_at_receivers(a, receivers, n_atoms)
        vectors = vectors + sum_at_receivers(edge_vectors, receivers, n_atoms)
        return scalars, vectors


class Update(nn.Module):
    """Mix scalars and vectors of one atom: eqs. (9) and (10)."""

    def __init__(self, n_channels: int, vector_norm: str) -> None:
        super().__init__()
        self.n_channels = n_channels
        self.norm = ChannelNorm(vector_norm)
        self.channel_mix = nn.Linear(n_channels, 2 * n_channels, bias=False)
        nn.init.xavier_uniform_(self.channel_mix.weight)
        self.mix = MLP(2 * n_channels, n_channels, 3 * n_channels, nn.SiLU())

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.channel_mix(vectors).split(self.n_channels, dim=2)
        norm = self.norm(left)  # (n_atoms, F)
        mixed = self.mix(torch.cat([scalars, norm], dim=1))  # (n_atoms, 3F)
        # Not chunk(): TorchScript's derivative of it drops parts without a gradient,
        # and the last block's a_vv has none.
        a_ss, a_vv, a_sv = mixed.split(self.n_channels, dim=1)
        scalars = scalars + a_ss + a_sv * (left * right).sum(dim=1)
        vectors = vectors + a_vv.unsqueeze(1) * right
        return scalars, vectors


class ForceHead(nn.Module):
    """Two gated equivariant blocks to one vector per atom (figure 3 of the paper)."""

    def __init__(self, n_channels: int, vector_norm: str) -> None:
        super().__init__()
        n_hidden = max(n_channels // 2, 1)
        self.norm = ChannelNorm(vector_norm)
        self.first = GatedEquivariant(n_channels, n_hidden, vector_norm)
        self.activation = nn.SiLU()
        self.channel_mix = nn.Linear(n_hidden, 2, bias=False)
        self.gate = MLP(n_hidden + 1, n_hidden, 1, nn.SiLU())

    def forward(self, scalars: Tensor, vectors: Tensor) -> Tensor:
        scalars, vectors = self.first(scalars, vectors)
        scalars = self.activation(scalars)
        left, right = self.channel_mix(vectors).split(1, dim=2)  # (n_atoms, 3, 1) each
        norm = self.norm(left)
        gate = self.gate(torch.cat([scalars, norm], dim=1))  # (n_atoms, 1)
        return gate * right.squeeze(2)


class GatedEquivariant(nn.Module):
    """s', gate = MLP[s, ‖V v‖];  v' = gate · W v."""

    def __init__(self, n_in: int, n_out: int, vector_norm: str) -> None:
        super().__init__()
        self.n_out = n_out
        self.norm = ChannelNorm(vector_norm)
        self.channel_mix_left = nn.Linear(n_in, n_in, bias=False)
        self.channel_mix_right = nn.Linear(n_in, n_out, bias=False)
        self.mix = MLP(2 * n_in, n_in, 2 * n_out, nn.SiLU())

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        left = self.channel_mix_left(vectors)
        norm = self.norm(left)
        mixed = self.mix(torch.cat([scalars, norm], dim=1))
        scalars, gate = mixed.split(self.n_out, dim=1)
        return scalars, gate.unsqueeze(1) * self.channel_mix_right(vectors)
