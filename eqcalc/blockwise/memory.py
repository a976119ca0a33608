"""What a model call needs of memory, measured, and what there is.

A call needs memory in proportion to the edges and atoms it is given; three small calls on a
sample of the actual structure tell by how much. On a CPU the peak is that of the process
(Linux tells it), on a GPU that of torch's allocator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Optional

import torch

from eqcalc.device_use import is_out_of_memory
from eqcalc.engines import Model
from eqcalc.graph import AtomicGraph
from eqcalc.host_memory import release_freed_memory

__all__ = [
    "MemoryLaw",
    "available_memory",
    "measure_law",
    "peak_of",
    "release_free_memory",
]

_SAMPLE_EDGES = 6_000  # of the smallest measured call: far above what the page size blurs
_SPARE = 4  # atoms without edges per atom with edges, in the call that tells atoms from edges
_PROCESS, _CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryLaw:
    """Bytes of one model call: fixed + per_edge · n_edges + per_atom · n_atoms."""

    fixed: float
    per_edge: float
    per_atom: float

    def needed(self, n_edges: int, n_atoms: int) -> int:
        """Return the bytes of a call.

        >>> MemoryLaw(10.0, 2.0, 1.0).needed(n_edges=100, n_atoms=5)
        215
        """
        return int(self.fixed + self.per_edge * n_edges + self.per_atom * n_atoms)


def measure_law(model: Model, graph: AtomicGraph) -> Optional[MemoryLaw]:
    """Measure calls on samples of a structure.

    None where the system does not tell peaks, and where not even the samples fit.

    Parameters
    ----------
    graph : with edges; on the model's device and in its precision
    """
    n_atoms, n_edges = graph.atomic_numbers.shape[0], graph.edge_index.shape[1]
    n_sampled = max(2, min(n_atoms // 2, round(_SAMPLE_EDGES * n_atoms / n_edges)))
    samples = [
        _sample(graph, n_sampled, 0),
        _sample(graph, 2 * n_sampled, 0),
        _sample(graph, n_sampled, _SPARE * n_sampled),
    ]
    peaks = _peaks(model, samples)
    if peaks is None:
        return None
    edges = [sample.edge_index.shape[1] for sample in samples]
    per_atom = max(0.0, (peaks[2] - peaks[0]) / (_SPARE * n_sampled))
    growth = peaks[1] - peaks[0] - per_atom * n_sampled
    per_edge = max(0.0, growth / max(edges[1] - edges[0], 1))
    fixed = max(0.0, peaks[0] - per_edge * edges[0] - per_atom * n_sampled)
    return MemoryLaw(fixed, per_edge, per_atom)


def _peaks(model: Model, samples: list[AtomicGraph]) -> Optional[list[int]]:
    calls = [partial(model, each) for each in samples]
    try:
        calls[1]()  # what is set up once shall not be counted
        found = [peak_of(call, model.device) for call in calls]
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        return None
    known = [peak for peak in found if peak is not None]
    return known if len(known) == len(calls) else None


def _sample(graph: AtomicGraph, n_sampled: int, n_spare: int) -> AtomicGraph:
    """Return atoms from all over the graph with all edges that they receive.

    Their senders are replaced by each other: only numbers of edges matter here, and so each
    atom has as many as in the whole.
    """
    n_atoms, device = graph.atomic_numbers.shape[0], graph.atomic_numbers.device
    chosen = torch.arange(n_sampled, device=device) * n_atoms // n_sampled
    number = torch.full((n_atoms,), -1, dtype=torch.int64, device=device)
    number[chosen] = torch.arange(n_sampled, device=device)
    receivers = number.index_select(0, graph.edge_index[1])
    edges = (receivers >= 0).nonzero().squeeze(1)
    edge_index = torch.stack(
        [graph.edge_index[0].index_select(0, edges) % n_sampled, receivers.index_select(0, edges)]
    )
    spare = graph.atomic_numbers[:1].expand(n_spare)
    numbers = torch.cat([graph.atomic_numbers.index_select(0, chosen), spare])
    return AtomicGraph(
        numbers,
        edge_index,
        graph.edge_vectors.index_select(0, edges),
        torch.zeros_like(numbers),
        1,
        len(numbers),
        graph.cell[:1],
    )


def peak_of(call: Callable[[], object], device: torch.device) -> Optional[int]:
    """Return how many bytes more than before were in use at the peak of a call.

    None where the system does not tell. On a GPU, torch's own peak statistics start anew.
    """
    release_free_memory(device)  # else the call could live on what an earlier one left
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        (_PROCESS / "self/clear_refs").write_text("5")  # the peak starts at the present size
        resident = _status("VmRSS")
        call()
        return max(0, _status("VmHWM") - resident)
    except (OSError, KeyError):
        return None


def _status(key: str) -> int:
    """Return a line of the process's status in bytes."""
    for line in (_PROCESS / "self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return 1024 * int(value.split()[0])
    raise KeyError(key)


def release_free_memory(device: torch.device) -> None:
    """Return memory that allocators keep for later to the device or the system."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    else:
        release_freed_memory()


def available_memory(device: torch.device) -> Optional[int]:
    """Return the bytes that can still be had on a device; None where nothing tells.

    On a CPU: what Linux holds for available, or less where the process's control group (a
    container, a batch job) is limited. On a GPU: no more than torch is allowed to take.
    """
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        reserved = torch.cuda.memory_reserved(device)
        allowed = int(_share_of_process(device) * total) - reserved
        return max(0, min(free, allowed)) + reserved - torch.cuda.memory_allocated(device)
    release_freed_memory()
    try:
        text = (_PROCESS / "meminfo").read_text()
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    if found is None:
        return None
    return min([1024 * int(found[1]), *_left_in_groups()])


def _share_of_process(device: torch.device) -> float:
    """Return what ``torch.cuda.set_per_process_memory_fraction`` allows; 2.6 does not tell."""
    share = getattr(torch.cuda, "get_per_process_memory_fraction", lambda index: 1.0)
    return float(share(device.index))


def _left_in_groups() -> Iterator[int]:
    """Yield what each limited control group above this process has left."""
    try:
        lines = (_PROCESS / "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = _CGROUPS / controllers  # version 2 has no controller here, nor in the path
        limit, usage = (
            ("memory.max", "memory.current")
            if controllers == ""
            else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        )
        inner = root / path.strip("/")
        for group in (inner, *inner.parents):
            if not group.is_relative_to(root):
                break
            left = _left(group, limit, usage)
            if left is not None:
                yield left


def _left(group: Path, limit: str, usage: str) -> Optional[int]:
    try:
        most = (group / limit).read_text().strip()
        if most == "max":
            return None
        used = int((group / usage).read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    files = int(statistics.get("total_inactive_file", statistics.get("inactive_file", 0)))
    return max(0, int(most) - used + files)  # the system drops cached files first
