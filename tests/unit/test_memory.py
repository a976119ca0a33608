"""What a call needs is measured, what there is is read, and running out is recognised."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_models import crystal

import eqcalc
from eqcalc.blockwise import memory
from eqcalc.blockwise.memory import available_memory, measure_law, peak_of
from eqcalc.device_use import is_out_of_memory
from eqcalc.errors import GraphError
from eqcalc.neighbours import build_graph

CPU = torch.device("cpu")
MEGABYTE = 1_000_000


class Hungry:
    """A model that needs memory by a known law: 20 kB per edge and 30 kB per atom."""

    device = CPU

    def __call__(self, graph):
        per_edge = torch.ones(graph.edge_index.shape[1], 5000)
        per_atom = torch.ones(len(graph.atomic_numbers), 7500)
        return per_atom.sum(dim=1).double(), graph.edge_vectors * per_edge[0, 0]


@pytest.fixture
def graph():
    return build_graph(crystal().repeat(8), 4.0)


def test_the_law_of_a_model_is_measured(graph):
    n_atoms, n_edges = len(graph.atomic_numbers), graph.edge_index.shape[1]
    assert n_edges > 50_000
    law = measure_law(Hungry(), graph)
    assert law.per_edge == pytest.approx(20_000, rel=0.15)
    assert law.per_atom == pytest.approx(30_000, rel=0.3)
    expected = 20_000 * n_edges + 30_000 * n_atoms
    assert law.needed(n_edges, n_atoms) == pytest.approx(expected, rel=0.15)


def test_samples_have_the_edges_per_atom_of_the_structure(graph):
    whole = graph.edge_index.shape[1] / len(graph.atomic_numbers)
    sample = memory._sample(graph, 60, 25)
    assert len(sample.atomic_numbers) == 85
    assert sample.edge_index.shape[1] / 60 == pytest.approx(whole, rel=0.05)
    assert int(sample.edge_index.max()) < 60
    assert bool((sample.edge_index[1].diff() >= 0).all())
    assert sample.edge_vectors.shape == (sample.edge_index.shape[1], 3)


_PEAK = """
import torch
from eqcalc.blockwise.memory import peak_of

def call() -> None:
    first = torch.ones(20_000_000)  # 80 MB
    del first
    torch.ones(10_000_000)

print(peak_of(call, torch.device("cpu")))
"""


def test_the_peak_counts_what_is_freed_within_the_call():
    # A process of its own: after thousands of tests the heap has holes of any size.
    command = [sys.executable, "-c", _PEAK]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == pytest.approx(80 * MEGABYTE, rel=0.1)


def test_without_a_proc_folder_nothing_is_known(tmp_path, monkeypatch, graph):
    monkeypatch.setattr(memory, "_PROCESS", tmp_path)
    assert peak_of(lambda: None, CPU) is None
    assert measure_law(Hungry(), graph) is None
    assert available_memory(CPU) is None


# --- what there is -----------------------------------------------------------------------


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes files of a system with 8 GB."""

    def write(files: dict[str, str]) -> None:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    monkeypatch.setattr(memory, "_PROCESS", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUPS", tmp_path / "cgroup")
    write({"proc/meminfo": "MemTotal:  16000000 kB\nMemAvailable:   8000000 kB\n"})
    return write


def test_available_is_what_the_system_says(system):
    assert available_memory(CPU) == 8_192_000_000


@pytest.mark.parametrize("where", ["job/step", "job"])
def test_a_limited_group_or_one_above_it_leaves_less(where, system):
    system(
        {
            "proc/self/cgroup": "0::/job/step\n",
            "cgroup/job/step/memory.max": "max\n",
            f"cgroup/{where}/memory.max": "3000000000\n",
            f"cgroup/{where}/memory.current": "1000000000\n",
            f"cgroup/{where}/memory.stat": "anon 5\ninactive_file 400000000\n",
        }
    )
    assert available_memory(CPU) == 2_400_000_000


def test_a_group_of_version_1_leaves_less(system):
    system(
        {
            "proc/self/cgroup": "4:memory:/batch/17\n3:cpuset:/\n",
            "cgroup/memory/batch/17/memory.limit_in_bytes": "2000000000\n",
            "cgroup/memory/batch/17/memory.usage_in_bytes": "500000000\n",
            "cgroup/memory/batch/17/memory.stat": "cache 3\ntotal_inactive_file 100000000\n",
            "cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            "cgroup/memory/memory.usage_in_bytes": "600000000\n",
            "cgroup/memory/memory.stat": "cache 3\n",
        }
    )
    assert available_memory(CPU) == 1_600_000_000


def test_groups_that_cannot_be_read_change_nothing(system):
    system({"proc/self/cgroup": "0::/elsewhere\n"})
    assert available_memory(CPU) == 8_192_000_000


def test_on_a_gpu_available_is_what_is_free_and_what_the_process_may_take(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (700, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 150)
    shares = {1.0: 700 + 50, 0.5: 300 + 50, 0.1: 50}
    for share, available in shares.items():
        monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda _, s=share: s)
        assert available_memory(torch.device("cuda")) == available


# --- out of memory -----------------------------------------------------------------------


def test_a_sample_for_which_memory_does_not_suffice_leaves_the_law_unknown(graph):
    def refuse(*tensors):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    refuse.device = CPU
    assert measure_law(refuse, graph) is None


def test_other_errors_of_a_sample_are_raised(graph):
    def fail(*tensors):
        raise RuntimeError("The size of tensor a (3) must match")

    fail.device = CPU
    with pytest.raises(RuntimeError, match="The size of tensor a"):
        measure_law(fail, graph)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), True),
        (MemoryError("std::bad_alloc"), True),
        (RuntimeError("aoti_torch_empty_strided(2, size) API call failed at w.cpp"), True),
        (RuntimeError("aoti_torch_cpu_bmm_out(buf3, buf1) API call failed at w.cpp"), False),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (GraphError("out of memory"), False),
    ],
)
def test_running_out_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from small_models import crystal
from eqcalc import EqCalculator

torch.set_num_threads(1)
atoms = crystal().repeat((3, 3, 40))
calculator = EqCalculator(sys.argv[1], device="cpu", engine="torchscript")
calculator.get_forces(crystal())  # what torch sets up once is there
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
size = 1024 * int(status["VmSize"].split()[0])
resource.setrlimit(resource.RLIMIT_AS, (size + 130_000_000, resource.RLIM_INFINITY))
found = calculator.get_forces(atoms)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
whole = EqCalculator(sys.argv[1], device="cpu", engine="torchscript")
np.testing.assert_allclose(found, whole.get_forces(atoms), atol=1e-10)
n_edges = whole.neighbours.graph(atoms).edge_index.shape[1]
print(calculator._blockwise[0]._most_edges / n_edges)
"""


def test_a_process_that_may_not_have_enough_memory_finishes_in_blocks(models):
    """The allocator itself refuses here: no stand-in."""
    folders = {str(Path(__file__).parents[1]), str(Path(eqcalc.__file__).parents[1])}
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders)}
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(models["double"])],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    assert 0.05 < float(done.stdout) < 0.8  # it did run out, and what fits was found
