"""Print which operations a model's call spends its time on.

    python examples/results/profile_step.py MODEL [--engine torchscript] [--structure water192]

One thread, float32; the share of each operation's own time, kernels of a compiled package
by name. What `eqcalc bench` calls "model" is what is split here.
"""

from __future__ import annotations

import argparse

import torch
from torch.profiler import ProfilerActivity, profile

from eqcalc.bench.structures import load_structure
from eqcalc.engines import load_model
from eqcalc.neighbours import build_graph

N_CALLS, N_ROWS = 5, 12


def main() -> None:
    """Profile one model on one structure."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", help="a model file, or a shipped model's name")
    parser.add_argument("--engine", default="torchscript")
    parser.add_argument("--structure", default="water192")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(arguments.model, device="cpu", engine=arguments.engine)
    graph = build_graph(load_structure(arguments.structure), model.card.cutoff, dtype=model.dtype)
    for _ in range(N_CALLS):
        model(graph)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(N_CALLS):
            model(graph)
    rows = sorted(profiler.key_averages(), key=lambda row: row.self_cpu_time_total, reverse=True)
    total = sum(row.self_cpu_time_total for row in rows)
    print(f"{total / N_CALLS / 1e3:.2f} ms per call, {graph.edge_index.shape[1]} edges")
    for row in rows[:N_ROWS]:
        share = row.self_cpu_time_total / total
        print(f"{share:6.1%}  {row.count // N_CALLS:4d} calls  {row.key[:70]}")


if __name__ == "__main__":
    main()
