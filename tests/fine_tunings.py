"""Fine-tunings for tests: a small parent, training files, labelled molecules."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES, small_options

from eqcalc import architectures
from eqcalc.export import export_model
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.training.config import read_config
from eqcalc.training.data import read_training_data
from eqcalc.training.fine_tuning import build_fine_tuning
from eqcalc.training.replay import read_replay

__all__ = [
    "DATA",
    "PAIRS",
    "REFERENCES",
    "SHIFT",
    "config_of",
    "data_text",
    "export_parent",
    "labelled_molecules",
    "pairs_potential",
    "small_potential",
    "start_of",
]

DATA = Path(__file__).parent / "data"
SHIFT = {"H": 0.75, "C": -2.5, "O": 31.0}
REFERENCES = {"H": -13.5, "C": -1029.0, "N": -1484.0, "O": -2042.0}


def small_potential(name: str = "painn", dtype: torch.dtype = torch.float64, **options: object):
    """Return a small untrained potential for H, C, N and O."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architectures.build(name, **{**small_options(name), **options})
    return Potential(network.to(dtype), REFERENCES, scale=1.5).eval()


def export_parent(path: Path, potential: Potential | None = None, **texts: object) -> Path:
    texts = {"name": "parent", "licence": "MIT", "description": "PBE, many molecules", **texts}
    export_model(potential or small_potential(), path, elements=REFERENCES, **texts)
    return path


def config_of(folder: Path, text: str = "", **keys: str):
    """Return a fine-tuning on four frames of ethanol; ``keys`` are lines of ``[training]``."""
    lines = {"start_from": '"parent.pt"', "batch_size": "2", "max_epochs": "2", **keys}
    training = "\n".join(f"{key} = {value}" for key, value in lines.items())
    content = f'name = "tuned"\nseed = 3\n{text}\n[training]\n{training}\n'
    if "[data]" not in text:
        content += (
            f'[data]\npath = "{ETHANOL_FRAMES}"\ntrain_rows = "0:4"\nvalidation_rows = "4:6"\n'
        )
    path = folder / "train.toml"
    path.write_text(content)
    return read_config(path)


def start_of(config, **options: object):
    return build_fine_tuning(config, read_training_data(config), read_replay(config), **options)


def data_text(path: object, **keys: object) -> str:
    lines = {"path": str(path), "train_rows": "0:4", "validation_rows": "4:6", **keys}
    return "[data]\n" + "\n".join(f"{key} = {json.dumps(value)}" for key, value in lines.items())


def labelled_molecules(path: Path, potential: Potential, shift: dict[str, float]) -> Path:
    """Write molecules of several compositions, labelled by a potential plus a shift."""
    frames = []
    for k, name in enumerate(["H2O", "CH4", "C2H2", "H2O2", "CO2", "CH3OH"]):
        atoms = molecule(name)
        atoms.rattle(0.05, seed=k)
        found = potential.evaluate(build_graph(atoms, potential.cutoff))
        energy = float(found.energy) + sum(shift[symbol] for symbol in atoms.symbols)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=found.forces.numpy())
        frames.append(atoms)
    ase.io.write(path, frames)
    return path


PAIRS = '''
from dataclasses import dataclass
import torch
from torch import Tensor, nn

from eqcalc.graph import AtomicGraph

{declaration}

@dataclass(frozen=True)
class Config:
    """Options of :class:`Pairs`.

    elements : with parameters
    strengths : a row and a column for each element
    cutoff : Å
    """

    elements: tuple = ("H", "C", "N", "O")
    strengths: tuple = (
        (1.0, 2.0, 3.0, 4.0), (2.0, 5.0, 6.0, 7.0), (3.0, 6.0, 8.0, 9.0), (4.0, 7.0, 9.0, 0.5)
    )
    cutoff: float = 4.0


class Pairs(nn.Module):
    def __init__(self, elements, strengths, cutoff):
        super().__init__()
        self.config = Config(elements, strengths, cutoff)
        self.cutoff, self.n_hops, self.factor = cutoff, 1, {factor}
        numbers = [{{"H": 1, "C": 6, "N": 7, "O": 8}}[symbol] for symbol in elements]
        species = torch.zeros(119, dtype=torch.int64)
        species[numbers] = torch.arange(len(numbers))
        self.register_buffer("species", species, persistent=False)
        table = torch.tensor(strengths)[: len(numbers), : len(numbers)]
        self.register_buffer("strengths", table, persistent=False)
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, {n_rows}).repeat(2))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        kind = self.species.index_select(0, graph.atomic_numbers)
        i, j = kind[graph.edge_index[1]], kind[graph.edge_index[0]]
        d = torch.linalg.vector_norm(graph.edge_vectors, dim=1)
        envelope = self.factor * (1 - d / self.cutoff) ** 3
        pair = self.strengths[i, j] * envelope * self.weight[{index}]
        zeros = torch.zeros_like(graph.atomic_numbers, dtype=pair.dtype)
        return zeros.index_add(0, graph.edge_index[1], pair)
'''
"""A network with options and rows for each pair of elements."""


def pairs_potential(folder: Path, monkeypatch, declaration="", rows="1", index="0", factor="1.0"):
    monkeypatch.setattr(architectures, "_registered", {})
    own = folder / "pairs.py"
    own.write_text(PAIRS.format(declaration=declaration, n_rows=rows, index=index, factor=factor))
    architectures.register_file(own, "pairs")
    return Potential(architectures.build("pairs").double(), REFERENCES).eval()
