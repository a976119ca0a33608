"""Forces, virials, volumes and Voigt's order, from edge gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from eqcalc.derivatives import (
    VOIGT,
    atomic_virials_from_edge_gradients,
    forces_from_edge_gradients,
    virials_from_edge_gradients,
    volumes,
)
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import build_graph

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _water() -> AtomicGraph:
    return build_graph(molecule("H2O"), 3.0)


def _salt() -> AtomicGraph:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=0)
    return build_graph(atoms, 4.5)


def _gradients(graph: AtomicGraph) -> torch.Tensor:
    """Return arbitrary edge gradients."""
    return torch.randn(
        graph.edge_vectors.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


@pytest.mark.parametrize("graph", [_water(), _salt()], ids=["open", "periodic"])
def test_forces_equal_the_double_sum_over_edges(graph):
    gradients = _gradients(graph)
    n_atoms = len(graph.atomic_numbers)
    expected = torch.zeros(n_atoms, 3, dtype=torch.float64)
    for (sender, receiver), g in zip(graph.edge_index.T.tolist(), gradients, strict=True):
        expected[receiver] += g
        expected[sender] -= g
    found = forces_from_edge_gradients(gradients, graph.edge_index, n_atoms)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(found.sum(dim=0), torch.zeros(3, dtype=torch.float64), **EXACT)


def test_forces_equal_the_derivative_with_respect_to_positions():
    graph = _water()
    positions = torch.from_numpy(molecule("H2O").positions).requires_grad_(True)
    senders, receivers = graph.edge_index
    weights = _gradients(graph)
    energy = (weights * (positions[senders] - positions[receivers]).pow(3)).sum()
    (slope,) = torch.autograd.grad(energy, positions)
    found = forces_from_edge_gradients(
        3 * weights * graph.edge_vectors.square(), graph.edge_index, 3
    )
    torch.testing.assert_close(found, -slope, **EXACT)


@pytest.mark.parametrize("graph", [_water(), _salt()], ids=["open", "periodic"])
def test_virials_sum_to_the_symmetric_strain_derivative(graph):
    gradients = _gradients(graph)
    outer = graph.edge_vectors.numpy().T @ gradients.numpy()
    found = atomic_virials_from_edge_gradients(
        gradients, graph.edge_vectors, graph.edge_index, len(graph.atomic_numbers)
    )
    np.testing.assert_allclose(found.sum(dim=0).numpy(), 0.5 * (outer + outer.T), **EXACT)


def test_virials_of_a_batch_are_those_of_its_structures_in_every_bit():
    graphs = [_water(), _salt(), _water()]
    gradients = [_gradients(graph) for graph in graphs]
    found = virials_from_edge_gradients(torch.cat(gradients), batch_graphs(graphs))
    singles = [
        virials_from_edge_gradients(g, graph) for g, graph in zip(gradients, graphs, strict=True)
    ]
    assert torch.equal(found, torch.cat(singles))


def test_half_of_each_edge_virial_goes_to_either_end():
    edge_index = torch.tensor([[1], [0]])
    vector = torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)
    gradient = torch.tensor([[0.5, 0.0, -1.0]], dtype=torch.float64)
    found = atomic_virials_from_edge_gradients(gradient, vector, edge_index, 3)
    outer = vector[0][:, None] * gradient[0][None, :]
    half = 0.25 * (outer + outer.T)
    torch.testing.assert_close(found[0], half, **EXACT)
    torch.testing.assert_close(found[1], half, **EXACT)
    assert bool((found[2] == 0).all())


def test_float32_gradients_are_summed_in_float64():
    # One large pair of gradients cancels; in float32 the small ones would vanish with it.
    gradients = torch.tensor([[1e8, 0, 0]] + [[1.0, 0, 0]] * 4 + [[-1e8, 0, 0]])
    edge_index = torch.tensor([[1, 2, 3, 4, 5, 6], [0] * 6])
    forces = forces_from_edge_gradients(gradients, edge_index, 7)
    assert forces.dtype == torch.float64
    assert forces[0, 0].item() == 4.0
    vectors = torch.tensor([[1.0, 0.0, 0.0]] * 6)
    virials = atomic_virials_from_edge_gradients(gradients, vectors, edge_index, 7)
    assert virials.dtype == torch.float64
    assert virials[0, 0, 0].item() == 2.0


def test_no_edges_mean_no_forces_and_no_virial():
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert torch.equal(
        forces_from_edge_gradients(torch.zeros(0, 3), none, 2),
        torch.zeros(2, 3, dtype=torch.float64),
    )
    virials = atomic_virials_from_edge_gradients(torch.zeros(0, 3), torch.zeros(0, 3), none, 2)
    assert torch.equal(virials, torch.zeros(2, 3, 3, dtype=torch.float64))


def test_volume_is_that_of_the_cell_and_zero_where_a_direction_is_open():
    atoms = bulk("Cu", "fcc", a=3.6)
    left_handed = atoms.cell.array[[1, 0, 2]]
    slab = np.diag([2.0, 3.0, 0.0])
    cells = torch.from_numpy(np.stack([atoms.cell.array, left_handed, slab, np.zeros((3, 3))]))
    volume = atoms.get_volume()
    np.testing.assert_allclose(volumes(cells).numpy(), [volume, volume, 0.0, 0.0], **EXACT)


def test_voigt_order_is_that_of_ase():
    from ase.stress import full_3x3_to_voigt_6_stress

    tensor = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    assert [tensor[a, b] for a, b in VOIGT] == full_3x3_to_voigt_6_stress(tensor).tolist()
