"""Faults and odd uses of a real GPU: the right numbers, or an error that says what to do.

test_device_use.py has what a stand-in can show of it.
"""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from small_models import crystal, ethanol, slab, water

from eqcalc import EqCalculator
from eqcalc.blockwise import evaluation
from eqcalc.blockwise.memory import peak_of
from eqcalc.engines import Target, load_model, packages
from eqcalc.errors import DeviceError, NotEnoughMemoryError
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import build_graph

pytestmark = pytest.mark.gpu

ENGINES = ["torchscript", "cudagraph"]
ATOL = 1e-9  # eV, eV/Å; float64, sums in another order


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))


def on_gpu(models, engine: str = "cudagraph", **options) -> EqCalculator:
    calculator = EqCalculator(models["double"], device="cuda", engine=engine, **options)
    assert calculator.models[0].engine.name == engine
    return calculator


def on_cpu(models, name: str = "double") -> EqCalculator:
    return EqCalculator(models[name], device="cpu", engine="torchscript")


def results(calculator: EqCalculator, atoms: Atoms) -> dict[str, Any]:
    calculator.calculate(atoms)
    return calculator.results


def assert_same_results(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, 1e-12, ATOL, err_msg=name)


@pytest.mark.parametrize("engine", ENGINES)
def test_forces_after_a_run_that_began_on_a_cpu_are_each_atom_s_own(engine, models, monkeypatch):
    """On a CPU large structures are summed in an order of their own, which a checkpoint keeps."""
    monkeypatch.setattr("eqcalc.calculator.atom_order.FEWEST", 2)
    atoms = crystal()
    atoms = atoms[np.random.default_rng(0).permutation(len(atoms))]
    begun, calculator = on_cpu(models), on_gpu(models, engine)
    expected = results(begun, atoms)
    calculator.keep_atom_order(atoms, begun.atom_order)
    assert_same_results(results(calculator, atoms), expected)


def answers(models, n: int, name: str = "double") -> list[tuple[Atoms, dict[str, Any]]]:
    """Return structures of several sizes, and what they give on the CPU."""
    calculator = on_cpu(models, name)
    structures = []
    for k in range(n):
        atoms = (ethanol(), crystal().repeat((2, 2, 1)), slab(), water(), crystal())[k % 5]
        atoms.rattle(0.03, seed=k)
        structures.append(atoms)
    return [(atoms, results(calculator, atoms)) for atoms in structures]


# --- memory ------------------------------------------------------------------------------


@contextmanager
def small_card(n_bytes: float) -> Iterator[None]:
    """Let torch take no more than so many bytes beside those that it holds."""
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    most = torch.cuda.memory_reserved() + n_bytes
    torch.cuda.set_per_process_memory_fraction(min(most / total, 1.0))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def needs(call: Callable[[], object]) -> int:
    return peak_of(call, torch.device("cuda"))


@pytest.mark.parametrize("is_foretold", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_what_fits_in_blocks_only_gives_the_results_of_the_cpu(
    engine, is_foretold, models, monkeypatch
):
    atoms = crystal().repeat(12)  # 13 824 atoms; about 2 GB
    atoms.rattle(0.02, seed=0)
    expected = results(on_cpu(models), atoms)
    calculator = on_gpu(models, engine)
    search = needs(lambda: build_graph(atoms, 4.5, device="cuda"))
    whole = needs(lambda: on_gpu(models, "torchscript").calculate(atoms))
    n_edges = build_graph(atoms, 4.0).edge_index.shape[1]
    if not is_foretold:  # memory runs out in the call
        monkeypatch.setattr(evaluation, "available_memory", lambda device: None)
    with small_card(search + 0.4 * (whole - search)):
        forecast = calculator.memory_forecast(atoms)
        assert (forecast.n_blocks > 1) is is_foretold, str(forecast)
        assert 0.3 * whole < forecast.needed < 3.0 * whole
        for _ in range(2):
            assert_same_results(results(calculator, atoms), expected)
            assert_same_results(results(calculator, ethanol()), results(on_cpu(models), ethanol()))
    if not is_foretold:
        assert calculator._blockwise[0]._most_edges < n_edges


@pytest.mark.parametrize("engine", ENGINES)
def test_where_not_even_the_edges_of_one_atom_fit_the_numbers_are_told(engine, models):
    # Each atom has 500 neighbours within 4 Å, which are images of all the others.
    atoms = Atoms("H", cell=[0.8, 0.8, 0.8], pbc=True).repeat(5)
    calculator = on_gpu(models, engine)
    whole = needs(lambda: on_gpu(models, "torchscript").calculate(atoms))
    message = (
        r"memory of cuda does not suffice for model 'double' on these 125 atoms with \d+ edges, "
        r"not even in blocks: the energy of one H atom alone depends on \d+ edges"
    )
    with small_card(0.4 * whole):
        for _ in range(2):
            with pytest.raises(NotEnoughMemoryError, match=message):
                calculator.get_forces(atoms)
        assert_same_results(results(calculator, ethanol()), results(on_cpu(models), ethanol()))


def test_where_not_even_the_neighbour_list_fits_it_is_told_and_the_next_structure_runs(models):
    calculator = on_gpu(models)
    on_gpu(models, "torchscript").get_forces(ethanol())  # what libraries take once is there
    atoms = crystal().repeat(12)
    message = r"memory of cuda does not suffice: CUDA out of memory\..* Free memory, or take fewer"
    with small_card(48e6):
        with pytest.raises(NotEnoughMemoryError, match=message):
            calculator.get_forces(atoms)
        with pytest.raises(NotEnoughMemoryError, match=message):
            calculator.memory_forecast(atoms)
        assert_same_results(results(calculator, ethanol()), results(on_cpu(models), ethanol()))
    assert calculator.get_forces(atoms).shape == (len(atoms), 3)


# --- devices that are not there, or not any more -----------------------------------------


def test_an_index_beyond_the_last_card_names_those_that_are_there(models):
    n_cards = torch.cuda.device_count()
    name = f"cuda:{n_cards + 6}"
    message = rf"device '{name}' .* sees {n_cards} CUDA devices? here\. Use one of 'cuda:0'"
    for load in (load_model, EqCalculator):
        with pytest.raises(DeviceError, match=message):
            load(models["double"], device=name)


def run_script(script: Path, *arguments: object) -> list[str]:
    """Run a script in a process of its own; return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.stdout, done.stderr[-2000:]
    return done.stdout.splitlines()


LOST = """
import os, sys
import torch
from ase.build import molecule
from eqcalc import EqCalculator

def attempt(job):
    try:
        print(job())
    except Exception as error:
        print(f"{type(error).__name__}: {error}")

calculator = EqCalculator(sys.argv[1], device="cuda", engine=sys.argv[2])
attempt(lambda: calculator.get_potential_energy(molecule("H2O")))
torch.zeros(3, device="cuda")[torch.tensor([7], device="cuda")]  # every later call fails
attempt(lambda: calculator.get_potential_energy(molecule("CH3OH")))
attempt(lambda: calculator.calculate_many([molecule("CH3OH")]))
attempt(lambda: EqCalculator(sys.argv[1], device="cuda"))
sys.stdout.flush()
os._exit(0)  # torch's own clean-up may abort
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_a_gpu_that_stops_working_is_told_with_what_to_do(engine, models, tmp_path):
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    energy, *errors = run_script(script, models["double"], engine)
    float(energy)
    assert len(errors) == 3
    for error in errors:
        assert error.startswith("DeviceError: device 'cuda' does not answer any more: "), error
        assert "start the program anew" in error
        assert "eqcalc md --resume FOLDER" in error


FORKED = """
import multiprocessing, sys
from ase.build import molecule
from eqcalc import EqCalculator

def energy(calculator, name="CH3CH2OH"):
    return calculator.get_potential_energy(molecule(name))

def load(device):
    return energy(EqCalculator(sys.argv[1], device=device))

def attempt(job, argument):
    try:
        print(job(argument), flush=True)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)

def child():
    attempt(lambda own: energy(own, "CH3OH"), calculator)  # not what it still knows
    for device in ("cuda", "auto", "cpu"):
        attempt(load, device)

if __name__ == "__main__":
    calculator = EqCalculator(sys.argv[1], device="cuda")
    attempt(energy, calculator)
    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(60)
    process.kill()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(energy, (calculator,)))
"""


def test_a_forked_process_is_told_to_be_spawned_and_a_spawned_one_runs(models, tmp_path):
    script = tmp_path / "forked.py"
    script.write_text(FORKED)
    expected, *forked, cpu, spawned = run_script(script, models["double"])
    assert len(forked) == 3
    for line in forked:
        assert line.startswith("DeviceError: a model on 'cuda' cannot run in this process"), line
        assert "multiprocessing.get_context('spawn')" in line
    # torch's gradients do not survive a fork on a machine with a GPU, on the CPU either.
    if not cpu.startswith("DeviceError: a model on 'cpu' cannot run in this process"):
        assert float(cpu) == pytest.approx(float(expected), abs=1e-8)
    assert float(spawned) == pytest.approx(float(expected), abs=1e-8)


def test_a_package_of_another_card_is_named_and_not_run(models, monkeypatch):
    def quick(files: object, path: Path, *target: object) -> None:
        path.write_bytes(b"code")

    monkeypatch.setattr(packages, "_compiler", lambda: quick)
    files = [open_model_file(models["double"])]
    target = Target(torch.device("cuda"), torch.float64)
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA another")
        patch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 1))
        foreign = packages.make_package(files, target)
        assert packages.find_package(files, target) == foreign
    report = EqCalculator(models["double"], device="cuda").engine_report()
    assert "cudagraph over torchscript" in report
    assert (
        "not inductor: not compiled for cuda, float64 (the package that is there was made for "
        "another processor); run: eqcalc compile" in report
    )
    assert packages.make_package(files, target) != foreign


# --- streams -----------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_a_stream_of_the_callers_own_changes_no_number(engine, models):
    calculator = on_gpu(models, engine, skin=0.3)
    streams = [torch.cuda.Stream(), torch.cuda.default_stream(), torch.cuda.Stream()]
    for k, (atoms, expected) in enumerate(answers(models, 150)):
        with torch.cuda.stream(streams[k % 3]):
            assert_same_results(results(calculator, atoms), expected)


@pytest.mark.parametrize("engine", ENGINES)
def test_calls_on_alternating_streams_that_nobody_orders_do_not_mix(engine, models):
    model = load_model(models["double"], device="cuda", engine=engine)
    structures = []
    for seed in range(60):
        structures.append(crystal().repeat((2, 2, 2)))
        structures[-1].rattle(0.03, seed=seed)
    plain = on_cpu(models)
    expected = [results(plain, atoms)["energies"] for atoms in structures]
    graphs = [build_graph(atoms, 4.0, device="cuda") for atoms in structures]
    torch.cuda.synchronize()
    streams, found = (torch.cuda.Stream(), torch.cuda.Stream()), []
    for k, graph in enumerate(graphs):
        with torch.cuda.stream(streams[k % 2]):
            found.append(model(graph)[0])
    torch.cuda.synchronize()
    for energies, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(energies.cpu(), right, 0, ATOL)


def test_a_call_waits_for_the_one_before_on_another_stream(models):
    model = load_model(models["double"], device="cuda", engine="cudagraph")
    graph = build_graph(crystal(), 4.0, device="cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    for stream in (first, second):  # is captured, and has its memory
        with torch.cuda.stream(stream):
            model(graph)
    torch.cuda.synchronize()
    with torch.cuda.stream(first):
        torch.cuda._sleep(2_000_000_000)  # cycles: a second
        model(graph)
    with torch.cuda.stream(second):
        model(graph)
    time.sleep(0.1)
    assert not second.query()
    torch.cuda.synchronize()


# --- several calculators on one card -----------------------------------------------------


def test_calculators_of_several_models_take_turns_in_one_thread(models):
    calculators = {
        name: EqCalculator(models[name], device="cuda") for name in ("double", "other", "short")
    }
    expected = {name: answers(models, 40, name) for name in calculators}
    for k in range(40):
        for name, calculator in calculators.items():
            atoms, right = expected[name][k]
            assert_same_results(results(calculator, atoms), right)


def test_threads_with_calculators_of_their_own_and_shared_models_get_their_own_numbers(models):
    """Buckets are captured meanwhile, and models are loaded, which refuses all waiting."""
    shared = on_gpu(models)
    jobs = [
        (shared, answers(models, 100)),
        (copy.copy(shared), answers(models, 100)[::-1]),  # the same engine
        (EqCalculator(models["other"], device="cuda"), answers(models, 100, "other")),
    ]
    start = threading.Barrier(len(jobs) + 1)

    def compute(calculator: EqCalculator, right: list[tuple[Atoms, dict[str, Any]]]) -> None:
        start.wait()
        for atoms, expected in right:
            assert_same_results(results(calculator, atoms), expected)

    def load() -> None:
        start.wait()
        for _ in range(3):
            on_gpu(models)

    with ThreadPoolExecutor(len(jobs) + 1) as pool:
        futures = [pool.submit(compute, *job) for job in jobs] + [pool.submit(load)]
        for future in futures:
            future.result()


def test_captures_and_what_another_thread_does_with_torch_do_not_disturb_each_other(models):
    right = answers(models, 40)
    calculator = on_gpu(models)  # while a model loads, nothing on the GPU may be waited for
    before, over = calculator.models[0].engine.n_captures, threading.Event()

    def work() -> int:
        n = 1
        while not over.is_set():
            assert float(torch.ones(n, device="cuda").sum()) == n  # takes memory and waits
            n = n * 2 if n < 10_000_000 else 1
        return n

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(work)
        try:
            for atoms, expected in right:
                assert_same_results(results(calculator, atoms), expected)
        finally:
            over.set()
        assert other.result() >= 1
    assert calculator.models[0].engine.n_captures > before
