"""What the recomputations by plain loops share: structures, weights, scalar functions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from eqcalc.engines import load_model
from eqcalc.export import export_model
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph
from eqcalc.nn.norm import ChannelNorm
from eqcalc.potential import Potential

__all__ = [
    "EXACT",
    "Edge",
    "Weights",
    "assert_directed_edge_vanishes",
    "assert_every_parameter_learns",
    "assert_exported_file_agrees",
    "assert_forces_by_finite_differences",
    "assert_signature",
    "bare_molecule",
    "edges_of",
    "envelope",
    "incoming",
    "perturbed",
    "rattled",
    "rotation",
    "silu",
    "structures",
]

EXACT = {"rtol": 1e-10, "atol": 1e-10}
"""float64: two ways of summing the same few hundred terms."""


@dataclass(frozen=True, eq=False)
class Edge:
    """An edge j→i with its vector r_j - r_i (Å) and the image of j, counted in cells."""

    j: int
    i: int
    vector: NDArray
    shift: tuple[int, ...]

    @property
    def length(self) -> float:
        return math.sqrt(float(self.vector @ self.vector))


def rattled(name: str) -> Atoms:
    """Return a molecule of ASE's away from its minimum and off every symmetry."""
    atoms = molecule(name)
    atoms.rattle(0.05, seed=1)
    return atoms


def structures() -> dict[str, Atoms]:
    """Return molecules, a collinear one, a one-atom cell and a small triclinic one."""
    metal = bulk("Cu", "fcc", a=3.61)
    metal.set_cell(metal.cell.array @ (np.eye(3) + np.diag([0.02, -0.01, 0.03])), scale_atoms=True)
    cell = np.array([[2.6, 0.0, 0.0], [0.4, 2.9, 0.0], [-0.3, 0.5, 3.1]])
    salt = Atoms("NaCl", scaled_positions=[[0.02, 0, 0.01], [0.53, 0.48, 0.5]], cell=cell, pbc=True)
    return {
        "water": rattled("H2O"),
        "methanol": rattled("CH3OH"),
        "collinear": Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]),
        "one atom": Atoms("C", [[0.1, 0.2, 0.3]]),
        "copper": metal,
        "salt": salt,
    }


def edges_of(atoms: Atoms, cutoff: float) -> list[Edge]:
    """Return all edges within the cutoff by ASE's own neighbour list."""
    i, j, vectors, shifts = neighbor_list("ijDS", atoms, cutoff)
    return [
        Edge(int(b), int(a), vector, tuple(int(x) for x in shift))
        for a, b, vector, shift in zip(i, j, vectors, shifts, strict=True)
    ]


def bare_molecule(name: str = "CH3CH2OH") -> tuple[Tensor, Tensor, Tensor]:
    """Return numbers, positions (float64) and all pairs of a rattled molecule."""
    atoms = rattled(name)
    pairs = [(j, i) for i in range(len(atoms)) for j in range(len(atoms)) if i != j]
    index = torch.tensor(pairs, dtype=torch.int64).T.reshape(2, -1)
    return torch.from_numpy(atoms.numbers), torch.from_numpy(atoms.positions), index


def perturbed(network: nn.Module, size: float = 0.1) -> nn.Module:
    """Return the network in float64 with no parameter left at a special value."""
    generator = torch.Generator().manual_seed(5)
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(size * noise)
    return network


def rotation(improper: bool, n: int = 3) -> Tensor:
    """Return an orthogonal matrix (n, n) of determinant +1 or -1."""
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(n, n)))
    q = q * np.sign(np.diag(r))
    if (np.linalg.det(q) < 0) != improper:
        q[:, 0] = -q[:, 0]
    return torch.from_numpy(q)


class Weights:
    """A network's parameters as float64 arrays, by name."""

    def __init__(self, network: nn.Module) -> None:
        self.arrays = {k: v.detach().numpy() for k, v in network.named_parameters()}
        self.is_smooth = any(m.is_smooth for m in network.modules() if isinstance(m, ChannelNorm))

    def length(self, x: NDArray) -> float:
        """Return the length of a vector in the form that the network has."""
        square = float(x @ x)
        return math.sqrt(square + 1.0) - 1.0 if self.is_smooth else math.sqrt(square + 1e-8)

    def linear(self, name: str, x: NDArray) -> NDArray:
        result = self.arrays[f"{name}.weight"] @ x
        return result + self.arrays.get(f"{name}.bias", 0.0)

    def mlp(self, name: str, x: NDArray, activation: Callable[[NDArray], NDArray]) -> NDArray:
        return self.linear(f"{name}.out", activation(self.linear(f"{name}.hidden", x)))


def silu(x: NDArray, beta: float = 1.0) -> NDArray:
    return x * expit(beta * x)


def envelope(x: float, p: int = 6) -> float:
    if x >= 1.0:
        return 0.0
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    return 1.0 - a * x**p + b * x ** (p + 1) - c * x ** (p + 2)


def assert_signature(function: Callable, names: list[str], defaults: dict) -> None:
    """Check names, order and defaults; whatever is added must be keyword-only."""
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    assert [p.name for p in positional] == names
    assert {p.name: p.default for p in positional if p.default is not p.empty} == defaults
    others = [p for p in parameters if p not in positional and p.name != "self"]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in others)


def assert_forces_by_finite_differences(network: nn.Module, atoms: Atoms) -> None:
    """Check the forces of a few components against -dE/dr of fourth order."""
    potential, step = Potential(network).eval(), 3e-4
    forces = potential.evaluate(build_graph(atoms, potential.cutoff)).forces

    def energy(atom: int, axis: int, shift: float) -> float:
        moved = atoms.copy()
        moved.positions[atom, axis] += shift
        return float(potential.evaluate(build_graph(moved, potential.cutoff)).energy[0])

    for atom in range(min(len(atoms), 3)):
        for axis in range(3):
            inner = energy(atom, axis, step) - energy(atom, axis, -step)
            outer = energy(atom, axis, 2 * step) - energy(atom, axis, -2 * step)
            slope = (8.0 * inner - outer) / (12.0 * step)
            np.testing.assert_allclose(float(forces[atom, axis]), -slope, rtol=0, atol=1e-8)


def assert_every_parameter_learns(network: nn.Module, atoms: Atoms) -> None:
    """Check that a loss on energies and forces moves every parameter."""
    network = network.train()
    graph = build_graph(atoms, float(network.cutoff))
    network.zero_grad()
    vectors = graph.edge_vectors.requires_grad_(True)
    energies = network.atomic_energies(graph._replace(edge_vectors=vectors))
    (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=True)
    (energies.square().sum() + gradient.square().sum()).backward()
    broken = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None
        or not bool(torch.isfinite(parameter.grad).all())
        or float(parameter.grad.abs().max()) == 0.0
    ]
    network.zero_grad()
    network.eval()
    assert broken == []


def assert_exported_file_agrees(network: nn.Module, path: Path, atoms: Atoms) -> None:
    """Check that the model file gives the eager numbers, on its first and later calls."""
    potential = Potential(network).eval()
    export_model(potential, path, elements=sorted(set(atoms.symbols)))
    model = load_model(path, device="cpu")
    graph = build_graph(atoms, potential.cutoff)
    energies, gradients = potential(graph)
    for _ in range(3):  # TorchScript optimises after the first runs
        found = model(graph)
        torch.testing.assert_close(found[0], energies.detach(), rtol=0, atol=1e-10)
        torch.testing.assert_close(found[1], gradients, rtol=1e-10, atol=1e-10)


def assert_directed_edge_vanishes(network: nn.Module) -> None:
    """Check that one directed edge alone loses its effect as δ³, δ², δ at the cutoff.

    Each edge of a bent triatomic in turn is the only one that comes near the cutoff.
    """
    cutoff = float(network.cutoff)
    index = torch.tensor([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]])
    positions = torch.tensor([[0.0, 0.1, 0.0], [1.1, 0.0, 0.2], [-0.3, 1.0, 0.4]]).double()
    vectors = positions[index[0]] - positions[index[1]]
    for edge in range(6):
        kept = torch.arange(6) != edge
        without = network.atomic_energies(_graph(index[:, kept], vectors[kept])).detach()
        effects = []
        for delta in (3e-3 * cutoff, 3e-4 * cutoff):
            length = torch.tensor(cutoff - delta, dtype=torch.float64, requires_grad=True)
            direction = vectors[edge] / vectors[edge].norm()
            moved = torch.where(kept.unsqueeze(1), vectors, length * direction)
            effect = (network.atomic_energies(_graph(index, moved)) - without)[index[1, edge]]
            (slope,) = torch.autograd.grad(effect, length, create_graph=True)
            (curvature,) = torch.autograd.grad(slope, length)
            effects.append([abs(float(x.detach())) for x in (effect, slope, curvature)])
        orders = np.log10(np.array(effects[0]) / np.array(effects[1]))
        assert (orders > np.array([3.0, 2.0, 1.0]) - 0.2).all(), (edge, orders)
    beyond = torch.where(torch.arange(6).unsqueeze(1) == 0, vectors * 4.0 * cutoff, vectors)
    found = network.atomic_energies(_graph(index, beyond))
    without = network.atomic_energies(_graph(index[:, 1:], vectors[1:]))
    torch.testing.assert_close(found, without, rtol=0, atol=1e-13)


def _graph(index: Tensor, vectors: Tensor) -> AtomicGraph:
    numbers = torch.tensor([8, 6, 1])
    return AtomicGraph(
        numbers, index, vectors, torch.zeros_like(numbers), 1, 3, vectors.new_zeros((1, 3, 3))
    )


def incoming(i: int, edges: list[Edge]) -> Iterator[Edge]:
    """Yield the edges that atom i receives."""
    return (edge for edge in edges if edge.i == i)
