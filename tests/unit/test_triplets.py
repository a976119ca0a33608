"""Triplets against three nested loops over ASE's own periodic neighbour list."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.neighborlist import neighbor_list

from eqcalc.errors import GraphError
from eqcalc.neighbours import build_graph
from eqcalc.nn.triplets import (
    Triplets,
    build_triplets,
    cosines_at_middle,
    lay_out,
    list_triplets,
    tabulate_triplets,
    validate_angle_index,
)


def _structures() -> dict[str, Atoms]:
    water = molecule("H2O")
    water.rattle(0.05, seed=2)
    slab = fcc111("Cu", (1, 1, 2), vacuum=5.0)
    slab.pbc = (True, True, False)
    return {
        "water": water,
        "linear": Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]]),
        "pair": Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]),
        "one atom": Atoms("H"),
        "one-atom cell": bulk("Cu", "fcc", a=3.61),
        "chain": Atoms("C", cell=[0, 0, 1.3], pbc=(False, False, True)),
        "slab": slab,
        "two atoms in a small cell": Atoms(
            "NaCl", [[0, 0, 0], [1.4, 1.3, 1.5]], cell=[2.7, 2.9, 3.0], pbc=True
        ),
    }


def _by_loops(atoms: Atoms, cutoff: float) -> list[tuple[float, ...]]:
    """Return (|k→j|, |j→i|, cos α, j, i) of every triplet, sorted; images by integers."""
    i, j, vectors, shifts = neighbor_list("ijDS", atoms, cutoff)
    found = []
    for b in range(len(i)):  # j→i
        for a in range(len(i)):  # k→j
            if i[a] != j[b]:
                continue
            if j[a] == i[b] and (shifts[a] + shifts[b] == 0).all():
                continue  # the same image of the same atom
            to_k, to_i = vectors[a], -vectors[b]
            lengths = np.linalg.norm(to_k), np.linalg.norm(to_i)
            cosine = to_k @ to_i / lengths[0] / lengths[1]
            found.append((*lengths, cosine, float(j[b]), float(i[b])))
    return sorted(tuple(np.round(row, 9) + 0.0) for row in found)


def _listed(cells: torch.Tensor, triplets: Triplets) -> torch.Tensor:
    """Return what a table says of every triplet, in the order of ``list_triplets``."""
    n_columns = cells.shape[1]
    incoming, outgoing = list_triplets(triplets)
    places = triplets.received[incoming] * n_columns + triplets.sent[outgoing] % n_columns
    return cells.flatten()[places]


@pytest.mark.parametrize("name", _structures())
@pytest.mark.parametrize("cutoff", [1.5, 3.2])
def test_triplets_equal_nested_loops(name, cutoff):
    atoms = _structures()[name]
    graph = build_graph(atoms, cutoff)
    distances = graph.edge_vectors.norm(dim=1)
    triplets = build_triplets(graph.edge_index, graph.edge_vectors, len(atoms))
    incoming, outgoing = list_triplets(triplets)
    cosines = _listed(cosines_at_middle(graph.edge_vectors, distances, triplets), triplets)
    rows = torch.stack(
        [
            distances[incoming],
            distances[outgoing],
            cosines,
            graph.edge_index[0, outgoing].double(),
            graph.edge_index[1, outgoing].double(),
        ],
        dim=1,
    )
    found = sorted(tuple(np.round(row, 9) + 0.0) for row in rows.numpy())
    expected = _by_loops(atoms, cutoff)
    assert len(found) == len(expected)
    if expected:
        np.testing.assert_allclose(np.array(found), np.array(expected), rtol=0, atol=2e-9)


def test_other_images_of_an_atom_count_and_only_the_reverse_edge_does_not():
    # One atom, two edges, to the right and to the left image: each has one partner, the
    # one that goes on in its own direction, at 180°.
    atoms = _structures()["chain"]
    graph = build_graph(atoms, 1.5)
    triplets = build_triplets(graph.edge_index, graph.edge_vectors, 1)
    angle_index = list_triplets(triplets)
    assert angle_index.tolist() == [[0, 1], [0, 1]]
    cosines = cosines_at_middle(graph.edge_vectors, graph.edge_vectors.norm(dim=1), triplets)
    assert cosines[triplets.is_triplet].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1.0, 1e5])
def test_reverse_edges_are_found_in_both_precisions_far_from_the_origin(dtype, scale):
    for atoms in (bulk("Cu", "fcc", a=3.61), molecule("CH3CH2OH")):
        expected = len(_by_loops(atoms, 3.0))
        atoms.translate([scale, -0.7 * scale, 0.3 * scale])
        graph = build_graph(atoms, 3.0, dtype=dtype)
        triplets = build_triplets(graph.edge_index, graph.edge_vectors, len(atoms))
        assert int(triplets.is_triplet.sum()) == expected


def test_angle_is_the_interior_angle_at_the_middle_atom():
    atoms = molecule("H2O")  # O, H, H
    graph = build_graph(atoms, 1.2)  # without the edges between the hydrogens
    triplets = build_triplets(graph.edge_index, graph.edge_vectors, 3)
    cosines = cosines_at_middle(graph.edge_vectors, graph.edge_vectors.norm(dim=1), triplets)
    cosines = cosines[triplets.is_triplet]
    incoming, outgoing = list_triplets(triplets)
    # H→O→H and back; from a hydrogen there is only the way back.
    assert graph.edge_index[1, incoming].tolist() == [0, 0]
    assert graph.edge_index[0, outgoing].tolist() == [0, 0]
    expected = math.cos(math.radians(atoms.get_angle(1, 0, 2)))
    np.testing.assert_allclose(cosines.numpy(), expected, rtol=0, atol=1e-12)


def test_tables_have_a_row_for_every_edge_of_the_busiest_atom():
    graph = build_graph(molecule("CH3OH"), 1.6)
    triplets = build_triplets(graph.edge_index, graph.edge_vectors, 6)
    n = int(torch.bincount(graph.edge_index[1]).max())
    assert triplets.is_triplet.shape == (6, n, n)
    for places, atoms in zip((triplets.sent, triplets.received), graph.edge_index, strict=True):
        assert torch.equal(places // n, atoms)
        assert len(set(places.tolist())) == graph.edge_index.shape[1]


def test_edges_in_one_direction_and_in_any_order_keep_their_partners():
    # Atom 0 sends three edges and receives none, atom 2 receives three and sends none.
    index = torch.tensor([[1, 0, 1, 0, 0], [2, 2, 2, 1, 1]])
    vectors = torch.randn((5, 3), generator=torch.Generator().manual_seed(0))
    triplets = build_triplets(index, vectors, 3)
    assert triplets.is_triplet.shape == (3, 3, 3)
    pairs = {tuple(pair) for pair in list_triplets(triplets).T.tolist()}
    assert pairs == {(3, 0), (4, 0), (3, 2), (4, 2)}


def test_graph_without_edges_has_no_triplets():
    index, vectors = torch.zeros((2, 0), dtype=torch.int64), torch.zeros((0, 3))
    triplets = build_triplets(index, vectors, 3)
    assert triplets.is_triplet.shape == (3, 2, 2)
    assert list_triplets(triplets).shape == (2, 0)
    cosines = cosines_at_middle(vectors, vectors.norm(dim=1), triplets)
    assert bool((cosines == 0.0).all())


def test_list_in_any_order_gives_the_same_cells():
    graph = build_graph(molecule("CH3CH2OH"), 2.0)
    triplets = build_triplets(graph.edge_index, graph.edge_vectors, 9)
    angle_index = list_triplets(triplets)
    assert bool((angle_index[1].diff() >= 0).all())
    order = torch.randperm(angle_index.shape[1], generator=torch.Generator().manual_seed(0))
    found, cells = tabulate_triplets(graph.edge_index, angle_index[:, order], 9)
    for one, other in zip(found, triplets, strict=True):
        assert torch.equal(one, other)
    # Each triplet in its own cell: labels written there come back in the list's order.
    labels = torch.full(triplets.is_triplet.shape, -1)
    labels.view(-1)[cells] = order
    assert torch.equal(_listed(labels, triplets), torch.arange(len(order)))
    none, _ = tabulate_triplets(graph.edge_index, angle_index[:, :0], 9)
    assert not bool(none.is_triplet.any())


def test_laid_out_rows_stand_at_their_places_and_the_rest_is_zero():
    values = torch.arange(1.0, 7.0).reshape(3, 2).requires_grad_(True)
    places = torch.tensor([3, 0, 5])
    table = lay_out(values, places, 3, 2)
    assert table.tolist() == [[[3, 4], [0, 0]], [[0, 0], [1, 2]], [[0, 0], [5, 6]]]
    assert lay_out(values[:, 0], places, 3, 2).tolist() == [[3, 0], [0, 1], [0, 5]]
    weights = torch.arange(12.0).reshape(3, 2, 2)
    (slope,) = torch.autograd.grad((table * weights).sum(), values)
    assert slope.tolist() == [[6, 7], [0, 1], [10, 11]]


def test_cosines_have_finite_second_derivatives_where_atoms_are_collinear():
    graph = build_graph(_structures()["linear"], 2.5)
    vectors = graph.edge_vectors.requires_grad_(True)
    triplets = build_triplets(graph.edge_index, vectors, 3)
    cosines = cosines_at_middle(vectors, vectors.norm(dim=1), triplets)
    (slope,) = torch.autograd.grad(cosines.square().sum(), vectors, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum() + slope.sum(), vectors)
    assert bool(torch.isfinite(slope).all())
    assert bool(torch.isfinite(curvature).all())


EDGES = torch.tensor([[1, 2, 0, 2, 0, 1], [0, 0, 1, 1, 2, 2]])


@pytest.mark.parametrize(
    ("angle_index", "match"),
    [
        ([3, 0], r"angle_index must have shape \(2, n_triplets\), found \(2,\)"),
        ([[3, 0]], r"angle_index must have shape \(2, n_triplets\), found \(1, 2\)"),
        ([[3, 6], [0, 2]], r"edge ids in 0\.\.5; out of range in columns 1\."),
        ([[3, 7], [-1, 2]], r"edge ids in 0\.\.5; out of range in columns 0, 1\."),
        # 2→1→0 is right; 1→0 is not followed by 0→1's target, but by 2→0.
        ([[3, 0], [0, 1]], r"pair an edge k→j \(row 0\) with an edge j→i .* in columns 1\."),
        ([[2], [0]], r"must not pair an edge with its reverse \(k = i\); found in columns 0\."),
        ([[3, 5, 3], [0, 1, 0]], r"list each triplet once; twice or more in columns 0, 2\."),
    ],
)
def test_lists_that_do_not_fit_the_edges_are_refused_by_column(angle_index, match):
    with pytest.raises(GraphError, match=match):
        validate_angle_index(EDGES, torch.tensor(angle_index))


def test_list_that_fits_the_edges_is_accepted():
    validate_angle_index(EDGES, torch.tensor([[3, 5], [0, 1]]))
    validate_angle_index(EDGES, torch.zeros((2, 0), dtype=torch.int64))
