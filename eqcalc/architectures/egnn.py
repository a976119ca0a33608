"""EGNN: E(n)-equivariant graph neural network.

Source: Satorras, Hoogeboom, Welling, ICML (2021), arXiv:2102.09844; equation numbers
below are the paper's.

    m_ij = φ_e(h_i, h_j, |x_ij|²),  x_ij = x_i - x_j           eq. (3)
    m_ij = m_ij σ(w·m_ij + b)                                  attention, eq. (8)
    x_i' = x_i + C Σ_j x_ij φ_x(m_ij)                          eq. (4)
    v_i' = φ_v(h_i) v_i + C Σ_j x_ij φ_x(m_ij),  x_i' = x_i + v_i'    eq. (7)
    h_i' = h_i + φ_h(h_i, Σ_j m_ij)                            eqs. (5), (6)

φ_e is linear, swish, linear, swish; φ_x, φ_h, φ_v are linear, swish, linear, and the last
layer of φ_x has no bias; swish(x) = x σ(β x).

As a potential, positions are carried as displacements u, since a periodic atom has no
position: -x_ij = r_ij + u_j - u_i with the edge vector r_ij. Every message and every
coordinate message is multiplied by the envelope f_cut(|r_ij|), and

    E = Σ_i MLP(h_i).

=============  ==================================================
symbol         variable
=============  ==================================================
h              ``features`` (n_atoms, F)
m              ``messages`` (n_edges, H)
-x_ij          ``vectors`` (n_edges, n) = x_j - x_i
u              ``displacements`` (n_atoms, 3)
f_cut          ``envelope`` (n_edges, 1)
C              1/max(degree, 1), or in a potential ``coordinate_scale``
=============  ==================================================

Shapes: n_atoms, n_edges, n (dimensions of space), F = in_dim, H = hidden_dim.

Deviations from the paper: as a potential, the envelope; C = 1/avg_num_neighbors is a
constant, because 1/degree jumps when a neighbour enters; Σ_j m_ij is divided by
√avg_num_neighbors, so that features keep their size in dense matter; the last layer moves
no atom, since nothing would see it.
With ``normalize``, x_ij is divided by √(|x_ij|² + 1e-8) + 1 (Hoogeboom et al., ICML (2022),
arXiv:2203.17003); with ``tanh``, φ_x is bounded by ±1.
"""

import math
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_at_least, require_bools, require_positive
from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph
from eqcalc.nn.activation import Swish
from eqcalc.nn.bare_inputs import refuse_self_loops, require_edge_index, require_shape
from eqcalc.nn.envelope import polynomial_envelope
from eqcalc.nn.mlp import MLP
from eqcalc.nn.scatter import at_senders, sum_at_receivers

__all__ = ["EGNN", "PUBLISHED", "Config", "EquivariantGraphConvolutionalLayer"]


@dataclass(frozen=True)
class Config:
    """Options of :class:`EGNN` as a potential; sizes are the paper's for QM9.

    hidden_dim, num_layers : width and depth
    cutoff : Å
    swish_beta : β of the activation
    attention : gate every message
    update_coordinates : move atoms between layers, eq. (4); the paper does not for QM9
    normalize, tanh : bound the coordinate messages
    avg_num_neighbors : mean number of neighbours within the cutoff
    """

    hidden_dim: int = 128
    num_layers: int = 7
    cutoff: float = 5.0
    swish_beta: float = 1.0
    attention: bool = True
    update_coordinates: bool = True
    normalize: bool = False
    tanh: bool = False
    avg_num_neighbors: float = 16.0

    def __post_init__(self) -> None:
        require_at_least(1, hidden_dim=self.hidden_dim, num_layers=self.num_layers)
        require_bools(self)
        require_positive(
            cutoff=self.cutoff,
            swish_beta=self.swish_beta,
            avg_num_neighbors=self.avg_num_neighbors,
        )


PUBLISHED = Config(update_coordinates=False)
"""The paper's network for QM9, which does not move atoms."""


class EGNN(nn.Module):
    """Predict energies from edge vectors; atoms carry displacements from layer to layer.

    Parameters
    ----------
    hidden_dim, num_layers, cutoff : see :class:`Config`
    swish_beta, attention, update_coordinates, normalize, tanh, avg_num_neighbors : see there

    Raises
    ------
    ConfigError : a size is not a positive number.
    """

    readout_modules = ("readout",)

    def __init__(
        self,
        hidden_dim: int,
        num_layers: int,
        cutoff: float,
        *,
        swish_beta: float = 1.0,
        attention: bool = True,
        update_coordinates: bool = True,
        normalize: bool = False,
        tanh: bool = False,
        avg_num_neighbors: float = 16.0,
    ) -> None:
        super().__init__()
        self.config = Config(
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            cutoff=cutoff,
            swish_beta=swish_beta,
            attention=attention,
            update_coordinates=update_coordinates,
            normalize=normalize,
            tanh=tanh,
            avg_num_neighbors=avg_num_neighbors,
        )
        self.cutoff = float(cutoff)
        self.n_hops = num_layers
        self.coordinate_scale = 1.0 / float(avg_num_neighbors)
        self.embedding = nn.Embedding(N_ELEMENTS, hidden_dim)
        self.layers = nn.ModuleList(
            EquivariantGraphConvolutionalLayer(
                hidden_dim,
                hidden_dim,
                swish_beta,
                cutoff=cutoff,
                attention=attention,
                normalize=normalize,
                tanh=tanh,
                moves_atoms=update_coordinates and layer + 1 < num_layers,
            )
            for layer in range(num_layers)
        )
        self.readout = MLP(hidden_dim, hidden_dim, 1, Swish(swish_beta))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        receivers = graph.edge_index[1]
        distances = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        envelope = polynomial_envelope(distances, self.cutoff).unsqueeze(1)
        edge_weights = envelope * math.sqrt(self.coordinate_scale)
        features = self.embedding(graph.atomic_numbers)  # (n_atoms, F)
        displacements = graph.edge_vectors.new_zeros((features.shape[0], 3))
        vectors = graph.edge_vectors
        for layer in self.layers:
            messages = layer.messages(features, vectors, graph.edge_index)  # type: ignore[operator]
            if layer.moves_atoms:
                moves = layer.moves(  # type: ignore[operator]
                    messages, vectors, envelope, receivers, features.shape[0]
                )
                displacements = displacements + self.coordinate_scale * moves
                vectors = (
                    graph.edge_vectors
                    + at_senders(displacements, graph.edge_index)
                    - displacements.index_select(0, receivers)
                )
            features = layer.update(  # type: ignore[operator]
                features, messages * edge_weights, receivers
            )
        return self.readout(features).squeeze(1)


class EquivariantGraphConvolutionalLayer(nn.Module):
    """Update features, coordinates and velocities from the neighbours.

    Parameters
    ----------
    in_dim : node features F; hidden_dim : width H of messages
    swish_beta : β of the activation
    velocity : ``forward`` takes and returns velocities
    cutoff : in the coordinates' unit; None means no envelope
    attention : gate every message
    normalize, tanh : bound the coordinate messages, see the module's Deviations
    moves_atoms : False leaves out φ_x (the last layer of a potential)

    Raises
    ------
    ConfigError : a size is not a positive number, or velocities without moving atoms.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        swish_beta: float,
        velocity: bool = False,
        *,
        cutoff: Optional[float] = None,
        attention: bool = False,
        normalize: bool = False,
        tanh: bool = False,
        moves_atoms: bool = True,
    ) -> None:
        super().__init__()
        require_at_least(1, in_dim=in_dim, hidden_dim=hidden_dim)
        require_positive(swish_beta=swish_beta)
        if cutoff is not None:
            require_positive(cutoff=cutoff)
        if velocity and not moves_atoms:
            raise ConfigError("velocity=True needs moves_atoms=True: velocities move atoms.")
        self.in_dim = in_dim
        self.cutoff = None if cutoff is None else float(cutoff)
        self.normalize = normalize
        self.moves_atoms = moves_atoms
        self.activation = Swish(swish_beta)
        # The first layer of φ_e, split so that it acts on atoms and not on edges.
        self.from_receiver = nn.Linear(in_dim, hidden_dim)
        self.from_sender = nn.Linear(in_dim, hidden_dim, bias=False)
        self.from_square = nn.Linear(1, hidden_dim, bias=False)
        self.message = nn.Linear(hidden_dim, hidden_dim)
        self.attention = nn.Linear(hidden_dim, 1) if attention else None
        self._start_messages(2 * in_dim + 1, hidden_dim)
        self.coordinate = (
            _coordinate_network(hidden_dim, self.activation, tanh) if moves_atoms else None
        )
        self.feature = MLP(in_dim + hidden_dim, hidden_dim, in_dim, self.activation)
        self.velocity = MLP(in_dim, hidden_dim, 1, self.activation) if velocity else None

    def forward(
        self,
        node_feat: Tensor,
        degree: Tensor,
        coordinate: Tensor,
        edge_index: Tensor,
        velocity_vector: Optional[Tensor] = None,
    ) -> tuple[Tensor, Tensor, Optional[Tensor]]:
        """Apply the layer to bare tensors, none of which is changed.

        Parameters
        ----------
        node_feat : (n_atoms, F); degree : (n_atoms,), incoming edges of each atom
        coordinate : (n_atoms, n)
        edge_index : (2, n_edges); row 0 source j, row 1 target i, both directions
        velocity_vector : (n_atoms, n), for a layer built with ``velocity=True``

        Returns
        -------
        coordinate (n_atoms, n), node_feat (n_atoms, F), velocity (n_atoms, n) or None

        Raises
        ------
        GraphError : ``edge_index`` contains self-loops, or a shape does not match.
        ConfigError : a velocity is missing, or given to a layer built without.
        """
        if not torch.jit.is_scripting():
            self._validate(node_feat, degree, coordinate, edge_index, velocity_vector)
        receivers = edge_index[1]
        vectors = coordinate[edge_index[0]] - coordinate[receivers]
        envelope = vectors.new_ones((vectors.shape[0], 1))
        if self.cutoff is not None:
            distances = torch.linalg.vector_norm(vectors, dim=1)
            envelope = polynomial_envelope(distances, self.cutoff).unsqueeze(1)
        messages = self.messages(node_feat, vectors, edge_index)
        scale = 1.0 / degree.clamp(min=1).to(coordinate.dtype).unsqueeze(1)  # C, (n_atoms, 1)
        moves = scale * self.moves(messages, vectors, envelope, receivers, node_feat.shape[0])
        if self.velocity is not None and velocity_vector is not None:
            moves = self.velocity(node_feat) * velocity_vector + moves
        features = self.update(node_feat, messages * envelope, receivers)
        return coordinate + moves, features, None if self.velocity is None else moves

    def messages(self, features: Tensor, vectors: Tensor, edge_index: Tensor) -> Tensor:
        """Return φ_e(h_i, h_j, |x_ij|²), (n_edges, H), gated where there is attention."""
        mixed = (
            self.from_receiver(features).index_select(0, edge_index[1])
            + at_senders(self.from_sender(features), edge_index)
            + self.from_square(vectors.square().sum(dim=1, keepdim=True))
        )
        messages = self.activation(self.message(self.activation(mixed)))
        if self.attention is not None:
            messages = messages * torch.sigmoid(self.attention(messages))
        return messages

    def moves(
        self,
        messages: Tensor,
        vectors: Tensor,
        envelope: Tensor,
        receivers: Tensor,
        n_atoms: int,
    ) -> Tensor:
        """Return Σ_j x_ij φ_x(m_ij) f_cut, (n_atoms, n); zeros where there is no φ_x."""
        if self.coordinate is None:
            return vectors.new_zeros((n_atoms, vectors.shape[1]))
        weights = self.coordinate(messages) * envelope  # (n_edges, 1)
        if self.normalize:
            squares = vectors.square().sum(dim=1, keepdim=True)
            weights = weights / (torch.sqrt(squares + 1e-8) + 1.0)
        return sum_at_receivers(-vectors * weights, receivers, n_atoms)

    def update(self, features: Tensor, messages: Tensor, receivers: Tensor) -> Tensor:
        """Return h_i + φ_h(h_i, Σ_j m_ij), (n_atoms, F)."""
        summed = sum_at_receivers(messages, receivers, features.shape[0])
        return features + self.feature(torch.cat([features, summed], dim=1))

    def _start_messages(self, n_in: int, n_out: int) -> None:
        """Give the parts of the first layer the weights that Glorot gives to the whole."""
        bound = math.sqrt(6.0 / (n_in + n_out))
        for part in (self.from_receiver, self.from_sender, self.from_square):
            nn.init.uniform_(part.weight, -bound, bound)
        nn.init.xavier_uniform_(self.message.weight)
        nn.init.zeros_(self.from_receiver.bias)
        nn.init.zeros_(self.message.bias)

    def _validate(
        self,
        node_feat: Tensor,
        degree: Tensor,
        coordinate: Tensor,
        edge_index: Tensor,
        velocity_vector: Optional[Tensor],
    ) -> None:
        if (self.velocity is None) != (velocity_vector is None):
            found = "None" if velocity_vector is None else "a tensor"
            raise ConfigError(
                f"the layer was built with velocity={self.velocity is not None}, and "
                f"velocity_vector is {found}: give both or neither."
            )
        n_atoms = node_feat.shape[0]
        require_shape("node_feat", node_feat, (n_atoms, self.in_dim))
        require_shape("degree", degree, (n_atoms,))
        require_shape("coordinate", coordinate, (n_atoms, coordinate.shape[-1]))
        if velocity_vector is not None:
            require_shape("velocity_vector", velocity_vector, tuple(coordinate.shape))
        require_edge_index(edge_index, n_atoms)
        refuse_self_loops(edge_index)


def _coordinate_network(n_features: int, activation: nn.Module, tanh: bool) -> nn.Sequential:
    """Return φ_x: linear, swish, linear without bias that starts near zero, as published."""
    last = nn.Linear(n_features, 1, bias=False)
    nn.init.xavier_uniform_(last.weight, gain=0.001)
    bound: list[nn.Module] = [nn.Tanh()] if tanh else []
    return nn.Sequential(nn.Linear(n_features, n_features), activation, last, *bound)
