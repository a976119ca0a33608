"""Timing of steps: that each part is where it belongs, and the structures it runs on."""

from __future__ import annotations

import io
import os
from dataclasses import replace

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from fake_clock import Clock
from matplotlib.image import imread
from small_models import crystal, ethanol, slab, water

from eqcalc import EqCalculator
from eqcalc.bench import (
    N_BLOCKS,
    BenchCalculator,
    Measurement,
    Timing,
    check_elements,
    growth_exponent,
    machine,
    measure,
    ready_engines,
)
from eqcalc.bench.plots import growth_plot
from eqcalc.bench.structures import load_structure, parse_sizes, repeated
from eqcalc.engines import Engine, inductor, load_model
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import (
    ConfigError,
    EngineError,
    StructureError,
    UnsupportedElementError,
)
from eqcalc.export import rebuild_potential
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import SkinList
from eqcalc.neighbours.transfers import Transfers

QUICK = 1e-3  # seconds: two steps per block


@pytest.fixture
def calculator(models) -> BenchCalculator:
    return BenchCalculator(models["double"], engine="torchscript", device="cpu")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Return the clock that the stopwatches read from now on: 1 µs passes at every reading."""
    clock = Clock(tick=1e-6)
    monkeypatch.setattr("eqcalc.bench.measurement.time", clock)
    return clock


def made_up(n_atoms: int, ms: float, engine: str = "torchscript") -> Measurement:
    t = Timing(ms, 0.9 * ms, 1.2 * ms)
    return Measurement("x", n_atoms, 10, engine, t, t, t, t, None, t, t, t, 7, 2, 0, 1.0)


# --- measuring ---------------------------------------------------------------------------


def test_the_parts_add_up_to_the_step(calculator, monkeypatch):
    monkeypatch.setattr("eqcalc.bench.measurement.N_BLOCKS", 1)
    found = measure(calculator, crystal(), "crystal", seconds=QUICK)
    parts = (found.neighbours, found.model, found.host, found.ase)
    assert all(part.median > 0 for part in parts)
    assert found.transfer == (0, 0, 0)  # on a CPU
    assert sum(part.median for part in parts) == pytest.approx(found.step.median, rel=1e-9)
    assert (found.structure, found.engine, found.n_atoms) == ("crystal", "torchscript", 8)
    assert found.us_per_atom.median == pytest.approx(125 * found.step.median)


@pytest.mark.parametrize(
    ("owner", "method", "part"),
    [
        (TorchScriptEngine, "__call__", "model"),
        (SkinList, "graph", "neighbours"),
        (Transfers, "sent", "transfer"),
        (Transfers, "download", "transfer"),
        (EqCalculator, "_require_elements", "host"),
        (Atoms, "get_momenta", "ase"),
    ],
)
def test_a_delay_shows_in_its_own_part_alone(owner, method, part, models, clock, monkeypatch):
    calculator = BenchCalculator(models["double"], engine="torchscript", device="cpu")
    original = getattr(owner, method)

    def slow(*arguments, **options):
        clock.sleep(0.05)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, method, slow)
    calculator.neighbours.transfers.needed = True  # as on another device
    found = measure(calculator, crystal(), "crystal", seconds=QUICK)
    for name in ("neighbours", "transfer", "model", "host", "ase"):
        # At least one call per step; the other parts take what reading the clock does.
        timing = getattr(found, name)
        assert timing.low >= 50 if name == part else timing.high < 0.1, name
    assert found.step.low >= 50


def test_the_network_alone_is_what_the_engine_differentiates(calculator, models):
    engine = load_model(models["double"], device="cpu", engine="torchscript").engine
    graph = calculator.neighbours.graph(crystal())
    potential = rebuild_potential(open_model_file(models["double"]))
    whole = engine(graph)[0]
    alone = engine.energies(graph)
    assert alone.requires_grad  # what the gradient needs is made too
    expected = (whole - potential.reference_energies[graph.atomic_numbers]) / potential.scale
    torch.testing.assert_close(alone.detach(), expected, rtol=0, atol=1e-12)


def test_the_gradient_is_what_a_call_takes_beyond_the_network_alone(calculator, clock, monkeypatch):
    def slow(engine, graph):
        clock.sleep(0.02)
        return graph.edge_vectors

    def slower(*arguments):
        clock.sleep(0.05)
        return original(*arguments)

    original = TorchScriptEngine.__call__
    monkeypatch.setattr(TorchScriptEngine, "energies", slow)
    monkeypatch.setattr(TorchScriptEngine, "__call__", slower)
    found = measure(calculator, crystal(), "crystal", seconds=QUICK)
    assert found.gradient == pytest.approx((30, 30, 30), abs=0.01)


def test_the_gradient_does_not_count_the_first_calls_of_the_network_alone(
    calculator, clock, monkeypatch
):
    calls, original = [], TorchScriptEngine.__call__

    def slow_at_first(engine, graph):
        calls.append(graph)
        clock.sleep(0.5 if len(calls) <= 2 else 0.01)  # TorchScript compiles
        return graph.edge_vectors

    def steady(*arguments):
        clock.sleep(0.03)
        return original(*arguments)

    monkeypatch.setattr(TorchScriptEngine, "energies", slow_at_first)
    monkeypatch.setattr(TorchScriptEngine, "__call__", steady)
    found = measure(calculator, crystal(), "crystal", seconds=QUICK)
    assert found.gradient == pytest.approx((20, 20, 20), abs=0.01)


def test_a_graph_that_makes_both_at_once_has_no_gradient_of_its_own(calculator, monkeypatch):
    timed = calculator.models[0].engine
    monkeypatch.setattr(type(timed.engine), "energies", Engine.energies)  # of another kind
    assert measure(calculator, crystal(), "crystal", seconds=QUICK).gradient is None


def test_every_block_starts_alike_and_counts_its_steps(calculator, monkeypatch):
    starts, counted = [], []
    from eqcalc.bench import measurement as bench

    run = bench._run
    monkeypatch.setattr(
        bench,
        "_run",
        lambda atoms, n: starts.append(atoms.get_positions()) or counted.append(n) or run(atoms, n),
    )
    found = measure(calculator, ethanol(), "ethanol", seconds=QUICK)
    assert counted == [5, 2] + [found.n_steps] * N_BLOCKS
    for start in starts[2:]:
        np.testing.assert_array_equal(start, ethanol().positions)
    assert found.n_steps >= 2
    assert found.n_builds == 0  # moved by less than the skin


def test_without_a_skin_every_step_builds_a_list(models):
    bare = BenchCalculator(models["double"], engine="torchscript", device="cpu", skin=0.0)
    found = measure(bare, water(), "water", seconds=QUICK)
    assert found.n_builds == N_BLOCKS * found.n_steps
    assert found.fresh_list.low > 0


def test_the_structure_stays_as_it_is_and_progress_is_told(calculator):
    atoms, kept, told = crystal(), crystal(), []
    measure(calculator, atoms, "crystal", seconds=QUICK, progress=lambda: told.append(1))
    assert atoms == kept
    assert atoms.calc is None
    assert len(told) == N_BLOCKS


@pytest.mark.parametrize("make", [ethanol, crystal, slab])
def test_the_timed_calculator_gives_the_numbers_of_the_plain_one(make, calculator, models):
    plain = EqCalculator(models["double"], device="cpu")
    np.testing.assert_array_equal(calculator.get_forces(make()), plain.get_forces(make()))
    assert calculator.results["energy"] == plain.results["energy"]


def test_a_core_that_was_shared_is_noticed():
    alone = made_up(9, 1.0)
    assert not alone.was_disturbed
    assert replace(alone, cpu_share=0.6).was_disturbed


def test_an_engine_that_cannot_run_is_refused_not_replaced(models, monkeypatch):
    def fails(*_):
        raise EngineError("no compiler")

    monkeypatch.setattr(inductor, "make_package", fails)
    with pytest.raises(EngineError, match=r"engine 'inductor' cannot run 'double': no compiler;"):
        BenchCalculator(models["double"], engine="inductor", device="cpu")


def test_ready_engines_are_those_that_need_no_compiling(models):
    ready, not_used = ready_engines(models["double"], device="cpu")
    assert ready == ["torchscript"]
    assert "eqcalc compile" in not_used["inductor"]


def test_structures_with_unknown_elements_are_refused_by_name(calculator):
    check_elements(calculator.card, {"ethanol": ethanol()})
    with pytest.raises(
        UnsupportedElementError,
        match=r"'double' does not know Cu \(in 'cu32'\); it was trained on H, C, O\.",
    ):
        check_elements(calculator.card, {"ethanol": ethanol(), "cu32": load_structure("cu32")})


# --- structures --------------------------------------------------------------------------


def test_water_has_the_density_of_the_liquid_and_whole_molecules():
    box = load_structure("water192")
    assert len(box) == 192
    density = box.get_masses().sum() / box.get_volume() * 1.66054  # amu/Å³ -> g/cm³
    assert density == pytest.approx(1.0, abs=0.01)
    distances = box.get_all_distances(mic=True)
    oxygen, hydrogen = box.numbers == 8, box.numbers == 1
    assert ((distances[np.ix_(oxygen, hydrogen)] < 1.1).sum(axis=1) == 2).all()
    assert distances[np.triu_indices(192, 1)].min() > 0.9
    assert box == load_structure("water192")


def test_copper_is_rattled_fcc():
    crystal = load_structure("cu108")
    assert len(crystal) == 108
    assert crystal.pbc.all()
    distances = crystal.get_all_distances(mic=True)
    assert ((distances > 1.0) & (distances < 3.1)).sum() == 12 * 108


def test_a_file_is_read(tmp_path):
    path = tmp_path / "some.xyz"
    ase.io.write(path, crystal())
    assert len(load_structure(str(path))) == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ethanl", r"neither a file nor .* Did you mean 'ethanol'\?"),
        ("Ethanol", r"Did you mean 'ethanol'\?"),
        ("watr192", r"Did you mean 'water192'\?"),
        ("water", r"neither a file nor a structure known by name: ethanol, water24"),
        ("cu", r"neither a file nor"),
        ("water100", r"expected 3 n³ atoms with a whole n, as in water81 or water192"),
        ("cu0", r"expected 4 n³ atoms with a whole n, as in cu4 or cu32"),
        ("cu110", r"as in cu108 or cu256"),
        ("cu250", r"as in cu108 or cu256"),
        ("water1234567890", r"neither a file nor"),
        ("", r"neither a file nor"),
        ("missing.xyz", r"no structure file 'missing\.xyz'"),
        ("there/water24", r"no structure file 'there/water24'"),
    ],
)
def test_an_unknown_structure_is_refused(name, message):
    with pytest.raises(StructureError, match=message):
        load_structure(name)


def test_every_whole_number_of_cells_is_known():
    for n in range(1, 5):
        assert len(load_structure(f"cu{4 * n**3}")) == 4 * n**3
        assert len(load_structure(f"water{3 * n**3}")) == 3 * n**3


@pytest.mark.parametrize("text", ["", "1", "1,1", "0,2", "1,two", "1,-2", "1.5,2", "1,,2"])
def test_sizes_that_are_no_list_of_cells_are_refused(text):
    with pytest.raises(ConfigError, match=f"two or more different numbers.*found '{text}'"):
        parse_sizes(text)


@pytest.mark.parametrize("n", [1, 2, 4, 6, 7, 8])
def test_a_structure_grows_by_whole_cells_along_its_periodic_directions(n):
    flat = slab()
    grown = repeated(flat, n, "slab")
    assert len(grown) == n * len(flat)
    np.testing.assert_allclose(grown.cell[2], flat.cell[2])
    if n == 4:
        np.testing.assert_allclose(grown.cell.lengths()[:2], 2 * flat.cell.lengths()[:2])


def test_an_open_structure_cannot_be_repeated():
    with pytest.raises(ConfigError, match="'ethanol' is open in all directions"):
        repeated(ethanol(), 2, "ethanol")


# --- reports -----------------------------------------------------------------------------


def test_growth_exponent_finds_the_power():
    found = [made_up(n, 0.01 * n**1.3) for n in (10, 40, 90, 400)]
    assert growth_exponent(found) == pytest.approx(1.3, abs=1e-12)


@pytest.mark.parametrize(("load", "is_busy"), [(0.3, False), (99.0, True)])
def test_the_machine_says_whether_it_is_busy(load, is_busy, monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    found = machine(torch.device("cpu"))
    assert (found["load"], found["is_busy"]) == (load, is_busy)
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cores"] >= 1
    assert found["cpu"]
    assert "gpu" not in found


def test_a_system_without_a_load_average_is_not_called_busy(monkeypatch):
    monkeypatch.delattr(os, "getloadavg")
    found = machine(torch.device("cpu"))
    assert (found["load"], found["is_busy"]) == (None, False)


@pytest.mark.parametrize("engines", [["torchscript"], ["inductor", "torchscript"]])
def test_a_growth_plot_is_a_png(engines):
    found = [made_up(n, 0.01 * n, engine) for n in (24, 48, 96) for engine in engines]
    png = growth_plot(found, "made up")
    assert png.startswith(b"\x89PNG")
    height, width, _ = imread(io.BytesIO(png)).shape
    assert 1.2 < width / height < 1.7
