"""Turns on a GPU and its faults in words, with a stand-in; test_gpu.py has the real one."""

from __future__ import annotations

import threading
from collections import defaultdict

import pytest
import torch
from small_models import ethanol

from eqcalc import EqCalculator, device_use
from eqcalc.device_use import evaluating_on, loading_on, using_device
from eqcalc.engines import load_model
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.errors import DeviceError, EngineError, NotEnoughMemoryError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LOST = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ..."
FULL = "CUDA out of memory. Tried to allocate 2.00 GiB"


class Stream:
    """Notes the events that it waits for."""

    def __init__(self) -> None:
        self.waited_for: list[object] = []
        self.recorded: list[object] = []

    def wait_event(self, event: object) -> None:
        self.waited_for.append(event)

    def record_event(self) -> object:
        self.recorded.append(object())
        return self.recorded[-1]


@pytest.fixture
def streams(monkeypatch) -> list[Stream]:
    """Give the process two GPUs that answer; the last stream of the list is the present one."""
    streams = [Stream()]
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: streams[-1])
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    monkeypatch.setattr(device_use, "_turns", defaultdict(device_use._Turns))
    return streams


@pytest.fixture
def lost(streams, monkeypatch) -> None:
    def fail(device):
        raise RuntimeError(LOST)

    monkeypatch.setattr(torch.cuda, "synchronize", fail)


# --- faults ------------------------------------------------------------------------------


@pytest.mark.parametrize("use", [using_device, evaluating_on, loading_on])
@pytest.mark.parametrize("error", [RuntimeError(LOST), EngineError(f"not captured: {LOST}")])
def test_a_gpu_that_fails_and_answers_no_more_is_told(use, error, lost):
    message = (
        r"device 'cuda' does not answer any more: .*illegal memory access was encountered\. "
        r"A process .* start the program anew; .* eqcalc md --resume FOLDER"
    )
    with pytest.raises(DeviceError, match=message), use(CUDA):
        raise error


def test_an_error_is_left_as_it_is_where_the_gpu_answers(streams):
    error = RuntimeError("CUDA error: invalid configuration argument")
    with pytest.raises(RuntimeError) as caught, evaluating_on(CUDA):
        raise error
    assert caught.value is error


def test_faults_of_a_gpu_are_not_looked_for_on_a_cpu(lost):
    with pytest.raises(RuntimeError, match=r"\Asize mismatch\Z"), evaluating_on(CPU):
        raise RuntimeError("size mismatch")


@pytest.mark.parametrize("use", [using_device, evaluating_on, loading_on])
def test_a_process_that_was_forked_from_one_with_a_gpu_is_told(use, streams, monkeypatch):
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(DeviceError, match=r"'cuda' .* forked from .*\.get_context\('spawn'\)"):
        use(CUDA).__enter__()
    with use(CPU):
        pass


def test_gradients_that_a_fork_has_lost_are_told_on_a_cpu_too(models, monkeypatch):
    def fail(engine, graph):
        raise RuntimeError(
            "Unable to handle autograd's threading in combination with fork-based multiprocessing."
        )

    calculator = EqCalculator(models["double"], device="cpu", engine="torchscript")
    monkeypatch.setattr(TorchScriptEngine, "__call__", fail)
    with pytest.raises(DeviceError, match=r"'cpu' cannot run .* was forked from"):
        calculator.get_forces(ethanol())
    with pytest.raises(DeviceError, match=r"'cpu' cannot run .* was forked from"):
        load_model(models["double"], device="cpu")


# --- memory ------------------------------------------------------------------------------


def test_memory_that_runs_out_beside_the_model_is_refused_and_the_next_structure_runs(
    models, monkeypatch
):
    calculator = EqCalculator(models["double"], device="cpu")
    expected = calculator.get_potential_energy(ethanol())

    def fail(atoms):
        raise torch.OutOfMemoryError(FULL)

    message = rf"memory of cpu does not suffice: {FULL}\. Free memory, or take fewer atoms"
    with monkeypatch.context() as patch:
        patch.setattr(calculator.neighbours, "graph", fail)
        for evaluate in (calculator.calculate, calculator.memory_forecast):
            with pytest.raises(NotEnoughMemoryError, match=message):
                evaluate(ethanol())
    assert calculator.get_potential_energy(ethanol()) == expected


def test_a_model_call_itself_raises_torchs_error_for_hosts_that_look_for_it(streams):
    with pytest.raises(torch.OutOfMemoryError, match=FULL), using_device(CUDA):
        raise torch.OutOfMemoryError(FULL)


def test_a_full_device_is_not_a_fault_of_the_file(models, monkeypatch):
    def fail(engine, graph):
        raise RuntimeError(f"The following operation failed in TorchScript.\nRuntimeError: {FULL}")

    monkeypatch.setattr(TorchScriptEngine, "__call__", fail)
    with pytest.raises(NotEnoughMemoryError, match=f"of cpu does not suffice: {FULL}"):
        load_model(models["double"], device="cpu")


# --- turns -------------------------------------------------------------------------------


def test_a_turn_waits_for_the_one_before_on_whatever_stream(streams):
    first = streams[0]
    with evaluating_on(CUDA), using_device(CUDA):
        pass
    assert first.waited_for == []
    assert len(first.recorded) == 1
    streams.append(second := Stream())
    with pytest.raises(ValueError, match="odd"), using_device(CUDA):
        raise ValueError("odd")
    assert second.waited_for == first.recorded
    with using_device(torch.device("cuda", 0)):
        pass
    assert second.waited_for == [*first.recorded, second.recorded[0]]
    with using_device(torch.device("cuda", 1)):  # another card
        pass
    assert len(second.waited_for) == 2


@pytest.mark.parametrize(
    ("use", "device", "waits"),
    [
        (using_device, CUDA, True),
        (evaluating_on, CUDA, True),
        (using_device, torch.device("cuda", 1), False),
        (using_device, CPU, False),
        (loading_on, torch.device("cuda", 1), True),
        (loading_on, CPU, False),
    ],
)
def test_threads_take_turns_on_a_gpu_and_a_load_takes_all_of_them(use, device, waits, streams):
    entered = threading.Event()

    def enter() -> None:
        with use(device):
            entered.set()

    thread = threading.Thread(target=enter)
    with using_device(CUDA):
        thread.start()
        assert entered.wait(0.2 if waits else 10.0) is not waits
    thread.join(10.0)
    assert entered.is_set()
