"""One run on two threads beside two runs on one thread each; write threads.md and threads.json.

    python examples/results/threads.py [--seconds 20] [--rounds 3]

1029 atoms of water, compiled models. Both cores are busy in both cases, so that a busy neighbour
takes from both alike. Memory is the process's largest, after steps on 1, 2 and 16 threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from speed import model_file

from eqcalc import EqCalculator
from eqcalc.bench import machine
from eqcalc.files import write_whole

HERE = Path(__file__).parent
STRUCTURE = "water1029"
WORKER = """
import re, sys, time
from ase import units
from ase.md.verlet import VelocityVerlet
from eqcalc import EqCalculator
from eqcalc.bench.structures import load_structure
model, threads = sys.argv[1], int(sys.argv[2])
start, seconds = map(float, sys.argv[3:5])
atoms = load_structure(sys.argv[5])
atoms.calc = EqCalculator(model, device="cpu", engine="inductor", threads=threads)
dynamics = VelocityVerlet(atoms, 0.1 * units.fs)
dynamics.run(3)
while time.time() < start:
    time.sleep(0.001)
begin, n = time.perf_counter(), 0
while time.perf_counter() - begin < seconds:
    dynamics.run(5)  # each call of run() costs some ms itself
    n += 5
rate = n / (time.perf_counter() - begin)
# Not getrusage: what it says of a process begins with the memory of the one that started it.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
print(rate, int(peak[1]) / 1024)
"""


def side_by_side(model: str, threads: int, n: int, seconds: float) -> list[tuple[float, float]]:
    """Return steps per second and MB of ``n`` processes at once."""
    start = time.time() + 12.0 + 3.0 * n
    words = [model, str(threads), str(start), str(seconds), STRUCTURE]
    command = [sys.executable, "-c", WORKER, *words]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(n)]
    return [tuple(map(float, process.communicate()[0].split())) for process in running]


def measure(model: str, seconds: float, rounds: int) -> dict[str, Any]:
    """Return throughputs of both ways in turn, and memory."""
    together, alone, memory = [], [], {}
    for _ in range(rounds):
        together.append(sum(rate for rate, _ in side_by_side(model, 1, 2, seconds)))
        rate, memory["2"] = side_by_side(model, 2, 1, seconds)[0]
        alone.append(rate)
    memory["1"] = side_by_side(model, 1, 1, 2.0)[0][1]
    memory["16"] = side_by_side(model, 16, 1, 2.0)[0][1]
    ratios = [a / b for a, b in zip(alone, together, strict=True)]
    return {"two runs": together, "two threads": alone, "ratios": ratios, "memory": memory}


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = {name: str(model_file(name, Path(folder))) for name in ("painn", "nequip")}
        models["sevennet-0"] = "sevennet-0"
        found = {}
        for name, model in models.items():
            EqCalculator(model, device="cpu", engine="inductor")
            found[name] = measure(model, options.seconds, options.rounds)
            print(name, json.dumps(found[name]), flush=True)
    where = machine(torch.device("cpu"))
    lines = [
        "# Two threads beside two runs",
        "",
        "    python examples/results/threads.py",
        "",
        f"1029 atoms of water, compiled, float32: {where['cpu']}, {where['cores']} cores, torch "
        f"{where['torch']}. Steps per second of two runs with one thread each, side by side, and "
        "of one run with two threads; medians of rounds in turn. 'Target' is the ratio that was "
        "aimed at. Memory (MB) is the largest of a process.",
        "",
        "| network | two runs, 1 thread each | one run, 2 threads | ratio | target | memory, 1 "
        "thread | 2 threads | 16 threads |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        memory = row["memory"]
        lines.append(
            f"| {name} | {np.median(row['two runs']):.2f} | {np.median(row['two threads']):.2f} | "
            f"**{np.median(row['ratios']):.2f}** | 0.9 | {memory['1']:.0f} | "
            f"{memory['2'] / memory['1'] - 1:+.1%} | {memory['16'] / memory['1'] - 1:+.1%} |"
        )
    write_whole(HERE / "threads.json", (json.dumps(found, indent=1) + "\n").encode())
    write_whole(HERE / "threads.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
