"""Steps of dynamics beside what the device's memory allows; write limit_DEVICE.md and .json.

    python examples/results/against_limit.py --device cuda \\
        [--nequip ENV/bin/python --nequip-model MODEL.nequip.pt2]

The models are those of ``speed.py``, untrained and compiled at the first run. The limit is the
time the device needs to copy what fused kernels would have to read and write: each edge's
vector, its two indices and the row of its sender, and each atom's sums, once per layer and
direction, with nothing kept in caches.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Optional

import torch
from ase.io import write
from speed import PEERS, model_file

from eqcalc.bench import BenchCalculator, machine, measure
from eqcalc.bench.structures import load_structure
from eqcalc.engines import engines_on
from eqcalc.errors import EngineError, NotEnoughMemoryError
from eqcalc.files import write_whole

HERE = Path(__file__).parent
STRUCTURES = ("ethanol", "water192", "water1029", "water10125")
# On a GPU, ms.
TARGETS = {("painn", "ethanol"): 0.6, ("schnet", "ethanol"): 0.6, ("nequip", "ethanol"): 1.5}
# Of each layer: numbers of a sender's row, and of a receiver's sums.
TRAFFIC = {
    "schnet": [(128, 128)] * 3,
    "painn": [(640, 512)] * 3,
    "nequip": [(32, 288), (288, 1632), (544, 1632), (288, 96)],
}
_EDGE_BYTES = 2 * 8 + 3 * 4  # two indices and a vector
_GIGABYTE = 1e9


def main() -> None:
    """Measure what is asked for and write the page."""
    arguments = _parse()
    device = torch.device(arguments.device)
    torch.set_num_threads(1)
    speed = copy_speed(device)
    rows: list[dict[str, Any]] = []
    for name in arguments.networks.split(","):
        path = model_file(name, arguments.models)
        # Compiled first: the other engines take what is there.
        names = (arguments.engines or ",".join(engines_on(device))).split(",")
        for engine in sorted(names, key=lambda engine: engine != "inductor"):
            rows += _measure(name, path, engine, arguments)
    for row in rows:
        row["limit"] = 1e3 * limit_bytes(row) / speed
    numbers = {
        "machine": machine(device),
        "copy_gb_per_s": speed / _GIGABYTE,
        "rows": rows,
        "nequip": _nequip(arguments),
    }
    table = arguments.output / f"limit_{device.type}.md"
    write_whole(table.with_suffix(".json"), (json.dumps(numbers, indent=1) + "\n").encode())
    write_whole(table, _page(numbers, device.type).encode())
    print(f"written: {table}")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--networks", default=",".join(TRAFFIC), help="comma-separated")
    parser.add_argument(
        "--structures", default=",".join(STRUCTURES), help="comma-separated; see eqcalc bench"
    )
    parser.add_argument("--engines", help="comma-separated (default: all of the device)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each timing (default: 2)")
    parser.add_argument("--nequip", help="the python of an environment with nequip")
    parser.add_argument("--nequip-model", help="made by peers/nequip_model.sh for the device")
    parser.add_argument("--output", type=Path, default=HERE, help="folder of the results")
    parser.add_argument(
        "--models", type=Path, default=Path("runs/speed"), help="folder of eqcalc's model files"
    )
    return parser.parse_args()


def copy_speed(device: torch.device) -> float:
    """Return bytes per second that a copy on the device reads and writes, the best of ten."""
    source = torch.ones(2**26, device=device)  # 256 MB: no cache holds it
    target = torch.empty_like(source)
    best = 0.0
    for _ in range(10):
        _wait(device)
        start = time.perf_counter()
        target.copy_(source)
        _wait(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - start))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def limit_bytes(row: dict[str, Any]) -> float:
    """Return the bytes of both directions of a step.

    Parameters
    ----------
    row : the ``network``, one of TRAFFIC, ``n_atoms`` and ``n_edges``
    """
    layers = TRAFFIC[row["network"]]
    by_edge = sum(4 * sender + _EDGE_BYTES for sender, _ in layers)
    by_atom = sum(4 * sums for _, sums in layers)
    return 2.0 * (row["n_edges"] * by_edge + row["n_atoms"] * by_atom)


def _measure(
    name: str, path: Path, engine: str, arguments: argparse.Namespace
) -> list[dict[str, Any]]:
    """Time one engine on all structures; what fails says why instead."""
    rows = []
    try:
        calculator = BenchCalculator(path, engine=engine, device=arguments.device)
    except EngineError as error:
        print(f"{name}, {engine}: {error}", flush=True)
        return []
    report = calculator.engine_report().splitlines()[0]
    for structure in arguments.structures.split(","):
        atoms = load_structure(structure)
        try:
            found = measure(calculator, atoms, structure, seconds=arguments.seconds)
        except (EngineError, NotEnoughMemoryError) as error:
            print(f"{name}, {engine}, {structure}: {error}", flush=True)
            continue
        row = {
            "network": name,
            "engine": engine,
            "report": report,
            "structure": structure,
            "n_atoms": found.n_atoms,
            "n_edges": found.n_edges,
            "step": found.step.median,
            "low": found.step.low,
            "high": found.step.high,
            "list": found.neighbours.median,
            "transfer": found.transfer.median,
            "model": found.model.median,
            "host": found.host.median,
            "ase": found.ase.median,
            "us_per_atom": found.us_per_atom.median,
            "n_builds": found.n_builds,
            "fresh_list": found.fresh_list.median,
        }
        print(json.dumps(row), flush=True)
        rows.append(row)
    return rows


def _nequip(arguments: argparse.Namespace) -> dict[str, float]:
    """Return nequip's ms per step by structure, where its environment was named."""
    if not (arguments.nequip and arguments.nequip_model):
        return {}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for structure in arguments.structures.split(","):
            file = Path(folder) / f"{structure}.xyz"
            write(file, load_structure(structure), format="extxyz")
            command = [arguments.nequip, str(PEERS / "peer_nequip.py"), arguments.nequip_model]
            done = subprocess.run(
                [*command, str(file), arguments.device],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode != 0:
                print(f"nequip, {structure}: {done.stderr.strip()[-500:]}", flush=True)
                continue
            values = json.loads(done.stdout.strip().splitlines()[-1])["ms"]
            found[structure] = sorted(values)[len(values) // 2]
    return found


def _page(numbers: dict[str, Any], device: str) -> str:
    where = numbers["machine"]
    lines = [
        "# Steps beside the limit of the memory",
        "",
        f"    python examples/results/against_limit.py --device {device}",
        "",
        f"ms per `VelocityVerlet` step, float32, neighbour list and forces included: "
        f"{where.get('gpu', where['cpu'])}, torch {where['torch']}; it copies "
        f"{numbers['copy_gb_per_s']:.0f} GB/s. Untrained networks of the widths of "
        "[speed.md](speed.md). Medians with the smallest and largest of seven blocks. 'Target', "
        "for a GPU alone, is the time that was aimed at. 'Limit': copying each sender's row for "
        "each edge, once per layer and direction.",
        "",
        "| network | structure | atoms | engine | ms | target | list | transfer | model | host | "
        "ASE | µs/atom | limit, ms | times the limit | nequip, ms |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in numbers["rows"]:
        target = TARGETS.get((row["network"], row["structure"])) if device == "cuda" else None
        peer = numbers["nequip"].get(row["structure"]) if row["network"] == "nequip" else None
        cells = [
            row["network"],
            row["structure"],
            str(row["n_atoms"]),
            row["engine"],
            f"{row['step']:.3g} ({row['low']:.3g}..{row['high']:.3g})",
            _number(target),
            *(f"{row[part]:.3g}" for part in ("list", "transfer", "model", "host", "ase")),
            f"{row['us_per_atom']:.3g}",
            f"{row['limit']:.2g}",
            f"{row['step'] / row['limit']:.1f}",
            _number(peer),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _number(value: Optional[float]) -> str:
    return "" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
