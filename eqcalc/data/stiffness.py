"""Force constants of bonds, which every thermal frame has: they tell the sign and unit of forces.

A bond that is longer than the others of its kind is pulled together by the forces on its atoms and
a shorter one is pushed apart, in a molecule, a liquid and a crystal alike. The slope

    k = -cov(d, s) / var(d),   s = (F_j - F_i) · (r_j - r_i) / (2 d)

over bonds of two elements is their force constant, of 10 to 120 eV/Å² in molecules and some eV/Å²
in metals. Bonds of hydrogen to carbon, nitrogen or oxygen have hardly more than one length and are
compared with each other; single and double bonds do not, so that of other elements a bond is
compared with itself in other frames of the same atoms. (Of molecules relaxed at one level the
forces of another pull at one kind of bond and push at the next, which is no force constant.)
Frames of two signs in one file hide in such a slope, and show frame by frame.
Nothing else of the frames is needed: no similar frames, no energies, no cell. A factor of two
between force constants is chemistry, so that it is no evidence against forces.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ase import units
from ase.data import chemical_symbols, covalent_radii
from numpy.typing import NDArray

from eqcalc.data.frames import FloatArray, LabelledFrame
from eqcalc.errors import GraphError, listing
from eqcalc.neighbours import build_graph

__all__ = ["BondStiffness", "bond_stiffnesses", "stiffness_refusal"]

_BOND = 1.3  # times the sum of covalent radii
_N_SAMPLED = 40  # frames that are looked at
_FEWEST = 30  # bonds of two elements
_AT_REST = 0.2  # eV/Å, rms along bonds: what a relaxation leaves says nothing
# Å, spread of lengths: less is what relaxed structures have, and more is no harmonic motion.
_NARROW, _WIDE = 0.015, 0.12
_NOTHING = 1e-3  # eV/Å: what is left of forces that symmetry forbids
_CORRELATED = 0.45  # thermal bonds have 0.4 to 0.98
_SURE = 0.8
# Of frames one by one: bonds that each is judged by, frames in which each of these is, and the
# fewest frames of each sign, also as a share.
_BONDS_OF_FRAME, _REPEATED, _FEWEST_OF_SIGN, _SHARE_OF_SIGN = 5, 5, 4, 0.1
_CLEAR = 0.5  # correlation within a frame; thermal ones of molecules and water have 0.6 to 0.98
_SAME_SIDE = 0.4  # of the bonds, more on one side than on the other: not one bond that breaks
# eV/Å². The stiffest bonds are those of N₂ (143) and CO (119); X-H have 25 to 50 where X is C, N or
# O, and hydrogen bonds soften them.
_STIFFEST, _SOFTEST_XH = 300.0, 3.0
_TYPICAL = {"C": 33.0, "N": 43.0, "O": 44.0}  # of X-H
# Read forces over true ones.
_OF_HYDROGEN = {("C", "H"), ("N", "H"), ("O", "H")}
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
    """A force constant over all bonds of two elements.

    force_constant : eV/Å²; correlation : of shortness and outward force, negative where forces have
        the sign of a gradient
    force, spread : standard deviations of the force along bonds, eV/Å, and of their lengths, Å
    """

    elements: tuple[str, str]
    n_bonds: int
    force_constant: float
    correlation: float
    force: float
    spread: float

    def __str__(self) -> str:
        digits = 0 if abs(self.force_constant) >= 10.0 else 1
        return f"{'-'.join(self.elements)} {self.force_constant:.{digits}f} eV/Å²"

    @property
    def is_of_hydrogen(self) -> bool:
        """Whether hydrogen is bound to carbon, nitrogen or oxygen."""
        return self.elements in _OF_HYDROGEN


def bond_stiffnesses(frames: Sequence[LabelledFrame]) -> list[BondStiffness]:
    """Return force constants of the bonds in up to forty frames, the surest first.

    Left out are elements with too few bonds, and bonds of one length, as in a relaxed structure.
    """
    return _stiffnesses(_gathered(_sampled(frames)))


def stiffness_refusal(frames: Sequence[LabelledFrame]) -> str | None:
    """Return a sentence where forces have the wrong sign or another unit, else None."""
    sampled = _sampled(frames)
    bonds = _gathered(sampled)
    sure = [each for each in _stiffnesses(bonds) if abs(each.correlation) > _CORRELATED]
    moving = [each for each in sure if each.force > _AT_REST]
    check = "Check the keys (forces_key, gradient_key) and units (forces_unit, energy_unit)"
    if moving and moving[0].correlation < 0:
        return (
            f"forces push long bonds further apart ({moving[0].n_bonds} bonds "
            f"{'-'.join(moving[0].elements)}, correlation {-moving[0].correlation:+.2f}): they "
            f"have the sign of a gradient. {check}"
        )
    others = _frames_of_other_sign(bonds, len(sampled))
    if others:
        names = [str(sampled[k].origin or f"frame {k}") for k in others]
        return (
            f"forces of some frames push long bonds further apart ({len(names)} of "
            f"{len(sampled)} that were looked at: {listing(names)}), and those of others pull them "
            "together: forces and gradients stand beside each other, as where frames of two "
            "sources were joined. Give all of them one sign: eqcalc data convert reads each source "
            "with its own key (forces_key, gradient_key)"
        )
    # Small forces beside lengths of thermal bonds may be small by their unit.
    judged = [each for each in sure if each.is_of_hydrogen] or moving
    if not judged:
        return None
    stiff = all(each.force_constant > _STIFFEST and each.spread < _WIDE for each in judged)
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


class _Gathered(NamedTuple):
    """The bonds of several frames, one after the other.

    frames : (n_bonds,), the number of each one's frame
    bonds : (n_bonds,), one number for the same two atoms in all frames of the same atoms
    elements, values : (n_bonds, 2), as :class:`_Bonds` has them
    """

    frames: NDArray[np.int64]
    bonds: NDArray[np.int64]
    elements: NDArray[np.int64]
    values: FloatArray


def _sampled(frames: Sequence[LabelledFrame]) -> list[LabelledFrame]:
    with_forces = [f for f in frames if f.forces is not None and len(f.atoms) > 1]
    return with_forces[:: max(1, -(-len(with_forces) // _N_SAMPLED))]


def _gathered(frames: Sequence[LabelledFrame]) -> _Gathered:
    nothing = np.zeros((0, 2), dtype=np.int64)
    none = _Bonds(nothing, nothing, np.zeros((0, 2)))
    parts = [none, *(_bonds(frame, np.asarray(frame.forces)) for frame in frames)]
    kinds = [frame.atoms.numbers.tobytes() for frame in frames]
    sizes = [len(part.atoms) for part in parts[1:]]
    of_frame = np.repeat(np.arange(len(frames)), sizes)
    of_kind = np.repeat(np.array([kinds.index(kind) for kind in kinds], dtype=np.int64), sizes)
    atoms, elements, values = (np.concatenate(column) for column in zip(*parts, strict=True))
    _, bonds = np.unique(np.column_stack([of_kind, atoms]), axis=0, return_inverse=True)
    return _Gathered(of_frame, bonds, elements, values)


def _stiffnesses(gathered: _Gathered) -> list[BondStiffness]:
    found = []
    for pair in np.unique(gathered.elements, axis=0):
        chosen = (gathered.elements == pair).all(axis=1)
        names, own = _symbols(pair), gathered.values[chosen]
        if names not in _OF_HYDROGEN:
            own = _beside_itself(own, gathered.bonds[chosen])[0]
        found.append(_stiffness(names, own))
    return sorted((each for each in found if each is not None), key=lambda e: -abs(e.correlation))


def _frames_of_other_sign(gathered: _Gathered, n_frames: int) -> list[int]:
    """Return the frames whose forces clearly have the sign of a gradient, where others clearly
    have that of forces; else nothing.

    Every bond is compared with itself, so that no chemistry tells frames apart.
    """
    products, frames, sums = [], [], np.zeros((n_frames, 4))
    for pair in np.unique(gathered.elements, axis=0):
        chosen = (gathered.elements == pair).all(axis=1)
        own, is_there = _beside_itself(gathered.values[chosen], gathered.bonds[chosen], _REPEATED)
        if len(own) < _FEWEST:
            continue
        spread, force = own.std(axis=0)
        if not _NARROW < spread < _WIDE or force < _AT_REST:
            continue
        length, pull = (own / (spread, force)).T
        of_frame = gathered.frames[chosen][is_there]
        terms = (-length * pull, length**2, pull**2, np.ones_like(pull))
        np.add.at(sums, of_frame, np.column_stack(terms))
        products.append(terms[0])
        frames.append(of_frame)
    judged = sums[:, 3] >= _BONDS_OF_FRAME
    if not judged.any():
        return []
    correlation = sums[:, 0] / np.sqrt(np.maximum(sums[:, 1] * sums[:, 2], 1e-300))
    signs = np.where(judged & (np.abs(correlation) > _CLEAR), np.sign(correlation), 0.0)
    fewest = max(_FEWEST_OF_SIGN, _SHARE_OF_SIGN * judged.sum())
    if 2 * np.abs(signs).sum() < judged.sum() or min((signs > 0).sum(), (signs < 0).sum()) < fewest:
        return []
    side, of_frame = np.sign(np.concatenate(products)), np.concatenate(frames)
    if any(sign * side[signs[of_frame] == sign].mean() < _SAME_SIDE for sign in (1.0, -1.0)):
        return []
    return np.flatnonzero(signs < 0).tolist()


class _Bonds(NamedTuple):
    """The bonds of a frame, (n_bonds, 2) each: atoms, atomic numbers, lengths and pulls."""

    atoms: NDArray[np.int64]
    elements: NDArray[np.int64]
    values: FloatArray


def _bonds(frame: LabelledFrame, forces: FloatArray) -> _Bonds:
    numbers = frame.atoms.numbers
    radii = covalent_radii[numbers]
    try:
        graph = build_graph(frame.atoms, float(2.0 * _BOND * radii.max()))
    except GraphError:  # said with its reason where the frame's own graph is built
        nothing = np.zeros((0, 2), dtype=np.int64)
        return _Bonds(nothing, nothing, np.zeros((0, 2)))
    j, i = graph.edge_index.numpy()  # every bond from both of its ends
    vectors = graph.edge_vectors.numpy()  # (n_edges, 3), from i to j
    lengths = np.linalg.norm(vectors, axis=1)
    once = (numbers[i] < numbers[j]) | ((numbers[i] == numbers[j]) & (i <= j))
    chosen = (lengths < _BOND * (radii[i] + radii[j])) & once
    i, j, vectors, lengths = i[chosen], j[chosen], vectors[chosen], lengths[chosen]
    pulls = 0.5 * ((forces[j] - forces[i]) * vectors).sum(axis=1) / lengths
    atoms = np.stack([i, j], axis=1)
    return _Bonds(atoms, numbers[atoms], np.stack([lengths, pulls], axis=1))


def _beside_itself(
    values: FloatArray, bonds: NDArray[np.int64], fewest: int = 2
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return lengths and pulls less the means of their bond, of bonds that are there repeatedly.

    Returns
    -------
    these, and which of the values they are of; ``fewest`` is how often a bond is there
    """
    _, own, counts = np.unique(bonds, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), 2))
    np.add.at(sums, own, values)
    is_there = counts[own] >= fewest
    left = values - (sums / counts[:, None])[own]
    return np.asarray(left[is_there]), np.asarray(is_there)


def _symbols(pair: NDArray[np.int64]) -> tuple[str, str]:
    """Return the symbols of two atomic numbers, hydrogen last, as chemists name a bond."""
    first, second = sorted((int(z) for z in pair), key=lambda z: (z == 1, z))
    return chemical_symbols[first], chemical_symbols[second]


def _stiffness(elements: tuple[str, str], values: FloatArray) -> BondStiffness | None:
    if len(values) < _FEWEST:
        return None
    covariance = np.cov(values.T)
    spread, force = np.sqrt(np.diag(covariance))
    if spread < _NARROW or force < _NOTHING:
        return None
    return BondStiffness(
        elements,
        len(values),
        float(-covariance[0, 1] / spread**2),
        float(-covariance[0, 1] / (spread * force)),
        float(force),
        float(spread),
    )
