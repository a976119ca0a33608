"""Frames per second of trainings here and elsewhere; write training_speed.md and .json.

    python examples/results/training_speed.py --nequip ENV/bin/python --schnetpack ENV/bin/python

The same network, frames, batch and precision in each package's own trainer, with averaged weights
and without workers: every process has one thread, and the packages run in turn. Each runs in the
ways that it offers (compiled or not, neighbour lists kept or not), and the faster one counts; what
has not ended after ``--minutes`` is ended, and said. eqcalc runs by its default, and compiled.
The environments are those of speed.py (``peers/README.md``). What is not measured anew keeps its
numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write

from eqcalc.bench import machine
from eqcalc.data import read_dataset
from eqcalc.files import write_whole

HERE = Path(__file__).parent
PEERS = HERE / "peers"
TABLE, NUMBERS = HERE / "training_speed.md", HERE / "training_speed.json"
DATA = Path("../shared/data")

N_EPOCHS = 5
N_OTHERS = 10  # frames to validate and test on, which each package wants


class Frames(NamedTuple):
    """A file of frames, how many of them are trained on, and in batches of how many."""

    path: str
    n_train: int
    batch_size: int


SYSTEMS = {
    "ethanol": Frames("rmd17/npz_data/rmd17_ethanol.npz", 100, 5),
    "aspirin": Frames("rmd17/npz_data/rmd17_aspirin.npz", 100, 5),
    "water": Frames("water/train.xyz", 20, 1),
}


class Work(NamedTuple):
    """What a peer and eqcalc both train, and the ratio to reach."""

    network: str
    what: str
    peer: str
    ways: tuple[str, ...]
    target: float


WORKS = (
    Work("nequip", "NequIP 32×4, l = 2, parity", "nequip", ("eager", "compile"), 3.0),
    Work("painn", "PaiNN 128×3", "schnetpack", ("lists", "cached"), 2.0),
)
OURS = ("kernels", "compiled")


def main() -> None:
    """Measure what is asked for and write the page."""
    arguments = _parse()
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {"rows": []}
    numbers["machine"] = machine(torch.device("cpu"))
    for work in WORKS:
        python = getattr(arguments, work.peer)
        wanted = python and work.network in arguments.networks.split(",")
        for system in arguments.systems.split(",") if wanted else []:
            row = _measure(work, system, python, arguments)
            others = [
                each
                for each in numbers["rows"]
                if (each["network"], each["system"]) != (work.network, system)
            ]
            numbers["rows"] = [*others, row]
            write_whole(NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
            write_whole(TABLE, _page(numbers).encode())
    print(f"written: {TABLE}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schnetpack", help="the python of an environment with schnetpack")
    parser.add_argument("--nequip", help="the python of an environment with nequip")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=1, help="processes per number (default: 1)")
    parser.add_argument("--networks", default="nequip,painn", help="comma-separated")
    parser.add_argument("--minutes", type=float, default=30.0, help="of a process at most")
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the data")
    return parser.parse_args()


def _measure(work: Work, system: str, python: str, arguments: argparse.Namespace) -> Any:
    """Train with both packages in turn and return their rates."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frames = folder / "frames.xyz"
        path, n_train, batch_size = SYSTEMS[system]
        write(frames, _frames(arguments.data / path, n_train + N_OTHERS), format="extxyz")
        sizes = [str(frames), str(n_train), str(batch_size), str(N_EPOCHS)]
        jobs = {}
        for way in work.ways:
            script = str(PEERS / f"train_{work.peer}.py")
            jobs[f"{work.peer}, {way}"] = ([python, script], sizes, [way])
        for way in OURS:
            script = str(PEERS / "train_ours.py")
            jobs[way] = ([sys.executable, script, work.network], sizes, [way])
        found: dict[str, list[Any]] = {key: [] for key in jobs}
        for k in range(arguments.rounds):
            for key, (begin, middle, end) in jobs.items():
                own = folder / f"{k}-{key.replace(', ', '-')}"
                own.mkdir()
                found[key].append(_run([*begin, *middle, str(own), *end], arguments.minutes))
                print(work.network, system, key, json.dumps(found[key][-1]), flush=True)
    return {
        "network": work.network,
        "system": system,
        "cpu": machine(torch.device("cpu"))["cpu"],
        "frames_per_s": {key: _all(runs, "frames_per_s") for key, runs in found.items()},
        "frames_per_core_s": {key: _all(runs, "frames_per_core_s") for key, runs in found.items()},
        "memory_mb": {key: runs[0]["memory_mb"] for key, runs in found.items()},
        "first_step_s": {key: runs[0]["first_step_s"] for key, runs in found.items()},
        "minutes": arguments.minutes,
    }


def _frames(path: Path, n_frames: int) -> list[Atoms]:
    frames = []
    for frame in read_dataset(path).frames[:n_frames]:
        atoms = frame.atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
        frames.append(atoms)
    return frames


def _run(command: list[str], minutes: float) -> dict[str, Any]:
    """Return what a process on one thread prints in its last line of JSON.

    A process that takes longer than so many minutes is ended, and has no rates.
    """
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(PEERS), os.environ.get("PYTHONPATH", "")]),
    }
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=environment,
            timeout=60.0 * minutes,
        )
    except subprocess.TimeoutExpired:
        return {"frames_per_s": [], "frames_per_core_s": [], "memory_mb": [], "first_step_s": None}
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"{' '.join(command)} failed:\n{(done.stdout + done.stderr)[-3000:]}")
    return json.loads(lines[-1])


def _all(runs: list[dict[str, Any]], key: str) -> list[float]:
    return [value for run in runs for value in run[key]]


def _page(numbers: dict[str, Any]) -> str:
    where = numbers["machine"]
    lines = [
        "# Speed of training beside other packages",
        "",
        "    python examples/results/training_speed.py --nequip PYTHON --schnetpack PYTHON",
        "",
        "Frames per second: molecules of rMD17 in batches of 5, and liquid water, 64 molecules, "
        "one frame at a time; float32, 5 Å, one thread: "
        f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}. Each package's own "
        "trainer, loss of energies and forces, AdamW, averaged weights; data loading included, the "
        f"first of {N_EPOCHS} epochs, in which compilers work, and validation left out. Medians "
        "of the epochs, with the slowest and the fastest. Ratios are to the faster way of the "
        "other package, and 'target' is the ratio that was aimed at. 'First "
        "step' is the time from the start of the training to the end of the first step, shorter "
        "where a compiler, of either package, finds pieces that an earlier training left; a way "
        "that had not ended after some minutes has no number. 'Memory' is the process's largest "
        "at the end of the second and the last epoch. eqcalc's kernels are its default, 'compiled' "
        "is `compile = true` beside them.",
        "",
        "| network | system | how | first step (s) | frames/s | memory (MB) | ratio | target |",
        "|---|---|---|---|---|---|---|---|",
    ]
    works = {work.network: work for work in WORKS}
    for row in sorted(numbers["rows"], key=lambda each: (each["network"], each["system"])):
        work, rates = works[row["network"]], row["frames_per_s"]
        measured = {key: float(np.median(values)) for key, values in rates.items() if values}
        best = max((key for key in measured if key in OURS), key=measured.__getitem__)
        theirs = max((rate for key, rate in measured.items() if key not in OURS), default=np.nan)
        for key, values in rates.items():
            ratio = f"**{measured[key] / theirs:.1f}**" if key in OURS and theirs > 0.0 else ""
            cells = [work.what, row["system"], key if key not in OURS else f"eqcalc, {key}"]
            if values:
                memory = row["memory_mb"][key]
                cells += [
                    f"{row['first_step_s'][key]:.1f}",
                    f"{measured[key]:.3g} ({min(values):.3g}..{max(values):.3g})",
                    f"{memory[1]:.0f}, {memory[-1]:.0f}",
                ]
            else:
                cells += [f"not ended after {row['minutes']:g} min", "", ""]
            cells += [ratio, f"{work.target:g}" if key == best else ""]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    main()
