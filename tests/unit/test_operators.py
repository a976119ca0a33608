"""The C++ operators of the calculator: what the portable code returns, vectors in every bit."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from small_models import crystal, ethanol, slab, water

from eqcalc import EqCalculator
from eqcalc.derivatives import (
    forces_from_edge_gradients,
    forces_from_sums,
    virials_from_edge_gradients,
)
from eqcalc.errors import GraphError
from eqcalc.native import operators
from eqcalc.native.operators import find_operator
from eqcalc.neighbours import SkinList, build_graph, pair_list
from eqcalc.neighbours.structure import check_structure
from eqcalc.neighbours.transfers import Transfers

pytestmark = pytest.mark.usefixtures("kernels")

CUTOFF = 4.0
PRECISIONS = [torch.float32, torch.float64]
STRUCTURES = {
    "molecule": ethanol,
    "crystal": crystal,
    "slab": slab,
    "box": water,
    "one atom and its images": lambda: bulk("Cu"),
    "one atom alone": lambda: Atoms("O"),
    "two far apart": lambda: Atoms("O2", [[0, 0, 0], [9, 0, 0]]),
}


@pytest.fixture
def portable(monkeypatch):
    """Return a switch that takes the operators out of use."""
    return lambda: monkeypatch.setattr(operators, "_operators", {})


def moved(atoms: Atoms, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    return atoms


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_graphs_are_those_of_the_portable_code(name, dtype, portable):
    atoms = STRUCTURES[name]()
    steps = [moved(atoms, seed) for seed in range(4)]
    for step, scale in zip(steps[2:], (1.002, 0.998), strict=True):
        step.set_cell(scale * step.cell.array, scale_atoms=True)

    def graphs(*, on_device: bool = False):
        skin_list = SkinList(CUTOFF, 0.5, dtype=dtype)
        skin_list.transfers.needed = on_device  # torch's own way, here without a device
        found = [skin_list.graph(step) for step in steps]
        return [*found, build_graph(atoms, CUTOFF, dtype=dtype)], skin_list.n_builds

    fast, n_builds = graphs()
    assert find_operator("edge_vectors") is not None
    portable()
    for slow, n_builds_slow in (graphs(), graphs(on_device=True)):
        assert n_builds == n_builds_slow < len(steps)
        for one, other in zip(fast, slow, strict=True):
            for a, b in zip(one, other, strict=True):
                assert (a == b) if isinstance(a, int) else torch.equal(a, b)
            assert one.edge_vectors.dtype == dtype


def test_lists_differ_at_most_in_edges_as_long_as_the_cutoff(portable):
    atoms = crystal()
    vectors = build_graph(atoms, 2 * CUTOFF).edge_vectors
    lengths = torch.linalg.vector_norm(vectors, dim=1).unique()
    fast = [build_graph(atoms, cutoff) for cutoff in lengths.tolist()]
    portable()
    for cutoff, one in zip(lengths.tolist(), fast, strict=True):
        other = build_graph(atoms, cutoff)
        a, b = (
            torch.linalg.vector_norm(graph.edge_vectors, dim=1) < (1 - 1e-14) * cutoff
            for graph in (one, other)
        )
        assert torch.equal(one.edge_vectors[a], other.edge_vectors[b])
        assert torch.equal(one.edge_index[:, a], other.edge_index[:, b])


def test_what_was_returned_is_not_overwritten_by_the_next_step():
    atoms, skin_list = crystal(), SkinList(CUTOFF, 0.5)
    first = skin_list.graph(atoms)
    kept = first.edge_vectors.clone(), first.edge_index.clone()
    skin_list.graph(moved(atoms, 1))
    assert torch.equal(first.edge_vectors, kept[0])
    assert torch.equal(first.edge_index, kept[1])


def test_positions_in_any_layout_are_read_right():
    atoms = crystal()
    expected = build_graph(atoms, CUTOFF)
    atoms.arrays["positions"] = np.asfortranarray(atoms.positions)
    assert torch.equal(build_graph(atoms, CUTOFF).edge_vectors, expected.edge_vectors)
    atoms.arrays["positions"] = np.ascontiguousarray(atoms.positions[::-1])[::-1]
    assert torch.equal(build_graph(atoms, CUTOFF).edge_vectors, expected.edge_vectors)


def test_a_default_device_of_the_process_changes_nothing():
    """Set before eqcalc is imported: here a second copy of the module is."""
    spec = importlib.util.spec_from_file_location("pair_list_again", pair_list.__file__)
    again = importlib.util.module_from_spec(spec)
    with torch.device("meta"):
        spec.loader.exec_module(again)
        structure = check_structure(crystal())
        pairs = again.PairList(structure, CUTOFF, torch.device("cpu"))
        found = pairs.graph(
            structure.positions,
            structure.lattice,
            CUTOFF,
            torch.float32,
            Transfers(torch.device("cpu")),
        )
    expected = build_graph(crystal(), CUTOFF, dtype=torch.float32)
    assert torch.equal(found.edge_vectors, expected.edge_vectors)
    assert torch.equal(found.edge_index, expected.edge_index)


def test_coincident_atoms_are_refused():
    atoms, skin_list = water(), SkinList(CUTOFF, 0.5)
    skin_list.graph(atoms)
    atoms.positions[2] = atoms.positions[0]
    with pytest.raises(GraphError, match=r"atoms 0 and 2 coincide: .* found 0 Å"):
        skin_list.graph(atoms)


def test_a_position_that_is_not_finite_is_named():
    atoms, skin_list = crystal(), SkinList(CUTOFF, 0.5)
    skin_list.graph(atoms)
    atoms.positions[3, 1] = np.nan
    with pytest.raises(GraphError, match=r"NaN or inf on atoms 3"):
        skin_list.graph(atoms)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_are_those_of_the_portable_code(name, dtype):
    graph = build_graph(STRUCTURES[name](), CUTOFF, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    gradients = torch.randn(graph.edge_vectors.shape, dtype=dtype, generator=generator)
    arguments = (gradients, graph.edge_index, graph.n_owned)
    found, expected = forces_from_sums(*arguments), forces_from_edge_gradients(*arguments)
    assert found.dtype == torch.float64
    # The portable sums over senders and over receivers are made apart.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)
    strided = torch.stack([gradients, gradients], dim=1)[:, 0]
    assert torch.equal(forces_from_sums(strided, *arguments[1:]), found)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_the_virial_is_that_of_the_portable_code(name, dtype, portable):
    graph = build_graph(STRUCTURES[name](), CUTOFF, dtype=dtype)
    gradients = torch.randn(
        graph.edge_vectors.shape, dtype=dtype, generator=torch.Generator().manual_seed(1)
    )
    found = virials_from_edge_gradients(gradients, graph)
    portable()
    expected = virials_from_edge_gradients(gradients, graph)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)


def test_virials_of_tensors_that_do_not_fit_are_refused():
    graph = build_graph(crystal(), CUTOFF)
    with pytest.raises(RuntimeError, match=r"vectors and gradients \(n_edges, 3\)"):
        virials_from_edge_gradients(graph.edge_vectors[1:], graph)
    with pytest.raises(RuntimeError, match="differ in precision"):
        virials_from_edge_gradients(graph.edge_vectors.float(), graph)


@pytest.mark.parametrize("wrong", [-1, 8])
def test_an_edge_to_an_atom_that_is_not_there_is_refused(wrong):
    graph = build_graph(crystal(), CUTOFF)
    index = graph.edge_index.clone()
    index[1, 5] = wrong
    with pytest.raises(IndexError, match="edge 5"):
        find_operator("edge_forces")(graph.edge_vectors, index, 8)
    with pytest.raises(IndexError, match="pair 5"):
        find_operator("edge_vectors")(
            torch.zeros(8, 3, dtype=torch.float64),
            index,
            torch.empty(0, 3, dtype=torch.float64),
            4.0,
            torch.empty(0),
        )


@pytest.mark.parametrize("change", ["positions", "pairs", "offsets"])
def test_tensors_of_another_kind_are_refused(change):
    arguments = {
        "positions": torch.zeros(3, 3, dtype=torch.float64),
        "pairs": torch.tensor([[0, 1], [1, 0]]),
        "offsets": torch.zeros(2, 3, dtype=torch.float64),
    }
    arguments[change] = arguments[change].to(torch.float32)
    with pytest.raises(RuntimeError, match=f"{change} \\("):
        find_operator("edge_vectors")(*arguments.values(), 4.0, torch.empty(0))


def test_results_of_a_calculator_are_those_of_the_portable_code(models, portable):
    structures = [ethanol(), crystal(), slab()]
    calculator = EqCalculator(models["double"], device="cpu")
    fast = [calculator.get_forces(atoms) for atoms in structures]
    stress = calculator.get_stress(crystal())
    portable()
    again = EqCalculator(models["double"], device="cpu")
    for atoms, forces in zip(structures, fast, strict=True):
        np.testing.assert_allclose(forces, again.get_forces(atoms), rtol=0, atol=1e-14)
    np.testing.assert_allclose(stress, again.get_stress(crystal()), rtol=0, atol=1e-14)
