"""The engine of captured graphs: with a stand-in for CUDA everywhere, itself where there is one.

The stand-in behaves as a captured graph does where that matters: it keeps the work and the
tensors of its first run, leaves nothing in its outputs until it is replayed, and each replay
overwrites the same outputs. What it cannot show is CUDA's own: the tests marked ``gpu`` do.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet
from small_models import (
    POTENTIALS,
    REFERENCE_ENERGIES,
    crystal,
    ethanol,
    slab,
    small_options,
    water,
)

from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.bench import ready_engines
from eqcalc.blockwise import evaluation
from eqcalc.device_use import reason_of
from eqcalc.engines import buckets, cuda_graph, load_model
from eqcalc.engines.buckets import Bucket, Buffers, bucket_of
from eqcalc.engines.cuda_graph import CudaGraphEngine, CudaRecorder, Recording
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import EngineError, NotEnoughMemoryError
from eqcalc.export import export_model
from eqcalc.graph import AtomicGraph, validate_graph
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

CPU = torch.device("cpu")
ATOL = 1e-10  # eV, eV/Å; pads change the order of sums in float64
SINGLE = 3e-5  # in float32


class StandInRecorder:
    """Repeats work into the same outputs, as a captured graph does, on a CPU."""

    def __init__(self, device: torch.device) -> None:
        assert device == CPU

    def record(self, work) -> Recording:
        outputs = tuple(torch.full_like(output, torch.nan) for output in work())

        def replay() -> None:
            for output, new in zip(outputs, work(), strict=True):
                output.copy_(new)

        return Recording(replay, outputs)


class RefusingRecorder(StandInRecorder):
    """Fails from the capture number ``first_failure`` on."""

    first_failure = 0
    message = "called a synchronizing CUDA operation"

    def record(self, work) -> Recording:
        if type(self).first_failure == 0:
            raise RuntimeError(self.message)
        type(self).first_failure -= 1
        return super().record(work)


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """Let the engine run on the CPU, with nothing compiled beside it."""
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(CudaGraphEngine, "device_types", ("cpu",))
    monkeypatch.setattr(cuda_graph, "CudaRecorder", StandInRecorder)


@pytest.fixture
def pair(models, stand_in) -> tuple[EqCalculator, EqCalculator]:
    """Return a calculator that replays, and one of the same model that does not."""
    replaying = EqCalculator(models["double"], device="cpu", skin=0.3)
    assert replaying.models[0].engine.name == "cudagraph"
    return replaying, EqCalculator(models["double"], device="cpu", engine="torchscript", skin=0.3)


def engine_of(calculator: EqCalculator) -> CudaGraphEngine:
    return calculator.models[0].engine


def assert_same_results(replaying, plain, atoms: Atoms, atol: float = ATOL) -> None:
    for calculator in (replaying, plain):
        calculator.calculate(atoms)
    assert replaying.results.keys() == plain.results.keys()
    for name, value in plain.results.items():
        np.testing.assert_allclose(replaying.results[name], value, 0, atol, err_msg=name)


def run_md(
    replaying,
    plain,
    atoms: Atoms,
    n_steps: int,
    every: int = 1,
    note: Callable[[], object] = lambda: None,
) -> None:
    """Let the replaying calculator drive hot dynamics, and compare it on the way."""
    atoms.calc = replaying
    MaxwellBoltzmannDistribution(atoms, temperature_K=600, rng=np.random.default_rng(1))
    dynamics = VelocityVerlet(atoms, timestep=0.5 * units.fs)

    def compare() -> None:
        found = atoms.get_forces(), atoms.get_potential_energies()
        plain.calculate(atoms)
        np.testing.assert_allclose(found[0], plain.results["forces"], 0, ATOL)
        np.testing.assert_allclose(found[1], plain.results["energies"], 0, 10 * ATOL)
        note()

    dynamics.attach(compare, interval=every)
    dynamics.run(n_steps)


def run_through_changes(replaying, plain, n_steps: int) -> None:
    """Change all that a kept list or graph could hold of a run, one after the other, and go on."""
    atoms = crystal().repeat((2, 2, 1))
    removed = atoms[[5, 12]]

    def change_elements() -> None:
        atoms.symbols[:8] = "OHHCOOHC"

    def open_the_cell() -> None:
        atoms.pbc = (True, True, False)

    def shrink_the_cell() -> None:
        atoms.pbc = True
        atoms.set_cell(0.97 * atoms.cell, scale_atoms=True)

    def take_atoms() -> None:
        del atoms[[5, 12]]

    def add_atoms() -> None:
        atoms.extend(removed)

    for change in (change_elements, open_the_cell, shrink_the_cell, take_atoms, add_atoms):
        run_md(replaying, plain, atoms, n_steps, every=10)
        change()
        assert_same_results(replaying, plain, atoms)
    run_md(replaying, plain, atoms, n_steps, every=10)


def breathing(n_frames: int) -> list[Atoms]:
    """Return a crystal whose number of edges grows to about the double and shrinks back."""
    frames = []
    for phase in np.linspace(0.0, np.pi, n_frames):
        atoms = crystal().repeat((2, 1, 1))
        atoms.set_cell(atoms.cell * (1.05 - 0.2 * np.sin(phase)), scale_atoms=True)
        frames.append(atoms)
    return frames


def odd_structures() -> dict[str, Atoms]:
    return {
        "molecule": ethanol(),
        "crystal": crystal(),
        "slab": slab(),
        "one atom": Atoms("O"),
        "no edges": Atoms("COH", [[0, 0, 0], [0, 0, 9.0], [0, 9.0, 0]]),
        "a pair": Atoms("CO", [[0, 0, 0], [0, 0, 1.2]]),
        "one atom in a small cell": Atoms("C", cell=[2.5] * 3, pbc=True),
        "many edges": crystal().repeat(2),
    }


# --- buckets -----------------------------------------------------------------------------


def test_buckets_are_few_and_hardly_larger_than_what_they_hold():
    sizes = range(1, 40_000)
    capacities = [bucket_of(1, n, 1, with_weights=False).n_edges for n in sizes]
    assert len(set(capacities)) < 80
    assert all(n <= capacity for n, capacity in zip(sizes, capacities, strict=True))
    assert all(c <= 128 or c < 1.125 * n for n, c in zip(sizes, capacities, strict=True))
    assert capacities == sorted(capacities)
    atoms = [bucket_of(n, 1, n, with_weights=False).n_atoms for n in sizes]
    assert all(capacity - n >= 16 for n, capacity in zip(sizes, atoms, strict=True))


def test_only_a_count_of_ghosts_that_is_frozen_in_needs_its_own_bucket():
    whole = bucket_of(100, 3000, 100, with_weights=False)
    assert bucket_of(101, 3001, 101, with_weights=False) == whole
    assert bucket_of(100, 3000, 40, with_weights=False) == whole._replace(n_owned=40)
    assert bucket_of(100, 3000, 40, with_weights=True) == whole


@pytest.mark.parametrize("n_edges", [128, 144, 1024, 9216])
def test_filled_buffers_are_a_graph_whose_pads_touch_no_real_atom(n_edges):
    bucket = Bucket(40, n_edges, 40)
    buffers = Buffers(bucket, 8.0, torch.float32, CPU)
    rng = np.random.default_rng(0)
    # Large first: what a later, smaller graph leaves free must not show the larger one.
    for n_atoms, n in ((24, n_edges), (9, n_edges - 1), (20, n_edges - n_edges // 8), (1, 0)):
        receivers = torch.from_numpy(np.sort(rng.integers(0, n_atoms, n)))
        senders = torch.from_numpy(rng.integers(0, n_atoms, n))
        numbers = torch.from_numpy(rng.choice([1, 6, 8], n_atoms))
        vectors, index = torch.rand(n, 3), torch.stack([senders, receivers])
        buffers.fill(
            AtomicGraph(
                numbers,
                index,
                vectors,
                torch.zeros_like(numbers),
                1,
                n_atoms // 2,
                torch.zeros(1, 3, 3),
            )
        )
        graph = buffers.graph
        validate_graph(graph)
        assert torch.equal(graph.atomic_numbers[:n_atoms], numbers)
        assert set(graph.atomic_numbers[n_atoms:].tolist()) == {int(numbers[0])}
        assert torch.equal(graph.edge_vectors[:n], vectors)
        assert torch.equal(graph.edge_index[:, :n], index)
        pads = graph.edge_index[:, n:]
        assert bool((pads >= n_atoms).all())
        assert bool((pads[0] != pads[1]).all())
        assert bool((torch.linalg.vector_norm(graph.edge_vectors[n:], dim=1) == 8.0).all())
        assert buffers.weights.tolist() == [1.0] * (n_atoms // 2) + [0.0] * (40 - n_atoms // 2)


def test_buffers_whose_filling_was_interrupted_are_filled_anew(monkeypatch):
    buffers = Buffers(Bucket(40, 128, 40), 8.0, torch.float64, CPU)
    first, other = build_graph(ethanol(), 4.0), build_graph(ethanol(), 2.0)
    n = first.edge_index.shape[1]
    assert 0 < other.edge_index.shape[1] < n <= 128
    buffers.fill(first)

    def interrupted(tensor: torch.Tensor) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(buckets, "_state_of", interrupted)
        with pytest.raises(KeyboardInterrupt):
            buffers.fill(other)
    buffers.fill(first)
    assert torch.equal(buffers.edge_index[:, :n], first.edge_index)
    assert torch.equal(buffers.edge_vectors[:n], first.edge_vectors)


def test_pads_are_spread_over_the_pad_atoms():
    buffers = Buffers(Bucket(40, 9216, 40), 8.0, torch.float64, CPU)
    counts = buffers.edge_index[1, -1152:].bincount()[-16:]  # the last eighth
    assert counts.tolist() == [72] * 16


# --- results -----------------------------------------------------------------------------


def test_hundreds_of_steps_of_dynamics_are_those_without_replay(pair):
    replaying, plain = pair
    after_load = engine_of(replaying).n_captures
    run_md(replaying, plain, crystal().repeat((2, 2, 1)), n_steps=300)
    assert replaying.neighbours.n_builds > 3
    assert 1 <= engine_of(replaying).n_captures - after_load <= 4


def test_elements_pbc_cell_and_number_of_atoms_may_change_in_the_middle_of_a_run(pair):
    run_through_changes(*pair, n_steps=30)


def test_edges_may_grow_over_buckets_and_shrink_back(pair):
    replaying, plain = pair
    frames = breathing(41)
    counts = [build_graph(atoms, 4.0).edge_index.shape[1] for atoms in frames]
    buckets = {bucket_of(16, n, 16, with_weights=False) for n in counts}
    engine = engine_of(replaying)
    expected = engine.n_captures + len(buckets - engine._kept.keys())
    for half in (frames[:21], frames[21:]):
        for atoms in half:
            assert_same_results(replaying, plain, atoms)
        # The way back captures nothing: the buckets of the way there are kept.
        assert engine.n_captures == expected
    assert 3 <= len(buckets) <= 6


def test_any_structure_may_follow_any_other(pair):
    replaying, plain = pair
    structures = odd_structures()
    for first, second in itertools.permutations(structures, 2):
        for name in (first, second):
            assert_same_results(replaying, plain, structures[name])


def test_changed_species_are_seen_without_a_capture(pair):
    replaying, plain = pair
    atoms = crystal()
    assert_same_results(replaying, plain, atoms)
    before = engine_of(replaying).n_captures
    energies = set()
    for symbols in ("CHOHCOHH", "HHHHHHHH", "OOOOCCCC", "CHOHCOHO"):
        atoms.set_chemical_symbols(symbols)
        assert_same_results(replaying, plain, atoms)
        energies.add(replaying.results["energy"])
    assert len(energies) == 4
    assert engine_of(replaying).n_captures == before


def test_two_calculators_may_alternate(models, stand_in):
    calculators = {
        name: tuple(
            EqCalculator(models[name], device="cpu", engine=engine)
            for engine in ("auto", "torchscript")
        )
        for name in ("double", "other")
    }
    for atoms in breathing(12):
        for replaying, plain in calculators.values():
            assert_same_results(replaying, plain, atoms)
    energies = [replaying.results["energy"] for replaying, _ in calculators.values()]
    assert abs(energies[0] - energies[1]) > 1e-3


def test_a_committee_of_replayed_models_is_one_of_plain_models(models, stand_in):
    members = [models["double"], models["other"], models["short"]]
    replaying = EqCalculator(members, device="cpu")
    assert {member.engine.name for member in replaying.models} == {"cudagraph"}
    plain = EqCalculator(members, device="cpu", engine="torchscript")
    for atoms in odd_structures().values():
        assert_same_results(replaying, plain, atoms)


def test_many_structures_through_replays_are_those_one_by_one(pair):
    replaying, plain = pair
    structures = list(odd_structures().values())
    for max_edges in (1, 500, 20_000):
        found = replaying.calculate_many(structures, max_edges=max_edges)
        expected = plain.calculate_many(structures, max_edges=max_edges)
        for one, other in zip(found, expected, strict=True):
            for name, value in other.items():
                np.testing.assert_allclose(one[name], value, 0, ATOL, err_msg=name)


def test_ghost_atoms_carry_messages_and_no_energy(pair):
    replaying, plain = (calculator.models[0] for calculator in pair)
    graph = build_graph(ethanol(), 4.0)
    for n_owned in (0, 4, 9, 4):
        part = graph._replace(n_owned=n_owned)
        energies, gradients = replaying(part)
        expected_energies, expected_gradients = plain(part)
        torch.testing.assert_close(energies, expected_energies, rtol=0, atol=ATOL)
        torch.testing.assert_close(gradients, expected_gradients, rtol=0, atol=ATOL)


def test_a_result_is_not_overwritten_by_the_next_call(pair):
    model, n_captures, kept = pair[0].models[0], set(), []
    for seed in range(6):
        atoms = crystal()
        atoms.rattle(0.02, seed=seed)
        graph = build_graph(atoms, 4.0)
        found = model(graph)
        kept.append((found, [tensor.clone() for tensor in found]))
        n_captures.add(model.engine.n_captures)
    assert len(n_captures) == 1  # all came from one graph
    for found, copies in kept:
        assert all(map(torch.equal, found, copies))


def test_inputs_are_not_changed_and_may_require_gradients(pair):
    model = pair[0].models[0]
    graph = build_graph(ethanol(), 4.0)
    vectors = graph.edge_vectors.clone().requires_grad_(True)
    before = [graph.atomic_numbers.clone(), vectors.detach().clone(), graph.edge_index.clone()]
    for _ in range(2):
        energies, gradients = model(graph._replace(edge_vectors=vectors))
        assert not energies.requires_grad
        assert not gradients.requires_grad
    after = [graph.atomic_numbers, vectors.detach(), graph.edge_index]
    assert all(map(torch.equal, before, after))


def test_single_precision_replays_reproduce_the_passport(models, stand_in):
    model = load_model(models["single"], device="cpu")
    report = model.engine_report().splitlines()
    assert report[0] == "cudagraph over torchscript on cpu in float32, passport reproduced"


def test_the_memory_of_a_call_is_measured_without_replays(pair, monkeypatch):
    engines = []
    monkeypatch.setattr(evaluation, "MAX_EDGES", 0)
    monkeypatch.setattr(evaluation, "measure_law", lambda model, _: engines.append(model.engine))
    calculator = copy.copy(pair[0])
    calculator.calculate(crystal())
    assert engines == [engine_of(calculator).inner]


# --- which buckets are captured ----------------------------------------------------------


def chains() -> list[Atoms]:
    """Return twenty chains of hydrogen, each with a bucket of its own."""
    return [Atoms(n * "H", [[0, 0, 0.9 * k] for k in range(n)]) for n in range(20, 420, 20)]


def test_sizes_that_never_come_again_are_not_captured_once_the_room_is_used(pair):
    replaying, plain = pair
    engine = engine_of(replaying)
    for atoms in chains():
        assert_same_results(replaying, plain, atoms)
    assert engine.n_captures == len(engine._kept) == 8


def test_a_size_that_comes_often_takes_the_place_of_what_was_not_used_longest(pair):
    replaying, plain = pair
    engine = engine_of(replaying)
    for atoms in chains():
        replaying.calculate(atoms)
    replaying.calculate(chains()[0])  # was captured, and is now the youngest
    n_edges = build_graph(chains()[0], 4.0).edge_index.shape[1]
    used = bucket_of(20, n_edges, 20, with_weights=False)
    assert next(reversed(engine._kept)) == used
    oldest = next(iter(engine._kept))
    for _ in range(20):
        assert_same_results(replaying, plain, chains()[-1])
    assert engine.n_captures == 9
    assert len(engine._kept) == 8
    assert oldest not in engine._kept
    assert used in engine._kept
    assert next(reversed(engine._kept)).n_atoms >= 400


def test_two_frequent_sizes_do_not_take_each_others_place_in_turn(pair):
    replaying, plain = pair
    for atoms in chains():
        replaying.calculate(atoms)
    for _ in range(20):
        for atoms in chains()[-2:]:
            assert_same_results(replaying, plain, atoms)
    assert engine_of(replaying).n_captures == 9


# --- choice and refusals -----------------------------------------------------------------


def test_a_cpu_hears_nothing_of_cuda_graphs(models):
    assert "cudagraph" not in load_model(models["double"], device="cpu").engine_report()
    ready, not_used = ready_engines(models["double"], device="cpu")
    assert "cudagraph" not in ready
    assert "cudagraph" not in not_used


def test_asked_for_on_a_cpu_it_is_refused(models):
    message = (
        r"engine 'cudagraph' cannot run 'double': cudagraph needs a CUDA device, this is 'cpu'; or "
        r"take engine='auto' or 'torchscript'"
    )
    with pytest.raises(EngineError, match=message):
        load_model(models["double"], device="cpu", engine="cudagraph")


def test_the_report_names_what_is_replayed_and_what_would_be_faster(models, stand_in):
    for engine in ("auto", "cudagraph"):
        model = load_model(models["double"], device="cpu", engine=engine)
        first, second = model.engine_report().splitlines()
        assert first == "cudagraph over torchscript on cpu in float64, passport reproduced"
        assert second.startswith("not inductor: not compiled for cpu, float64")
    ready, not_used = ready_engines(models["double"], device="cpu")
    assert ready == ["cudagraph", "torchscript"]
    assert list(not_used) == ["inductor"]


def test_a_model_that_cannot_be_captured_runs_without_and_the_report_says_why(
    models, stand_in, monkeypatch
):
    monkeypatch.setattr(cuda_graph, "CudaRecorder", RefusingRecorder)
    model = load_model(models["double"], device="cpu")
    assert model.engine.name == "torchscript"
    assert (
        "not cudagraph: torchscript cannot be captured as a CUDA graph (for 32 atoms and 128 "
        "edges): called a synchronizing CUDA operation; engine='torchscript' runs it without"
    ) in model.engine_report()
    with pytest.raises(EngineError, match=r"cannot run .* called a synchronizing CUDA"):
        load_model(models["double"], device="cpu", engine="cudagraph")


def test_a_capture_that_fails_during_a_run_is_an_error_and_leaves_what_was_captured(
    models, stand_in, monkeypatch
):
    monkeypatch.setattr(cuda_graph, "CudaRecorder", RefusingRecorder)
    monkeypatch.setattr(RefusingRecorder, "first_failure", 3)
    monkeypatch.setattr(RefusingRecorder, "message", "CUDA error: no more of it\nmore")
    calculator = EqCalculator(models["double"], device="cpu")  # captures two buckets
    calculator.calculate(crystal())
    with pytest.raises(EngineError, match=r"captured .*: CUDA error: no more of it; engine="):
        calculator.calculate(crystal().repeat(2))
    assert_same_results(
        calculator, EqCalculator(models["double"], device="cpu", engine="torchscript"), water()
    )


@pytest.mark.parametrize("n_captured", [0, 2])
def test_without_memory_for_another_graph_the_engine_inside_runs(
    n_captured, models, stand_in, monkeypatch
):
    model = load_model(models["double"], device="cpu", engine="cudagraph")
    model.engine._kept.clear()
    model.engine._recorder = RefusingRecorder(CPU)
    monkeypatch.setattr(RefusingRecorder, "first_failure", n_captured)
    monkeypatch.setattr(RefusingRecorder, "message", "CUDA out of memory. Tried to allocate 1 GiB")
    plain = load_model(models["double"], device="cpu", engine="torchscript")
    before = model.engine.n_captures
    for _ in range(3):
        for n in (1, 2, 3, 4):
            graph = build_graph(crystal().repeat((n, 1, 1)), 4.0)
            for found, expected in zip(model(graph), plain(graph), strict=True):
                torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert model.engine.n_captures == before + n_captured


def test_graphs_give_up_their_memory_to_a_call_that_needs_it(pair, monkeypatch):
    replaying, plain = (calculator.models[0] for calculator in pair)
    engine = replaying.engine
    graphs = [build_graph(crystal().repeat((n, 1, 1)), 4.0) for n in (1, 2, 3)]
    for graph in graphs[:2]:
        replaying(graph)
    n_kept = engine._most_kept = len(engine._kept)  # the third is not worth a capture
    script = type(engine.inner).__call__

    def call(inner: TorchScriptEngine, graph: AtomicGraph):
        if inner is engine.inner and engine._kept:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return script(inner, graph)

    monkeypatch.setattr(TorchScriptEngine, "__call__", call)
    for found, expected in zip(replaying(graphs[2]), plain(graphs[2]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)
    assert (len(engine._kept), engine._most_kept) == (0, n_kept - 1)


def test_without_memory_for_their_inputs_graphs_are_given_up(pair, monkeypatch):
    replaying, plain = (calculator.models[0] for calculator in pair)
    graphs = [build_graph(crystal().repeat((n, 1, 1)), 4.0) for n in (1, 2, 3)]
    replaying(graphs[0])
    n_kept = len(replaying.engine._kept)

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(cuda_graph, "Buffers", fail)
    for found, expected in zip(replaying(graphs[2]), plain(graphs[2]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=ATOL)
    assert (len(replaying.engine._kept), replaying.engine._most_kept) == (0, n_kept - 1)


@pytest.mark.parametrize("n_failures", [1, 2])
def test_graphs_give_up_their_memory_to_a_search_of_neighbours(n_failures, pair, monkeypatch):
    """As a list is made anew where the graph of a run has the rest of the card."""
    replaying, plain = pair
    assert_same_results(replaying, plain, crystal())
    engine, search = engine_of(replaying), replaying.neighbours.graph
    left = [n_failures]

    def graph(atoms: Atoms) -> AtomicGraph:
        if left[0] > 0:
            left[0] -= 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return search(atoms)

    monkeypatch.setattr(replaying.neighbours, "graph", graph)
    monkeypatch.setattr(
        EqCalculator, "ordered_graph", lambda c, atoms: (atoms, c._graph_on_gpu(atoms))
    )
    kept = len(engine._kept)
    assert kept > 0
    if n_failures == 2:
        with pytest.raises(NotEnoughMemoryError, match="memory of cpu does not suffice"):
            replaying.calculate(crystal())
        return
    replaying.calculate(crystal())
    assert engine._most_kept == kept - 1
    plain.calculate(crystal())
    np.testing.assert_allclose(replaying.results["forces"], plain.results["forces"], 0, ATOL)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "The following operation failed in the TorchScript interpreter.\nTraceback of "
            "TorchScript:\n  n = int(largest)\n      ~~~ <--- HERE\nRuntimeError: called a "
            "synchronizing CUDA operation\n",
            "called a synchronizing CUDA operation",
        ),
        (
            "CUDA error: operation not permitted when stream is capturing\n"
            "CUDA kernel errors might be reported asynchronously",
            "CUDA error: operation not permitted when stream is capturing",
        ),
        ("\n  something else.\nmore", "something else"),
        ("", "RuntimeError"),
    ],
)
def test_the_reason_is_the_line_that_says_why(message, expected):
    assert reason_of(RuntimeError(message)) == expected


# --- on a device -------------------------------------------------------------------------


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))


@pytest.mark.gpu
def test_gpu_ten_thousand_steps_are_those_without_replay(models, own_cache):
    replaying = EqCalculator(models["double"], device="cuda", skin=0.3)
    assert replaying.models[0].engine.name == "cudagraph", replaying.engine_report()
    plain = EqCalculator(models["double"], device="cuda", engine="torchscript", skin=0.3)
    used = []

    def note() -> None:
        used.append((torch.cuda.memory_allocated(), torch.cuda.memory_reserved()))

    atoms = crystal().repeat((2, 2, 1))
    run_md(replaying, plain, atoms, n_steps=10_000, every=10, note=note)
    assert replaying.neighbours.n_builds > 50
    # A few hundred bytes per step would be more; lists and captures of other sizes are less.
    (early, early_reserved), (late, late_reserved) = np.max([used[200:400], used[-200:]], axis=1)
    assert late <= early + 1_000_000
    assert late_reserved <= early_reserved + 8_000_000


@pytest.mark.gpu
def test_gpu_elements_pbc_cell_and_number_of_atoms_may_change_in_the_middle_of_a_run(
    models, own_cache
):
    replaying = EqCalculator(models["double"], device="cuda", skin=0.3)
    assert replaying.models[0].engine.name == "cudagraph", replaying.engine_report()
    plain = EqCalculator(models["double"], device="cpu", engine="torchscript", skin=0.0)
    run_through_changes(replaying, plain, n_steps=200)


@pytest.mark.gpu
def test_gpu_any_structure_may_follow_any_other(models, own_cache):
    replaying = EqCalculator(models["double"], device="cuda")
    plain = EqCalculator(models["double"], device="cpu", engine="torchscript")
    structures = [*odd_structures().values(), *breathing(20)]
    for _ in range(2):
        for atoms in structures:
            assert_same_results(replaying, plain, atoms)


@pytest.mark.gpu
def test_gpu_two_calculators_may_alternate(models, own_cache):
    calculators = [
        tuple(EqCalculator(models[name], device=device) for device in ("cuda", "cpu"))
        for name in ("double", "other")
    ]
    for atoms in breathing(40):
        for replaying, plain in calculators:
            assert_same_results(replaying, plain, atoms)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["triton", "inductor"])
def test_gpu_the_fastest_engine_that_is_ready_is_what_is_replayed(engine, models, own_cache):
    alone = EqCalculator(models["single"], device="cuda", engine=engine)
    assert alone.models[0].engine.name == engine, alone.engine_report()
    replaying = EqCalculator(models["single"], device="cuda")
    first = replaying.engine_report().splitlines()[0]
    assert first == f"cudagraph over {engine} on cuda in float32, passport reproduced"
    for atoms in [*odd_structures().values(), *breathing(20)]:
        assert_same_results(replaying, alone, atoms, atol=SINGLE)
    graph = build_graph(ethanol(), 4.0, device="cuda", dtype=torch.float32)
    for n_owned in (0, 4, 9, 4):
        part = graph._replace(n_owned=n_owned)
        found, expected = replaying.models[0](part), alone.models[0](part)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=SINGLE)


@pytest.mark.gpu
@pytest.mark.parametrize("name", POTENTIALS)
def test_gpu_every_network_without_angles_is_captured(name, tmp_path, own_cache):
    network = build(name, **small_options(name))
    path = tmp_path / f"{name}.pt"
    export_model(Potential(network.double(), REFERENCE_ENERGIES), path, elements="CHO")
    calculator = EqCalculator(path, device="cuda")
    if name.startswith("dimenet"):  # the width of its table of angles is read back
        assert calculator.models[0].engine.name == "torchscript"
        assert "synchronizing CUDA operation" in calculator.models[0].not_used["cudagraph"]
    else:
        assert calculator.models[0].engine.name == "cudagraph", calculator.engine_report()
    plain = EqCalculator(path, device="cpu", engine="torchscript")
    for atoms in (ethanol(), crystal(), ethanol()):
        assert_same_results(calculator, plain, atoms, atol=1e-8)


@pytest.mark.gpu
def test_gpu_work_that_waits_is_refused_and_leaves_no_trace():
    device = torch.device("cuda")
    x = torch.arange(4.0, device=device)
    for _ in range(2):
        recorder = CudaRecorder(device)  # each tries the first work it is given
        with pytest.raises(RuntimeError, match="synchronizing CUDA operation"):
            recorder.record(lambda: (x * float(x.sum()), x))
        assert torch.cuda.get_sync_debug_mode() == 0
        recording = recorder.record(lambda: (2.0 * x, x + 1.0))
        for start in (1.0, 5.0):
            x.copy_(start + torch.arange(4.0, device=device))
            recording.replay()
            assert torch.equal(recording.outputs[0], 2.0 * x)
            assert torch.equal(recording.outputs[1], x + 1.0)
