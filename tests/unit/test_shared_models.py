"""Copies, pickles, threads and forks of a calculator: the same model, the right results."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, TimeoutError

import numpy as np
import pytest
import torch
from ase.io import read, write
from small_models import crystal, ethanol, water

from eqcalc import EqCalculator
from eqcalc.engines import full_precision, load_model
from eqcalc.engines.full_precision import FullPrecision
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import ModelFileError
from eqcalc.neighbours import build_graph


def _pickled(calculator: EqCalculator) -> EqCalculator:
    return pickle.loads(pickle.dumps(calculator))


DUPLICATES: tuple[Callable, ...] = (copy.copy, copy.deepcopy, _pickled)


@pytest.fixture
def file(models, tmp_path):
    """Return a model file that a test may rewrite."""
    path = tmp_path / "model.pt"
    path.write_bytes(models["double"].read_bytes())
    return path


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_a_duplicate_has_the_model_in_memory_and_the_results(duplicate, file, models):
    atoms = ethanol()
    atoms.calc = EqCalculator(file, device="cpu")
    energy = atoms.get_potential_energy()
    file.write_bytes(models["other"].read_bytes())
    twin = duplicate(atoms.calc)
    assert twin.models[0] is atoms.calc.models[0]
    assert twin.results["energy"] == energy
    assert not twin.calculation_required(atoms, ["energy", "forces"])
    twin.results["forces"][:] = 0.0
    assert np.abs(atoms.calc.results["forces"]).max() > 0.0  # its own arrays
    assert twin.get_potential_energy(water()) != energy
    assert atoms.calc.results["energy"] == energy
    assert twin.neighbours is not atoms.calc.neighbours


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_a_duplicate_does_not_look_for_its_file(duplicate, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calculator = EqCalculator("model.pt", device="cpu")
    energy = calculator.get_potential_energy(ethanol())
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.unlink()
    assert duplicate(calculator).get_potential_energy(ethanol()) == energy


def test_copies_of_atoms_are_written_with_their_labels(file, tmp_path):
    atoms = ethanol()
    atoms.calc = EqCalculator(file, device="cpu")
    forces = atoms.get_forces()
    write(tmp_path / "copy.xyz", copy.deepcopy(atoms))
    np.testing.assert_allclose(read(tmp_path / "copy.xyz").get_forces(), forces, atol=1e-7)


READER = """
import pickle, sys
calculator = pickle.loads(open(sys.argv[1], "rb").read())
print(calculator.results["energy"], calculator.models[0].card.name)
"""


def test_another_process_takes_the_file_and_refuses_a_changed_one(file, models, tmp_path):
    calculator = EqCalculator(file, device="cpu")
    energy = calculator.get_potential_energy(ethanol())
    (tmp_path / "c.pkl").write_bytes(pickle.dumps(calculator))
    command = [sys.executable, "-c", READER, str(tmp_path / "c.pkl")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    assert float(done.stdout.split()[0]) == energy
    file.write_bytes(models["other"].read_bytes())
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode != 0
    assert "holds another model than when this calculator was stored" in done.stderr


def test_a_shipped_model_is_pickled_by_its_name(tmp_path):
    """On another machine eqcalc lies elsewhere, and so does what it ships."""
    calculator = EqCalculator("painn-ethanol", device="cpu")
    energy = calculator.get_potential_energy(ethanol())
    content = pickle.dumps(calculator)
    assert str(calculator.models[0].file.path.parent.parent).encode() not in content
    (tmp_path / "c.pkl").write_bytes(content)
    command = [sys.executable, "-c", READER, str(tmp_path / "c.pkl")]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=True
    )
    assert done.stdout.split() == [repr(energy), "painn-ethanol"]


def test_a_pickle_whose_model_is_gone_is_refused(file, models):
    from eqcalc.engines import reload_model

    with pytest.raises(ModelFileError, match=r"holds another model than .*sha256 was 000000000000"):
        reload_model(file, "0" * 64, device="cpu")


def test_a_subclass_and_a_committee_are_duplicated_as_they_are(models):
    class Mine(EqCalculator):
        pass

    mine = Mine([models["double"], models["other"]], device="cpu")
    mine.note = "kept"
    for duplicate in (copy.copy, copy.deepcopy):
        twin = duplicate(mine)
        assert type(twin) is Mine
        assert twin.note == "kept"
        assert [a is b for a, b in zip(twin.models, mine.models, strict=True)] == [True, True]


class Shifted(EqCalculator):
    """A calculator of a package that builds on eqcalc, with arguments of its own."""

    def __init__(self, model, shift):
        super().__init__(model, device="cpu")
        self.shift = shift


@pytest.mark.parametrize("duplicate", DUPLICATES)
def test_what_a_subclass_keeps_is_duplicated(duplicate, models):
    calculator = Shifted(models["double"], shift=2.0)
    calculator.label_of_mine = "kept"
    twin = duplicate(calculator)
    assert (type(twin), twin.shift, twin.label_of_mine) == (Shifted, 2.0, "kept")
    assert twin.get_potential_energy(ethanol()) == calculator.get_potential_energy(ethanol())


def test_one_calculator_gives_each_thread_its_own_results(models):
    calculator = EqCalculator(models["double"], device="cpu")
    structures = []
    for k in range(120):
        atoms = (ethanol, water, crystal)[k % 3]()
        atoms.rattle(0.05, seed=k)
        structures.append(atoms)
    expected = calculator.calculate_many(structures)

    def job(atoms):
        atoms.calc = calculator
        return atoms.get_potential_energy(), atoms.get_forces()

    with ThreadPoolExecutor(4) as pool:
        for (energy, forces), right in zip(pool.map(job, structures), expected, strict=True):
            assert energy == pytest.approx(right["energy"], abs=1e-9)
            np.testing.assert_allclose(forces, right["forces"], atol=1e-9)


@pytest.mark.parametrize("what", ["calculate_many", "memory_forecast", "get_forces"])
def test_whatever_asks_a_calculator_waits_for_another_thread(what, models):
    """They share lists and buffers: of two at once one would have the other's."""
    calculator, atoms = EqCalculator(models["double"], device="cpu"), ethanol()
    atoms.calc = calculator
    ask = {
        "calculate_many": lambda: calculator.calculate_many([atoms]),
        "memory_forecast": lambda: calculator.memory_forecast(atoms),
        "get_forces": atoms.get_forces,
    }[what]
    with ThreadPoolExecutor(1) as pool:
        with calculator._lock:
            asked = pool.submit(ask)
            with pytest.raises(TimeoutError):
                asked.result(timeout=0.3)
        asked.result(timeout=600.0)


@pytest.mark.parametrize("precision", ["medium", "high", "highest"])
def test_a_process_that_rounds_products_of_matrices_gets_the_same_numbers(precision, models):
    calculator = EqCalculator(models["single"])
    expected = calculator.calculate_many([ethanol()])[0]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        other = EqCalculator(models["single"])  # replays the passport, too
        found = [each.calculate_many([ethanol()])[0] for each in (calculator, other)]
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_float32_matmul_precision(before)
    for results in found:
        assert results["energy"] == expected["energy"]
        np.testing.assert_array_equal(results["forces"], expected["forces"])


def test_threads_that_leave_do_not_round_for_those_that_stay():
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        first, second = FullPrecision("cpu"), FullPrecision("cpu")
        first.__enter__()
        with second:
            pass
        inside = full_precision._get("cpu")
        first.__exit__(None, None, None)
        after = torch.get_float32_matmul_precision()
    finally:
        torch.set_float32_matmul_precision(before)
    assert inside in ("ieee", "highest")  # since torch 2.9, and before
    assert after == "medium"


def test_a_model_runs_in_inference_mode_whatever_made_its_graph(models):
    model = load_model(models["double"], device="cpu", engine="torchscript")
    graph = build_graph(crystal(), model.card.cutoff)
    expected = model(graph)
    with torch.inference_mode():
        for there in (graph, build_graph(crystal(), model.card.cutoff)):
            for found, value in zip(model(there), expected, strict=True):
                torch.testing.assert_close(found, value, rtol=0, atol=0)


def test_a_program_is_made_outside_of_autocast_and_in_full_precision(models, monkeypatch):
    """What is traced within autocast would keep its casts for good."""
    seen = []
    load = TorchScriptEngine.load.__func__

    def spy(cls, file, target):
        seen.append((torch.is_autocast_enabled("cpu"), full_precision._get("cpu")))
        return load(cls, file, target)

    monkeypatch.setattr(TorchScriptEngine, "load", classmethod(spy))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            load_model(models["single"], device="cpu", engine="torchscript")
    finally:
        torch.set_float32_matmul_precision(before)
    assert seen in ([(False, "ieee")], [(False, "highest")])  # since torch 2.9, and before


def test_autocast_around_a_call_changes_nothing(models):
    calculator = EqCalculator(models["single"], device="cpu")
    expected = calculator.calculate_many([crystal()])[0]["forces"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = calculator.get_forces(crystal())
        many = calculator.calculate_many([crystal()])[0]["forces"]
        loaded = EqCalculator(models["single"], device="cpu")  # its passport holds here too
    for forces in (found, many, loaded.get_forces(crystal())):
        np.testing.assert_allclose(forces, expected, atol=1e-5)


def test_a_torch_device_is_taken_by_its_name(models, tmp_path):
    atoms = ethanol()
    atoms.calc = EqCalculator(models["double"], device=torch.device("cpu"))
    atoms.get_forces()
    assert json.loads(json.dumps(atoms.calc.todict()))["device"] == "cpu"
    write(tmp_path / "a.traj", atoms)


FORK = """
import multiprocessing, sys
from ase.build import molecule
from eqcalc import EqCalculator
import torch
torch.set_num_threads(2)
calculator = EqCalculator(sys.argv[1], device="cpu")
def job(k):
    atoms = molecule("CH3CH2OH")
    atoms.calc = calculator
    return atoms.get_potential_energy(), torch.get_num_threads()
if __name__ == "__main__":
    here = job(0)[0]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        there = pool.map_async(job, range(4)).get(500)
    assert all(abs(energy - here) < 1e-9 and n == 1 for energy, n in there), there
    print("done", torch.get_num_threads())
"""


def test_spawned_processes_get_the_calculator_and_its_numbers(models, tmp_path):
    script = tmp_path / "pool.py"
    script.write_text(FORK.replace('"fork"', '"spawn"').replace("and n == 1 ", ""))
    done = subprocess.run(
        [sys.executable, str(script), str(models["double"])],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.stdout.startswith("done"), done.stderr[-800:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_forked_processes_do_not_wait_for_threads_that_are_not_there(models):
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", FORK, str(models["double"])],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
    )
    assert done.stdout.split() == ["done", "2"], done.stderr[-800:]


HELD = """
import os, signal, sys, threading
from ase.build import molecule
from eqcalc import EqCalculator
atoms, calculator = molecule("CH3OH"), EqCalculator(sys.argv[1], device="cpu")
ask = getattr(calculator, sys.argv[2])
ask(atoms)
owner = {"get_forces": calculator, "get_descriptors": calculator._descriptors}[sys.argv[2]]
held, done = threading.Event(), threading.Event()
def hold():
    with owner._lock:
        held.set()
        done.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(500)
    atoms.rattle(0.01)
    ask(atoms)
    os._exit(0)
status = os.waitpid(child, 0)[1]
done.set()
thread.join()
sys.exit(0 if status == 0 else 1)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("what", ["get_forces", "get_descriptors"])
def test_a_process_that_is_forked_while_a_thread_calculates_does_not_wait_for_it(what, models):
    """The thread holds the calculator or its network, and is not there in the forked process."""
    words = [sys.executable, "-W", "ignore", "-c", HELD, str(models["single"]), what]
    assert subprocess.run(words, check=False, timeout=600).returncode == 0
