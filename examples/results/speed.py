"""A step of dynamics beside other calculators on the same work; write speed.md and speed.json.

    python examples/results/speed.py --schnetpack ENV/bin/python --nequip ENV/bin/python \\
        --nequip-model MODEL.nequip.pt2 --mace ENV/bin/python --sevennet ENV/bin/python

Each package runs in an environment of its own (``peers/``), without one its rows are left
out. eqcalc's models are untrained and compiled at the first run; beside SevenNet's own
calculator run the shipped models, which have its weights. Every number is from a
fresh process on one thread, the packages in turn; the structures are the same files. Peers
also run with an allocator that keeps freed memory, which helps some of them; the better of
both counts. What is not measured anew keeps its numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.io import write

from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.bench import BenchCalculator, machine, measure
from eqcalc.bench.structures import load_structure
from eqcalc.export import export_model
from eqcalc.files import write_whole
from eqcalc.potential import Potential

HERE = Path(__file__).parent
PEERS = HERE / "peers"
TABLE, NUMBERS = HERE / "speed.md", HERE / "speed.json"
STRUCTURES = ("ethanol", "cu108", "water192")
ENERGIES = {"H": 0.0, "C": 0.0, "O": 0.0, "Cu": 0.0}

NETWORKS: dict[str, dict[str, Any]] = {
    "painn": {"embedding_dim": 128, "num_blocks": 3, "num_radial_basis": 20, "cut_off": 5.0},
    "schnet": {
        "hidden_dim": 128,
        "num_interaction_blocks": 3,
        "num_filters": 20,
        "cutoff": 5.0,
    },
    "nequip": {
        "num_features": 32,
        "l_max": 2,
        "parity": True,
        "num_layers": 4,
        "cut_off": 5.0,
        "num_bessels": 8,
        "radial_mlp_depth": 1,
        "radial_mlp_width": 128,
        "elements": ("H", "C", "O", "Cu"),
        "avg_num_neighbors": 20.0,
    },
    "gvp": {"cutoff": 5.0},
    "egnn": {"cutoff": 5.0},
    "dimenetpp": {},
    "dimenet": {},
}


class Work(NamedTuple):
    """What a peer and eqcalc both do: a network, a structure, and the ratio to reach."""

    network: str
    structure: str
    peer: str
    target: float


WORKS = (
    Work("painn", "ethanol", "schnetpack", 6.0),
    Work("painn", "water192", "schnetpack", 4.0),
    Work("schnet", "water192", "schnetpack", 3.0),
    Work("nequip", "water192", "nequip", 5.0),
    Work("nequip", "ethanol", "nequip", 0.0),
    Work("schnet", "ethanol", "schnetpack", 0.0),
    Work("nequip", "water192", "mace", 0.0),
    Work("nequip", "ethanol", "mace", 0.0),
    *(
        Work(model, structure, "sevennet", target)
        for model in ("sevennet-0", "sevennet-l3i5")
        for structure, target in (("si64", 18.0), ("cu108", 20.0), ("water192", 22.0))
    ),
)
# Shipped models -> SevenNet's names of the same weights.
SEVENNET = {"sevennet-0": "7net-0", "sevennet-l3i5": "7net-l3i5"}
# MACE is another network; beside NequIP stands one whose accuracy is in the same class.
MACE = "64x0e+64x1o"
# glibc gives large blocks back to the system at once, and gets them again at the next step.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "4000000000", "MALLOC_MMAP_THRESHOLD_": "4000000000"}


def main() -> None:
    """Measure what is asked for and write the page."""
    arguments = _parse()
    numbers = json.loads(NUMBERS.read_text()) if NUMBERS.exists() else {}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for name in {*STRUCTURES, *(work.structure for work in WORKS)}:
            files[name] = Path(folder) / f"{name}.xyz"
            write(files[name], structure_of(name), format="extxyz")
        models = {name: _model(name, arguments.models) for name in arguments.networks.split(",")}
        before = numbers.get("machine")
        numbers["machine"] = machine(torch.device("cpu"))
        for row in numbers.get("works", []) + numbers.get("networks", []):
            row.setdefault("cpu", (before or numbers["machine"])["cpu"])
        works = _works(arguments, models | _shipped(arguments), files)
        numbers["works"] = _merged(numbers, "works", works, ("network", "structure", "peer"))
        if not arguments.only_peers:
            rows = _networks(models)
            key = ("network", "engine", "structure")
            numbers["networks"] = _merged(numbers, "networks", rows, key)
    write_whole(NUMBERS, (json.dumps(numbers, indent=1) + "\n").encode())
    write_whole(TABLE, _page(numbers).encode())
    print(f"written: {TABLE}")


def structure_of(name: str) -> Atoms:
    if name != "si64":
        return load_structure(name)
    silicon = bulk("Si", "diamond", a=5.43, cubic=True) * (2, 2, 2)
    silicon.rattle(0.05, seed=1)
    return silicon


def _shipped(arguments: argparse.Namespace) -> dict[str, Path]:
    """Return the shipped models that have a peer here by their names, compiled."""
    if not arguments.sevennet:
        return {}
    for name in SEVENNET:
        EqCalculator(name, device="cpu", engine="inductor")
    return {name: Path(name) for name in SEVENNET}


def _merged(
    numbers: dict[str, Any], name: str, rows: list[dict[str, Any]], key: tuple[str, ...]
) -> list[dict[str, Any]]:
    """Return the rows measured before, new ones in their places."""
    found = {tuple(row[k] for k in key): row for row in numbers.get(name, [])}
    return list((found | {tuple(row[k] for k in key): row for row in rows}).values())


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schnetpack", help="the python of an environment with schnetpack")
    parser.add_argument("--nequip", help="the python of an environment with nequip")
    parser.add_argument("--nequip-model", help="made by peers/nequip_model.sh")
    parser.add_argument("--mace", help="the python of an environment with mace-torch")
    parser.add_argument("--sevennet", help="the python of an environment with sevenn")
    parser.add_argument("--rounds", type=int, default=3, help="processes per number (default: 3)")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="comma-separated")
    parser.add_argument("--only-peers", action="store_true", help="not the table of networks")
    parser.add_argument(
        "--models", type=Path, default=Path("runs/speed"), help="folder of eqcalc's model files"
    )
    return parser.parse_args()


def _model(name: str, folder: Path) -> Path:
    """Return an untrained model file, compiled for this machine."""
    path = model_file(name, folder)
    EqCalculator(path, device="cpu", engine="inductor")
    return path


def model_file(name: str, folder: Path) -> Path:
    """Return the file of an untrained model, always the same."""
    path = folder / f"{name}.pt"
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            potential = Potential(build(name, **NETWORKS[name]), ENERGIES)
        export_model(potential, path, elements=list(ENERGIES))
    return path


def _works(
    arguments: argparse.Namespace, models: dict[str, Path], files: dict[str, Path]
) -> list[dict[str, Any]]:
    """Time eqcalc and its peers in turn."""
    rows = []
    for work in WORKS:
        command = _peer_command(work, arguments, files[work.structure])
        if command is None or work.network not in models:
            continue
        own = [sys.executable, str(PEERS / "ours.py"), str(models[work.network])]
        jobs: dict[str, tuple[list[str], dict[str, str]]] = {
            work.peer: (command, {}),
            f"{work.peer}, memory kept": (command, KEEP_MEMORY),
            "inductor": ([*own, "inductor", str(files[work.structure])], {}),
            "torchscript": ([*own, "torchscript", str(files[work.structure])], {}),
        }
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
        for _ in range(arguments.rounds):
            for name, job in jobs.items():
                runs[name].append(_run(*job))
        row = {
            **work._asdict(),
            "cpu": machine(torch.device("cpu"))["cpu"],
            "ms": {name: _median(found) for name, found in runs.items()},
            "range": {name: _range(found) for name, found in runs.items()},
            "cpu_share": min(run["cpu_share"] for found in runs.values() for run in found),
            "error": _force_error(models[work.network], structure_of(work.structure)),
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def _peer_command(work: Work, arguments: argparse.Namespace, structure: Path) -> list[str] | None:
    script = str(PEERS / f"peer_{work.peer}.py")
    if work.peer == "schnetpack" and arguments.schnetpack:
        return [arguments.schnetpack, script, work.network, str(structure)]
    if work.peer == "nequip" and arguments.nequip and arguments.nequip_model:
        return [arguments.nequip, script, arguments.nequip_model, str(structure)]
    if work.peer == "mace" and arguments.mace:
        return [arguments.mace, script, MACE, str(structure)]
    if work.peer == "sevennet" and arguments.sevennet:
        return [arguments.sevennet, script, SEVENNET[work.network], str(structure)]
    return None


def _run(command: Sequence[str], variables: Mapping[str, str]) -> dict[str, Any]:
    """Return what a process on one thread prints in its last line."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _median(runs: list[dict[str, Any]]) -> float:
    return float(np.median([value for run in runs for value in run["ms"]]))


def _range(runs: list[dict[str, Any]]) -> list[float]:
    values = [value for run in runs for value in run["ms"]]
    return [min(values), max(values)]


def _force_error(model: Path, atoms: Atoms) -> float:
    """Return the largest error of a force against float64, over the largest force."""
    fast = EqCalculator(model, device="cpu", engine="inductor")
    exact = EqCalculator(model, device="cpu", engine="torchscript", dtype="float64")
    expected = exact.get_forces(atoms)
    return float(np.abs(fast.get_forces(atoms) - expected).max() / np.abs(expected).max())


def _networks(models: dict[str, Path]) -> list[dict[str, Any]]:
    """Time every network and engine, split into parts."""
    rows = []
    for name, path in models.items():
        for engine in ("torchscript", "inductor"):
            calculator = BenchCalculator(path, engine=engine, device="cpu")
            for structure in STRUCTURES:
                atoms = load_structure(structure)
                # Few steps: untrained forces tear molecules apart.
                found = measure(calculator, atoms, structure, seconds=1.0)
                row = {
                    "network": name,
                    "cpu": machine(torch.device("cpu"))["cpu"],
                    "engine": engine,
                    "structure": structure,
                    "n_edges": found.n_edges,
                    "cpu_share": found.cpu_share,
                    "step": found.step.median,
                    "model": found.model.median,
                    "list": found.neighbours.median,
                    "host": found.host.median,
                    "ase": found.ase.median,
                }
                print(json.dumps(row), flush=True)
                rows.append(row)
    return rows


def _page(numbers: dict[str, Any]) -> str:
    where = numbers["machine"]
    lines = [
        "# Speed beside other calculators",
        "",
        "    python examples/results/speed.py --schnetpack PYTHON --nequip PYTHON \\",
        "        --nequip-model MODEL --mace PYTHON --sevennet PYTHON",
        "",
        f"ms per `VelocityVerlet` step, float32, 5 Å, one thread, neighbour list and forces "
        f"included: {_processors(numbers)}, {where['cores']} cores, torch {where['torch']}. "
        "Medians over fresh processes in turn, with the smallest and largest block. Untrained "
        "networks of the same widths on the same structures. 'Error' is the largest deviation of a "
        "force from the float64 network, over the largest force. Peers ran twice: as they are, and "
        "with glibc told to keep freed memory; ratios are to the faster of both, and 'target' is "
        "the ratio that was aimed at. MACE is another "
        f"network ({MACE}, 2 layers, correlation 3) and stands beside NequIP for orientation. The "
        "shipped SevenNets have the weights of SevenNet's own.",
        "",
        "| network | structure | peer | ms | memory kept | eqcalc, compiled | ratio | target | "
        "eqcalc, TorchScript | ratio | error, compiled |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in numbers.get("works", []):
        ms, spread = row["ms"], row["range"]
        plain, kept = row["peer"], f"{row['peer']}, memory kept"
        theirs = min(ms[plain], ms[kept])
        cells = [
            row["network"],
            row["structure"],
            row["peer"],
            _cell(ms[plain], spread[plain]),
            _cell(ms[kept], spread[kept]),
            _cell(ms["inductor"], spread["inductor"]),
            f"**{theirs / ms['inductor']:.1f}**",
            f"{row['target']:g}" if row["target"] else "",
            _cell(ms["torchscript"], spread["torchscript"]),
            f"{theirs / ms['torchscript']:.1f}",
            f"{row['error']:.0e}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if numbers.get("networks"):
        lines += ["", *_parts(numbers["networks"])]
    return "\n".join([*lines, "", (HERE / "speed_notes.md").read_text()])


def _processors(numbers: dict[str, Any]) -> str:
    """Return the processors, and what was measured on which where there are several."""
    found: dict[str, set[str]] = {}
    for row in numbers.get("works", []) + numbers.get("networks", []):
        found.setdefault(row["cpu"], set()).add(row["network"])
    if len(found) == 1:
        return next(iter(found))
    return "; ".join(f"{cpu} ({', '.join(sorted(names))})" for cpu, names in found.items())


def _cell(value: float, spread: list[float]) -> str:
    return f"{value:.3g} ({spread[0]:.3g}..{spread[1]:.3g})"


def _parts(rows: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## All networks",
        "",
        "ms per step; published or default widths at 5 Å (PaiNN, SchNet and NequIP as above). "
        "'Around' is what a step costs beyond the call of the model: list, host and ASE.",
        "",
        "| network | structure | edges | TorchScript | compiled | faster | around |",
        "|---|---|---|---|---|---|---|",
    ]
    by_key = {(row["network"], row["structure"], row["engine"]): row for row in rows}
    for (network, structure, engine), row in by_key.items():
        if engine != "inductor":
            continue
        slow = by_key[network, structure, "torchscript"]
        around = row["step"] - row["model"]
        lines.append(
            f"| {network} | {structure} | {row['n_edges']} | {slow['step']:.3g} | "
            f"{row['step']:.3g} | {slow['step'] / row['step']:.1f} | {around:.3g} |"
        )
    return lines


if __name__ == "__main__":
    main()
