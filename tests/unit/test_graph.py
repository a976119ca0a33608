"""Graphs: what is refused, how they are joined, and forces and virials from edge gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from eqcalc.derivatives import (
    VOIGT,
    atomic_virials_from_edge_gradients,
    forces_from_edge_gradients,
    volumes,
)
from eqcalc.errors import GraphError
from eqcalc.graph import AtomicGraph, batch_graphs, sum_over_structures, validate_graph
from eqcalc.neighbours import build_graph

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _water() -> AtomicGraph:
    return build_graph(molecule("H2O"), 3.0)


def _salt() -> AtomicGraph:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=0)
    return build_graph(atoms, 4.5)


def _equal(left: AtomicGraph, right: AtomicGraph) -> bool:
    pairs = zip(left, right, strict=True)
    return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)


def _gradients(graph: AtomicGraph) -> torch.Tensor:
    """Return arbitrary edge gradients."""
    return torch.randn(
        graph.edge_vectors.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )


# --- what is refused


def _nothing(graph: AtomicGraph) -> AtomicGraph:
    none = torch.zeros(0, dtype=torch.int64)
    return graph._replace(atomic_numbers=none, structure_index=none, n_owned=0)


REFUSALS = {
    "zero atoms": (_nothing, r"the graph has zero atoms; at least one is needed"),
    "transposed edge_index": (
        lambda g: g._replace(edge_index=g.edge_index.T),
        r"edge_index must have shape \(2, n_edges\), found \(6, 2\)",
    ),
    "flat edge_index": (
        lambda g: g._replace(edge_index=g.edge_index[0]),
        r"edge_index must have shape \(2, n_edges\), found \(6,\)",
    ),
    "missing edge vector": (
        lambda g: g._replace(edge_vectors=g.edge_vectors[1:]),
        r"edge_vectors must have shape \(6, 3\) to match edge_index, found \(5, 3\)",
    ),
    "int32 numbers": (
        lambda g: g._replace(atomic_numbers=g.atomic_numbers.int()),
        r"atomic_numbers must be int64, found torch\.int32",
    ),
    "int32 edges": (
        lambda g: g._replace(edge_index=g.edge_index.int()),
        r"edge_index must be int64, found torch\.int32",
    ),
    "float structures": (
        lambda g: g._replace(structure_index=g.structure_index.double()),
        r"structure_index must be int64, found torch\.float64",
    ),
    "element zero": (
        lambda g: g._replace(atomic_numbers=g.atomic_numbers - 1),
        r"atomic_numbers must lie in 1\.\.118, found values from 0 to 7",
    ),
    "element 119": (
        lambda g: g._replace(atomic_numbers=g.atomic_numbers + 111),
        r"atomic_numbers must lie in 1\.\.118, found values from 112 to 119",
    ),
    "edges between structures": (
        lambda g: g._replace(
            structure_index=torch.tensor([0, 0, 1]), n_structures=2, cell=torch.zeros(2, 3, 3)
        ),
        r"edges must join atoms of one structure; not so 1, 3, 4, 5",
    ),
    "edge to a missing atom": (
        lambda g: g._replace(edge_index=g.edge_index + 1),
        r"edge_index must lie in 0\.\.2, found values from 1 to 3",
    ),
    "edge to a negative atom": (
        lambda g: g._replace(edge_index=g.edge_index - 1),
        r"edge_index must lie in 0\.\.2, found values from -1 to 1",
    ),
    "unsorted edges": (
        lambda g: g._replace(edge_index=g.edge_index.flip(1)),
        r"edges must be sorted by receiver \(edge_index\[1\]\); they are not",
    ),
    "NaN edge vector": (
        lambda g: g._replace(edge_vectors=g.edge_vectors * torch.nan),
        r"edge_vectors hold NaN or infinite values",
    ),
    "infinite edge vector": (
        lambda g: g._replace(edge_vectors=g.edge_vectors / 0.0),
        r"edge_vectors hold NaN or infinite values",
    ),
    "short structure_index": (
        lambda g: g._replace(structure_index=g.structure_index[1:]),
        r"structure_index must have shape \(3,\), found \(2,\)",
    ),
    "unsorted structure_index": (
        lambda g: g._replace(structure_index=torch.tensor([0, 1, 0]), n_structures=2),
        r"structure_index must be sorted \(non-decreasing\)",
    ),
    "structure out of range": (
        lambda g: g._replace(structure_index=torch.tensor([0, 0, 1])),
        r"structure_index must lie in 0\.\.0, found values up to 1",
    ),
    "negative structure": (
        lambda g: g._replace(structure_index=torch.tensor([-1, 0, 0])),
        r"structure_index must lie in 0\.\.0",
    ),
    "cell without structures": (
        lambda g: g._replace(cell=g.cell[0]),
        r"cell must have shape \(1, 3, 3\), found \(3, 3\)",
    ),
    "too many owned atoms": (
        lambda g: g._replace(n_owned=4),
        r"n_owned must lie in 0\.\.3, found 4",
    ),
    "negative owned atoms": (
        lambda g: g._replace(n_owned=-1),
        r"n_owned must lie in 0\.\.3, found -1",
    ),
}


@pytest.mark.parametrize(("spoil", "match"), REFUSALS.values(), ids=REFUSALS)
def test_graph_that_breaks_a_convention_is_refused(spoil, match):
    with pytest.raises(GraphError, match=match):
        validate_graph(spoil(_water()))


@pytest.mark.parametrize(
    "graph",
    [
        _water(),
        _salt(),
        build_graph(molecule("H2O"), 0.5),
        _water()._replace(n_owned=0),
        batch_graphs([_water(), _salt()]),
        _water()._replace(n_structures=2, cell=torch.zeros(2, 3, 3)),
    ],
    ids=["open", "periodic", "no edges", "ghosts only", "batch", "empty last structure"],
)
def test_sound_graph_is_accepted(graph):
    validate_graph(graph)


# --- joining


def test_batch_numbers_atoms_and_structures_on():
    water, salt = _water(), _salt()
    batch = batch_graphs([water, salt, water])
    assert (batch.n_structures, batch.n_owned) == (3, 8)
    assert batch.atomic_numbers.tolist() == [8, 1, 1, 11, 17, 8, 1, 1]
    assert batch.structure_index.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    n_water, n_salt = water.edge_index.shape[1], salt.edge_index.shape[1]
    assert torch.equal(batch.edge_index[:, :n_water], water.edge_index)
    assert torch.equal(batch.edge_index[:, n_water : n_water + n_salt], salt.edge_index + 3)
    assert torch.equal(batch.edge_index[:, n_water + n_salt :], water.edge_index + 5)
    assert torch.equal(
        batch.edge_vectors, torch.cat([g.edge_vectors for g in (water, salt, water)])
    )
    assert torch.equal(batch.cell, torch.cat([g.cell for g in (water, salt, water)]))


def test_batches_can_be_batched_again():
    water, salt = _water(), _salt()
    twice = batch_graphs([batch_graphs([water, salt]), batch_graphs([salt])])
    once = batch_graphs([water, salt, salt])
    for found, expected in zip(twice, once, strict=True):
        same = (
            torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
        )
        assert same


def test_batch_of_one_is_the_graph_itself():
    water = _water()
    for found, expected in zip(batch_graphs([water]), water, strict=True):
        same = (
            torch.equal(found, expected) if isinstance(found, torch.Tensor) else found == expected
        )
        assert same


def test_batch_of_nothing_is_refused():
    with pytest.raises(GraphError, match="batch_graphs needs at least one graph, found none"):
        batch_graphs([])


def test_batch_with_ghosts_is_refused_naming_the_graphs():
    ghosts = _water()._replace(n_owned=1)
    with pytest.raises(GraphError, match=r"ghost atoms cannot be batched .* in graphs 1, 2"):
        batch_graphs([_water(), ghosts, ghosts])


# --- forces and virials


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
    energies = sum_over_structures(gradients[:, 0], torch.zeros(6, dtype=torch.int64), 1)
    assert energies.tolist() == [4.0]


def test_no_edges_mean_no_forces_and_no_virial():
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert torch.equal(
        forces_from_edge_gradients(torch.zeros(0, 3), none, 2),
        torch.zeros(2, 3, dtype=torch.float64),
    )
    virials = atomic_virials_from_edge_gradients(torch.zeros(0, 3), torch.zeros(0, 3), none, 2)
    assert torch.equal(virials, torch.zeros(2, 3, 3, dtype=torch.float64))


def test_sums_over_structures_include_empty_ones():
    values = torch.tensor([1.0, 2.0, 4.0])
    found = sum_over_structures(values, torch.tensor([0, 0, 2]), 4)
    assert found.tolist() == [3.0, 0.0, 4.0, 0.0]


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
