"""Graphs: what is refused, how they are joined, and sums over the structures of one."""

from __future__ import annotations

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eqcalc.errors import GraphError
from eqcalc.graph import (
    AtomicGraph,
    batch_graphs,
    graph_of_atoms_alone,
    sum_over_structures,
    validate_graph,
)
from eqcalc.neighbours import build_graph


def _water() -> AtomicGraph:
    return build_graph(molecule("H2O"), 3.0)


def _salt() -> AtomicGraph:
    atoms = bulk("NaCl", "rocksalt", a=5.6)
    atoms.rattle(0.1, seed=0)
    return build_graph(atoms, 4.5)


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
        r"structure_index must lie in 0\.\.0, found values from 0 to 1",
    ),
    "negative structure": (
        lambda g: g._replace(structure_index=torch.tensor([-1, 0, 0])),
        r"structure_index must lie in 0\.\.0, found values from -1 to 0",
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


def test_graph_of_atoms_alone_is_that_of_their_structures():
    alone = graph_of_atoms_alone([1, 6, 8])
    validate_graph(alone)
    expected = batch_graphs([build_graph(Atoms(symbol), 3.0) for symbol in "HCO"])
    for found, other in zip(alone, expected, strict=True):
        assert found == other if isinstance(other, int) else torch.equal(found, other)


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


# --- sums over structures


def test_sums_over_structures_include_empty_ones():
    values = torch.tensor([1.0, 2.0, 4.0])
    found = sum_over_structures(values, torch.tensor([0, 0, 2]), 4)
    assert found.tolist() == [3.0, 0.0, 4.0, 0.0]


def test_float32_energies_are_summed_in_float64():
    # One large pair of energies cancels; in float32 the small ones would vanish with it.
    energies = torch.tensor([1e8, 1.0, 1.0, 1.0, 1.0, -1e8])
    assert sum_over_structures(energies, torch.zeros(6, dtype=torch.int64), 1).tolist() == [4.0]
