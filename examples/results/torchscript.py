"""Programs of model files as they are written, beside what torch's executor makes of them.

    python examples/results/torchscript.py [--rounds 9]

torch.jit watches the first two calls of a program, rewrites it, and takes the rewritten one from
then on. Each potential is called both ways in turn, on one thread of the processor: what the first
three calls take, what a later one does, and whether they all give the same bits.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk, molecule

from eqcalc import architectures
from eqcalc.bench import machine
from eqcalc.bench.structures import load_structure
from eqcalc.engines.engine import Target
from eqcalc.engines.torchscript import TorchScriptEngine
from eqcalc.export import export_model
from eqcalc.files import write_whole
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import ModelFile, open_potential
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

TABLE = Path(__file__).with_suffix(".md")
TARGET = Target(torch.device("cpu"), torch.float32)
ENERGIES = dict.fromkeys("HCO", 0.0)
N_FIRST = 3  # calls, after which torch has done rewriting


def main() -> None:
    """Measure all, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    where = machine(TARGET.device)
    lines = [PAGE.format(cpu=where["cpu"], torch=where["torch"], rounds=options.rounds)]
    with tempfile.TemporaryDirectory() as folder:
        for label, file, atoms in cases(Path(folder)):
            lines.append(row(label, file, atoms, options.rounds))
            print(lines[-1], flush=True)
    write_whole(TABLE, ("\n".join(lines) + "\n").encode())


def cases(folder: Path) -> Iterator[tuple[str, ModelFile, Atoms]]:
    """Yield every potential with the options of its registry, untrained, and shipped ones."""
    names = [name for name in architectures.available() if architectures.is_potential(name)]
    ethanol, copper = molecule("CH3CH2OH"), bulk("Cu", cubic=True)
    for name in names:
        torch.manual_seed(0)
        path = folder / f"{name}.pt"
        potential = Potential(architectures.build(name), ENERGIES).eval()
        export_model(potential, path, elements=list(ENERGIES))
        yield f"{name}, ethanol", open_potential(path), ethanol
        yield f"{name}, 192 atoms of water", open_potential(path), load_structure("water192")
    yield "painn-ethanol, ethanol", open_potential("painn-ethanol"), ethanol
    yield "sevennet-0, 32 atoms of copper", open_potential("sevennet-0"), copper * 2
    yield "sevennet-0, 108 atoms of copper", open_potential("sevennet-0"), copper * 3


def row(label: str, file: ModelFile, atoms: Atoms, n_rounds: int) -> str:
    """Return a line of the table."""
    engines = {way: TorchScriptEngine.load(file, TARGET) for way in ("rewritten", "written")}
    graphs = []
    for seed in range(N_FIRST):  # no two of the same number of edges, as in dynamics
        moved = atoms.copy()
        moved.rattle(0.01, seed=seed)
        graphs.append(build_graph(moved, file.card.cutoff, dtype=TARGET.dtype))
    bits: dict[str, list[torch.Tensor]] = {way: [] for way in engines}
    first: dict[str, float] = {}
    for way, engine in engines.items():
        times = [timed(way, engine, graph, bits[way]) for graph in graphs]
        first[way] = sum(times)
    later: dict[str, list[float]] = {way: [] for way in engines}
    for number in range(n_rounds):
        for way, engine in engines.items():
            later[way].append(timed(way, engine, graphs[number % N_FIRST], bits[way]))
    median = {way: 1e3 * float(np.median(times)) for way, times in later.items()}
    same = {
        way: all(torch.equal(found[k], found[k % N_FIRST]) for k in range(len(found)))
        for way, found in bits.items()
    }
    cells = [label]
    for way in engines:
        cells += [f"{first[way]:.2f}", f"{median[way]:.1f}", "the same" if same[way] else "others"]
    ratio = np.median(np.array(later["written"]) / np.array(later["rewritten"]))
    return f"| {' | '.join(cells)} | {ratio:.2f} |"


def timed(
    way: str, engine: TorchScriptEngine, graph: AtomicGraph, found: list[torch.Tensor]
) -> float:
    """Return the processor's time of a call, and keep its gradients."""
    begin = time.thread_time()
    if way == "written":
        gradients = engine(graph)[1]
    else:
        with torch.enable_grad():
            gradients = engine._module(
                graph.atomic_numbers, graph.edge_vectors, graph.edge_index, graph.n_owned
            )[1]
    seconds = time.thread_time() - begin
    found.append(gradients)
    return seconds


PAGE = """\
# Programs of TorchScript as they are written

    python examples/results/torchscript.py

torch.jit watches the first two calls of a program, rewrites it, and takes the rewritten one from
then on. On a CPU eqcalc runs programs as they are written (eqcalc/model_file/execution.py). Here
both ways are called in turn: {cpu}, torch {torch}, one thread, float32, the processor's time; a
later call is the median of {rounds}, the ratio that of calls in turn. Bits are those of three
structures, each of which is called several times.

| | rewritten: first 3 (s) | later (ms) | bits | as written: first 3 (s) | later | bits | ratio |
|---|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
