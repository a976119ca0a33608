"""How a rigid object moves under generalised forces: the kinematics of GMN.

Source: Huang, Han, Rong, Xu, Sun, Huang, ICLR (2022), arXiv:2203.06442; the
equations and symbols stand in :mod:`eqcalc.architectures.gmn`.

Every kind of kinematics takes the features h (m, n_objects, F) and the positions,
velocities and forces x, v, f (m, n_objects, 3) of objects of m atoms and returns
their new positions and velocities (m, n_objects, 3). Lengths carry no unit.
"""

import copy

import torch
from torch import Tensor, nn

from eqcalc.nn.mlp import MLP
from eqcalc.nn.rotation import rotate

__all__ = ["HingeKinematics", "LearnableKinematics", "StickKinematics", "perceptron"]


class VectorMix(nn.Module):
    """Φ(Z) = Z · MLP(ZᵀZ / |ZᵀZ|): (..., 3, b) -> (..., 3)."""

    def __init__(self, n_vectors: int, hidden_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.weights = perceptron(n_vectors**2, hidden_dim, n_vectors, activation)

    def forward(self, z: Tensor) -> Tensor:
        gram = (z.transpose(-2, -1) @ z).flatten(-2)  # (..., b²)
        # The epsilon only keeps z = 0 finite: |ZᵀZ| is above 1e-12 for |z| above 1e-6.
        gram = gram / torch.sqrt(gram.square().sum(dim=-1, keepdim=True) + 1e-30)
        return (z * self.weights(gram).unsqueeze(-2)).sum(dim=-1)


class StickKinematics(nn.Module):
    """Move two atoms as a rigid rod."""

    def __init__(self, in_dim: int, hidden_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.mix = VectorMix(1, hidden_dim, activation)
        self.translation_gate = perceptron(in_dim, hidden_dim, 1, activation)
        self.rotation_gate = perceptron(in_dim, hidden_dim, 1, activation)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return new positions and velocities, (2, n_objects, 3) each."""
        h_c = h.sum(dim=0)  # h: (2, n_objects, F); x, v, f: (2, n_objects, 3)
        r, r_dot = 0.5 * (x[0] - x[1]), 0.5 * (v[0] - v[1])
        a = self.mix(f.unsqueeze(-1)).mean(dim=0)
        inertia = r.square().sum(dim=1, keepdim=True)  # |r|²; J = 2 |r|²
        beta = torch.linalg.cross(r, f[0] - f[1], dim=1) / (2.0 * inertia)
        omega = torch.linalg.cross(r, r_dot, dim=1) / inertia
        omega = self.rotation_gate(h_c) * omega + beta
        q_dot = self.translation_gate(h_c) * v.mean(dim=0) + a
        q = x.mean(dim=0) + q_dot
        r = rotate(omega, r)
        r_dot = torch.linalg.cross(omega, r, dim=1)
        return torch.stack([q + r, q - r]), torch.stack([q_dot + r_dot, q_dot - r_dot])


class HingeKinematics(nn.Module):
    """Move three atoms as two rods that share a joint, row 0."""

    def __init__(self, in_dim: int, hidden_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.mix = VectorMix(3, hidden_dim, activation)
        self.translation_gate = perceptron(in_dim, hidden_dim, 1, activation)
        self.rotation_gate = perceptron(in_dim, hidden_dim, 1, activation)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return new positions and velocities, (3, n_objects, 3) each."""
        h_c = h.sum(dim=0)  # h: (3, n_objects, F); x, v, f: (3, n_objects, 3)
        a = self.mix(_relative_to_joint(x, v, f)).mean(dim=0)
        v_joint = self.translation_gate(h_c) * v[0] + a
        x_joint = x[0] + v_joint
        r, r_dot = x[1:] - x[0], v[1:] - v[0]  # (2, n_objects, 3)
        inertia = r.square().sum(dim=2, keepdim=True)
        beta = torch.linalg.cross(r, f[1:] - a, dim=2) / inertia
        omega = torch.linalg.cross(r, r_dot, dim=2) / inertia
        omega = self.rotation_gate(h[1:]) * omega + beta
        r = rotate(omega.flatten(0, 1), r.flatten(0, 1)).view_as(r)
        r_dot = torch.linalg.cross(omega, r, dim=2)
        joint = torch.stack([x_joint, v_joint]).unsqueeze(1)  # (2, 1, n_objects, 3)
        return torch.cat([joint[0], joint[0] + r]), torch.cat([joint[1], joint[1] + r_dot])


class LearnableKinematics(nn.Module):
    """Move every atom of a stick (2 atoms) or hinge (3) by a learned mix of vectors."""

    def __init__(self, n_atoms: int, in_dim: int, hidden_dim: int, activation: nn.Module) -> None:
        super().__init__()
        self.is_hinge = n_atoms == 3
        self.mean_mix = VectorMix(3 if self.is_hinge else 1, hidden_dim, activation)
        self.mix = VectorMix(3, hidden_dim, activation)
        self.velocity_gate = perceptron(in_dim, hidden_dim, 1, activation)

    def forward(self, h: Tensor, x: Tensor, v: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
        """Return new positions and velocities, (n_atoms, n_objects, 3) each."""
        z = _relative_to_joint(x, v, f) if self.is_hinge else f.unsqueeze(-1)
        q = x[0] if self.is_hinge else x.mean(dim=0)
        a = self.mean_mix(z).mean(dim=0).expand_as(x)
        v = self.velocity_gate(h) * v + self.mix(torch.stack([a, x - q, f], dim=-1))
        return x + v, v


def _relative_to_joint(x: Tensor, v: Tensor, f: Tensor) -> Tensor:
    """Return (f, x - x_0, v - v_0), shape (3, n_objects, 3, 3), vectors along the last."""
    return torch.stack([f, x - x[0], v - v[0]], dim=-1)


def perceptron(n_in: int, n_hidden: int, n_out: int, activation: nn.Module) -> MLP:
    """Return an MLP with a copy of ``activation`` and torch's own initial weights.

    They have a third of the variance of Glorot's: the factors of velocities multiply from
    layer to layer, and with Glorot's weights four layers start 1e4 too large.
    """
    mlp = MLP(n_in, n_hidden, n_out, copy.deepcopy(activation))
    mlp.hidden.reset_parameters()
    mlp.out.reset_parameters()
    return mlp
