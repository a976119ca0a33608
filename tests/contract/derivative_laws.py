"""Laws of differentiation: forces, stress, and what training needs."""

from __future__ import annotations

import copy
from collections.abc import Callable

import geometries
import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from subjects import Subject, assert_close, evaluate
from tolerances import DERIVATIVE
from torch import Tensor

from eqcalc.derivatives import forces_from_edge_gradients
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

__all__ = [
    "assert_every_parameter_learns",
    "assert_finite_second_derivatives",
    "assert_forces_are_derivatives",
    "assert_stress_is_derivative",
]

_STEP = 3e-4  # Å; error of the fourth-order formula and rounding are both below 1e-8


def assert_forces_are_derivatives(subject: Subject) -> None:
    """Forces equal -dE/dr by finite differences, whatever the boundary. (float64 only.)"""
    for case, atoms in geometries.generic().items():

        def displaced(k: int, step: float, atoms: Atoms = atoms) -> Atoms:
            moved = atoms.copy()
            moved.positions[k // 3, k % 3] += step
            return moved

        found = evaluate(subject, atoms, case)
        slopes = _finite_differences(subject, displaced, 3 * len(atoms), case)
        expected = -slopes.reshape(-1, 3)
        assert_close(
            found.forces,
            expected,
            DERIVATIVE,
            f"{subject.label}: {case}, against finite differences of the energy",
            "forces",
        )


def assert_stress_is_derivative(subject: Subject) -> None:
    """Stress equals dE/dε / V by finite differences; None where a direction is open.

    float64 only. All nine strains: an antisymmetric one is a rotation and costs nothing.
    """
    for case, atoms in geometries.periodic_in_three().items():

        def strained(k: int, step: float, atoms: Atoms = atoms) -> Atoms:
            strain = np.eye(3)
            strain[k // 3, k % 3] += step
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain.T, scale_atoms=True)
            return moved

        found = evaluate(subject, atoms, case)
        slopes = _finite_differences(subject, strained, 9, case)
        assert found.stress is not None, f"{subject.label}: {case} has no stress"
        assert_close(
            found.stress[0],
            slopes.reshape(3, 3) / atoms.get_volume(),
            DERIVATIVE,
            f"{subject.label}: {case}, against finite differences of the energy",
            "stress",
        )
    for case, atoms in geometries.generic().items():
        if not atoms.pbc.all():
            stress = evaluate(subject, atoms, case).stress
            assert stress is None, f"{subject.label}: {case} is open and has a stress"


def assert_every_parameter_learns(potential: Potential) -> None:
    """A loss on energies and forces moves every parameter.

    Initial values that are zero on purpose (biases, last layers) are perturbed first.
    """
    potential = copy.deepcopy(potential).double().train()
    perturb(potential)
    structures = [geometries.ethanol(0), geometries.ethanol(1), geometries.ionic_triclinic()]
    graph = batch_graphs([build_graph(atoms, potential.cutoff) for atoms in structures])
    _energy_and_force_loss(potential, graph).backward()
    silent, broken = [], []
    for name, parameter in potential.named_parameters():
        if not parameter.requires_grad:
            continue
        gradient = parameter.grad
        if gradient is None or float(gradient.abs().max()) == 0.0:
            silent.append(name)
        elif not bool(torch.isfinite(gradient).all()):
            broken.append(name)
    assert not broken, f"gradients that are NaN or infinite: {', '.join(broken)}"
    assert not silent, f"parameters without a gradient: {', '.join(silent)}"


def assert_finite_second_derivatives(potential: Potential) -> None:
    """Force training and Hessians are finite where vectors cancel or angles are 0, 90 or 180°.

    Geometries along each axis and along none, and atoms without any edge, in both
    precisions.
    """
    structures = {
        "isolated C": geometries.isolated("C"),
        "H2": geometries.hydrogen(),
        "CO2": geometries.linear_co2(),
        "acetylene": geometries.acetylene(),
        "benzene": geometries.benzene(),
        "square H4": geometries.square(),
        "copper cell": geometries.metal(),
    }
    axes = {
        "z": np.eye(3),
        "x": np.eye(3)[[2, 0, 1]],
        "y": np.eye(3)[[1, 2, 0]],
        "no axis": geometries.rotation_matrix(21),
    }
    for dtype in (torch.float64, torch.float32):
        trained = copy.deepcopy(potential).to(dtype).train()
        for name, atoms in structures.items():
            for axis, turn in axes.items():
                turned = atoms.copy()
                turned.set_cell(atoms.cell.array @ turn)
                turned.positions = atoms.positions @ turn
                graph = build_graph(turned, trained.cutoff, dtype=dtype)
                _assert_twice_differentiable(trained, graph, f"{name} along {axis} in {dtype}")


def perturb(module: torch.nn.Module, size: float = 0.05, seed: int = 3) -> None:
    """Add a little noise to every parameter, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_((size * noise).to(parameter.dtype))


def _assert_twice_differentiable(potential: Potential, graph: AtomicGraph, case: str) -> None:
    potential.zero_grad()
    try:
        _energy_and_force_loss(potential, graph).backward()
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        raise AssertionError(f"{case}: no second derivative: {failure}") from error
    broken = [
        name
        for name, parameter in potential.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    assert not broken, f"{case}: NaN or infinite second derivatives in {', '.join(broken)}"
    if graph.edge_vectors.shape[0] == 0:
        return
    vectors = graph.edge_vectors.clone().requires_grad_(True)
    energy = potential.architecture.atomic_energies(graph._replace(edge_vectors=vectors)).sum()
    (gradient,) = torch.autograd.grad(energy, vectors, create_graph=True)
    (hessian_row,) = torch.autograd.grad((gradient * _weights(gradient)).sum(), vectors)
    assert bool(torch.isfinite(hessian_row).all()), (
        f"{case}: NaN or infinite second derivatives with respect to edge_vectors"
    )


def _energy_and_force_loss(potential: Potential, graph: AtomicGraph) -> Tensor:
    """Return a loss () whose parts have no common zero, linear in energies and forces."""
    energies, gradients = potential(graph)
    forces = forces_from_edge_gradients(gradients, graph.edge_index, len(energies))
    return (energies * _weights(energies)).sum() + (forces * _weights(forces)).sum()


def _weights(tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(17)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def _finite_differences(
    subject: Subject, displaced: Callable[[int, float], Atoms], n_directions: int, case: str
) -> NDArray:
    """Return dE/dx along each direction by the central formula of fourth order."""
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    graphs = [
        subject.graph(displaced(k, multiple * _STEP))
        for k in range(n_directions)
        for multiple in weights
    ]
    energy = evaluate(subject, batch_graphs(graphs), case).energy.numpy()
    return energy.reshape(n_directions, len(weights)) @ np.array(list(weights.values())) / _STEP
