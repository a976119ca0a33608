"""The two directions of a pair of atoms."""

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from small_models import crystal, ethanol
from torch.fx.experimental.proxy_tensor import make_fx

from eqcalc.graph import batch_graphs
from eqcalc.neighbours import build_graph
from eqcalc.tabulated.pairs import Pairs, given_pairs, pair_distances, pairs_of

CUTOFF = 4.0
STRUCTURES = {
    "molecule": ethanol(),
    "crystal": crystal(),
    "one atom in a small cell": bulk("Cu"),  # all pairs are of an atom and its images
    "cubic": bulk("Si", cubic=True),  # many vectors alike but for signs
    "slab": Atoms("Cu2", [(0, 0, 0), (0, 0, 2.5)], cell=[2.5, 2.5, 20], pbc=(True, True, False)),
    "one atom": Atoms("H"),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", STRUCTURES)
def test_every_edge_shares_its_row_with_its_opposite_alone(name, dtype):
    graph = build_graph(STRUCTURES[name], CUTOFF, dtype=dtype)
    (senders, receivers), vectors = graph.edge_index, graph.edge_vectors
    pairs = pairs_of(graph.edge_index, vectors)
    assert pairs is not None
    assert torch.equal(pairs.rows[pairs.first], torch.arange(len(pairs.first)))
    assert 2 * len(pairs.first) == len(senders)
    for row in range(len(pairs.first)):
        one, other = (pairs.rows == row).nonzero().flatten().tolist()
        assert (senders[one], receivers[one]) == (receivers[other], senders[other])
        torch.testing.assert_close(vectors[one], -vectors[other], rtol=0, atol=1e-5)


def test_structures_of_a_batch_are_told_apart():
    twice = batch_graphs([build_graph(ethanol(), CUTOFF)] * 2)
    pairs = pairs_of(twice.edge_index, twice.edge_vectors)
    half = twice.edge_index.shape[1] // 2
    assert set(pairs.rows[:half].tolist()).isdisjoint(pairs.rows[half:].tolist())


def test_distances_are_those_of_the_pairs():
    graph = build_graph(crystal(), CUTOFF)
    distances, rows = pair_distances(graph.edge_index, graph.edge_vectors)
    expected = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
    torch.testing.assert_close(distances[rows], expected)


def leave_one_out(index, vectors):
    return index[:, 1:], vectors[1:]


def turn_one_round(index, vectors):
    return index, torch.cat([-vectors[:1], vectors[1:]])


def scale_one_element(index, vectors):
    return index, torch.where((index[0] == 0).unsqueeze(1), 1.1 * vectors, vectors)


@pytest.mark.parametrize("change", [leave_one_out, turn_one_round, scale_one_element])
def test_a_list_without_its_opposites_has_no_pairs(change):
    graph = build_graph(molecule("H2O"), CUTOFF)
    index, vectors = change(graph.edge_index, graph.edge_vectors)
    assert pairs_of(index, vectors) is None
    distances, rows = pair_distances(index, vectors)
    assert rows is None
    np.testing.assert_allclose(distances, np.linalg.norm(vectors, axis=1))


def test_a_tracer_sees_edges_alone():
    graph = build_graph(molecule("H2O"), CUTOFF)
    traced = make_fx(lambda i, v: pair_distances(i, v)[0], tracing_mode="symbolic")(
        graph.edge_index, graph.edge_vectors
    )
    assert traced(graph.edge_index, graph.edge_vectors).shape == (graph.edge_index.shape[1],)


def test_a_tracer_that_is_given_pairs_sees_those_of_every_graph():
    def shared(index, vectors, *pairs):
        with given_pairs(Pairs(*pairs)):
            distances, rows = pair_distances(index, vectors)
        return distances, rows

    graphs = [build_graph(atoms, CUTOFF) for atoms in (molecule("H2O"), ethanol())]
    calls = [
        (g.edge_index, g.edge_vectors, *pairs_of(g.edge_index, g.edge_vectors)) for g in graphs
    ]
    traced = make_fx(shared, tracing_mode="symbolic")(*calls[0])
    for graph, call in zip(graphs, calls, strict=True):
        distances, rows = traced(*call)
        assert len(distances) == graph.edge_index.shape[1] // 2
        expected = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
        torch.testing.assert_close(distances[rows], expected)
