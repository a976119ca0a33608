"""Closest approach: does the energy rise without end where two atoms come too close?

A network knows no distances that its data did not hold, and may find them attractive: a hole in the
wall, into which a hot atom falls and never comes back. Walked inwards from a bond's length, the
energy may fall to the bottom of the bond's well; from there it has to rise, and only behind a wall
that no simulation climbs may it turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.blockwise.grouping import MAX_EDGES, grouped, size_of
from eqcalc.errors import ContractError
from eqcalc.graph import batch_graphs
from eqcalc.neighbours import build_graph
from eqcalc.testing.geometries import dimer
from eqcalc.testing.subjects import evaluate
from eqcalc.verification.finding import Finding, Verdict, skipped
from eqcalc.verification.specimen import Specimen, bond_length

__all__ = ["WALL", "Approach", "Turn", "approach_alone", "approach_in_structure"]

WALL = 5.0
"""eV; a wall that atoms at 1000 K climb once in e^58 collisions."""

_FARTHEST, _CLOSEST = 1.2, 0.3  # of the sum of covalent radii
# Of it; no bond is shorter, so that a well there is a hole: N2 has 0.77, Cr2 0.60.
_NO_BOND, _NO_BOND_OF_METALS = 0.7, 0.55
_NO_METALS = {"H", "He", "B", "C", "N", "O", "F", "Ne", "Si", "P", "S", "Cl", "Ar"}
_NO_METALS |= {"Ge", "As", "Se", "Br", "Kr", "Te", "I", "Xe", "At", "Rn"}
_BONDED = 1.3  # of it; pairs of a structure that are closer are neighbours
_POINTS_ALONE = 60
_FEWEST_POINTS, _MOST_POINTS, _POINTS = 12, 24, 150  # of each pair of a structure, and of all
_FEW_PAIRS = 6  # of a structure; more where it has more pairs of elements
_SEEN = 0.05  # eV; a smaller dent holds no atom


class Turn(NamedTuple):
    """Where a wall ends: distance (Å), and height (eV) over the bottom of the bond's well."""

    distance: float
    height: float


class Approach(NamedTuple):
    """Energies of two atoms that come closer.

    distances : Å, falling; energies : eV, from any zero
    shortest_bond : Å; a well inside it is none of a bond
    """

    name: str
    distances: NDArray
    energies: NDArray
    shortest_bond: float

    @property
    def bottom(self) -> int:
        """The number of the point at the bottom of the well: the first that energies rise from."""
        lowest = 0
        for k, energy in enumerate(self.energies):
            if energy > self.energies[lowest] + _SEEN:
                break
            if energy < self.energies[lowest]:
                lowest = k
        return lowest

    def turn(self) -> Turn | None:
        """Return where the wall turns first; None where it only rises."""
        bottom = self.bottom
        if self.distances[bottom] < self.shortest_bond:  # there is no wall
            return Turn(float(self.distances[bottom]), 0.0)
        wall = self.energies[bottom:] - self.energies[bottom]
        highest = np.maximum.accumulate(wall)
        fallen = np.flatnonzero(wall < highest - _SEEN)
        if len(fallen) == 0:
            return None
        top = int(np.argmax(wall[: fallen[0]]))
        return Turn(float(self.distances[bottom + top]), float(wall[top]))

    @property
    def height(self) -> float:
        """Height in eV of the wall where it turns, or at the closest point."""
        turn = self.turn()
        return self.energies[-1] - self.energies[self.bottom] if turn is None else turn.height

    def as_dict(self) -> dict[str, Any]:
        """Return distances in Å, energies in eV above the bottom, and where the wall turns."""
        turn = self.turn()
        return {
            "pair": self.name,
            "distances_A": self.distances.tolist(),
            "energies_eV": (self.energies - self.energies[self.bottom]).tolist(),
            "turn": None if turn is None else {"distance_A": turn[0], "height_eV": turn[1]},
        }


def approach_alone(specimen: Specimen) -> tuple[Finding, list[Approach]]:
    """Bring two atoms of each pair of elements together in the vacuum.

    A model for few compositions was never shown two atoms alone: of such a one it is only noted.
    """
    paths = {}
    for a, b in specimen.pairs():
        bond = bond_length(a, b)
        distances = np.linspace(_FARTHEST * bond, _CLOSEST * bond, _POINTS_ALONE)
        paths[f"{a}-{b}"] = distances, [dimer(a, b, d) for d in distances], _shortest_bond(a, b)
    finding, found = _judged("closest approach: two atoms", specimen, paths)
    is_low = finding.verdict is Verdict.FAILED and finding.found is not None
    if is_low and not specimen.model.card.is_universal:
        finding = replace(
            finding,
            verdict=Verdict.NOTED,
            advice="Its data hold no two atoms alone, and nothing "
            "holds such atoms apart: no gas of fragments, no chemistry at high temperature.",
        )
    return finding, found


def approach_in_structure(specimen: Specimen) -> tuple[Finding, list[Approach]]:
    """Push atoms of the structure towards neighbours, the others held."""
    name = "closest approach: structure"
    paths = {}
    pairs = _neighbours(specimen)
    n_points = int(np.clip(_POINTS // max(len(pairs), 1), _FEWEST_POINTS, _MOST_POINTS))
    for a, b, vector, bond in pairs:
        first, second = specimen.atoms.symbols[a], specimen.atoms.symbols[b]
        length = float(np.linalg.norm(vector))
        distances = np.linspace(length, _CLOSEST * bond, n_points)
        structures = []
        for distance in distances:
            pushed = specimen.rattled()
            pushed.positions[b] -= (1.0 - distance / length) * vector
            structures.append(pushed)
        shortest = _shortest_bond(first, second)
        paths[f"{first}{a}-{second}{b}"] = distances, structures, shortest
    if not paths:
        return skipped(name, "no two atoms of the structure are neighbours"), []
    return _judged(name, specimen, paths)


def _shortest_bond(first: str, second: str) -> float:
    """Return the distance in Å that no bond of two elements is shorter than."""
    share = _NO_BOND if {first, second} <= _NO_METALS else _NO_BOND_OF_METALS
    return share * bond_length(first, second)


def _neighbours(specimen: Specimen) -> list[tuple[int, int, NDArray, float]]:
    """Return receiver, sender, vector between them and bond length of neighbours.

    Of each pair of elements the nearest, and where there are few, others up to the farthest.
    """
    atoms = specimen.rattled()
    graph = build_graph(atoms, specimen.subject.cutoff)
    lengths = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
    found: dict[frozenset[str], list[tuple[int, int, NDArray, float]]] = {}
    seen: set[frozenset[int]] = set()
    for k in np.argsort(lengths):
        b, a = (int(end) for end in graph.edge_index[:, k])
        kind, pair = frozenset((atoms.symbols[a], atoms.symbols[b])), frozenset((a, b))
        bond = bond_length(atoms.symbols[a], atoms.symbols[b])
        is_image = a == b  # both would move
        if not is_image and pair not in seen and lengths[k] < _BONDED * bond:
            seen.add(pair)
            found.setdefault(kind, []).append((a, b, graph.edge_vectors[k].numpy(), bond))
    n_each = max(_FEW_PAIRS // max(len(found), 1), 1)
    chosen = []
    for edges in found.values():
        places = np.linspace(0, len(edges) - 1, min(n_each, len(edges))).round().astype(int)
        chosen += [edges[place] for place in places]
    return chosen


def _judged(
    name: str, specimen: Specimen, paths: Mapping[str, tuple[NDArray, Sequence[Atoms], float]]
) -> tuple[Finding, list[Approach]]:
    """Evaluate the paths; the finding is that of the lowest wall."""
    advice = (
        "A hole in the wall: hot or crowded atoms fall into it. Train with such distances, or "
        "with ZBL (zbl_radii, docs/training.md), and watch the shortest distance in runs."
    )
    try:
        found = [
            Approach(key, distances, _energies(specimen, structures, key), shortest)
            for key, (distances, structures, shortest) in paths.items()
        ]
    except ContractError as error:
        detail = str(error).removeprefix("model: ")
        return Finding(name, Verdict.FAILED, detail, advice=advice), []
    worst = min(found, key=lambda approach: approach.height)
    holds = worst.height >= WALL
    turn = worst.turn()
    where = "rises throughout" if turn is None else f"turns at {turn.distance:.2f} Å"
    others = [a.name for a in found if a.height < WALL and a is not worst]
    detail = f"{worst.name} {where}" + (f"; also low: {', '.join(others)}" if others else "")
    verdict = Verdict.OK if holds else Verdict.FAILED
    finding = Finding(
        name, verdict, detail, worst.height, WALL, "eV", True, "" if holds else advice
    )
    return finding, found


def _energies(specimen: Specimen, structures: Sequence[Atoms], case: str) -> NDArray:
    graphs = map(specimen.subject.graph, structures)
    return np.concatenate(
        [
            evaluate(specimen.subject, batch_graphs(group), case).energy.numpy()
            for group in grouped(graphs, size_of, MAX_EDGES)
        ]
    )
