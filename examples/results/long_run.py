"""Run a hundred thousand steps of dynamics; show that neither time nor memory grow.

    eqcalc compile painn-ethanol
    python examples/results/long_run.py

What `eqcalc md` does: Langevin dynamics of ethanol at 300 K with the shipped model, one thread,
a frame every 10 steps, guards, self-audits and checkpoints. Every hundredth of the run, the
milliseconds per step since the last look, the resident memory and the number of open files are
noted. Then one calculator gets as many structures of different sizes, cells and elements in turn.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from eqcalc import EqCalculator
from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.simulate import MDProgress, MDSettings, read_structure, run_md

HERE = Path(__file__).parent
RESULTS, PICTURE, PAGE = (HERE / f"long_run{suffix}" for suffix in (".json", ".png", ".md"))

MODEL = "painn-ethanol"
N_STEPS, N_LOOKS = 100_000, 100
TIMESTEP_FS = 0.5


def main() -> None:
    """Run, and write numbers, picture and page."""
    torch.set_num_threads(1)
    calculator = EqCalculator(MODEL, device="cpu")
    content = {
        "model": MODEL,
        "engine": calculator.models[0].engine.name,
        "machine": machine(calculator.models[0].device),
        "steps": N_STEPS,
        "timestep_fs": TIMESTEP_FS,
        "looks": run(calculator),
        "in_turn": in_turn(calculator),
    }
    write_whole(RESULTS, (json.dumps(content, indent=1) + "\n").encode())
    write_whole(PICTURE, picture(content))
    write_whole(PAGE, page(content).encode())


def run(calculator: EqCalculator) -> list[dict[str, Any]]:
    """Return step, ms per step, resident MB and temperature at every look."""
    looks: list[dict[str, Any]] = []
    last = 0, time.perf_counter()

    def look(now: MDProgress) -> None:
        nonlocal last
        step = now.thermo.step
        if step % (N_STEPS // N_LOOKS) != 0:
            return
        seconds = time.perf_counter() - last[1]
        if step > 0:
            looks.append(
                {
                    "step": step,
                    "ms_per_step": round(1e3 * seconds / (step - last[0]), 4),
                    "resident_mb": round(resident_mb(), 2),
                    "open_files": open_files(),
                    "temperature_K": round(now.thermo.temperature_K, 1),
                    "lists_built": calculator.neighbours.n_builds,
                }
            )
            print(looks[-1], flush=True)
        last = step, time.perf_counter()

    settings = MDSettings("nvt-langevin", n_steps=N_STEPS, timestep_fs=TIMESTEP_FS, log_every=10)
    with tempfile.TemporaryDirectory() as folder:
        run_md(
            read_structure(HERE.parent / "ethanol.xyz"),
            calculator,
            settings,
            Path(folder) / "run",
            progress=look,
        )
    return looks


def in_turn(calculator: EqCalculator) -> list[dict[str, Any]]:
    """Call for one structure after the other; return ms per call, MB and open files per look."""
    ethanol = read_structure(HERE.parent / "ethanol.xyz")
    box = ethanol.copy()
    box.set_cell([7.0, 8.0, 9.0])
    box.pbc = True
    pair = ethanol.copy()
    pair.translate([0.0, 0.0, 5.0])
    structures = [ethanol, box, ethanol + pair, ethanol[:1], box * (2, 1, 1)]
    rng, looks = np.random.default_rng(0), []
    begun = time.perf_counter()
    for call in range(1, N_STEPS + 1):
        atoms = structures[call % len(structures)]
        atoms.positions[rng.integers(len(atoms))] += rng.normal(0.0, 1e-3, 3)
        calculator.get_forces(atoms)
        if call % (N_STEPS // N_LOOKS) == 0:
            ms = 1e3 * (time.perf_counter() - begun) / (N_STEPS // N_LOOKS)
            looks.append(
                {
                    "step": call,
                    "ms_per_step": round(ms, 4),
                    "resident_mb": round(resident_mb(), 2),
                    "open_files": open_files(),
                }
            )
            print(looks[-1], flush=True)
            begun = time.perf_counter()
    return looks


def open_files() -> int:
    """Return how many files, pipes and sockets this process holds open."""
    return len(os.listdir("/proc/self/fd"))


def resident_mb() -> float:
    """Return the memory of this process, as Linux tells it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return 1024 * int(line.split()[1]) / 1e6
    raise KeyError("VmRSS")


def growth(looks: list[dict[str, Any]]) -> tuple[float, float, float]:
    """Return median ms/step of the first and the last tenth, and MB per 1e5 steps.

    The memory's slope is that of the second half: first, allocators fill their pools.
    """
    tenth, half = len(looks) // 10, len(looks) // 2
    times = [look["ms_per_step"] for look in looks]
    steps = np.array([look["step"] for look in looks[half:]]) / 1e5
    memory = np.array([look["resident_mb"] for look in looks[half:]])
    slope = np.polyfit(steps, memory, 1)[0]
    return float(np.median(times[:tenth])), float(np.median(times[-tenth:])), float(slope)


def picture(content: dict[str, Any]) -> bytes:
    """Return a PNG of both over the steps."""
    looks = content["looks"]
    steps = [look["step"] / 1000 for look in looks]
    figure = Figure(figsize=(6.4, 4.6), dpi=150, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    above.plot(steps, [look["ms_per_step"] for look in looks], ".-", lw=0.8, color="#4059ad")
    below.plot(steps, [look["resident_mb"] for look in looks], ".-", lw=0.8, color="#2a9d6f")
    above.set(ylabel="ms per step", ylim=(0, None))
    most = max(look["resident_mb"] for look in looks)
    below.set(ylabel="resident memory (MB)", ylim=(0, 1.2 * most), xlabel="thousand steps")
    for axes in (above, below):
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(
        f"{content['model']}, engine {content['engine']}, {content['machine']['cpu']}, one thread",
        fontsize=10,
        color="0.3",
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def page(content: dict[str, Any]) -> str:
    """Return the results page."""
    looks, about, turns = content["looks"], content["machine"], content["in_turn"]
    first, last, slope = growth(looks)
    first_turn, last_turn, slope_of_turns = growth(turns)
    tenth = len(looks) // 10 - 1
    times = sorted(look["ms_per_step"] for look in looks)
    temperature = np.mean([look["temperature_K"] for look in looks])
    return f"""\
# A long run

`eqcalc compile {content["model"]}`, then `python examples/results/long_run.py`: {N_STEPS} steps
of {TIMESTEP_FS:g} fs as `eqcalc md` makes them (Langevin, 300 K, a frame every 10 steps).
Engine {content["engine"]}, {about["cpu"]}, one of {about["cores"]} cores, torch {about["torch"]};
load average {about["load"]} before the start.

| | first tenth | last tenth |
|---|---|---|
| ms per step, median of 10 looks | {first:.3f} | {last:.3f} |
| resident memory, MB | {looks[tenth]["resident_mb"]:.1f} | {looks[-1]["resident_mb"]:.1f} |
| open files | {looks[tenth]["open_files"]} | {looks[-1]["open_files"]} |

Over all looks (one every {N_STEPS // N_LOOKS} steps) a step took {times[0]:.3f} ms to
{times[-1]:.3f} ms.
In the second half the memory grows by {slope:.2f} MB in 100 000 steps.
The neighbour list was built {looks[-1]["lists_built"]} times; the mean temperature was \
{temperature:.0f} K.

![time per step and memory](long_run.png)

## Structures in turn

{N_STEPS} calls of one calculator: a molecule, the same in a box, two molecules, one atom and two
boxes, each a little moved since its last turn.

| | first tenth | last tenth |
|---|---|---|
| ms per call, median of 10 looks | {first_turn:.3f} | {last_turn:.3f} |
| resident memory, MB | {turns[tenth]["resident_mb"]:.1f} | {turns[-1]["resident_mb"]:.1f} |
| open files | {turns[tenth]["open_files"]} | {turns[-1]["open_files"]} |

In the second half the memory grows by {slope_of_turns:.2f} MB in 100 000 calls.
"""


if __name__ == "__main__":
    main()
