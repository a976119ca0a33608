"""Count what ranks exchange in a step; write lammps_traffic.md, with estimates for larger machines.

    python examples/results/lammps_traffic.py [--models sevennet-0,sevennet-l3i5,painn,nequip]

Each compiled package runs once as one rank of one, without ghosts, and tells its host every
exchange: which way, and how many bytes for an atom. What a step costs an atom is taken from
lammps_speed.json, which lammps_speed.py writes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from speed import model_file

from eqcalc.bench.structures import load_structure
from eqcalc.engines import Target
from eqcalc.engines.exchange import ExchangePackage
from eqcalc.engines.packages import make_exchange_package
from eqcalc.files import write_whole
from eqcalc.model_file import open_potential
from eqcalc.native.build import find_library
from eqcalc.native.exchange import exchanged_by
from eqcalc.neighbours import build_graph

HERE = Path(__file__).parent
TABLE, SPEED = HERE / "lammps_traffic.md", HERE / "lammps_speed.json"
DENSITY = 0.1  # of water's atoms, 1/Å³
ATOMS_OF_A_RANK = (8000, 4000, 1000, 250, 60)
LATENCY = 5e-6  # s, of a message between nodes and its handling, assumed
N_MESSAGES = 6  # of LAMMPS for one exchange: to both sides of three directions


class Traffic(NamedTuple):
    """The exchanges of a step: bytes of an atom's row in each, and the model's cutoff, Å."""

    forward: list[int]
    reverse: list[int]
    cutoff: float


def main() -> None:
    """Count and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="sevennet-0,sevennet-l3i5,painn,nequip")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in parser.parse_args().models.split(","):
            model = name if name.startswith("sevennet") else str(model_file(name, Path(folder)))
            found[name] = traffic_of(model)
            print(f"{name}: {found[name]}", flush=True)
    write_whole(TABLE, page(found).encode())
    print(TABLE.read_text())


def traffic_of(model: str) -> Traffic:
    """Run the compiled package and note what it asks of its host."""
    file = open_potential(model)
    target = Target(torch.device("cpu"), torch.float32)
    package = ExchangePackage(make_exchange_package(file, target), file)
    traffic = Traffic([], [], file.card.cutoff)
    graph = build_graph(load_structure("water192"), traffic.cutoff, dtype=torch.float32)
    library = find_library()
    if library is None:
        raise SystemExit("eqcalc's C++ library is not there")
    with exchanged_by(
        library,
        lambda rows, _: traffic.forward.append(rows.itemsize * rows.shape[1]),
        lambda rows, _: traffic.reverse.append(rows.itemsize * rows.shape[1]),
    ):
        package(
            graph.atomic_numbers,
            graph.edge_vectors,
            graph.edge_index,
            torch.ones(len(graph.atomic_numbers), dtype=torch.float64),
            torch.zeros(len(graph.atomic_numbers), dtype=torch.int64),
        )
    return traffic


def ghosts(n_atoms: float, cutoff: float) -> float:
    """Return how many ghosts a cube of water has within one cutoff."""
    edge = (n_atoms / DENSITY) ** (1.0 / 3.0)
    return float(DENSITY * ((edge + 2.0 * cutoff) ** 3 - edge**3))


def page(found: dict[str, Traffic]) -> str:
    """Return the results page."""
    speed = json.loads(SPEED.read_text())
    lines = [
        "# What ranks exchange, and how far that scales",
        "",
        "    python examples/results/lammps_traffic.py",
        "",
        "Exchanges of one step of a compiled float32 package, and bytes of an atom's row in all of "
        "them.",
        "",
        "| network | forward | reverse | bytes for a ghost and step | messages of a rank |",
        "|---|---|---|---|---|",
    ]
    for name, traffic in found.items():
        n_calls = len(traffic.forward) + len(traffic.reverse)
        n_bytes = sum(traffic.forward) + sum(traffic.reverse)
        lines.append(
            f"| {name} | {in_words(traffic.forward)} | {in_words(traffic.reverse)} | {n_bytes} "
            f"| {N_MESSAGES * n_calls} |"
        )
    lines += [
        "",
        f"Below: an estimate. A step costs a rank (µs/atom of one rank of two, [lammps.md]"
        "(lammps.md)) its own atoms; its ghosts, of a cube of water and one cutoff around it, "
        "cost their bytes over the rate that was measured: the time that two ranks on 7986 atoms "
        f"took beyond two runs on 3993, packing and waiting included; and {1e6 * LATENCY:.0f} µs "
        "for each message, assumed. Shares of the ideal throughput:",
        "",
        "| network | µs/atom | measured MB/s | "
        + " | ".join(f"{n} atoms a rank" for n in ATOMS_OF_A_RANK)
        + " |",
        "|---|---|---|" + "---|" * len(ATOMS_OF_A_RANK),
    ]
    for name, traffic in found.items():
        alone = speed.get(f"{name}, 3993, two runs, a rank each")
        together = speed.get(f"{name}, 7986, two ranks, exchange")
        if alone is None or together is None:
            continue
        alone, together = float(np.median(alone)), float(np.median(together))
        n_bytes = sum(traffic.forward) + sum(traffic.reverse)
        n_messages = N_MESSAGES * (len(traffic.forward) + len(traffic.reverse))
        rate = ghosts(3993, traffic.cutoff) * n_bytes / (together - alone)
        shares = []
        for n_atoms in ATOMS_OF_A_RANK:
            own = n_atoms * alone / 3993
            sent = ghosts(n_atoms, traffic.cutoff) * n_bytes / rate
            shares.append(f"{own / (own + sent + n_messages * LATENCY):.2f}")
        lines.append(
            f"| {name} | {1e6 * alone / 3993:.0f} | {rate / 1e6:.0f} | {' | '.join(shares)} |"
        )
    return "\n".join(lines) + "\n"


def in_words(widths: list[int]) -> str:
    """Return how many exchanges there are, of which bytes."""
    return f"{len(widths)}: {', '.join(map(str, widths))}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
