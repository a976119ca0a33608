"""Force constants of bonds, which every thermal frame has: they tell the sign and unit of forces.

A bond that is longer than the others of its kind is pulled together by the forces on its atoms and
a shorter one is pushed apart, in a molecule, a liquid and a crystal alike. The slope

    k = -cov(d, s) / var(d),   s = (F_j - F_i) · (r_j - r_i) / (2 d)

over bonds of two elements is their force constant, of 10 to 120 eV/Å² in molecules and some eV/Å²
in metals. Nothing else of the frames is needed: no similar frames, no energies, no cell. A factor
of two between force constants is chemistry, so that it is no evidence against forces.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import units
from ase.data import chemical_symbols, covalent_radii

from eqcalc.data.frames import FloatArray, LabelledFrame
from eqcalc.errors import GraphError
from eqcalc.neighbours import build_graph

__all__ = ["BondStiffness", "bond_stiffnesses", "stiffness_refusal"]

_BOND = 1.3  # times the sum of covalent radii
_N_SAMPLED = 40  # frames that are looked at
_FEWEST = 30  # bonds of two elements
_AT_REST = 0.2  # eV/Å, rms along bonds: what a relaxation leaves says nothing
_NARROW = 0.015  # Å, spread of lengths: what bonds of one kind have in relaxed structures
_CORRELATED = 0.45  # thermal bonds have 0.4 to 0.98
_SURE = 0.8
# eV/Å². The stiffest bonds are those of N₂ (143) and CO (119); X-H have 25 to 50 where X is C, N or
# O, and hydrogen bonds soften them.
_STIFFEST, _SOFTEST_XH = 300.0, 3.0
_TYPICAL = {"C": 33.0, "N": 43.0, "O": 44.0}  # of X-H
# Read forces over true ones.
_MIXED_UP = {
    units.mol / units.kcal: "forces in kcal/mol/Å read as eV/Å",
    units.mol / units.kJ: "forces in kJ/mol/Å read as eV/Å",
    1000.0: "forces in meV/Å read as eV/Å",
    units.Bohr / units.Hartree: "forces in Hartree/Bohr read as eV/Å",
    1.0 / units.Hartree: "forces in Hartree/Å read as eV/Å",
    units.kcal / units.mol: "forces in eV/Å read as kcal/mol/Å",
    units.kJ / units.mol: "forces in eV/Å read as kJ/mol/Å",
}


class BondStiffness(NamedTuple):
    """A force constant over all bonds of two elements: eV/Å², with the correlation behind it."""

    elements: tuple[str, str]
    n_bonds: int
    force_constant: float
    correlation: float

    def __str__(self) -> str:
        digits = 0 if abs(self.force_constant) >= 10.0 else 1
        return f"{'-'.join(self.elements)} {self.force_constant:.{digits}f} eV/Å²"

    @property
    def is_of_hydrogen(self) -> bool:
        """Whether hydrogen is bound to carbon, nitrogen or oxygen."""
        return set(self.elements) in ({"H", "C"}, {"H", "N"}, {"H", "O"})


def bond_stiffnesses(frames: Sequence[LabelledFrame]) -> list[BondStiffness]:
    """Return force constants of the bonds in up to forty frames, the surest first.

    Left out are elements with too few bonds, and bonds of one length, as in a relaxed structure.
    The correlation is that of shortness and outward force, negative where forces have the sign of
    a gradient.
    """
    with_forces = [f for f in frames if f.forces is not None and len(f.atoms) > 1]
    step = max(1, -(-len(with_forces) // _N_SAMPLED))
    bonds: dict[tuple[int, int], list[FloatArray]] = defaultdict(list)
    for frame in with_forces[::step]:
        for pair, values in _bonds(frame, np.asarray(frame.forces)).items():
            bonds[pair].append(values)
    found = [_stiffness(pair, np.concatenate(values)) for pair, values in bonds.items()]
    return sorted((each for each in found if each is not None), key=lambda e: -abs(e.correlation))


def stiffness_refusal(frames: Sequence[LabelledFrame]) -> str | None:
    """Return a sentence where forces have the wrong sign or another unit, else None."""
    sure = [each for each in bond_stiffnesses(frames) if abs(each.correlation) > _CORRELATED]
    if not sure:
        return None
    check = "Check the keys (forces_key, gradient_key) and units (forces_unit, energy_unit)"
    if sure[0].correlation < 0:
        return (
            f"forces push long bonds further apart ({sure[0].n_bonds} bonds "
            f"{'-'.join(sure[0].elements)}, correlation {-sure[0].correlation:+.2f}): they have "
            f"the sign of a gradient. {check}"
        )
    judged = [each for each in sure if each.is_of_hydrogen] or sure
    stiff = all(each.force_constant > _STIFFEST for each in judged)
    soft = all(
        each.is_of_hydrogen and each.correlation > _SURE and each.force_constant < _SOFTEST_XH
        for each in judged
    )
    if not (stiff or soft):
        return None
    first, guess = judged[0], ""
    if first.is_of_hydrogen:
        factor = first.force_constant / _TYPICAL[first.elements[0]]
        near = [f for f in _MIXED_UP if 0.6 < factor / f < 1.6]
        near.sort(key=lambda f: abs(np.log(factor / f)))
        if near:
            guess = f" That is the factor of {', or of '.join(_MIXED_UP[f] for f in near)}."
    return (
        f"by the forces, bonds {first} are {'stiffer' if stiff else 'softer'} than any (C-H has "
        f"about 30 eV/Å², N₂ 143).{guess} {check}"
    )


def _bonds(frame: LabelledFrame, forces: FloatArray) -> dict[tuple[int, int], FloatArray]:
    """Return the lengths and pulls (n_bonds, 2) in a frame by pairs of atomic numbers."""
    numbers = frame.atoms.numbers
    radii = covalent_radii[numbers]
    try:
        graph = build_graph(frame.atoms, float(2.0 * _BOND * radii.max()))
    except GraphError:  # said with its reason where the frame's own graph is built
        return {}
    j, i = graph.edge_index.numpy()  # every bond from both of its ends
    vectors = graph.edge_vectors.numpy()  # (n_edges, 3), from i to j
    lengths = np.linalg.norm(vectors, axis=1)
    chosen = (lengths < _BOND * (radii[i] + radii[j])) & (numbers[i] <= numbers[j])
    i, j, vectors, lengths = i[chosen], j[chosen], vectors[chosen], lengths[chosen]
    pulls = 0.5 * ((forces[j] - forces[i]) * vectors).sum(axis=1) / lengths
    values = np.stack([lengths, pulls], axis=1)
    pairs = np.stack([numbers[i], numbers[j]], axis=1)
    return {
        (int(a), int(b)): values[(pairs == (a, b)).all(axis=1)] for a, b in np.unique(pairs, axis=0)
    }


def _stiffness(pair: tuple[int, int], values: FloatArray) -> BondStiffness | None:
    n_bonds = len(values) // (2 if pair[0] == pair[1] else 1)
    lengths, pulls = values.T
    if n_bonds < _FEWEST or np.ptp(pulls) == 0.0:
        return None
    if lengths.std() < _NARROW:
        return None
    covariance = np.cov(lengths, pulls)
    # Small forces beside lengths of thermal bonds are small by their unit, or left by a relaxation.
    if np.sqrt(np.square(pulls).mean()) < _AT_REST and 1 not in pair:
        return None
    # Hydrogen is named last, as chemists do.
    first, second = sorted(pair, key=lambda z: (z == 1, z))
    return BondStiffness(
        (chemical_symbols[first], chemical_symbols[second]),
        n_bonds,
        float(-covariance[0, 1] / covariance[0, 0]),
        float(-covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])),
    )
