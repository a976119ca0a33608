"""What a run must survive, tried; write reliability.md and reliability.json.

    python examples/results/reliability.py [--only kills|files|sequences] [--kills 50] [--fuzz 1000]

``kills`` : dynamics in each ensemble is ended by SIGKILL at random moments, from the start of the
process on, and goes on by ``eqcalc md --resume``; what is left in the end is compared, byte by
byte, with a run that nobody killed.
``files`` : files of every kind are damaged ``--fuzz`` times each, and read
(tests/fuzz/test_files.py).
``sequences`` : calculators are called for random structures in sequence, beside new ones
(tests/fuzz/test_sequences.py), of ``--fuzz`` structures each.

What was found before is kept in reliability.json.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import torch
from ase.build import bulk, molecule

from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.simulate.checkpoint import read_checkpoint

HERE = Path(__file__).parent
TABLE, RESULTS = HERE / "reliability.md", HERE / "reliability.json"
COMPARED = ("thermo.csv", "trajectory.traj", "trajectory.xyz", "final.xyz")
MD = [sys.executable, "-m", "eqcalc", "md"]


class Work(NamedTuple):
    """A run to be killed."""

    ensemble: str
    structure: str
    model: str
    n_steps: int
    checkpoint_every: int
    trajectory: str


WORKS = (
    Work("nve", "ethanol", "painn-ethanol", 60_000, 500, "traj"),
    Work("nvt-langevin", "ethanol", "painn-ethanol", 60_000, 500, "extxyz"),
    Work("nvt-nhc", "ethanol", "painn-ethanol", 60_000, 500, "traj"),
    Work("npt", "silicon", "sevennet-0", 2_000, 20, "extxyz"),
)


def main() -> None:
    """Try, and rewrite the page after each kind."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", choices=["", "kills", "files", "sequences"])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--fuzz", type=int, default=1000)
    options = parser.parse_args()
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.only in ("", "kills"):
        found["kills"] = [kills(work, k, options.kills) for k, work in enumerate(WORKS)]
    for kind in ("files", "sequences"):
        if options.only in ("", kind):
            found[kind] = tests_of(kind, options.fuzz)
    where = machine(torch.device("cpu"))
    found["machine"] = f"{where['cpu']}, {where['cores']} cores, torch {where['torch']}"
    write_whole(RESULTS, (json.dumps(found, indent=1) + "\n").encode())
    write_whole(TABLE, page(found).encode())
    print(TABLE.read_text())


def kills(work: Work, seed: int, n_kills_of_all: int) -> dict[str, Any]:
    """Kill a run again and again; return what came of it."""
    n_kills = n_kills_of_all // len(WORKS) + (seed < n_kills_of_all % len(WORKS))
    rng, moments = random.Random(seed), {"before the first step": 0, "at work": 0}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        atoms = molecule("CH3CH2OH") if work.structure == "ethanol" else bulk("Si", cubic=True)
        ase.io.write(folder / "start.xyz", atoms)
        words = ["start.xyz", "-m", work.model, "-e", work.ensemble, "-n", str(work.n_steps)]
        words += ["--log-every", "7", "--checkpoint-every", str(work.checkpoint_every)]
        words += ["--format", work.trajectory, "-q"]
        run([*MD, *words, "-o", "whole"], folder)
        begun = time.perf_counter()
        run([*MD, "--resume", "whole", "--steps", str(work.n_steps + 1), "-q"], folder)
        start = time.perf_counter() - begun
        run([*MD, *words, "-o", "whole", "--overwrite"], folder)
        for _ in range(n_kills):
            before = step_of(folder / "parts")
            fresh = [*MD, *words, "-o", "parts", "--overwrite"]
            command = fresh if before is None else [*MD, "--resume", "parts", "-q"]
            with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as process:
                time.sleep(rng.uniform(0.2, start + 1.5))
                if process.poll() is not None:
                    raise SystemExit(f"{work}: it ended before it was killed")
                process.kill()
            moments[
                "at work" if step_of(folder / "parts") != before else "before the first step"
            ] += 1
        if step_of(folder / "parts") is None:
            run([*MD, *words, "-o", "parts", "--overwrite"], folder)
        else:
            run([*MD, "--resume", "parts", "-q"], folder)
        names = [each for each in COMPARED if (folder / "whole" / each).exists()]
        same = [
            (folder / "whole" / each).read_bytes() == (folder / "parts" / each).read_bytes()
            for each in names
        ]
    return {**work._asdict(), "kills": n_kills, **moments, "files": names, "same": same}


def tests_of(kind: str, n_cases: int) -> list[dict[str, Any]]:
    """Run the tests of damaged files or of sequences of calls; return what they recorded."""
    test = HERE.parents[1] / "tests" / "fuzz" / f"test_{kind}.py"
    with tempfile.TemporaryDirectory() as name:
        report = Path(name) / "report.xml"
        options = ["-q", "-n", "0", "-m", "slow or not slow", "-p", "no:cacheprovider"]
        options += ["--fuzz", str(n_cases), "--junitxml", str(report), "-o", "junit_family=xunit1"]
        subprocess.run([sys.executable, "-m", "pytest", *options, str(test)], check=True)
        cases = ElementTree.parse(report).iter("testcase")
        return [
            {
                "of": str(case.get("name")).partition("[")[2].rstrip("]"),
                **{p.attrib["name"]: float(p.attrib["value"]) for p in case.iter("property")},
            }
            for case in cases
        ]


def run(command: list[str], folder: Path) -> None:
    """Run a command that has to succeed."""
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)


def step_of(folder: Path) -> int | None:
    """Return the step of the last checkpoint, None where there is none."""
    return read_checkpoint(folder).step if list(folder.glob("checkpoint*")) else None


def page(found: dict[str, Any]) -> str:
    """Return the results page."""
    lines = ["# What runs survive", "", f"{found['machine']}."]
    for kind, section in (
        ("kills", section_on_kills),
        ("files", section_on_files),
        ("sequences", section_on_sequences),
    ):
        if kind in found:
            lines += ["", *section(found[kind])]
    return "\n".join(lines) + "\n"


def section_on_kills(rows: list[dict[str, Any]]) -> list[str]:
    """Return the section on killed runs."""
    return [
        "## Kills",
        "",
        "    python examples/results/reliability.py --only kills",
        "",
        "SIGKILL at random moments; each time `eqcalc md --resume`. At the end every file is "
        "compared with that of a run that nobody killed.",
        "",
        "| ensemble | model | steps | kills | after new checkpoints | files that are the same |",
        "|---|---|---|---|---|---|",
    ] + [
        f"| {row['ensemble']} | {row['model']} | {row['n_steps']} | {row['kills']} "
        f"| {row['at work']} | {sum(row['same'])} of {len(row['same'])} |"
        for row in rows
    ]


def section_on_files(rows: list[dict[str, Any]]) -> list[str]:
    """Return the section on damaged files."""
    n_models = sum(
        int(row["refused"] + row["read"])
        for row in rows
        if row["of"].split()[0] in ("model", "propagator", "foreign", "checkpoint")
    )
    n_all = sum(int(row["refused"] + row["read"]) for row in rows)
    return [
        "## Damaged files",
        "",
        "    python examples/results/reliability.py --only files",
        "",
        f"{n_models} files of models, propagators and checkpoints and {n_all - n_models} of data, "
        "structures and settings: flipped bits, cuts, bytes and words of others, entries that are "
        "exchanged. Each gave one error of eqcalc's, or was read as what it says: model files and "
        "checkpoints as the undamaged one, text and arrays as another reader reads them (of .traj, "
        "cif, POSCAR, pdb and json only the kind of error was looked at). No process ended, and "
        "none took a GiB more than before.",
        "",
        "| file | refused | read | longest (s) |",
        "|---|---|---|---|",
    ] + [
        f"| {row['of']} | {row['refused']:.0f} | {row['read']:.0f} | {row['longest (s)']:.2f} |"
        for row in rows
    ]


def section_on_sequences(rows: list[dict[str, Any]]) -> list[str]:
    """Return the section on calls in sequence."""
    return [
        "## Calls in sequence",
        "",
        "    python examples/results/reliability.py --only sequences",
        "",
        "Random structures of up to 16 atoms, periodic along some directions; between two calls "
        "atoms move, are wrapped, exchanged, added and removed, cells change, directions open and "
        "close. Energies, forces, energies of atoms and stress beside a new calculator's: to "
        "1e-11 of the largest in float64, to 1e-5 in float32.",
        "",
        "| calculator | structures | calls | disagreements |",
        "|---|---|---|---|",
    ] + [f"| {row['of']} | {row['structures']:.0f} | {row['calls']:.0f} | 0 |" for row in rows]


if __name__ == "__main__":
    main()
