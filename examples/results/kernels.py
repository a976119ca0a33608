"""Kernels of NequIP's convolution: unequal channels beside equal ones; write kernels.md.

    python examples/results/kernels.py [--rounds 15]

One thread, float32, SO(3) paths up to l = 2 (the shape of sevennet-0's inner layers) on 192 atoms
of water. Unequal channels stand beside equal ones twice: in one call each, and, since paths from
different degrees multiply at different rates, beside calls of one degree l1 each with tables of
their own, which multiply the same.

What a kernel multiplies for a path is counted as it stands in native/one_path.h: filters from four
rows, features times filters, and the couplings. The couplings themselves, made once for each edge
and path whatever the channels (native/couplings.h), are not counted, nor are sums over lanes: what
has many channels looks the better for it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from eqcalc.bench import machine
from eqcalc.bench.structures import load_structure
from eqcalc.files import write_whole
from eqcalc.native.build import load_library
from eqcalc.neighbours import build_graph
from eqcalc.nn.so3 import EdgeCouplings, TensorProduct
from eqcalc.nn.so3.irreps import Irrep
from eqcalc.nn.so3.tensor_product import path_table

HERE = Path(__file__).parent
CUTOFF, N_INTERVALS, L_MAX = 5.0, 512, 2
Times = dict[tuple[str, str], list[float]]
UNEQUAL = "128/64/32"
# Channels by degree of the features.
LAYOUTS = {
    UNEQUAL: {0: 128, 1: 64, 2: 32},
    **{str(n): dict.fromkeys(range(L_MAX + 1), n) for n in (32, 48, 64, 128)},
}
ALONE = {
    f"{n}, l1 = {degree} alone": {degree: n} for n in (32, 64, 128) for degree in range(L_MAX + 1)
}


class Case:
    """Both kernels of one layout of channels."""

    def __init__(self, channels: dict[int, int]) -> None:
        generator = torch.Generator().manual_seed(0)
        graph = build_graph(load_structure("water192"), CUTOFF, dtype=torch.float32)
        n_atoms = graph.atomic_numbers.shape[0]
        irreps = [Irrep(l, 0) for l in range(L_MAX + 1)]
        couplings = EdgeCouplings(L_MAX, parity=True)
        layout = {irreps[degree]: n for degree, n in channels.items()}
        product = TensorProduct(layout, irreps, couplings)
        rows, constants, shapes = path_table(product, couplings)
        width = sum(a * b for a, b in shapes)
        features = sum(irrep.dim * n for irrep, n in layout.items())

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(shape, generator=generator)

        edges = (graph.edge_vectors, graph.edge_index, [CUTOFF], [N_INTERVALS])
        shared = (
            random(n_atoms, features),
            couplings.harmonics(graph.edge_vectors),
            constants.float(),
            torch.tensor(rows),
            random(2 * (N_INTERVALS + 1), product.n_weights),
            *edges,
        )
        gradient = random(n_atoms, width)
        kernels = torch.ops.eqcalc
        self.ways: dict[str, Callable[[], object]] = {
            "sums": lambda: kernels.path_convolution(*shared, width, n_atoms),
            "derivatives": lambda: kernels.path_convolution_backward(gradient, *shared),
        }
        n_edges = graph.edge_index.shape[1]
        self.multiplications = {way: n_edges * counted(rows, way) for way in self.ways}

    def seconds(self, way: str) -> float:
        """Return the time of one call, without that of other processes."""
        begin = time.thread_time()
        self.ways[way]()
        return time.thread_time() - begin


def counted(rows: list[tuple[int, ...]], way: str) -> int:
    """Return the multiplications of all paths on one edge."""
    total = 0
    for _, d1, _, _, _, d3, _, _, channels, _ in rows:
        if way == "sums":
            total += channels * (4 + d1 + d1 * d3)
        else:  # A^T g; filter and slope; h and w with A^T g; w h; g (w h)
            total += channels * (d1 * d3 + 8 + 3 * d1 + d1 * d3)
    return total


def row(label: str, names: list[str], cases: dict[str, Case], found: Times) -> str:
    """Return a line of a table: the median of the sums over these cases."""
    cells = []
    for way in ("sums", "derivatives"):
        seconds = float(np.median(np.sum([found[name, way] for name in names], axis=0)))
        rate = 1e-9 * sum(cases[name].multiplications[way] for name in names) / seconds
        cells.append(f"{1e3 * seconds:.2f} | {rate:.1f}")
    return f"| {label} | {' | '.join(cells)} |"


def main() -> None:
    """Measure in turn, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not load_library():
        raise SystemExit("the C++ library is not there; run eqcalc compile first")
    cases = {name: Case(channels) for name, channels in (LAYOUTS | ALONE).items()}
    found: Times = {}
    for _ in range(options.rounds):
        for name, case in cases.items():
            for way in case.ways:
                found.setdefault((name, way), []).append(case.seconds(way))
    where = machine(torch.device("cpu"))
    heading = [
        "| channels | sums (ms) | 10⁹/s | derivatives (ms) | 10⁹/s |",
        "|---|---|---|---|---|",
    ]
    lines = [
        "# Kernels of NequIP's convolution",
        "",
        "    python examples/results/kernels.py",
        "",
        f"{where['cpu']}, torch {where['torch']}, one thread, float32, 192 atoms of water, all "
        "SO(3) paths up to l = 2; channels of l = 0, 1, 2 where they differ. Medians of "
        f"{options.rounds} calls in turn, in the processor's time; 10⁹ multiplications (with "
        "additions) per second.",
        "",
        *heading,
        *(row(name, [name], cases, found) for name in LAYOUTS),
        "",
        "Features of one degree alone, with a table of their own:",
        "",
        *heading,
        *(row(name, [name], cases, found) for name in ALONE),
        "",
        "The same multiplications in one call, where channels are unequal, and in three calls of "
        "one degree each, where they are equal:",
        "",
        *heading,
    ]
    parts = [f"{n}, l1 = {degree} alone" for degree, n in LAYOUTS[UNEQUAL].items()]
    for label, names in ((f"{UNEQUAL}, one call", [UNEQUAL]), (f"{UNEQUAL}, three calls", parts)):
        lines.append(row(label, names, cases, found))
    write_whole(HERE / "kernels.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
