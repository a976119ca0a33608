"""The cell list of a device against vesin's search: the same pairs in the same order."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc111
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eqcalc.neighbours import SkinList, build_graph, cell_list
from eqcalc.neighbours import search as pair_search
from eqcalc.neighbours.cell_list import find_pairs
from eqcalc.neighbours.search import _search
from eqcalc.neighbours.structure import check_structure

ALL_PBC = list(itertools.product([False, True], repeat=3))
CELLS = {
    "cubic": np.diag([9.0, 9.0, 9.0]),
    "left-handed": np.diag([8.0, 12.0, -10.0]),
    "skewed": np.array([[7.0, 0, 0], [29.0, 8.0, 0], [-16.0, 31.0, 9.0]]),
    "triclinic": np.array([[11.0, 0, 0], [2.0, 9.0, 0], [-3.0, 1.0, 13.0]]),
    "thin": np.array([[1.3, 0, 0], [0, 14.0, 0], [0.2, 0, 15.0]]),
    "small": np.diag([2.1, 2.3, 1.9]),
    "rotated": 12.0 * np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0],
}


def found_on(atoms: Atoms, radius: float, device: str = "cpu"):
    structure = check_structure(atoms)
    positions = torch.from_numpy(structure.positions).to(device)
    found = find_pairs(positions, structure.lattice, structure.pbc, radius)
    return [tensor.cpu().numpy() for tensor in found]


def assert_same_pairs(atoms: Atoms, radius: float, device: str = "cpu") -> int:
    """Return the number of pairs, which are those of vesin."""
    expected = _search(check_structure(atoms), radius)
    for one, other in zip(found_on(atoms, radius, device), expected, strict=True):
        assert one.dtype == other.dtype == np.int64
        np.testing.assert_array_equal(one, other)
    return len(expected[0])


def scattered(cell, pbc, n_atoms: int, seed: int, spread: float = 1.0) -> Atoms:
    """Return atoms in and, with a spread above one, outside a cell."""
    rng = np.random.default_rng(seed)
    scaled = spread * rng.uniform(-0.5, 0.5, (n_atoms, 3)) + 0.5
    return Atoms(n_atoms * "C", scaled @ np.asarray(cell), cell=cell, pbc=pbc)


@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize("name", CELLS)
def test_the_pairs_are_those_of_vesin_in_every_cell(name, pbc):
    n_pairs = 0
    for seed, (n_atoms, radius, spread) in enumerate(
        [(60, 2.5, 1.0), (60, 2.5, 40.0), (25, 4.4, 3.0), (1, 5.0, 1.0), (2, 3.0, 1.0)]
    ):
        atoms = scattered(CELLS[name], pbc, n_atoms, seed, spread)
        n_pairs += assert_same_pairs(atoms, radius)
    assert n_pairs > 10


@settings(max_examples=150, deadline=None)
@given(
    entries=st.lists(st.floats(-6, 6), min_size=9, max_size=9),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    n_atoms=st.integers(1, 40),
    radius=st.floats(0.5, 6.0),
    spread=st.sampled_from([0.3, 1.0, 7.0, 1e4]),
    seed=st.integers(0, 2**31),
)
def test_the_pairs_are_those_of_vesin_anywhere(entries, pbc, n_atoms, radius, spread, seed):
    cell = np.array(entries).reshape(3, 3) + np.diag([7.0, 7.0, 7.0])
    atoms = scattered(cell, pbc, n_atoms, seed, spread)
    assume(abs(np.linalg.det(cell)) > 20.0)  # Å³; else there are tens of thousands of images
    assert_same_pairs(atoms, radius)


@pytest.mark.parametrize("radius", [2.56, 3.61, 3.62, 5.71])
def test_shells_of_a_perfect_crystal_are_whole(radius):
    """Atoms on the faces of bins, and distances that are equal but for rounding."""
    atoms = bulk("Cu", "fcc", a=3.61, cubic=True).repeat(4)
    n_pairs = assert_same_pairs(atoms, radius)
    shells = {2.56: 12, 3.61: 18, 3.62: 18, 5.71: 78}
    assert n_pairs == shells[radius] * len(atoms)
    atoms.positions -= 1e-17  # just below zero: fractions that round to one
    assert assert_same_pairs(atoms, radius) == n_pairs


def test_a_slab_with_a_molecule_far_above_needs_no_more_bins():
    atoms = fcc111("Cu", (6, 6, 4), vacuum=8.0)
    atoms += Atoms("CO", [[1.0, 1.0, 1e6], [1.0, 1.0, 1e6 + 1.13]])
    assert assert_same_pairs(atoms, 5.0) > 1000


def test_atoms_very_far_apart_are_found():
    atoms = Atoms("H4", [[0, 0, 0], [0.7, 0, 0], [3e11, -2e11, 1e11], [3e11, -2e11, 1e11 + 0.75]])
    assert assert_same_pairs(atoms, 2.0) == 4


def test_atoms_billions_of_cells_away_are_found():
    atoms = bulk("Cu", cubic=True).repeat(2)
    atoms.positions[3] += 4e9 * atoms.cell.array[0]
    atoms.positions[7] -= 3e9 * atoms.cell.array[2]
    assert assert_same_pairs(atoms, 4.0) > 100


@pytest.mark.parametrize("most", [1, 1000])
def test_blocks_of_receivers_change_nothing(most, monkeypatch):
    atoms = scattered(CELLS["triclinic"], (True, True, False), 90, 3)
    monkeypatch.setattr(cell_list, "_MOST_CANDIDATES", most)
    assert assert_same_pairs(atoms, 3.0) > 500


def test_very_long_boxes_have_bins_that_can_be_numbered(monkeypatch):
    monkeypatch.setattr(cell_list, "_MOST_BINS", 16)
    for pbc in ALL_PBC:
        atoms = scattered(np.diag([300.0, 90.0, 200.0]), pbc, 300, 4)
        assert assert_same_pairs(atoms, 6.0) > 5


def test_positions_are_not_changed():
    atoms = scattered(CELLS["triclinic"], True, 30, 1, spread=5.0)
    structure = check_structure(atoms)
    positions = torch.from_numpy(structure.positions)
    before = positions.clone()
    find_pairs(positions, structure.lattice, structure.pbc, 3.0)
    assert torch.equal(positions, before)


def test_only_large_structures_on_cuda_are_searched_by_it():
    cuda, cpu = torch.device("cuda:1"), torch.device("cpu")
    assert pair_search._searches(cuda, 1000)
    assert not pair_search._searches(cuda, 999)
    assert not pair_search._searches(cpu, 1_000_000)


@pytest.mark.parametrize("pbc", [True, (True, True, False), False])
def test_graphs_of_a_skin_list_do_not_depend_on_who_searches(pbc, monkeypatch):
    atoms = scattered(CELLS["triclinic"], pbc, 80, 2)
    rng = np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms.positions += rng.normal(scale=0.06, size=(80, 3))
        frames.append(atoms.copy())
    expected = [build_graph(frame, 3.0) for frame in frames]
    monkeypatch.setattr(pair_search, "_searches", lambda device, n_atoms: True)
    monkeypatch.setattr(pair_search, "_search", None)  # nothing may call it
    skin_list = SkinList(3.0, 0.5)
    for frame, graph in zip(frames, expected, strict=True):
        found = skin_list.graph(frame)
        assert torch.equal(found.edge_index, graph.edge_index)
        assert torch.equal(found.edge_vectors, graph.edge_vectors)
    assert 1 < skin_list.n_builds < len(frames)


# --- on a device -------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("pbc", ALL_PBC)
@pytest.mark.parametrize("name", CELLS)
def test_gpu_the_pairs_are_those_of_vesin(name, pbc):
    for seed, (n_atoms, radius, spread) in enumerate([(60, 2.5, 40.0), (25, 4.4, 3.0)]):
        assert_same_pairs(scattered(CELLS[name], pbc, n_atoms, seed, spread), radius, "cuda")


@pytest.mark.gpu
def test_gpu_a_large_system_is_searched_on_the_device(monkeypatch):
    atoms = bulk("Cu", cubic=True).repeat(12)  # 6912 atoms
    atoms.rattle(0.1, seed=0)
    assert assert_same_pairs(atoms, 6.0, "cuda") > 100_000
    expected = build_graph(atoms, 5.0)
    monkeypatch.setattr(pair_search, "_search", None)  # nothing may call it
    on_device = SkinList(5.0, 0.5, device="cuda")
    for _ in range(3):
        found = on_device.graph(atoms)
        assert torch.equal(found.edge_index.cpu(), expected.edge_index)
        torch.testing.assert_close(
            found.edge_vectors.cpu(), expected.edge_vectors, rtol=0, atol=1e-12
        )
    assert on_device.n_builds == 1
