"""What is verified: a model as the laws see it, a structure, and pieces of that structure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor

from eqcalc.blockwise.grouping import MAX_EDGES
from eqcalc.calculator import EqCalculator
from eqcalc.concessions import Concessions
from eqcalc.elements import N_ELEMENTS, atomic_number, trained_on
from eqcalc.engines import Model
from eqcalc.errors import ConfigError
from eqcalc.graph import AtomicGraph, batch_graphs, sum_over_structures
from eqcalc.model_file import ModelFile
from eqcalc.model_file.passport import read_passport
from eqcalc.neighbours import build_graph
from eqcalc.potential import Evaluation
from eqcalc.testing.geometries import dimer
from eqcalc.testing.subjects import Subject, evaluate, exported_subject

__all__ = ["Specimen", "bond_length", "default_structure", "reference_energies_of", "specimen_of"]

_RATTLE = 0.03  # Å; off every symmetry, which hides mistakes, and not into another structure
_FEWEST = 4  # atoms of a periodic structure; smaller cells are repeated
_SCALES = np.linspace(0.9, 1.5, 7)  # of a crystal whose neighbours are a bond's length apart
_CLUSTER = 6  # atoms
_ROUNDING = 1e-11  # eV, at the cutoff; no simulation sees it


@dataclass(frozen=True)
class Specimen:
    """A model on a CPU in float64, run by TorchScript, and a structure.

    calculator, subject : the model; the subject's energies are without reference energies, so
        that large ones hide nothing in their rounding
    atoms : the structure, bare
    """

    calculator: EqCalculator
    subject: Subject
    atoms: Atoms

    @property
    def model(self) -> Model:
        """The loaded model."""
        return self.calculator.models[0]

    @property
    def n_edges(self) -> int:
        """The number of the structure's edges."""
        return build_graph(self.atoms, self.subject.cutoff).edge_index.shape[1]

    @property
    def symbols(self) -> tuple[str, ...]:
        """The structure's elements, the commonest first."""
        return tuple(symbol for symbol, _ in Counter(self.atoms.symbols).most_common())

    def pairs(self) -> list[tuple[str, str]]:
        """Return all pairs of the structure's elements."""
        return list(combinations_with_replacement(self.symbols, 2))

    def rattled(self, seed: int = 0) -> Atoms:
        """Return the structure with its atoms displaced at random by some 0.03 Å."""
        moved = self.atoms.copy()
        moved.rattle(_RATTLE, seed=seed)
        return moved

    def cluster(self) -> Atoms:
        """Return the first atom with its nearest neighbours, images included, as a molecule."""
        graph = build_graph(self.rattled(), self.subject.cutoff)
        is_received = graph.edge_index[1] == 0
        vectors = graph.edge_vectors[is_received].numpy()
        nearest = np.argsort(np.linalg.norm(vectors, axis=1))[: _CLUSTER - 1]
        senders = graph.edge_index[0][is_received].numpy()[nearest]
        numbers = self.atoms.numbers[np.array([0, *senders])]
        return Atoms(numbers, np.vstack([np.zeros(3), vectors[nearest]]))

    def dimers(self) -> dict[str, Atoms]:
        """Return two atoms for each pair of elements."""
        return {f"{a} and {b}": dimer(a, b, bond_length(a, b)) for a, b in self.pairs()}

    def symmetric_sites(self) -> dict[str, Atoms]:
        """Return structures whose first atom stands on a site: the own ones, and of crystals."""
        found = {}
        for symbol in self.symbols:
            first = list(self.atoms.symbols).index(symbol)
            order = [first, *(k for k in range(len(self.atoms)) if k != first)]
            found[f"{symbol} of the structure"] = self.atoms[order]
        commonest, other = self.symbols[0], self.symbols[min(1, len(self.symbols) - 1)]
        bond = bond_length(commonest, other)
        arms = bond * np.array([[0.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.0, -0.6, -0.8]])
        found[f"{other} between two {commonest}"] = Atoms([other, commonest, commonest], arms)
        if not self.atoms.pbc.any():  # crystals are not the world of such a model
            return found
        if other != commonest:
            name = f"{commonest} in rock salt with {other}"
            crystal = bulk(commonest + other, "rocksalt", a=2.0 * bond, cubic=True)
        else:
            name = f"{commonest} in an fcc crystal"
            crystal = bulk(commonest, "fcc", a=np.sqrt(2.0) * bond, cubic=True)
        card = self.model.card
        # Of a molecule in a box no crystal is known: holes are found there, and no kinks.
        if card.is_universal or not card.compositions or trained_on(card.compositions, crystal):
            found[name] = self._at_rest(crystal)
        return found

    def _at_rest(self, crystal: Atoms) -> Atoms:
        """Scale a crystal to the lowest energy: compressed, it is wild and shows no kink."""
        scaled = []
        for factor in _SCALES:
            atoms = crystal.copy()
            atoms.set_cell(factor * crystal.cell.array, scale_atoms=True)
            scaled.append(atoms)
        graph = batch_graphs([self.subject.graph(atoms) for atoms in scaled])
        energies = evaluate(self.subject, graph, "a crystal of its elements").energy
        return scaled[int(energies.argmin())]


def bond_length(first: str, second: str) -> float:
    """Return the sum of two covalent radii in Å (Cordero et al., doi:10.1039/b801115j)."""
    return float(sum(covalent_radii[atomic_numbers[symbol]] for symbol in (first, second)))


def default_structure(file: ModelFile) -> Atoms:
    """Return the structure on which a model is verified where the user names none.

    The first frame of the model's passport: of a trained model a frame of its data, of the
    others atoms of its elements at the distances of bonds.
    """
    return read_passport(file).frames[0].atoms()


def specimen_of(calculator: EqCalculator, atoms: Atoms) -> Specimen:
    """Return a model and a structure as the checks take them; cells below four atoms are repeated.

    Raises
    ------
    GraphError, UnsupportedElementError, NonFiniteError : the calculator refuses the structure.
    ConfigError : it is too large: every check evaluates it many times, in float64.
    """
    bare = _enlarged(Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc))
    model = calculator.models[0]
    n_edges = build_graph(bare, model.card.cutoff).edge_index.shape[1]
    if n_edges > MAX_EDGES:
        raise ConfigError(
            f"verify takes structures of up to {MAX_EDGES} edges, found {n_edges} (of {len(bare)} "
            "atoms): it evaluates them hundreds of times. Cut a smaller cell or cluster; the laws "
            "are the same."
        )
    calculator.calculate(bare)
    references = reference_energies_of(model)
    exported = exported_subject(
        model, "model", concessions=Concessions.from_sentences(model.card.gives_up)
    )

    def call(graph: AtomicGraph) -> Evaluation:
        found = exported.call(graph)
        energies = found.energies - references[graph.atomic_numbers]
        owned = graph.structure_index[: graph.n_owned]
        energy = sum_over_structures(energies[: graph.n_owned], owned, graph.n_structures)
        return found._replace(energy=energy, energies=energies)

    subject = replace(
        exported,
        call=call,
        elements=tuple(dict.fromkeys(bare.symbols)),
        negligible=max(_ROUNDING, 1e-15 * float(references.abs().max())),
    )
    return Specimen(calculator, subject, bare)


def _enlarged(atoms: Atoms) -> Atoms:
    """Repeat a cell of one to three atoms, in which no atom moves against another."""
    while 0 < len(atoms) < _FEWEST and atoms.pbc.any():
        shortest = int(np.argmin(np.where(atoms.pbc, atoms.cell.lengths(), np.inf)))
        atoms = atoms.repeat([2 if axis == shortest else 1 for axis in range(3)])
    return atoms


def reference_energies_of(model: Model) -> Tensor:
    """Return the card's reference energies (119,) in eV, zero where there is none."""
    energies = torch.zeros(N_ELEMENTS, dtype=torch.float64)
    for symbol, energy in model.card.reference_energies.items():
        energies[atomic_number(symbol)] = energy
    return energies
