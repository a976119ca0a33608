"""GMN: the graph mechanics network, a learned dynamics of rigid sticks and hinges.

Source: Huang, Han, Rong, Xu, Sun, Huang, ICLR (2022), arXiv:2203.06442.

    m_ij = φ_e(h_i, h_j, |x_i - x_j|², a_ij)                          message
    f_i  = C_i Σ_j (x_i - x_j) φ_x(m_ij),  C_i = 1/max(degree_i, 1)   force
    h_i' = h_i + φ_h(h_i, Σ_j m_ij)
    Φ(Z) = Z · MLP(ZᵀZ / |ZᵀZ|)                                       mix of b vectors

    isolated  v' = ψ(h) v + f,   x' = x + v'

    stick     q = (x_1 + x_2)/2,  r = (x_1 - x_2)/2,  h_c = h_1 + h_2
              a = mean Φ(f),  β = Σ (x_i - q)×f_i / Σ |x_i - q|²
              q̇' = ψ(h_c) q̇ + a,   ω' = ψ'(h_c) ω + β,   ω = r×ṙ / |r|²
              q' = q + q̇',  r' = Rot(ω') r,  x' = q' ± r',  v' = q̇' ± ω'×r'

    hinge     joint 0, ends k = 1, 2;  r_k = x_k - x_0,  h_c = h_0 + h_1 + h_2
              a = mean Φ(f, x - x_0, v - v_0),  β_k = r_k×(f_k - a) / |r_k|²
              v_0' = ψ(h_c) v_0 + a,   ω_k' = ψ'(h_k) ω_k + β_k,   ω_k = r_k×ṙ_k / |r_k|²
              x_0' = x_0 + v_0',  r_k' = Rot(ω_k') r_k,  x_k' = x_0' + r_k',
              v_k' = v_0' + ω_k'×r_k'

    learnable v_i' = ψ(h_i) v_i + Φ(a, x_i - q, f_i),  x_i' = x_i + v_i'
              (for a hinge q = x_0; lengths are kept only approximately)

==========  ==========================================================
symbol      variable
==========  ==========================================================
h, x, v     ``h`` (n_atoms, F), ``x``, ``v`` (n_atoms, 3)
f, a        ``f`` (n_atoms, 3), ``a`` (n_objects, 3)
q̇, ω        ``q_dot`` (n_objects, 3), ``omega`` (n_rods, 3)
ψ, ψ'       ``translation_gate``, ``rotation_gate``
==========  ==========================================================

Shapes: n_atoms, n_edges, F = hidden_dim, n_objects of one kind.

Deviations from the paper: φ_x ends without bias and starts near zero, as in EGNN; the
last layer of the network has no φ_h, whose result nobody would read.
"""

import copy
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqcalc.architectures._gmn_kinematics import (
    HingeKinematics,
    LearnableKinematics,
    StickKinematics,
    perceptron,
)
from eqcalc.arguments import require_at_least, require_bools
from eqcalc.errors import ConfigError, GraphError
from eqcalc.nn.bare_inputs import refuse_self_loops, require_edge_index, require_shape
from eqcalc.nn.object_index import require_objects, require_rods
from eqcalc.nn.scatter import sum_at_receivers

__all__ = ["GMN", "Config", "GMNLayer"]


@dataclass(frozen=True)
class Config:
    """Options of :class:`GMN`; the defaults are the paper's for n-body systems.

    in_dim : node features of an atom (|v|); edge_attr_dim : features of an edge (q_i q_j)
    hidden_dim : channels F; num_layers : message-passing layers
    learnable : learnable instead of analytic forward kinematics
    """

    in_dim: int = 1
    hidden_dim: int = 64
    num_layers: int = 4
    edge_attr_dim: int = 1
    learnable: bool = False

    def __post_init__(self) -> None:
        require_at_least(
            1, in_dim=self.in_dim, hidden_dim=self.hidden_dim, num_layers=self.num_layers
        )
        require_at_least(0, edge_attr_dim=self.edge_attr_dim)
        require_bools(self)


class GMN(nn.Module):
    """Predict where particles are, and how fast, after one step of time.

    This is a learned dynamics and not a potential: it has no energy and no
    ``atomic_energies``. :mod:`eqcalc.dynamics` trains, exports and runs it.

    Parameters
    ----------
    in_dim, hidden_dim, num_layers, edge_attr_dim, learnable : see :class:`Config`

    Raises
    ------
    ConfigError : a size is not a positive integer.
    """

    def __init__(
        self,
        in_dim: int = 1,
        hidden_dim: int = 64,
        num_layers: int = 4,
        edge_attr_dim: int = 1,
        learnable: bool = False,
    ) -> None:
        super().__init__()
        self.config = Config(
            in_dim=in_dim,
            hidden_dim=hidden_dim,
            num_layers=num_layers,
            edge_attr_dim=edge_attr_dim,
            learnable=learnable,
        )
        self.embedding = nn.Linear(in_dim, hidden_dim)
        self.layers = nn.ModuleList(
            GMNLayer(
                hidden_dim,
                hidden_dim,
                hidden_dim,
                edge_attr_dim,
                nn.SiLU(),
                learnable=learnable,
                update_features=layer < num_layers - 1,
            )
            for layer in range(num_layers)
        )

    def forward(
        self,
        node_feat: Tensor,
        node_pos: Tensor,
        velocity: Tensor,
        edge_index: Tensor,
        degree: Tensor,
        object_index: dict[str, Tensor],
        edge_attr: Optional[Tensor] = None,
    ) -> tuple[Tensor, Tensor]:
        """Return positions and velocities (n_atoms, 3) after one step; see :class:`GMNLayer`.

        Raises
        ------
        GraphError : see :class:`GMNLayer`.
        """
        if not torch.jit.is_scripting():
            _require_inputs(
                (self.config.in_dim, self.config.edge_attr_dim),
                node_feat,
                node_pos,
                velocity,
                edge_index,
                degree,
                object_index,
                edge_attr,
            )
        h = self.embedding(node_feat)
        x, v = node_pos, velocity
        for layer in self.layers:
            h, x, v = layer.step(  # type: ignore[operator]
                h, x, v, edge_index, degree, object_index, edge_attr
            )
        return x, v


class GMNLayer(nn.Module):
    """Pass messages once and move every object by its forward kinematics.

    Parameters
    ----------
    in_dim, hidden_dim, out_dim : node features coming in, inside, going out
    edge_attr_dim : features of an edge; 0 for none
    activation : of every perceptron
    use_residual_connection : add h_i to its update; needs in_dim = out_dim
    learnable : learnable instead of analytic forward kinematics
    update_features : False for the last layer of a network, whose features nobody
        reads; they are then returned as they came

    Raises
    ------
    ConfigError : a size is out of range, or a residual between unequal widths.
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        out_dim: int,
        edge_attr_dim: int = 0,
        activation: nn.Module = nn.ReLU(),  # noqa: B008  (the documented default; copied below)
        use_residual_connection: bool = True,
        learnable: bool = False,
        *,
        update_features: bool = True,
    ) -> None:
        super().__init__()
        require_at_least(1, in_dim=in_dim, hidden_dim=hidden_dim, out_dim=out_dim)
        require_at_least(0, edge_attr_dim=edge_attr_dim)
        if use_residual_connection and in_dim != out_dim:
            raise ConfigError(
                f"use_residual_connection needs in_dim = out_dim, found {in_dim} and {out_dim}."
            )
        self.in_dim = in_dim
        self.edge_attr_dim = edge_attr_dim
        self.residual = use_residual_connection
        self.message = Message(in_dim, hidden_dim, edge_attr_dim, activation)
        self.feature_update = (
            perceptron(in_dim + hidden_dim, hidden_dim, out_dim, activation)
            if update_features
            else None
        )
        self.isolated_gate = perceptron(in_dim, hidden_dim, 1, activation)
        self.stick: nn.Module
        self.hinge: nn.Module
        if learnable:
            self.stick = LearnableKinematics(2, in_dim, hidden_dim, activation)
            self.hinge = LearnableKinematics(3, in_dim, hidden_dim, activation)
        else:
            self.stick = StickKinematics(in_dim, hidden_dim, activation)
            self.hinge = HingeKinematics(in_dim, hidden_dim, activation)

    def forward(
        self,
        node_feat: Tensor,
        node_pos: Tensor,
        velocity: Tensor,
        edge_index: Tensor,
        degree: Tensor,
        object_index: dict[str, Tensor],
        edge_attr: Optional[Tensor] = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return node features (n_atoms, out_dim), positions and velocities (n_atoms, 3).

        Parameters
        ----------
        node_feat : (n_atoms, in_dim); node_pos, velocity : (n_atoms, 3)
        edge_index : (2, n_edges); row 0 source j, row 1 target i, both directions
        degree : (n_atoms,); incoming edges of each target
        object_index : int64 tensors "isolated" (K0,), "stick" (2, K1), "hinge" (3, K2)
            with row 0 the joint; a missing key means none
        edge_attr : (n_edges, edge_attr_dim), or None where edge_attr_dim is 0

        Raises
        ------
        GraphError : a shape is wrong, an edge is a self-loop, an object's index is out
            of range or repeated, objects overlap or leave an atom out, or a rod has
            length zero.
        """
        if not torch.jit.is_scripting():
            _require_inputs(
                (self.in_dim, self.edge_attr_dim),
                node_feat,
                node_pos,
                velocity,
                edge_index,
                degree,
                object_index,
                edge_attr,
            )
        return self.step(node_feat, node_pos, velocity, edge_index, degree, object_index, edge_attr)

    def step(
        self,
        h: Tensor,
        x: Tensor,
        v: Tensor,
        edge_index: Tensor,
        degree: Tensor,
        object_index: dict[str, Tensor],
        edge_attr: Optional[Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Do what :meth:`forward` does, without the checks."""
        messages, f = self.message(h, x, edge_index, degree, edge_attr)
        isolated = _members(object_index, "isolated", 1, edge_index)[0]
        stick = _members(object_index, "stick", 2, edge_index)
        hinge = _members(object_index, "hinge", 3, edge_index)
        free_v = self.isolated_gate(h[isolated]) * v[isolated] + f[isolated]
        stick_x, stick_v = self.stick(h[stick], x[stick], v[stick], f[stick])
        hinge_x, hinge_v = self.hinge(h[hinge], x[hinge], v[hinge], f[hinge])
        order = torch.cat([isolated, stick.flatten(), hinge.flatten()])
        new_x = torch.cat([x[isolated] + free_v, stick_x.flatten(0, 1), hinge_x.flatten(0, 1)])
        new_v = torch.cat([free_v, stick_v.flatten(0, 1), hinge_v.flatten(0, 1)])
        if self.feature_update is not None:
            update = self.feature_update(torch.cat([h, messages], dim=1))
            h = h + update if self.residual else update
        zeros = torch.zeros_like(x)
        return h, zeros.index_copy(0, order, new_x), zeros.index_copy(0, order, new_v)


class Message(nn.Module):
    """Sum messages and their forces at each atom."""

    def __init__(
        self, in_dim: int, hidden_dim: int, edge_attr_dim: int, activation: nn.Module
    ) -> None:
        super().__init__()
        self.widths = [in_dim, in_dim, 1 + edge_attr_dim]
        self.edge = perceptron(sum(self.widths), hidden_dim, hidden_dim, activation)
        self.activation = copy.deepcopy(activation)
        last = nn.Linear(hidden_dim, 1, bias=False)
        nn.init.xavier_uniform_(last.weight, gain=0.001)
        self.force = nn.Sequential(
            nn.Linear(hidden_dim, hidden_dim), copy.deepcopy(activation), last
        )

    def forward(
        self, h: Tensor, x: Tensor, edge_index: Tensor, degree: Tensor, edge_attr: Optional[Tensor]
    ) -> tuple[Tensor, Tensor]:
        senders, receivers = edge_index[0], edge_index[1]
        n_atoms = h.shape[0]
        vectors = x.index_select(0, receivers) - x.index_select(0, senders)  # (n_edges, 3)
        features = vectors.square().sum(dim=1, keepdim=True)  # (n_edges, 1)
        if edge_attr is not None:
            features = torch.cat([features, edge_attr], dim=1)
        # One matrix on [h_i, h_j, features], its parts applied where there are fewest rows.
        of_i, of_j, of_edge = self.edge.hidden.weight.split(self.widths, dim=1)
        hidden = (
            functional.linear(h, of_i, self.edge.hidden.bias).index_select(0, receivers)
            + functional.linear(h, of_j).index_select(0, senders)
            + functional.linear(features, of_edge)
        )
        m = self.activation(self.edge.out(self.edge.activation(hidden)))  # (n_edges, F)
        f = sum_at_receivers(vectors * self.force(m), receivers, n_atoms)  # (n_atoms, 3)
        mean = 1.0 / degree.to(f.dtype).clamp(min=1.0).unsqueeze(1)
        return sum_at_receivers(m, receivers, n_atoms), mean * f


def _members(object_index: dict[str, Tensor], kind: str, n_atoms: int, like: Tensor) -> Tensor:
    if kind in object_index:
        return object_index[kind].reshape(n_atoms, -1)
    return like.new_zeros((n_atoms, 0))


def _require_inputs(
    widths: tuple[int, int],
    node_feat: Tensor,
    node_pos: Tensor,
    velocity: Tensor,
    edge_index: Tensor,
    degree: Tensor,
    object_index: dict[str, Tensor],
    edge_attr: Optional[Tensor],
) -> None:
    n_atoms, n_edges = node_pos.shape[0], edge_index.shape[-1]
    require_shape("node_pos", node_pos, (n_atoms, 3))
    require_shape("node_feat", node_feat, (n_atoms, widths[0]))
    require_shape("velocity", velocity, (n_atoms, 3))
    require_shape("degree", degree, (n_atoms,))
    require_edge_index(edge_index, n_atoms)
    if edge_attr is not None:
        require_shape("edge_attr", edge_attr, (n_edges, widths[1]))
    elif widths[1] > 0:
        raise GraphError(f"edge_attr must have shape {(n_edges, widths[1])}, found None.")
    refuse_self_loops(edge_index)
    require_objects(object_index, n_atoms)
    require_rods(object_index, node_pos)
