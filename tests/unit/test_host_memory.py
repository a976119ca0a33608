"""Memory that one step frees serves the next; what the user has set stays."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from eqcalc import host_memory
from eqcalc.blockwise import memory
from eqcalc.blockwise.memory import available_memory, peak_of
from eqcalc.engines import load_model

_STEPS = """
import resource
from eqcalc import EqCalculator
from eqcalc.bench.structures import load_structure

atoms = load_structure("water192")
atoms.calc = EqCalculator("painn-ethanol", engine="torchscript", device="cpu")
for _ in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    atoms.rattle(0.001)
    atoms.get_forces()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _page_faults(**settings: str) -> int:
    """Return the fewest page faults of a late step, in a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", _STEPS],
        env=clean | {"EQCALC_LOG": ""} | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return min(int(line) for line in done.stdout.split()[-3:])


@pytest.mark.skipif(host_memory._of_glibc("mallopt") is None, reason="glibc's heap alone")
def test_a_step_uses_the_memory_of_the_one_before():
    left_alone = _page_faults(MALLOC_TRIM_THRESHOLD_="131072")
    assert left_alone > 5_000  # 20 MB: there is something to save
    assert _page_faults() < left_alone / 10


@pytest.fixture
def calls(monkeypatch):
    """Return the list of what glibc is asked for."""
    found: list[tuple[int, ...]] = []

    def mallopt(*setting: int) -> int:
        found.append(setting)
        return 1

    for name in [*host_memory._USERS_WISH, "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(host_memory, "_of_glibc", lambda name: mallopt)
    return found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MALLOC_TRIM_THRESHOLD_", "1"),
        ("MALLOC_MMAP_THRESHOLD_", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1"),
    ],
)
def test_what_the_user_has_set_stays(calls, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    host_memory.keep_freed_memory()
    assert calls == []


def test_other_tunables_are_no_wish(calls, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.cpu.hwcaps=AVX2")
    host_memory.keep_freed_memory()
    assert calls == [(-3, 2**25), (-1, 2**31 - 1)]


@pytest.mark.parametrize("platform", ["win32", "darwin", "linux"])
def test_without_glibc_nothing_happens(platform, monkeypatch):
    def library(path: None) -> object:
        if platform == "win32":
            raise TypeError("bad argument type for built-in operation")
        return object()

    monkeypatch.setattr(host_memory.sys, "platform", platform)
    monkeypatch.setattr(host_memory.ctypes, "CDLL", library)
    host_memory.keep_freed_memory()
    host_memory.release_freed_memory()
    assert host_memory._of_glibc("mallopt") is None


@pytest.mark.skipif(peak_of(lambda: None, torch.device("cpu")) is None, reason="needs /proc")
def test_what_is_kept_is_given_back_before_the_available_memory_is_read():
    load_model("painn-ethanol", device="cpu")
    blocks = [torch.ones(10_000_000) for _ in range(20)]
    used = memory._status("VmRSS")
    del blocks
    available_memory(torch.device("cpu"))
    assert used - memory._status("VmRSS") > 600_000_000  # of 800 MB


@pytest.fixture
def process(monkeypatch):
    """Return a process's memory that a test sets, and how often it was given back."""

    class Process:
        used: int | None = 0
        n_released = 0

    found = Process()
    monkeypatch.setattr(host_memory, "resident_memory", lambda: found.used)

    def release() -> None:
        found.n_released += 1

    monkeypatch.setattr(host_memory, "release_freed_memory", release)
    return found


def test_heap_that_grows_by_half_is_given_back(process):
    limit = host_memory.HeapLimit()
    limit.begin()
    assert process.n_released == 1
    said = []
    for gib in (4.0, 5.0, 6.2, 6.3, 4.5, 6.9, 7.1):  # 4 is what a step needs, then 4.5
        process.used = int(gib * 2**30)
        said.append(limit.end_step())
    assert said == [False, False, False, True, False, False, True]
    assert process.n_released == 3


def test_small_process_is_left_alone(process):
    limit = host_memory.HeapLimit()
    for mib in (100, 200, 300, 400):
        process.used = mib * 2**20
        assert not limit.end_step()
    assert process.n_released == 0


def test_where_nothing_tells_the_memory_nothing_is_done(process):
    process.used = None
    assert not host_memory.HeapLimit().end_step()


def test_resident_memory_is_that_of_the_process(monkeypatch, tmp_path):
    before = host_memory.resident_memory()
    if before is None:
        pytest.skip("needs /proc")
    block = torch.ones(25_000_000)
    assert 90e6 < host_memory.resident_memory() - before < 120e6
    del block
    monkeypatch.setattr(host_memory, "_STATM", tmp_path / "nothing")
    assert host_memory.resident_memory() is None
