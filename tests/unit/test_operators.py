"""Loading the C++ library changes no bit: its operators against the portable code."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.io
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
from eqcalc.graph import AtomicGraph
from eqcalc.native import operators
from eqcalc.native.operators import find_operator
from eqcalc.neighbours import SkinList, build_graph, pair_list
from eqcalc.neighbours.structure import COINCIDENT, check_structure
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
# Every edge of a shell is as long as the next, but for the rounding of its offset.
LATTICES = {
    "simple cubic": (lambda: bulk("Po", "sc", a=2.0) * (2, 2, 2), [2.0, 2.0 * 2**0.5, 4.0]),
    "simple cubic, no round number": (lambda: bulk("Po", "sc", a=2.1) * (3, 3, 3), [2.1, 4.2]),
    "fcc": (lambda: bulk("Cu", a=3.6, cubic=True) * (2, 2, 2), [3.6 / 2**0.5, 3.6, 3.6 * 2**0.5]),
    "fcc, primitive": (lambda: bulk("Cu", a=3.61), [3.61 / 2**0.5, 3.61, 3.61 * 2**0.5]),
}
KINDS = ("molecule", "triclinic", "slab", "wire", "one atom")


@contextmanager
def without_library() -> Iterator[None]:
    """Take the operators out of use."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(operators, "_operators", {})
        assert find_operator("edge_vectors") is None
        yield


def both_ways(call: Callable[[], Any]) -> tuple[Any, Any]:
    """Return what a call returns with the library, and without."""
    assert find_operator("edge_vectors") is not None
    found = call()
    with without_library():
        return found, call()


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """Return a view in which numbers are equal only if their bits are, those of zero too."""
    integers = {torch.float32: torch.int32, torch.float64: torch.int64}
    return tensor.view(integers.get(tensor.dtype, tensor.dtype))


def assert_same_graphs(one: AtomicGraph, other: AtomicGraph) -> None:
    for a, b in zip(one, other, strict=True):
        assert (a == b) if isinstance(a, int) else torch.equal(bits(a), bits(b))


def gradients_of(graph: AtomicGraph, seed: int) -> torch.Tensor:
    """Return edge gradients of such sizes that every other order of sums has other bits."""
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(graph.edge_vectors.shape, generator=generator, dtype=torch.float64)
    sizes = 10.0 ** torch.randint(-3, 4, (len(numbers), 1), generator=generator)
    return (numbers * sizes).to(graph.edge_vectors.dtype)


def assert_same_sums(graph: AtomicGraph, seed: int) -> None:
    """Compare forces and virial of random edge gradients."""
    gradients = gradients_of(graph, seed)
    forces = both_ways(lambda: forces_from_sums(gradients, graph.edge_index, graph.n_owned))
    virials = both_ways(lambda: virials_from_edge_gradients(gradients, graph))
    for found, expected in (forces, virials):
        assert found.dtype == expected.dtype == torch.float64
        assert torch.equal(bits(found), bits(expected))


def random_structure(kind: str, rng: np.random.Generator) -> Atoms:
    """Return one to seven atoms at least 0.7 Å apart, in a random cell."""
    cell = np.diag(rng.uniform(2.0, 6.0, 3)) + rng.uniform(-1.0, 1.0, (3, 3))
    pbc = {"molecule": 0, "slab": 2, "wire": 1}.get(kind, 3)
    atoms = Atoms(cell=cell, pbc=np.arange(3) < pbc)
    low, high = np.where(atoms.pbc, -1.0, 0.0), np.where(atoms.pbc, 2.0, 1.0)
    for _ in range(1 if kind == "one atom" else rng.integers(2, 8)):
        tried = atoms + Atoms("O", rng.uniform(low, high, (1, 3)) @ cell)
        if len(build_graph(tried, 0.7).edge_vectors) == 0:
            atoms = tried
    return atoms


def moved(atoms: Atoms, seed: int) -> Atoms:
    atoms = atoms.copy()
    atoms.rattle(0.05, seed=seed)
    return atoms


# --- edges


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_graphs_are_those_of_the_portable_code(name, dtype):
    atoms = STRUCTURES[name]()
    steps = [moved(atoms, seed) for seed in range(4)]
    for step, scale in zip(steps[2:], (1.002, 0.998), strict=True):
        step.set_cell(scale * step.cell.array, scale_atoms=True)

    def graphs(*, on_device: bool = False):
        skin_list = SkinList(CUTOFF, 0.5, dtype=dtype)
        skin_list.transfers.needed = on_device  # torch's own way, here without a device
        found = [skin_list.graph(step) for step in steps]
        return [*found, build_graph(atoms, CUTOFF, dtype=dtype)], skin_list.n_builds

    (fast, n_builds), on_cpu = both_ways(graphs)
    for slow, n_builds_slow in (on_cpu, graphs(on_device=True)):
        assert n_builds == n_builds_slow < len(steps)
        for one, other in zip(fast, slow, strict=True):
            assert_same_graphs(one, other)
            assert one.edge_vectors.dtype == dtype


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_random_structures_have_the_same_edges_forces_and_virial(kind, dtype):
    rng = np.random.default_rng(KINDS.index(kind))
    n_edges = 0
    for seed in range(60):
        atoms = random_structure(kind, rng)
        lengths = build_graph(atoms, 6.0).edge_vectors.norm(dim=1)
        # An arbitrary cutoff, and one as long as some edge, to the last digit or nearly.
        cutoffs = [rng.uniform(1.0, 6.0), *rng.permutation(lengths)[:1]]
        for cutoff in cutoffs:
            graphs = both_ways(lambda a=atoms, c=cutoff: build_graph(a, c, dtype=dtype))
            assert_same_graphs(*graphs)
            assert_same_sums(graphs[0], seed)
            n_edges += graphs[0].edge_index.shape[1]
    assert n_edges > 500


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", LATTICES)
def test_lattices_whose_edges_are_as_long_as_the_cutoff_have_the_same_edges(name, dtype):
    make, shells = LATTICES[name]
    for shell in shells:
        for cutoff in (np.nextafter(shell, 0.0), shell, np.nextafter(shell, 9.0)):
            skin_list = SkinList(cutoff, 0.5, dtype=dtype)
            for shift in (0.0, 0.1, 1 / 3):  # each rounds the same distances otherwise
                atoms = make()
                atoms.positions += shift
                for call in (
                    lambda a=atoms, c=cutoff: build_graph(a, c, dtype=dtype),
                    lambda a=atoms, kept=skin_list: kept.graph(a),
                ):
                    one, other = both_ways(call)
                    assert_same_graphs(one, other)
                    assert_same_sums(one, 0)


def test_every_shell_of_a_crystal_is_cut_alike():
    atoms = crystal() * (2, 1, 1)
    lengths = build_graph(atoms, 2 * CUTOFF).edge_vectors.norm(dim=1).unique()
    assert len(lengths) > 500
    for cutoff in lengths.tolist():
        assert_same_graphs(*both_ways(lambda c=cutoff: build_graph(atoms, c)))


def test_an_edge_exactly_as_long_as_the_cutoff_is_left_out():
    atoms = bulk("Po", "sc", a=2.0)
    for graph in both_ways(lambda: build_graph(atoms, 4.0)):
        assert graph.edge_index.shape[1] == 6 + 12 + 8


def test_atoms_that_nearly_coincide_are_refused_alike():
    directions = np.random.default_rng(0).normal(size=(200, 3))
    directions *= COINCIDENT / np.linalg.norm(directions, axis=1, keepdims=True)
    messages = []
    for direction in directions:
        skin_list = SkinList(CUTOFF, 0.5)
        skin_list.graph(Atoms("O2", [[0, 0, 0], [0.1, 0, 0]]))
        atoms = Atoms("O2", [[0, 0, 0], direction])

        def refusal(skin_list=skin_list, atoms=atoms) -> str:
            try:
                skin_list.graph(atoms)
            except GraphError as error:
                return str(error)
            return ""

        with_library, without = both_ways(refusal)
        assert with_library == without
        messages.append(with_library)
    assert 20 < messages.count("") < 180  # the rounding decides


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


# --- sums over edges


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("name", STRUCTURES)
def test_forces_and_virial_are_those_of_the_portable_code(name, dtype):
    graph = build_graph(STRUCTURES[name](), CUTOFF, dtype=dtype)
    assert_same_sums(graph, 1)
    assert_same_sums(graph._replace(edge_index=graph.edge_index.flip(1)), 1)  # in any order
    gradients = gradients_of(graph, 1)
    strided = torch.stack([gradients, gradients], dim=1)[:, 0]
    arguments = (graph.edge_index, graph.n_owned)
    found, expected = (
        forces_from_sums(strided, *arguments),
        forces_from_edge_gradients(gradients, *arguments),
    )
    assert torch.equal(bits(found), bits(expected))


@pytest.mark.parametrize("n_threads", [1, 2, 3])
def test_sums_of_many_edges_are_the_same_with_any_number_of_threads(n_threads):
    graph = build_graph(bulk("Cu", cubic=True) * (8, 8, 8), 5.0)
    assert graph.edge_index.shape[1] > 80_000
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        assert_same_sums(graph, 2)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("n_threads", [2, 3])
@pytest.mark.parametrize("cutoff", [4.0, 5.0])
def test_edges_of_large_structures_are_the_same_with_any_number_of_threads(n_threads, cutoff):
    steps = [moved(bulk("Cu", cubic=True) * (8, 8, 8), seed) for seed in (1, 2)]
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        skin_list = SkinList(cutoff, 0.5, dtype=torch.float32)
        for step in steps:
            assert_same_graphs(*both_ways(lambda s=step, kept=skin_list: kept.graph(s)))
    finally:
        torch.set_num_threads(before)


def test_forces_of_an_edge_gradient_of_minus_zero_are_plus_zero():
    """As sums that begin at zero are; numpy and torch print the other one as -0."""
    graph = build_graph(water(), CUTOFF)
    gradients = torch.full_like(graph.edge_vectors, -0.0)
    for forces in both_ways(lambda: forces_from_sums(gradients, graph.edge_index, 3)):
        assert torch.equal(bits(forces), torch.zeros(3, 3, dtype=torch.int64))


@pytest.mark.parametrize("leaf", ["vectors", "gradients"])
def test_virials_keep_their_derivatives_where_the_library_is_loaded(leaf):
    graph = build_graph(crystal(), CUTOFF)
    gradients = gradients_of(graph, 3)
    vectors = graph.edge_vectors.clone().requires_grad_(leaf == "vectors")
    gradients.requires_grad_(leaf == "gradients")
    virials = virials_from_edge_gradients(gradients, graph._replace(edge_vectors=vectors))
    variable, other = (vectors, gradients) if leaf == "vectors" else (gradients, vectors)
    (slope,) = torch.autograd.grad(virials.diagonal(dim1=1, dim2=2).sum(), variable)
    torch.testing.assert_close(slope, other, rtol=1e-14, atol=0)


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


# --- calculators


@pytest.mark.parametrize("model", ["double", "single"])
def test_results_of_a_calculator_are_those_of_the_portable_code(models, model):
    structures = [ethanol(), crystal(), slab(), moved(crystal(), 1)]

    def results() -> list[dict[str, Any]]:
        calculator = EqCalculator(models[model], device="cpu")
        found = []
        for atoms in structures:
            calculator.calculate(atoms)
            found.append(calculator.results)
        return found

    for found, expected in zip(*both_ways(results), strict=True):
        assert found.keys() == expected.keys() >= {"energy", "forces"}
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], strict=True, err_msg=name)
    assert "stress" in expected


_BEFORE_AND_AFTER = """
import sys
import ase.io
import numpy as np
from eqcalc import EqCalculator
from eqcalc.native.build import load_library
from eqcalc.native.operators import find_operator

def numbers(calculator):
    calculator.reset()
    found = []
    for atoms in ase.io.read(sys.argv[2], ":"):
        calculator.calculate(atoms)
        found += [calculator.results[name] for name in ("energy", "forces", "stress")]
    return b"".join(np.asarray(value).tobytes() for value in found).hex()

calculator = EqCalculator(sys.argv[1], device="cpu", engine="torchscript")
print(numbers(calculator))
assert find_operator("edge_forces") is None
assert load_library()  # as a compiled model does
assert find_operator("edge_forces") is not None
print(numbers(calculator))
print(numbers(EqCalculator(sys.argv[1], device="cpu", engine="torchscript")))
"""


@pytest.mark.usefixtures("library_built")
def test_a_model_returns_the_same_bits_after_another_has_loaded_the_library(
    models: dict[str, Path], tmp_path: Path
):
    path = tmp_path / "structures.traj"
    copper = bulk("C", "fcc", a=3.0, cubic=True)  # edges as long as the cutoff, 4 Å, nearly
    copper.set_cell(copper.cell.array * (4.0 / 3.0 / 2**0.5), scale_atoms=True)
    ase.io.write(path, [crystal(), moved(crystal(), 1), moved(crystal(), 2), copper])
    command = [sys.executable, "-c", _BEFORE_AND_AFTER, str(models["double"]), str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    before, after, fresh = done.stdout.split()
    assert before == after == fresh
    assert len(before) > 1000
