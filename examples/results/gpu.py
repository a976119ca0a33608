"""Programs of networks on a GPU, with and without eqcalc's kernels; write gpu.md, .json and .png.

    python examples/results/gpu.py

For each network of ``speed.py``, untrained, and ``sevennet-0``: energies and edge gradients of one
structure. The program of a network runs operation by operation, with the convolutions in torch's
own operations ("portable") and in eqcalc's kernels; and captured as a CUDA graph, as it is and
fused by torch's compiler. Neighbour list, transfers and ASE are not in it:
``against_limit.py --device cuda`` times whole steps. The page ends with ``gpu_notes.md``.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from against_limit import TRAFFIC, copy_speed, limit_bytes
from speed import NETWORKS, model_file, structure_of
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from eqcalc.bench import machine
from eqcalc.devices import resolve_device
from eqcalc.engines import Target
from eqcalc.engines.packages import trace_program
from eqcalc.figures import BLUE, png_of, stacked_panels
from eqcalc.files import write_whole
from eqcalc.model_file import open_potential
from eqcalc.neighbours import build_graph
from eqcalc.tabulated import nequip, painn, schnet

HERE = Path(__file__).parent
PAGE, NUMBERS, PICTURE = HERE / "gpu.md", HERE / "gpu.json", HERE / "gpu.png"
NOTES = HERE / "gpu_notes.md"
MODELS = ("painn", "schnet", "nequip", "sevennet-0")
STRUCTURES = ("ethanol", "water192", "water1029", "water10125")
N_LARGEST = 10
_N_TIMED = 15
_LARGE = "water10125"

Call = Callable[[], tuple[Tensor, Tensor]]


def main() -> None:
    """Measure what is asked for and write the page."""
    arguments = _parse()
    if not arguments.only_page:
        device = resolve_device("cuda")
        numbers: dict[str, Any] = {
            "machine": machine(device),
            "copy_gb_per_s": max(copy_speed(device) for _ in range(3)) / 1e9,
            "rows": [],
        }
        for name in MODELS:
            for row in _rows(name, arguments.models, device):
                print(json.dumps({key: row[key] for key in row if key != "largest"}), flush=True)
                numbers["rows"].append(row)
                write_whole(NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
    numbers = json.loads(NUMBERS.read_text())
    write_whole(PICTURE, _picture(numbers))
    write_whole(PAGE, _page(numbers).encode())
    print(f"written: {PAGE}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", type=Path, default=Path("runs/speed"), help="folder of eqcalc's model files"
    )
    parser.add_argument(
        "--only-page", action="store_true", help="write page and picture of the numbers there are"
    )
    return parser.parse_args()


def _rows(name: str, folder: Path, device: torch.device) -> Iterator[dict[str, Any]]:
    """Time one network on its structures, in every way."""
    file = open_potential(model_file(name, folder) if name in NETWORKS else name)
    target = Target(device, torch.float32)
    with _portable():
        portable = trace_program(file, target, only_tables=True).program
    program = trace_program(file, target, only_tables=True).program
    fused = torch.compile(program, fullgraph=True, dynamic=True)
    with torch.no_grad():
        for structure in STRUCTURES if name in NETWORKS else ("si64",):
            atoms = structure_of(structure)
            graph = build_graph(atoms, file.card.cutoff, dtype=torch.float32, device=device)
            weights = torch.ones(len(atoms), dtype=torch.float64, device=device)
            inputs = (graph.atomic_numbers, graph.edge_vectors, graph.edge_index, weights)
            row = {
                "network": name,
                "structure": structure,
                "n_atoms": len(atoms),
                "n_edges": graph.edge_index.shape[1],
            }
            for way, function in (("portable", portable), ("kernels", program)):
                yield row | {"way": way} | _called(functools.partial(function, *inputs))
            for way, function in (("triton", program), ("inductor", fused)):
                yield row | {"way": way} | _replayed(functools.partial(function, *inputs))


@contextmanager
def _portable() -> Iterator[None]:
    """Let networks be traced without the kernels."""
    forms = (schnet, painn, nequip)
    own = [form.edge_order for form in forms]
    for form in forms:
        form.edge_order = lambda edge_index, n_atoms: None  # type: ignore[assignment]
    try:
        yield
    finally:
        for form, order in zip(forms, own, strict=True):
            form.edge_order = order


def _called(call: Call) -> dict[str, Any]:
    for _ in range(3):
        call()
    torch.cuda.reset_peak_memory_stats()
    ms = _median_ms(call)
    return {"ms": ms, "peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def _replayed(call: Call) -> dict[str, Any]:
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            expected = call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = call()
    graph.replay()
    same_bits = all(map(torch.equal, found, expected))
    ms = _median_ms(graph.replay)
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        graph.replay()
        torch.cuda.synchronize()
    kernels = profiled.key_averages()
    largest = sorted(kernels, key=lambda kernel: -kernel.self_device_time_total)[:N_LARGEST]
    return {
        "ms": ms,
        "same_bits": same_bits,
        "n_kernels": sum(kernel.count for kernel in kernels),
        "busy_ms": sum(kernel.self_device_time_total for kernel in kernels) / 1e3,
        "largest": [
            [kernel.key[:90], kernel.count, kernel.self_device_time_total / 1e3]
            for kernel in largest
        ],
    }


def _median_ms(call: Callable[[], Any]) -> float:
    call()
    events = [torch.cuda.Event(enable_timing=True) for _ in range(_N_TIMED + 1)]
    events[0].record()
    for event in events[1:]:
        call()
        event.record()
    torch.cuda.synchronize()
    times = sorted(a.elapsed_time(b) for a, b in pairwise(events))
    return times[_N_TIMED // 2]


def _picture(numbers: dict[str, Any]) -> bytes:
    """Return the largest kernels of one evaluation of the large structure."""
    rows = [
        row
        for row in numbers["rows"]
        if row["structure"] == _LARGE and row["way"] == "inductor" and row.get("largest")
    ]
    figure, panels = stacked_panels(len(rows))
    for panel, row in zip(panels, rows, strict=True):
        counts: Counter[str] = Counter()
        times: Counter[str] = Counter()
        for name, count, ms in row["largest"]:
            counts[_short(name)] += count
            times[_short(name)] += ms
        largest = times.most_common()[::-1]
        panel.barh(
            [f"{name}, {counts[name]} x" for name, _ in largest],
            [ms for _, ms in largest],
            color=BLUE,
        )
        panel.tick_params(axis="y", labelsize=7)
        panel.set_title(
            f"{row['network']}: {row['n_kernels']} kernels, {row['busy_ms']:.1f} ms busy of "
            f"{row['ms']:.1f} ms",
            fontsize=9,
            loc="left",
        )
    panels[-1].set_xlabel(f"ms of one evaluation of {_LARGE}")
    return png_of(figure)


def _short(name: str) -> str:
    for whole, short in (
        ("kernel", "path sums and gradients"),
        ("scalar_sum", "scalar sums"),
        ("scalar_gradient", "scalar gradients"),
        ("vector_sum", "vector sums"),
        ("vector_gradient", "vector gradients"),
    ):
        if name == whole:
            return f"eqcalc: {short}"
    for part, short in (
        ("gemv", "product with a vector (cuBLAS)"),
        ("gemm", "matrix product (cuBLAS)"),
        ("RadixSort", "sort of the senders"),
        ("triton_", "fused by torch"),
        ("elementwise", "elementwise (torch)"),
        ("reduce", "reduction (torch)"),
        ("searchsorted", "where atoms begin in the sort"),
    ):
        if part.lower() in name.lower():
            return short
    return name[:30]


def _page(numbers: dict[str, Any]) -> str:
    where, rows = numbers["machine"], numbers["rows"]
    lines = [
        "# Networks on a GPU",
        "",
        "    python examples/results/gpu.py",
        "",
        f"ms for energies and edge gradients, float32, {where['gpu']}, torch {where['torch']}, "
        f"which copies {numbers['copy_gb_per_s']:.0f} GB/s. Untrained networks of the widths of "
        "[speed.md](speed.md), and `sevennet-0`. 'portable' and 'kernels' run operation by "
        "operation: the convolutions in torch's own operations, and in eqcalc's kernels. 'graph' "
        "is the program with the kernels replayed as a CUDA graph (what `cudagraph over triton` "
        "replays), 'fused graph' the same fused by torch's compiler (`cudagraph over inductor`). "
        "'Limit': the time to copy each sender's row for each edge, once per layer and direction.",
        "",
        "| network | structure | atoms | edges | portable | kernels | graph | fused graph | "
        "µs/atom | limit | times the limit | memory, GB: portable, kernels |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key in dict.fromkeys((row["network"], row["structure"]) for row in rows):
        own = {row["way"]: row for row in rows if (row["network"], row["structure"]) == key}
        any_row = next(iter(own.values()))
        best = min((own[way]["ms"] for way in ("triton", "inductor") if way in own), default=None)
        limit = None
        if key[0] in TRAFFIC:
            limit = 1e3 * limit_bytes(any_row) / (1e9 * numbers["copy_gb_per_s"])
        cells = [
            *key,
            str(any_row["n_atoms"]),
            str(any_row["n_edges"]),
            *(
                _number(own.get(way, {}).get("ms"))
                for way in ("portable", "kernels", "triton", "inductor")
            ),
            _number(None if best is None else 1e3 * best / any_row["n_atoms"]),
            _number(limit),
            _number(None if best is None or limit is None else best / limit),
            ", ".join(
                f"{own[way]['peak_gb']:.2g}" for way in ("portable", "kernels") if way in own
            ),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", f"![The largest kernels]({PICTURE.name})", ""]
    return "\n".join(lines) + (NOTES.read_text() if NOTES.exists() else "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
