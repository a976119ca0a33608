"""Laws of differentiation: forces, stress, and what training needs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from ase import Atoms
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.blockwise.grouping import MAX_EDGES, grouped, size_of
from eqcalc.derivatives import forces_from_edge_gradients
from eqcalc.elements import atomic_number
from eqcalc.errors import ContractError
from eqcalc.export.frames import element_clusters
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.potential import Potential
from eqcalc.testing import geometries
from eqcalc.testing.geometries import Structures
from eqcalc.testing.measurements import keep
from eqcalc.testing.preparation import perturb
from eqcalc.testing.subjects import (
    Subject,
    assert_close,
    evaluate,
    require,
    require_potential,
)
from eqcalc.testing.tolerances import (
    DERIVATIVE,
    FORCE_CONSTANT_FLOOR,
    FORCE_CONSTANT_SPREAD,
    SMALL_DISPLACEMENTS,
)

__all__ = [
    "assert_every_parameter_learns",
    "assert_finite_second_derivatives",
    "assert_forces_are_derivatives",
    "assert_smooth_at_symmetric_sites",
    "assert_stress_is_derivative",
]

# Å; the error of the fourth-order formula, in a network of random weights that changes within
# 0.005 Å, and rounding are both a hundredth of what is allowed.
_STEP = 5e-5


def assert_forces_are_derivatives(
    subject: Subject, structures: Structures | None = None, most: int | None = None
) -> None:
    """Forces equal -dE/dr by finite differences, whatever the boundary. (float64 only.)

    Parameters
    ----------
    most : components of a structure's forces that are compared, drawn at random; None: all
    """
    for case, atoms in (structures or geometries.generic()).items():
        components = np.arange(3 * len(atoms))
        if most is not None and most < len(components):
            components = np.random.default_rng(9).choice(components, most, replace=False)

        def displaced(k: int, step: float, atoms: Atoms = atoms) -> Atoms:
            moved = atoms.copy()
            moved.positions[k // 3, k % 3] += step
            return moved

        found = evaluate(subject, atoms, case)
        slopes = _finite_differences(subject, displaced, components, case)
        assert_close(
            found.forces.reshape(-1)[torch.from_numpy(components)],
            -slopes,
            DERIVATIVE,
            f"{subject.label}: {case}, against finite differences of the energy",
            "forces",
        )


def assert_stress_is_derivative(subject: Subject, structures: Structures | None = None) -> None:
    """Stress equals dE/dε / V by finite differences; None where a direction is open.

    float64 only. All nine strains: an antisymmetric one is a rotation and costs nothing.
    """
    for case, atoms in (structures or geometries.generic()).items():
        if not atoms.pbc.all():
            continue

        def strained(k: int, step: float, atoms: Atoms = atoms) -> Atoms:
            strain = np.eye(3)
            strain[k // 3, k % 3] += step
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ strain.T, scale_atoms=True)
            return moved

        found = evaluate(subject, atoms, case)
        slopes = _finite_differences(subject, strained, np.arange(9), case)
        if found.stress is None:
            raise ContractError(f"{subject.label}: {case} has no stress")
        assert_close(
            found.stress[0],
            slopes.reshape(3, 3) / atoms.get_volume(),
            DERIVATIVE,
            f"{subject.label}: {case}, against finite differences of the energy",
            "stress",
        )
    for case, atoms in (structures or geometries.generic()).items():
        if not atoms.pbc.all():
            stress = evaluate(subject, atoms, case).stress
            require(stress is None, f"{subject.label}: {case} is open and has a stress")


def assert_smooth_at_symmetric_sites(
    subject: Subject, structures: Structures | None = None
) -> None:
    """The force on an atom off a perfect site changes by -k u with one k for every small u.

    float64 only. A length √(Σv² + 1e-8) has a kink where v vanishes by symmetry: there k falls
    by an order of magnitude within 1e-3 Å, perfect crystals do not relax, phonons are wrong.
    A network that declares it is held to displacements a thousand times smaller. The site is that
    of each structure's first atom; k is the mean over u and -u.
    """
    is_smooth = subject.concessions.smooth_at_symmetric_sites
    displacements = [u if is_smooth else 1e-3 * u for u in SMALL_DISPLACEMENTS]
    for case, atoms in (structures or geometries.perfect_crystals()).items():
        constants = []
        for u in displacements:
            ahead, behind = (_force_on_first(subject, atoms, case, step) for step in (u, -u))
            constants.append((behind - ahead) / (2.0 * u))
        largest = max(map(abs, constants))
        spread = max(constants) - min(constants)
        shown = ", ".join(f"{k:.4g}" for k in constants)
        allowed = FORCE_CONSTANT_SPREAD * largest + FORCE_CONSTANT_FLOOR
        keep(f"{case}: spread of force constants", spread, allowed, "eV/Å²")
        require(
            spread <= allowed,
            f"{subject.label}: {case}: the force constant of an atom displaced by "
            f"{', '.join(f'{u:g}' for u in displacements)} Å is {shown} eV/Å²: a kink",
        )


def _force_on_first(subject: Subject, atoms: Atoms, case: str, u: float) -> float:
    moved = atoms.copy()
    moved.positions[0, 0] += u
    found = evaluate(subject, moved, f"{case}, an atom displaced by {u:g} Å")
    return float(found.forces[0, 0])


def assert_every_parameter_learns(subject: Subject) -> None:
    """A loss on energies and forces moves every parameter.

    Initial values that are zero on purpose (biases, last layers) are perturbed first. What only
    shifts the energy of an element counts too, though exact isolated atoms take it out again.
    """
    potential = copy.deepcopy(require_potential(subject)).double().train()
    potential.exact_isolated_atoms = False
    perturb(potential)
    structures = [geometries.ethanol(0), geometries.ethanol(1), geometries.ionic_triclinic()]
    structures += _clusters(subject.elements)
    graph = batch_graphs([subject.graph(atoms, dtype=torch.float64) for atoms in structures])
    with _failures_break_the_law(f"{subject.label}: loss on energies and forces"):
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
    what = f"{subject.label}: "
    require(not broken, f"{what}gradients that are NaN or infinite: {', '.join(broken)}")
    require(not silent, f"{what}parameters without a gradient: {', '.join(silent)}")


def assert_finite_second_derivatives(subject: Subject) -> None:
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
        trained = copy.deepcopy(require_potential(subject)).to(dtype).train()
        for name, atoms in structures.items():
            for axis, turn in axes.items():
                turned = atoms.copy()
                turned.set_cell(atoms.cell.array @ turn)
                turned.positions = atoms.positions @ turn
                graph = subject.graph(turned, dtype=dtype)
                case = f"{subject.label}: {name} along {axis} in {dtype}"
                _assert_twice_differentiable(trained, graph, case)


def _clusters(elements: Sequence[str]) -> list[Atoms]:
    """Return clusters that hold every element: parameters of a species need an atom of it."""
    numbers = [atomic_number(symbol) for symbol in elements]
    groups = [numbers[k : k + 12] for k in range(0, len(numbers), 12)]
    return [element_clusters(group)[0] for group in groups]


@contextmanager
def _failures_break_the_law(case: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a network may fail in any way
        failure = f"{type(error).__name__}: {error}"
        raise ContractError(f"{case}: no second derivative: {failure}") from error


def _assert_twice_differentiable(potential: Potential, graph: AtomicGraph, case: str) -> None:
    potential.zero_grad()
    with _failures_break_the_law(case):
        _energy_and_force_loss(potential, graph).backward()
    broken = [
        name
        for name, parameter in potential.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
    ]
    require(not broken, f"{case}: NaN or infinite second derivatives in {', '.join(broken)}")
    if graph.edge_vectors.shape[0] == 0:
        return
    with _failures_break_the_law(case):
        hessian_row = _hessian_row(potential, graph)
    require(
        bool(torch.isfinite(hessian_row).all()),
        f"{case}: NaN or infinite second derivatives with respect to edge_vectors",
    )


def _hessian_row(potential: Potential, graph: AtomicGraph) -> Tensor:
    """Return the second derivatives of the energy along one direction, (n_edges, 3)."""
    vectors = graph.edge_vectors.clone().requires_grad_(True)
    energies = potential.architecture.atomic_energies(  # type: ignore[operator]
        graph._replace(edge_vectors=vectors)
    )
    (gradient,) = torch.autograd.grad(energies.sum(), vectors, create_graph=True)
    return torch.autograd.grad((gradient * _weights(gradient)).sum(), vectors)[0]


def _energy_and_force_loss(potential: Potential, graph: AtomicGraph) -> Tensor:
    """Return a loss () whose parts have no common zero, linear in energies and forces."""
    energies, gradients = potential(graph)
    forces = forces_from_edge_gradients(gradients, graph.edge_index, len(energies))
    return (energies * _weights(energies)).sum() + (forces * _weights(forces)).sum()


def _weights(tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(17)
    return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)


def _finite_differences(
    subject: Subject, displaced: Callable[[int, float], Atoms], directions: NDArray, case: str
) -> NDArray:
    """Return dE/dx along each numbered direction by the central formula of fourth order."""
    weights = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
    graphs = (
        subject.graph(displaced(int(k), multiple * _STEP))
        for k in directions
        for multiple in weights
    )
    energy = np.concatenate(
        [
            evaluate(subject, batch_graphs(group), case).energy.numpy()
            for group in grouped(graphs, size_of, MAX_EDGES)
        ]
    )
    return energy.reshape(len(directions), len(weights)) @ np.array(list(weights.values())) / _STEP
