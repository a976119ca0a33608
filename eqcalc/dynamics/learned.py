"""Networks as dynamics of charged particles: what they see, and one step of time.

Every network of this module maps

    (charges (n,), positions (n, 3), velocities (n, 3), edge_index (2, n_edges),
     object_index) -> positions (n, 3), velocities (n, 3)

with edges between all particles of a sample and ``object_index`` as
:class:`eqcalc.architectures.gmn.GMNLayer` states it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from eqcalc.architectures.egnn import EquivariantGraphConvolutionalLayer
from eqcalc.architectures.gmn import GMN
from eqcalc.arguments import require_at_least, require_positive
from eqcalc.errors import ConfigError, did_you_mean

__all__ = ["LEARNED_DYNAMICS", "EGNNDynamics", "GMNDynamics", "build_dynamics", "complete_edges"]


class GMNDynamics(nn.Module):
    """GMN on charged particles: node feature |v|, edge feature q_i q_j, as published.

    Nothing but products of charges enters, so that exchanging the sign of all of them
    changes nothing, as in the physics.

    Parameters
    ----------
    hidden_dim, num_layers, learnable : see :class:`eqcalc.architectures.gmn.Config`
    layer_time : time that a layer moves particles over. A layer adds its velocity to the
        position, so that timestep / num_layers makes straight motion the easiest thing to
        learn; the published 1 suits large steps, whose velocities nobody needs

    Raises
    ------
    ConfigError : a size is not a positive integer, or the time not a positive number.
    """

    def __init__(
        self,
        hidden_dim: int = 64,
        num_layers: int = 4,
        learnable: bool = False,
        layer_time: float = 1.0,
    ) -> None:
        super().__init__()
        require_positive(layer_time=layer_time)
        self.config = {
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "learnable": learnable,
            "layer_time": layer_time,
        }
        self.layer_time = float(layer_time)
        self.network = GMN(1, hidden_dim, num_layers, 1, learnable)

    def forward(
        self,
        charges: Tensor,
        positions: Tensor,
        velocities: Tensor,
        edge_index: Tensor,
        object_index: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities after one step."""
        products = (charges[edge_index[0]] * charges[edge_index[1]]).unsqueeze(1)
        x, moved = self.network(
            speeds(velocities).unsqueeze(1),
            positions,
            self.layer_time * velocities,
            edge_index,
            in_degree(edge_index, positions),
            object_index,
            products,
        )
        return x, moved / self.layer_time


class EGNNDynamics(nn.Module):
    """EGNN with velocities on charged particles; it knows nothing of rods.

    Node features are |v| and q, since the documented layer has no edge features; training
    with ``flip_charges`` teaches it that only their products matter. Weights start
    as in the published n-body runs, from torch's own distribution: with the layer's
    Glorot weights the factors of the velocity make the first predictions 1e3 too large.
    """

    def __init__(self, hidden_dim: int = 64, num_layers: int = 4) -> None:
        super().__init__()
        require_at_least(1, hidden_dim=hidden_dim, num_layers=num_layers)
        self.config = {"hidden_dim": hidden_dim, "num_layers": num_layers}
        self.embedding = nn.Linear(2, hidden_dim)
        self.layers = nn.ModuleList(
            EquivariantGraphConvolutionalLayer(hidden_dim, hidden_dim, 1.0, velocity=True)
            for _ in range(num_layers)
        )
        for layer in self.layers:
            _start_as_published(layer)

    def forward(
        self,
        charges: Tensor,
        positions: Tensor,
        velocities: Tensor,
        edge_index: Tensor,
        object_index: dict[str, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities after one step; ``object_index`` has no effect."""
        h = self.embedding(torch.stack([speeds(velocities), charges], dim=1))
        degree = in_degree(edge_index, positions)
        x, v = positions, velocities
        for layer in self.layers:
            x, h, moved = layer(h, degree, x, edge_index, v)
            if moved is not None:  # a layer with velocity=True returns one
                v = moved
        return x, v


LEARNED_DYNAMICS: dict[str, type[nn.Module]] = {"egnn": EGNNDynamics, "gmn": GMNDynamics}


def build_dynamics(name: str, config: Mapping[str, Any] | None = None) -> nn.Module:
    """Build a dynamics by name.

    Raises
    ------
    ConfigError : an unknown name, or an option that it does not have.
    """
    if name not in LEARNED_DYNAMICS:
        raise ConfigError(
            f"unknown dynamics '{name}'; known: {', '.join(LEARNED_DYNAMICS)}."
            + did_you_mean(name, LEARNED_DYNAMICS)
        )
    known = list(LEARNED_DYNAMICS[name]().config)  # type: ignore[arg-type]
    for key in config or {}:
        if key not in known:
            raise ConfigError(
                f"{name} dynamics has no option '{key}'; known: {', '.join(known)}."
                + did_you_mean(key, known)
            )
    return LEARNED_DYNAMICS[name](**(config or {}))


def complete_edges(n_atoms: int, device: torch.device) -> Tensor:
    """Return (2, n_atoms (n_atoms - 1)): every pair in both directions, sorted by receiver.

    >>> complete_edges(2, torch.device("cpu"))
    tensor([[1, 0],
            [0, 1]])
    """
    index = torch.arange(n_atoms, device=device)
    receivers = index.repeat_interleave(n_atoms)
    senders = index.repeat(n_atoms)
    different = receivers != senders
    return torch.stack([senders[different], receivers[different]])


def in_degree(edge_index: Tensor, positions: Tensor) -> Tensor:
    """Return the number of edges that each atom receives (n_atoms,)."""
    ones = torch.ones_like(edge_index[1], dtype=positions.dtype)
    return torch.zeros_like(positions[:, 0]).index_add(0, edge_index[1], ones)


def speeds(velocities: Tensor) -> Tensor:
    """Return |v| of each particle (n_atoms,)."""
    # 1e-8 under the root: a particle at rest has a gradient.
    return torch.sqrt(velocities.square().sum(dim=1) + 1e-8)


def _start_as_published(layer: nn.Module) -> None:
    small = layer.coordinate[-1].weight  # type: ignore[index, union-attr]
    for module in layer.modules():
        if isinstance(module, nn.Linear) and module.weight is not small:
            module.reset_parameters()
    # The three parts of φ_e's first layer start as the one matrix that they are.
    bound = (2 * layer.in_dim + 1) ** -0.5  # type: ignore[operator]
    for part in (layer.from_receiver, layer.from_sender, layer.from_square):
        nn.init.uniform_(part.weight, -bound, bound)  # type: ignore[union-attr, arg-type]
