"""The density of water by the potential that was published with nequip-water's frames.

    python examples/results/published_water.py NN-potential test.xyz [--picoseconds 40]

A density that misses the measured one may be the fault of a potential or of its level of theory.
Cheng et al. (PNAS 116, 1110 (2019), doi:10.1073/pnas.1815117116) fitted a Behler-Parrinello network
to 1593 frames at the level of revPBE0-D3, of which nequip-water's are a part, and published it at
github.com/BingqingCheng/ab-initio-thermodynamics-of-water: NN-potential is its folder of that name,
test.xyz holds labelled frames, on which the network is verified first. Its symmetry functions are
those of Behler, J. Chem. Phys. 134, 074106 (2011), doi:10.1063/1.3553717. It runs as nequip-water
does in liquid_water.py: 64 molecules of heavy hydrogen at 300 K and 1 bar. A run that lies in the
folder is not repeated. Writes published_water.md and .png.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.stress import full_3x3_to_voigt_6_stress
from liquid_water import ONE_BAR_GPA, draw_density, start
from matplotlib.figure import Figure
from simulation_progress import show
from torch import Tensor

from eqcalc.data import read_dataset
from eqcalc.files import write_whole
from eqcalc.neighbours import build_graph
from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.thermo import read_table

HERE = Path(__file__).parent
CUTOFF = 12.0  # bohr, of every symmetry function
SKIN = 0.8  # Å
NUMBERS = {"H": 1, "O": 8}
LAYERS = 3
COLUMNS = 5  # of scaling.data: element, function, lowest, highest and mean value


PAGE = """\
# Liquid water by the published potential of nequip-water's frames

    python examples/results/published_water.py NN-potential test.xyz --picoseconds {picoseconds:g}

The Behler-Parrinello network of Cheng et al. (PNAS 116, 1110 (2019)), fitted to 1593 frames of
revPBE0-D3, of which nequip-water was trained on 130; 64 molecules of heavy hydrogen, 300 K.

- {verified}; they are of the same 1593
- {density}

![density](published_water.png)

nequip-water under the same conditions is in
[liquid_water_nequip-water.md](liquid_water_nequip-water.md).
"""


class SymmetryFunction(NamedTuple):
    """A row of input.nn, in bohr. Sorted, they are in the order of the network's inputs.

    kind : 2 is radial, exp(-η (r - shift)²); 3 is angular, with λ = shift
    """

    kind: int
    eta: float
    shift: float
    zeta: int
    others: tuple[int, ...]

    @classmethod
    def read(cls, words: Sequence[str]) -> SymmetryFunction:
        """Return what follows the central element in a row."""
        kind = int(words[0])
        others = tuple(sorted(NUMBERS[word] for word in words[1:kind]))
        eta, shift, *zeta, cutoff = map(float, words[kind:])
        if cutoff != CUTOFF:
            raise SystemExit(f"all symmetry functions must end at {CUTOFF} bohr, found {cutoff}.")
        return cls(kind, eta, shift, int(zeta[0]) if zeta else 0, others)


class Sum(NamedTuple):
    """The symmetry functions of one kind of neighbours, and what they are summed over.

    edges : of each term one edge (radial) or two (angular) of an atom
    rows : of each term, its atom among those of the element
    """

    functions: tuple[SymmetryFunction, ...]
    edges: tuple[Tensor, ...]
    rows: Tensor


class BehlerParrinello(Calculator):
    """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a published network of H and O."""

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012  (ASE's own pattern)

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.dtype = dtype
        self.functions: dict[int, list[SymmetryFunction]] = {1: [], 8: []}
        for line in (folder / "input.nn").read_text().splitlines():
            if line.startswith("symfunction_short"):
                element, *words = line.partition("!")[0].split()[1:]
                self.functions[NUMBERS[element]].append(SymmetryFunction.read(words))
        table = [line.split() for line in (folder / "scaling.data").read_text().splitlines()]
        self.networks = {}
        for place, (element, functions) in enumerate(self.functions.items(), start=1):
            functions.sort()
            rows = [row[2:] for row in table if len(row) == COLUMNS and row[0] == str(place)]
            low, high, mean = torch.tensor(np.array(rows, dtype=float).T, dtype=dtype)
            values = np.loadtxt(folder / f"weights.{element:03d}.data")
            self.networks[element] = mean, high - low, self._layers(values, len(functions))
        self._reference: Atoms | None = None
        self._energy = torch.compile(self._energy_of, dynamic=True)

    def _layers(self, values: np.ndarray, n_inputs: int) -> list[tuple[Tensor, Tensor]]:
        layers, begin = [], 0
        for n_in, n_out in ((n_inputs, 20), (20, 20), (20, 1)):
            middle = begin + n_in * n_out
            weights = torch.tensor(values[begin:middle].reshape(n_in, n_out), dtype=self.dtype)
            begin = middle + n_out
            layers.append((weights, torch.tensor(values[middle:begin], dtype=self.dtype)))
        if begin != len(values):
            raise SystemExit(f"the weights must be {begin} numbers, found {len(values)}.")
        return layers

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Compute all three."""
        super().calculate(atoms, properties, system_changes)
        assert atoms is not None
        if not self._is_complete(atoms):
            self._list(atoms)
        positions = torch.tensor(atoms.positions)
        cell = torch.tensor(atoms.cell.array)
        vectors = positions[self.sender] - positions[self.receiver] + self.shifts @ cell
        vectors = vectors.to(self.dtype).requires_grad_()
        energy = self._energy(vectors, self.sums)
        (gradient,) = torch.autograd.grad(energy, vectors)
        vectors, gradient = vectors.detach().double(), gradient.double()
        forces = torch.zeros_like(positions).index_add(0, self.receiver, gradient)
        forces = forces.index_add(0, self.sender, -gradient)
        virial = (vectors.T @ gradient).numpy()
        self.results = {
            "energy": float(energy.detach()),
            "forces": forces.numpy(),
            "stress": full_3x3_to_voigt_6_stress((virial + virial.T) / 2 / atoms.get_volume()),
        }

    def _is_complete(self, atoms: Atoms) -> bool:
        """Return whether the list has every pair: the proof is that of SkinList."""
        before = self._reference
        if before is None or not np.array_equal(before.numbers, atoms.numbers):
            return False
        strain = np.linalg.solve(before.cell.array, atoms.cell.array)
        moved = np.linalg.norm(atoms.positions - before.positions @ strain, axis=1).max()
        shrinking = max(0.0, 1.0 - np.linalg.svd(strain, compute_uv=False)[-1])
        return bool(2 * moved + shrinking * (CUTOFF * units.Bohr + SKIN) <= SKIN)

    def _list(self, atoms: Atoms) -> None:
        """List edges and pairs of edges, for every group of symmetry functions."""
        graph = build_graph(atoms, CUTOFF * units.Bohr + SKIN)
        self.sender, self.receiver = graph.edge_index
        positions = torch.tensor(atoms.positions)
        apart = graph.edge_vectors - positions[self.sender] + positions[self.receiver]
        self.shifts = (apart @ torch.tensor(np.linalg.inv(atoms.cell.array))).round()
        self._reference = atoms.copy()
        numbers = graph.atomic_numbers
        self.n_atoms = {element: int((numbers == element).sum()) for element in self.functions}
        terms = {
            2: (torch.arange(len(self.sender)),),
            3: self._pairs(graph.edge_vectors, len(atoms)),
        }
        centres = {kind: self.receiver[edges[0]] for kind, edges in terms.items()}
        # 1 and 8: a sum of neighbours' numbers says which they are.
        found = {kind: sum(numbers[self.sender[e]] for e in edges) for kind, edges in terms.items()}
        self.sums: dict[int, list[Sum]] = {1: [], 8: []}
        for element, functions in self.functions.items():
            row = torch.cumsum(numbers == element, 0) - 1
            for kind, others in sorted({(f.kind, f.others) for f in functions}):
                wanted = (numbers == element)[centres[kind]] & (found[kind] == sum(others))
                edges = tuple(each[wanted] for each in terms[kind])
                alike = tuple(f for f in functions if (f.kind, f.others) == (kind, others))
                self.sums[element].append(Sum(alike, edges, row[centres[kind][wanted]]))

    def _pairs(self, vectors: Tensor, n_atoms: int) -> tuple[Tensor, Tensor]:
        """Return the two edges of every angle whose three sides may be within the cutoff."""
        n_edges = torch.bincount(self.receiver, minlength=n_atoms)
        place = torch.arange(len(vectors))
        n_later = torch.cumsum(n_edges, 0)[self.receiver] - place - 1  # of the same receiver
        first = torch.repeat_interleave(place, n_later)
        before = torch.repeat_interleave(torch.cumsum(n_later, 0) - n_later, n_later)
        second = first + 1 + torch.arange(len(first)) - before
        near = (vectors[first] - vectors[second]).norm(dim=1) < CUTOFF * units.Bohr + SKIN
        return first[near], second[near]

    def _energy_of(self, vectors: Tensor, sums: dict[int, list[Sum]]) -> Tensor:
        """Return the energy in eV for edges (n_edges, 3) in Å."""
        vectors = vectors / units.Bohr
        lengths = vectors.norm(dim=1)
        ends = cutoff_function(lengths)
        energy = torch.zeros((), dtype=torch.float64)
        for element, (mean, width, layers) in self.networks.items():
            columns: dict[SymmetryFunction, Tensor] = {}
            for functions, edges, rows in sums[element]:
                terms = (radial if len(edges) == 1 else angular)(
                    functions, *((vectors[k], lengths[k], ends[k]) for k in edges)
                )
                n_rows = self.n_atoms[element]
                summed = terms.new_zeros(n_rows, len(functions)).index_add(0, rows, terms)
                columns |= zip(functions, summed.unbind(1), strict=True)
            x = torch.stack([columns[f] for f in self.functions[element]], dim=1)
            x = (x - mean) / width
            for k, (weights, biases) in enumerate(layers, start=1):
                x = x @ weights + biases
                x = x if k == LAYERS else x.tanh()
            energy = energy + x.double().sum()
        return energy * units.Hartree


Edge = tuple[Tensor, Tensor, Tensor]
"""Vectors, lengths, and the cutoff function of the lengths."""


def cutoff_function(lengths: Tensor) -> Tensor:
    """Return tanh³(1 - r/r_c), zero beyond the cutoff."""
    return torch.tanh((1.0 - lengths / CUTOFF).clamp(min=0.0)) ** 3


def radial(functions: Sequence[SymmetryFunction], edge: Edge) -> Tensor:
    """Return the terms (n_edges, n_functions) of radial functions."""
    _, r, end = edge
    return torch.stack([torch.exp(-f.eta * (r - f.shift) ** 2) * end for f in functions], dim=1)


def angular(functions: Sequence[SymmetryFunction], one: Edge, other: Edge) -> Tensor:
    """Return the terms (n_angles, n_functions) of angular functions."""
    (u, r_u, end_u), (v, r_v, end_v) = one, other
    apart = u - v
    r2 = (apart * apart).sum(1)
    end = end_u * end_v * cutoff_function(r2.sqrt())
    cosine = (u * v).sum(1) / (r_u * r_v)
    squares = r_u * r_u + r_v * r_v + r2
    terms = []
    for f in functions:
        base = (1.0 + f.shift * cosine).clamp(min=0.0)
        terms.append(2.0 ** (1 - f.zeta) * base**f.zeta * torch.exp(-f.eta * squares) * end)
    return torch.stack(terms, dim=1)


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("potential", type=Path, help="the published folder NN-potential")
    parser.add_argument("frames", type=Path, help="labelled frames")
    parser.add_argument("--picoseconds", type=float, default=40.0, help="at 1 bar")
    parser.add_argument("--folder", type=Path, default=Path("runs/published_water"))
    return parser.parse_args()


def main() -> None:
    """Verify the network, run what is not done yet, and write page and picture."""
    options = parse()
    verified = errors(BehlerParrinello(options.potential), options.frames)
    print(verified)
    if not (options.folder / "final.xyz").exists():
        settings = MDSettings(
            "npt",
            n_steps=round(1000 * options.picoseconds),
            timestep_fs=1.0,
            temperature_K=300.0,
            pressure_gpa=ONE_BAR_GPA,
            log_every=20,
            minimize=True,  # molecules were turned at random
            seed=1,
        )
        calculator = BehlerParrinello(options.potential, torch.float32)
        run_md(start(), calculator, settings, options.folder, overwrite=True, progress=show)
    figure = Figure(figsize=(5.0, 3.8), dpi=120, layout="constrained")
    options.model, options.density_picoseconds = "Behler-Parrinello", options.picoseconds
    density = draw_density(figure.subplots(), read_table(options.folder / "thermo.csv"), options)
    figure.savefig(HERE / "published_water.png")
    page = PAGE.format(picoseconds=options.picoseconds, verified=verified, density=density)
    write_whole(HERE / "published_water.md", page.encode())
    print(page)


def errors(calculator: BehlerParrinello, path: Path) -> str:
    """Return how far the network is from labelled frames."""
    per_atom, forces = [], []
    for frame in read_dataset(path).frames:
        atoms = frame.atoms.copy()
        atoms.calc = calculator
        per_atom.append((atoms.get_potential_energy() - frame.energy) / len(atoms))
        forces.append(atoms.get_forces() - frame.forces)
    mae, rmse = [
        [1000.0 * float(mean(np.array(each))) for each in (per_atom, forces)]
        for mean in (lambda x: np.abs(x).mean(), lambda x: np.sqrt(np.square(x).mean()))
    ]
    return (
        f"{len(forces)} labelled frames of {path.name}: MAE {mae[0]:.2f} meV/atom and {mae[1]:.0f} "
        f"meV/Å, RMSE {rmse[0]:.2f} meV/atom and {rmse[1]:.0f} meV/Å"
    )


if __name__ == "__main__":
    main()
