"""Neighbour lists against a brute-force sum over images; the skin list against both."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111, molecule

from eqcalc.errors import ConfigError, GraphError
from eqcalc.graph import validate_graph
from eqcalc.neighbours import SkinList, build_graph
from eqcalc.neighbours.search import distances_of, pairs_of
from eqcalc.neighbours.structure import check_structure

ATOL = 1e-12  # Å; two orders of summation in float64 at molecular coordinates
ALL_PBC = list(itertools.product([False, True], repeat=3))


def brute_force(atoms, cutoff):
    """Edges (2, n_edges) and vectors (n_edges, 3) in order, by trying every image."""
    pbc, r = atoms.pbc, atoms.positions
    cell = np.where(pbc[:, None], atoms.cell.array, 0.0)
    # The nearest image of a pair and the number of planes that the cutoff spans.
    inverse = np.linalg.pinv(cell)
    reach = [
        math.ceil(cutoff * np.linalg.norm(inverse[:, a])) + 1 if pbc[a] else 0 for a in (0, 1, 2)
    ]
    steps = np.array(list(itertools.product(*(range(-k, k + 1) for k in reach))))
    senders, receivers, vectors = [], [], []
    for i, j in itertools.product(range(len(r)), repeat=2):
        shifts = steps - np.round((r[j] - r[i]) @ inverse).astype(int)
        d = r[j] - r[i] + shifts @ cell
        near = np.linalg.norm(d, axis=1) < cutoff
        if i == j:
            near &= shifts.any(axis=1)
        senders += [j] * near.sum()
        receivers += [i] * near.sum()
        vectors.append(d[near])
    return np.array([senders, receivers], dtype=int), np.concatenate(vectors)


def assert_brute(graph, atoms, cutoff, atol=ATOL):
    """The same edges in the same order: receiver, sender, shift."""
    edges, vectors = brute_force(atoms, cutoff)
    validate_graph(graph)
    np.testing.assert_array_equal(graph.edge_index.numpy(), edges)
    np.testing.assert_allclose(graph.edge_vectors.numpy(), vectors, rtol=0, atol=atol)


def assert_same(graph, expected):
    """Equal in every bit."""
    for name in ("atomic_numbers", "edge_index", "edge_vectors", "structure_index", "cell"):
        assert torch.equal(getattr(graph, name), getattr(expected, name)), name
    assert (graph.n_structures, graph.n_owned) == (expected.n_structures, expected.n_owned)


def random_atoms(rng, pbc, n_atoms=6):
    cell = np.diag(rng.uniform(2.5, 6.0, 3)) + rng.normal(scale=0.7, size=(3, 3))
    return Atoms(
        rng.integers(1, 90, n_atoms), rng.uniform(-6, 12, (n_atoms, 3)), cell=cell, pbc=pbc
    )


def water(**options):
    return Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], **options)


# --- build_graph ------------------------------------------------------------------------


@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize("seed", range(6))
def test_build_graph_agrees_with_brute_force(pbc, seed):
    rng = np.random.default_rng(seed)
    atoms = random_atoms(rng, pbc)
    cutoff = rng.uniform(1.5, 5.5)
    assert_brute(build_graph(atoms, cutoff), atoms, cutoff)


@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize(
    "cell",
    [
        np.diag([0.9, 1.1, 1.3]),
        np.diag([3.0, 4.0, -5.0]),
        [[0, 4.0, 0], [4.0, 0, 0], [0, 0, 4.0]],
        [[3, 0, 0], [29, 3, 0], [-16, 31, 3]],
        [[3, 0, 0], [1.0, 0.02, 0], [0, 0, 5]],
    ],
    ids=["small", "left-handed", "swapped", "skewed", "thin"],
)
def test_build_graph_agrees_with_brute_force_in_odd_cells(pbc, cell):
    atoms = water(cell=cell, pbc=pbc)
    assert_brute(build_graph(atoms, 3.3), atoms, 3.3, atol=1e-11)


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_build_graph_ignores_cell_rows_of_open_directions(pbc):
    atoms = water(cell=np.diag([4.0, 5.0, 6.0]), pbc=pbc)
    expected = build_graph(atoms, 4.5)
    for left in ([0, 0, 0], [1e3, 2.0, -7.0], [8.0, 10.0, 12.0]):
        cell = np.where(np.array(pbc)[:, None], atoms.cell.array, left)
        assert_same(build_graph(water(cell=cell, pbc=pbc), 4.5), expected)
    assert not expected.cell[0][~torch.tensor(pbc)].any()


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_build_graph_does_not_depend_on_the_choice_of_lattice_vectors(pbc):
    cell = np.array([[3.0, 0.2, 0.1], [0.3, 4.0, 0.0], [0.0, 0.0, 5.0]])
    combination = np.array([[1, 0, 0], [-400, 1, 0], [500, -300, 1]])
    combination[np.outer(pbc, pbc) <= np.eye(3, dtype=bool)] = 0  # only periodic ones mix
    combination += np.eye(3, dtype=int)
    edges = []
    for rows in (cell, combination @ cell):
        graph = build_graph(water(cell=rows, pbc=pbc), 6.0)
        vectors = graph.edge_vectors.numpy().round(7) + 0.0  # no negative zero
        edges.append(sorted(zip(*graph.edge_index.tolist(), *vectors.T.tolist(), strict=True)))
    assert len(edges[0]) >= 6 + 6 * sum(pbc)
    assert edges[0] == edges[1]


def test_build_graph_in_a_primitive_cell_lists_every_image():
    graph = build_graph(bulk("Cu", "fcc", a=3.6), 5.7)  # shells at 2.55, 3.6, 4.41, 5.09, 5.69 Å
    assert graph.edge_index.shape == (2, 12 + 6 + 24 + 12 + 24)
    assert not graph.edge_index.any()
    assert graph.edge_vectors.sum(dim=0).abs().max() < 1e-10


@pytest.mark.parametrize("seed", range(4))
def test_build_graph_agrees_with_brute_force_for_atoms_many_cells_away(seed):
    rng = np.random.default_rng(seed)
    atoms = random_atoms(rng, ALL_PBC[rng.integers(8)])
    atoms.positions += rng.integers(-50_000, 50_000, (6, 3)) @ (
        atoms.cell.array * atoms.pbc[:, None]
    )
    assert_brute(build_graph(atoms, 4.0), atoms, 4.0, atol=1e-9)


def test_build_graph_finds_neighbours_billions_of_cells_away():
    atoms = water(cell=np.eye(3) * 16.0, pbc=True)
    expected = build_graph(atoms, 3.0)
    atoms.positions[1] += [16.0 * 2**33, 0, -16.0 * 2**33]
    graph = build_graph(atoms, 3.0)
    assert torch.equal(graph.edge_index, expected.edge_index)
    # One unit in the last place of 1.4e11 Å is 3e-5 Å.
    torch.testing.assert_close(graph.edge_vectors, expected.edge_vectors, rtol=0, atol=1e-4)


@pytest.mark.parametrize("offset", [1e5, -1e5, 1e9])
@pytest.mark.parametrize("cell", [None, np.eye(3) * 7.0])
def test_build_graph_of_a_molecule_far_from_the_origin(offset, cell):
    atoms = water(cell=cell)
    expected = build_graph(atoms, 3.0)
    atoms.positions += offset
    graph = build_graph(atoms, 3.0)
    assert torch.equal(graph.edge_index, expected.edge_index)
    rounding = 4 * np.spacing(abs(offset))
    torch.testing.assert_close(graph.edge_vectors, expected.edge_vectors, rtol=0, atol=rounding)


@pytest.mark.parametrize("pbc", [False, (True, True, False), (True, False, False)])
@pytest.mark.parametrize("distance", [1e4, 1e8])
def test_build_graph_of_two_distant_molecules_is_that_of_each(pbc, distance):
    cell = np.diag([4.0, 4.0, 0.0])
    one = build_graph(water(cell=cell, pbc=pbc), 3.0)
    other = water(cell=cell, pbc=pbc)
    other.positions[:, 2] += distance
    both = build_graph(water(cell=cell, pbc=pbc) + other, 3.0)
    expected = torch.cat([one.edge_index, one.edge_index + 3], dim=1)
    assert torch.equal(both.edge_index, expected)
    torch.testing.assert_close(both.edge_vectors, torch.cat([one.edge_vectors] * 2))


@pytest.mark.parametrize("open_z", [False, True])
@pytest.mark.parametrize("box", [[4, 4, 1e6], [9000, 9000, 5], [60000, 50, 5], [1e4, 1e4, 1e4]])
def test_build_graph_survives_long_and_flat_boxes(box, open_z):
    atoms = water(cell=box, pbc=(True, True, not open_z))
    atoms.positions += [0.0, 0.0, -0.5]
    assert_brute(build_graph(atoms, 4.5), atoms, 4.5, atol=1e-9)


@pytest.mark.parametrize("pbc", list(itertools.product((0, 1), repeat=3)))
@pytest.mark.parametrize("radius", [0.9, 3.0, 7.0])
def test_distances_are_those_of_the_ordered_pairs_each_once(pbc, radius):
    rng = np.random.default_rng(sum(pbc))
    atoms = random_atoms(rng, pbc)
    atoms.positions += rng.integers(-3, 4, size=(len(atoms), 3)) @ (atoms.cell * atoms.pbc[:, None])
    structure = check_structure(atoms)
    i, j, distances = distances_of(structure, radius)
    receivers, senders, shifts = pairs_of(structure, radius, torch.device("cpu"))
    vectors = structure.positions[senders] - structure.positions[receivers]
    ordered = np.linalg.norm(vectors + shifts.numpy() @ structure.lattice, axis=1)
    near = ordered < radius
    both = np.concatenate([np.stack([i, j, distances]), np.stack([j, i, distances])], axis=1)
    expected = np.stack([receivers.numpy()[near], senders.numpy()[near], ordered[near]])
    assert both.shape == expected.shape
    for left, right in zip(
        both.T[np.lexsort(both.round(6)[::-1])],
        expected.T[np.lexsort(expected.round(6)[::-1])],
        strict=True,
    ):
        np.testing.assert_allclose(left, right, atol=1e-9)


@pytest.mark.parametrize("pbc", ALL_PBC)
def test_build_graph_of_a_single_atom_sees_only_its_images(pbc):
    atoms = Atoms("Ar", cell=np.eye(3) * 3.0, pbc=pbc)
    assert build_graph(atoms, 3.5).edge_index.shape == (2, 2 * sum(pbc))
    lone = build_graph(atoms, 2.9)
    validate_graph(lone)
    assert lone.edge_index.shape == (2, 0)
    assert lone.edge_vectors.shape == (0, 3)


def test_build_graph_excludes_a_pair_at_the_cutoff():
    atoms = Atoms("H2", [[0, 0, 0], [2.0, 0, 0]])
    assert build_graph(atoms, 2.0).edge_index.shape[1] == 0
    assert build_graph(atoms, math.nextafter(2.0, 3.0)).edge_index.shape[1] == 2


def test_build_graph_row_zero_is_the_sender():
    graph = build_graph(Atoms("HO", [[0, 0, 0], [1.0, 2.0, 3.0]]), 5.0)
    assert graph.edge_index.tolist() == [[1, 0], [0, 1]]
    assert graph.edge_vectors[0].tolist() == [1.0, 2.0, 3.0]


def test_build_graph_casts_after_the_difference():
    atoms = water()
    atoms.positions += 2.0**20  # float32 would round coordinates to 1/8 Å
    exact, rounded = build_graph(atoms, 3.0), build_graph(atoms, 3.0, dtype=torch.float32)
    assert rounded.edge_vectors.dtype == torch.float32
    assert rounded.cell.dtype == torch.float64
    assert rounded.atomic_numbers.tolist() == [8, 1, 1]
    assert torch.equal(rounded.edge_vectors, exact.edge_vectors.to(torch.float32))


@pytest.mark.parametrize(
    "make", [build_graph, lambda atoms, cutoff: SkinList(cutoff, 0.5).graph(atoms)]
)
def test_graphs_leave_their_inputs_alone(make):
    atoms = water(cell=np.diag([4.0, 5.0, 6.0]), pbc=(True, True, False))
    atoms.positions += 100.0
    for array in (atoms.positions, atoms.numbers, atoms.cell.array, atoms.pbc):
        array.flags.writeable = False
    before = atoms.copy()
    graph = make(atoms, 4.0)
    for tensor in (graph.edge_vectors, graph.cell, graph.atomic_numbers):
        tensor += 1
    assert atoms == before
    assert atoms.pbc.tolist() == [True, True, False]


# --- refusals, the same from both doors ---------------------------------------------------


def broken(change, **options):
    atoms = water(**{"cell": np.eye(3) * 5.0, "pbc": True, **options})
    change(atoms)
    return atoms


def set_position(k, value):
    return lambda atoms: atoms.positions.__setitem__(k, value)


REFUSED = {
    "no atoms": (Atoms(), "zero atoms"),
    "nan": (broken(set_position(1, np.nan)), r"positions must be finite, .* atoms 1\."),
    "inf": (broken(set_position((slice(1, 3), 2), -np.inf)), r"finite, .* on atoms 1, 2\."),
    "dummy": (broken(lambda a: a.numbers.__setitem__(2, 0)), r"1\.\.118, found 0 on atoms 2;"),
    "heavy": (broken(lambda a: a.numbers.__setitem__(0, 119)), r"found 119 on atoms 0;"),
    "far": (broken(set_position((1, 0), 2e12)), r"below 1e\+12 Å, .* positions of atoms 1\."),
    "far cell": (broken(lambda a: a.cell.array.__setitem__((0, 0), 2e12)), "in lattice vectors"),
    "nan cell": (broken(lambda a: a.cell.array.fill(np.nan)), "cell must be finite"),
    "inf cell": (broken(lambda a: a.cell.array.__setitem__(0, np.inf)), "cell must be finite"),
    "no cell": (water(pbc=True, cell=None), "zero or linearly dependent"),
    "zero row": (water(pbc=True, cell=[4, 4, 0]), r"dependent; .*\[True, True, True\]"),
    "flat": (water(pbc=True, cell=[[4, 0, 0], [8, 0, 0], [0, 0, 4]]), "linearly dependent"),
    "nearly": (
        water(pbc=True, cell=[[4, 0, 0], [4, 1e-6, 0], [0, 0, 4]]),
        "zero or linearly dependent",
    ),
    "wire": (water(cell=[0, 4, 4], pbc=(1, 0, 0)), "zero or linearly dependent"),
    "pair": (broken(set_position(2, [0.96, 5e-4, 0])), "atoms 1 and 2 coincide"),
    "image": (broken(set_position(2, [5.96, -10, 15])), "atoms 1 and 2 coincide: expected"),
    "short": (
        water(cell=[[5, 0, 0], [5, 5e-4, 0], [0, 0, 5]], pbc=True),
        "zero or linearly dependent",
    ),
}


@pytest.mark.parametrize(("atoms", "message"), REFUSED.values(), ids=REFUSED)
def test_build_graph_refuses(atoms, message):
    with pytest.raises(GraphError, match=message):
        build_graph(atoms, 3.0)


@pytest.mark.parametrize(("atoms", "message"), REFUSED.values(), ids=REFUSED)
def test_skin_list_refuses_first_and_later_and_recovers(atoms, message):
    skin_list = SkinList(3.0, 0.5)
    good = water(cell=np.eye(3) * 5.0, pbc=True)
    for _ in range(2):
        with pytest.raises(GraphError, match=message):
            skin_list.graph(atoms)
        assert_same(skin_list.graph(good), build_graph(good, 3.0))


@pytest.mark.parametrize("cutoff", [0.0, -1.0, math.nan, math.inf])
def test_neighbours_refuse_a_cutoff(cutoff):
    with pytest.raises(GraphError, match="cutoff must be positive and finite"):
        build_graph(water(), cutoff)
    with pytest.raises(GraphError, match="cutoff must be positive and finite"):
        SkinList(cutoff, 0.5)


@pytest.mark.parametrize("skin", [-0.1, math.nan, math.inf])
def test_skin_list_refuses_a_skin(skin):
    with pytest.raises(ConfigError, match="skin must be zero or positive and finite"):
        SkinList(3.0, skin)


def test_skin_list_refuses_atoms_that_come_to_coincide_within_the_skin():
    atoms = water()
    skin_list = SkinList(3.0, 4.0)
    skin_list.graph(atoms)
    atoms.positions[2] = atoms.positions[1] + 5e-4
    with pytest.raises(GraphError, match="atoms 1 and 2 coincide"):
        skin_list.graph(atoms)
    assert skin_list.n_builds == 1


# --- SkinList -----------------------------------------------------------------------------


def follow(skin_list, trajectory):
    """Compare the list with brute force, and bit for bit with a fresh list, at every step."""
    for atoms in trajectory:
        graph = skin_list.graph(atoms)
        assert_brute(graph, atoms, skin_list.cutoff, atol=1e-11)
        assert_same(graph, build_graph(atoms, skin_list.cutoff))


def walk(atoms, step, n_steps, seed, change=lambda atoms, rng: None):
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        atoms.positions += rng.normal(scale=step, size=atoms.positions.shape)
        change(atoms, rng)
        yield atoms


def strain(scale, scale_atoms):
    def change(atoms, rng):
        deformation = np.eye(3) + rng.normal(scale=scale, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=scale_atoms)

    return change


def wrap(atoms, rng):
    atoms.wrap()


@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize("skin", [0.1, 0.6, 2.0])
def test_skin_list_follows_random_displacements(pbc, skin):
    atoms = random_atoms(np.random.default_rng(1), pbc)
    follow(SkinList(3.0, skin), walk(atoms, 0.03, 25, seed=2))


@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize("scale_atoms", [True, False])
@pytest.mark.parametrize("scale", [0.002, 0.05])
def test_skin_list_follows_strain(pbc, scale_atoms, scale):
    atoms = random_atoms(np.random.default_rng(3), pbc)
    follow(SkinList(3.0, 0.8), walk(atoms, 0.005, 25, seed=4, change=strain(scale, scale_atoms)))


@pytest.mark.parametrize("pbc", [True, (True, False, True)])
def test_skin_list_follows_atoms_wrapped_at_each_step(pbc):
    atoms = random_atoms(np.random.default_rng(5), pbc)
    follow(SkinList(3.0, 0.6), walk(atoms, 0.1, 40, seed=6, change=wrap))


def test_skin_list_follows_a_one_atom_cell_much_smaller_than_the_cutoff():
    atoms = bulk("Cu", "fcc", a=3.6)
    cutoff = 3.05 * 2.5456
    skin_list = SkinList(cutoff, 0.4)
    follow(skin_list, walk(atoms, 0.01, 20, seed=7, change=strain(0.003, True)))
    assert skin_list.n_builds < skin_list.n_calls


@pytest.mark.parametrize("scale_atoms", [True, False])
def test_skin_list_follows_a_slab_whose_cell_changes(scale_atoms):
    atoms = fcc111("Al", (2, 2, 3), vacuum=None)
    assert atoms.pbc.tolist() == [True, True, False]
    skin_list = SkinList(4.0, 0.8)
    follow(skin_list, walk(atoms, 0.005, 25, seed=8, change=strain(0.004, scale_atoms)))
    assert skin_list.n_builds < skin_list.n_calls


def test_skin_list_rebuilds_when_a_slab_turns_over():
    atoms = fcc111("Al", (1, 1, 2), vacuum=None)
    skin_list = SkinList(3.0, 1.0)
    first = skin_list.graph(atoms)
    atoms.rotate(90, "x", rotate_cell=True)
    assert_brute(skin_list.graph(atoms), atoms, 3.0)
    assert first.edge_index.shape[1] > 0


@pytest.mark.parametrize("skin", [0.0, 1.0])
def test_skin_list_rebuilds_when_numbers_pbc_or_the_count_change(skin):
    cell = np.diag([4.0, 5.0, 6.0])
    other = water(cell=cell, pbc=True)
    other.numbers[0] = 16
    sequence = [
        water(cell=cell, pbc=True),
        other,
        water(cell=cell, pbc=(True, False, True)),
        water(cell=cell, pbc=True)[:2],
        water(cell=cell, pbc=True),
        water(cell=None, pbc=False),
    ]
    skin_list = SkinList(3.5, skin)
    follow(skin_list, sequence)
    assert skin_list.n_builds == skin_list.n_calls == len(sequence)


def test_skin_list_without_skin_builds_at_every_call():
    atoms, skin_list = water(), SkinList(3.0, 0.0)
    follow(skin_list, [atoms, atoms, atoms])
    assert (skin_list.n_builds, skin_list.n_calls) == (3, 3)


def test_skin_list_is_reused_in_ordinary_motion():
    atoms = molecule("CH3CH2OH")
    skin_list = SkinList(2.0, 0.5)
    follow(skin_list, walk(atoms, 0.01, 100, seed=9))
    assert skin_list.n_calls == 100
    assert 1 < skin_list.n_builds < 15


def test_skin_list_is_reused_under_slow_isotropic_strain():
    atoms, skin_list = bulk("Cu", cubic=True), SkinList(4.0, 0.5)
    start = atoms.cell.array.copy()
    for step in range(60):  # down to 94 %; 0.5 / 4.5 allows shrinking to 89 %
        atoms.set_cell(start * (1.0 - 0.001 * step), scale_atoms=True)
        follow(skin_list, [atoms])
    assert skin_list.n_builds == 1
    for step in range(60):  # growing never brings an unlisted pair closer
        atoms.set_cell(start * (1.0 + 0.01 * step), scale_atoms=True)
        follow(skin_list, [atoms])
    assert skin_list.n_builds == 1


def test_skin_list_is_reused_under_rotation_of_cell_and_atoms():
    atoms, skin_list = fcc111("Al", (2, 2, 2), vacuum=None), SkinList(4.0, 0.5)
    for _ in range(5):
        skin_list.graph(atoms)
        atoms.rotate(2.0, (0, 0, 1), center=atoms.positions[0], rotate_cell=True)
    follow(skin_list, [atoms])
    assert skin_list.n_builds < skin_list.n_calls


def test_skin_list_rebuilds_exactly_when_twice_the_displacement_reaches_the_skin():
    atoms, skin_list = water(), SkinList(3.0, 0.5)
    skin_list.graph(atoms)
    atoms.positions[1, 2] += 0.2499
    skin_list.graph(atoms)
    assert skin_list.n_builds == 1
    atoms.positions[1, 2] += 0.0002
    skin_list.graph(atoms)
    assert skin_list.n_builds == 2


def test_skin_list_sees_an_edge_that_only_the_cell_change_creates():
    """No atom moves, so a criterion of displacements alone would keep the list."""
    atoms = Atoms("Ar", cell=[4.6, 20.0, 20.0], pbc=True)
    skin_list = SkinList(4.0, 0.5)
    assert skin_list.graph(atoms).edge_index.shape[1] == 0
    reference = skin_list.reference
    atoms.set_cell([3.9, 20.0, 20.0], scale_atoms=False)
    assert np.abs(atoms.positions - reference.positions).max() == 0.0
    kept = skin_list._pairs.graph(
        atoms.positions, atoms.cell.array, 4.0, torch.float64, skin_list.transfers
    )
    assert kept.edge_index.shape[1] == 0  # what the old list would have given
    assert_brute(skin_list.graph(atoms), atoms, 4.0)
    assert skin_list.n_builds == 2
    assert build_graph(atoms, 4.0).edge_index.shape[1] == 2


def test_skin_list_proof_is_tight_under_uniaxial_compression():
    """The unlisted pair at cutoff + skin reaches the cutoff where the list expires."""
    for factor, n_builds in ((4.0 / 4.5 + 1e-6, 1), (4.0 / 4.5 - 1e-6, 2)):
        atoms = Atoms("Ar", cell=[4.5, 20.0, 20.0], pbc=True)
        skin_list = SkinList(4.0, 0.5)
        skin_list.graph(atoms)
        atoms.set_cell([4.5 * factor, 20.0, 20.0], scale_atoms=True)
        follow(skin_list, [atoms])
        assert skin_list.n_builds == n_builds


def test_skin_list_graphs_do_not_change_with_later_steps():
    atoms, skin_list = water(cell=np.eye(3) * 5.0, pbc=True), SkinList(3.0, 0.5)
    first = skin_list.graph(atoms)
    vectors, cell = first.edge_vectors.clone(), first.cell.clone()
    atoms.positions += np.array([[0.1], [0.0], [0.0]])
    atoms.set_cell(np.eye(3) * 5.01)
    skin_list.graph(atoms)
    assert torch.equal(first.edge_vectors, vectors)
    assert torch.equal(first.cell, cell)


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt()])
def test_a_list_that_was_interrupted_at_a_new_cell_is_asked_again(error, monkeypatch):
    atoms, skin_list = bulk("Cu", cubic=True), SkinList(3.0, 0.5)
    skin_list.graph(atoms)
    atoms.set_cell(1.001 * atoms.cell.array, scale_atoms=True)
    shifts = skin_list._pairs.shifts

    def interrupted():
        yield shifts[0]
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(skin_list._pairs, "shifts", interrupted())
        with pytest.raises(type(error)):
            skin_list.graph(atoms)
    assert_same(skin_list.graph(atoms), build_graph(atoms, 3.0))
    assert skin_list.n_builds == 1


def test_skin_list_reference_restores_the_list():
    atoms, skin_list = water(cell=[4.0, 5.0, 0.0], pbc=(True, True, False)), SkinList(3.0, 0.5)
    assert skin_list.reference is None
    first = skin_list.graph(atoms)
    atoms.positions[0] += 0.1
    skin_list.graph(atoms)
    saved = skin_list.reference
    first.atomic_numbers.add_(1)  # graphs do not share memory with the reference
    assert saved.numbers.tolist() == [8, 1, 1]
    first.atomic_numbers.sub_(1)
    restored = SkinList(3.0, 0.5)
    restored.graph(Atoms(saved.numbers, saved.positions, cell=saved.lattice, pbc=saved.pbc))
    for steps in walk(atoms, 0.05, 20, seed=10):
        assert_same(restored.graph(steps), skin_list.graph(steps))
        assert restored.n_builds == skin_list.n_builds
    assert skin_list.n_builds > 1


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_skin_list_copies_and_pickles(duplicate):
    atoms, skin_list = water(), SkinList(3.0, 0.5, dtype=torch.float32)
    graph = skin_list.graph(atoms)
    again = duplicate(skin_list)
    assert_same(again.graph(atoms), graph)
    assert (again.n_builds, again.n_calls) == (1, 2)
    assert graph.edge_vectors.dtype == torch.float32


@pytest.mark.parametrize("make", [water, lambda: bulk("Cu", cubic=True)])
def test_vectors_made_on_a_device_are_those_made_on_the_cpu(make):
    atoms = make()
    skin_list = SkinList(4.0, 0.5)
    skin_list.graph(atoms)
    on_cpu = skin_list._pairs._on_cpu(atoms.positions, 4.0, torch.float64)
    positions, _ = skin_list.transfers.upload(atoms.positions, np.zeros((3, 3)))
    on_device = skin_list._pairs._on_device(positions, 4.0, torch.float64)
    assert len(on_cpu[1]) > 0
    torch.testing.assert_close(on_device[0], on_cpu[0], rtol=0, atol=0)
    torch.testing.assert_close(on_device[1], on_cpu[1], rtol=0, atol=1e-14)


def test_coincident_atoms_are_refused_on_a_device_too():
    atoms = water()
    skin_list = SkinList(4.0, 0.5)
    skin_list.graph(atoms)
    atoms.positions[2] = atoms.positions[0]
    positions, _ = skin_list.transfers.upload(atoms.positions, np.zeros((3, 3)))
    with pytest.raises(GraphError, match=r"atoms 0 and 2 coincide"):
        skin_list._pairs._on_device(positions, 4.0, torch.float64)


# --- lengths in another unit


def diamond(scale=1.0, pbc=(True, True, True)):
    atoms = bulk("C", "diamond", a=3.567, cubic=True).repeat(12)
    atoms.pbc = pbc
    atoms.cell *= scale
    atoms.positions *= scale
    return atoms


def fractions():
    atoms = diamond()
    return Atoms(atoms.numbers, atoms.get_scaled_positions(), cell=atoms.cell, pbc=True)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Atoms("H", cell=[0.05] * 3, pbc=True),
        lambda: diamond(0.1),
        lambda: diamond(0.1, (True, True, False)),
        lambda: diamond(0.1, (False, False, True)),
        lambda: diamond(0.1, (False, False, False)),
        fractions,
    ],
)
@pytest.mark.parametrize("radius", [2.0, 5.0])
def test_a_structure_in_another_unit_is_refused_before_its_pairs_fill_the_memory(make, radius):
    with pytest.raises(GraphError, match=r"expected within .* positions and cell must be in Å"):
        build_graph(make(), radius)


@pytest.mark.parametrize(
    "atoms",
    [
        diamond(),
        diamond(pbc=(True, False, True)),
        diamond(pbc=(False, False, False)),
        bulk("H", "fcc", a=1.8).repeat(10),
        bulk("Cu").repeat((1, 1, 3000)),
    ],
    ids=["crystal", "slab", "cluster", "dense hydrogen", "needle"],
)
def test_dense_and_long_structures_are_not_taken_for_another_unit(atoms):
    assert build_graph(atoms, 4.0).edge_index.shape[1] > 10 * len(atoms)
