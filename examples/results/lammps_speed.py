"""Time steps of LAMMPS on one rank and on two; write lammps.md and lammps_speed.json.

    python examples/results/lammps_speed.py [--models sevennet-0,painn,nequip] [--rounds 2]

Water, compiled models in float32, one thread for each rank, the LAMMPS of this environment. What
was measured before is kept in lammps_speed.json and shown with it. Two runs on one rank, side by
side, are what two ranks are compared with: both cores are busy in both cases.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data
from speed import model_file

from eqcalc import EqCalculator
from eqcalc.bench import machine
from eqcalc.bench.structures import load_structure
from eqcalc.engines import load_model
from eqcalc.files import write_whole
from eqcalc.hosts.lammps.build import build_plugin, find_lammps
from eqcalc.hosts.lammps.launch import command_line
from eqcalc.neighbours import build_graph

HERE = Path(__file__).parent
TABLE, RESULTS = HERE / "lammps.md", HERE / "lammps_speed.json"
INPUT = """\
units metal
atom_style atomic
read_data water.data
pair_style eqcalc ranks {ranks}
pair_coeff * * {model} O H
timestep 0.0001
fix 1 all nve
thermo 1000
run 2
run {steps}
"""


class Work(NamedTuple):
    """One thing to time."""

    name: str
    n_runs: int
    n_ranks: int
    ranks: str
    structure: str


SMALL, HALF, LARGE = "1029", "3993", "7986"
CALL, N_CALLS = "call of the model by EqCalculator", 7
WORKS = (
    Work("one rank", 1, 1, "auto", SMALL),
    Work("two ranks, exchange", 1, 2, "exchange", SMALL),
    Work("two ranks, wide halo", 1, 2, "halo", SMALL),
    Work("two runs, a rank each", 2, 1, "auto", SMALL),
    Work("one rank", 1, 1, "auto", HALF),
    Work("two runs, a rank each", 2, 1, "auto", HALF),
    Work("one rank", 1, 1, "auto", LARGE),
    Work("two ranks, exchange", 1, 2, "exchange", LARGE),
    Work("two ranks, wide halo", 1, 2, "halo", LARGE),
)


def water(structure: str) -> Atoms:
    """Return water; the large one is the half one twice, side by side."""
    if structure == LARGE:
        return load_structure(f"water{HALF}") * (2, 1, 1)
    return load_structure(f"water{structure}")


def main() -> None:
    """Measure in turn and rewrite the page after every model."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="sevennet-0,painn,nequip")
    parser.add_argument("--only", default="", help="works whose name and size hold this")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a run, about")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models.split(","):
            model = name if name == "sevennet-0" else str(model_file(name, Path(folder)))
            EqCalculator(model, device="cpu", engine="inductor")  # compiled before it is timed
            for _ in range(options.rounds):
                for structure in (SMALL, LARGE):
                    key = f"{name}, {structure}, {CALL}"
                    if options.only in key:
                        found.setdefault(key, []).append(time_of_call(model, structure))
                        print(f"{key}: {1e3 * found[key][-1]:.1f} ms", flush=True)
                for work in WORKS:
                    key = f"{name}, {work.structure}, {work.name}"
                    if options.only in key:
                        seconds = time_of(work, model, Path(folder), options.seconds)
                        found.setdefault(key, []).append(seconds)
                        print(f"{key}: {1e3 * seconds:.1f} ms a step", flush=True)
            where = machine(torch.device("cpu"))
            found["machine"] = f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}"
            write_whole(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
            write_whole(TABLE, page(found).encode())
    print(page(found))


def time_of_call(name: str, structure: str) -> float:
    """Return the median time of the call of the model, which a step of the calculator makes."""
    torch.set_num_threads(1)
    model = load_model(name, device="cpu", engine="inductor")
    graph = build_graph(water(structure), model.card.cutoff, dtype=model.dtype)
    times = []
    for _ in range(N_CALLS):
        begin = time.perf_counter()
        model(graph)
        times.append(time.perf_counter() - begin)
    return float(np.median(times))


def time_of(work: Work, model: str, folder: Path, seconds: float) -> float:
    """Return the time of a step, the mean of those of runs side by side."""
    first = run(work, model, folder, 2)
    steps = max(3, round(seconds / np.mean(first)))
    return float(np.mean(run(work, model, folder, steps)))


def run(work: Work, model: str, folder: Path, steps: int) -> list[float]:
    """Return the seconds of a step of every run."""
    lammps = find_lammps()
    environment = lammps.environment()
    environment |= {
        "LAMMPS_PLUGIN_PATH": str(build_plugin(lammps).parent),
        "OMP_NUM_THREADS": "1",
    }
    running = []
    for number in range(work.n_runs):
        own = folder / f"{work.structure}-{number}"
        own.mkdir(exist_ok=True)
        atoms = water(work.structure)
        write_lammps_data(own / "water.data", atoms, specorder=["O", "H"], masses=True)
        text = INPUT.format(ranks=work.ranks, model=model, steps=steps)
        (own / "in.lammps").write_text(text)
        command = command_line(lammps, Path("in.lammps"), work.n_ranks)
        running.append(
            subprocess.Popen(command, cwd=own, env=environment, stdout=subprocess.PIPE, text=True)
        )
    said = [process.communicate()[0] for process in running]
    times = [re.findall(r"Loop time of (\S+) on \d+ procs for \d+ steps", text) for text in said]
    if not all(len(found) == 2 for found in times):
        raise SystemExit("\n".join(said))
    return [float(found[-1]) / steps for found in times]


def page(found: dict[str, Any]) -> str:
    """Return the results page."""
    lines = [
        "# Steps of LAMMPS on one rank and on two",
        "",
        "    python examples/results/lammps_speed.py",
        "",
        f"{found['machine']}; water, float32, compiled, one thread for each rank, LAMMPS's own "
        "list and skin. µs for a step and an atom (of all atoms on all ranks), medians of rounds "
        "in turn. Efficiency is the throughput of two ranks over that of two runs on one rank, "
        "side by side: of the same structure (strong; the runs have twice the atoms for each "
        f"core), and for {LARGE} atoms of runs of {HALF} (weak; as many for each core).",
        "",
        "| network | atoms | work | µs/atom/step | efficiency, or time |",
        "|---|---|---|---|---|",
    ]
    works = [(CALL, SMALL), (CALL, LARGE), *((work.name, work.structure) for work in WORKS)]
    works.sort(key=lambda work: int(work[1]))
    names = dict.fromkeys(key.partition(",")[0] for key in found if key != "machine")
    for name, (work, structure) in itertools.product(names, works):
        times = found.get(f"{name}, {structure}, {work}")
        if times is None:
            continue
        n_runs = 2 if work.startswith("two runs") else 1
        cost = 1e6 * float(np.median(times)) / (int(structure) * n_runs)
        half = HALF if structure == LARGE else structure
        beside = found.get(f"{name}, {half}, two runs, a rank each")
        share = ""
        call = found.get(f"{name}, {structure}, {CALL}")
        if call and work == "one rank":
            share = f"{float(np.median(times)) / float(np.median(call)):.2f} of the call"
        if beside and work.startswith("two ranks"):
            share = f"{1e6 * float(np.median(beside)) / (2 * int(half)) / cost:.2f}"
        lines.append(f"| {name} | {structure} | {work} | {cost:.1f} | {share} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
