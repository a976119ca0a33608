"""Whether energies, forces and stresses belong together: dE = -F dx + V stress : strain.

Between two similar frames 1 and 2 of the same atoms the energy differs by the work of the
forces on the displacement and of the stress on the strain, to second order in both

    E2 - E1 = -1/2 Σ (F1 + F2) · d + 1/2 (V1 σ1 + V2 σ2) : ε,

with d the displacement beside the strain ε. A wrong unit or sign of one of them shows as a
factor. Frames that are too far apart for it follow no factor at all, and say nothing. What the
forces of two frames leave open is about 1/2 Σ |(F2 - F1) · d|, by coordinates; where energies are
off by as much between near frames, the labels are those of other frames.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from ase import units

from eqcalc.data.frames import FloatArray, LabelledFrame
from eqcalc.derivatives import VOIGT

__all__ = ["label_factors", "refusal"]

_REACHES = (0.01, 0.02, 0.05, 0.1, 0.2)  # Å, rms displacement: from the surest on
_FEWEST_PAIRS = 4
_UNEXPLAINED = 0.03  # of the square of the energy differences: else nothing is concluded
_TOLERANCE = 1.5  # anharmonic motion gives 0.7 to 1.1; no mix-up of units is closer than 1.9
_SHARE = 0.3  # of the energy differences, which a label must explain to be judged
_MOST_FRAMES = 400
_FEWEST_MISMATCHED = 6  # pairs, of which most are off
_OPEN = 0.3  # of what forces leave open: in rMD17, 3BPA and mlearn the median pair has 0.05 at most
_CONSTANT = 0.01  # of the forces' work
_NOISE, _NOISE_PER_ATOM = 1e-4, 1e-5  # eV: what self-consistency leaves
_FLOAT32 = 2.0**-24  # of a total energy: its rounding
_COPIES = 1e-5  # Å: of them energies may be those of two calculations

# What was read has to be multiplied with it.
_FACTORS = {
    1.0 / units.Bohr: "forces per Bohr read as forces per Angstrom",
    units.Bohr: "forces per Angstrom read as forces per Bohr, or of positions in Bohr",
    units.Hartree / units.Bohr: "forces in Hartree/Bohr read as eV/Angstrom",
    units.Bohr / units.Hartree: "energies in Hartree beside forces in eV/Bohr",
    units.Hartree: "forces in Hartree beside energies in eV",
    1.0 / units.Hartree: "energies in Hartree beside forces in eV",
    units.kcal / units.mol: "forces in kcal/mol beside energies in eV",
    units.mol / units.kcal: "energies in kcal/mol beside forces in eV",
    -1.0: "the sign of a gradient, or of a virial",
    units.GPa: "a stress in GPa read as eV/Angstrom^3",
    0.1 * units.GPa: "a stress in kbar read as eV/Angstrom^3",
    -units.GPa: "a pressure in GPa read as a stress in eV/Angstrom^3",
    -0.1 * units.GPa: "a stress in kbar of the other sign (VASP's) read as eV/Angstrom^3",
}


def label_factors(frames: Sequence[LabelledFrame]) -> dict[str, float]:
    """Return what forces and stress have to be multiplied with to fit the energies.

    Empty where the frames are too few or too different to tell; a label of which the energy
    differences hardly depend is left out.
    """
    return _factors(_table(frames))


def _factors(pairs: FloatArray) -> dict[str, float]:
    # Copies say nothing, and counted they would leave the answer to the few pairs beside them.
    pairs = pairs[(pairs[:, 0] > _COPIES) | (pairs[:, 3] != 0.0)]
    for reach in _REACHES:
        near = pairs[pairs[:, 0] <= reach]
        if len(near) < _FEWEST_PAIRS:
            continue
        differences, works = near[:, 1], near[:, 2:4]
        total = float(np.square(differences).sum())
        named = [k for k in range(2) if np.abs(works[:, k]).max() > 0.0]
        if not named or total == 0.0:
            continue
        solution = np.linalg.lstsq(works[:, named], differences, rcond=None)[0]
        explained = works[:, named] * solution
        left = float(np.square(differences - explained.sum(axis=1)).sum())
        if left > _UNEXPLAINED * total or len(near) < len(named) + _FEWEST_PAIRS - 1:
            continue
        return {
            ("forces", "stress")[k]: float(solution[n])
            for n, k in enumerate(named)
            if np.square(explained[:, n]).sum() > _SHARE * total
        }
    return {}


def refusal(frames: Sequence[LabelledFrame]) -> str | None:
    """Return a sentence where labels clearly do not belong together, else None.

    Of many frames the first, the middle and the last are looked at: a file may have been joined.
    """
    n_left = max(len(frames) - _MOST_FRAMES, 0)
    for first in dict.fromkeys((0, n_left // 2, n_left)):
        found = _refusal_of(frames[first:])
        if found:
            return found
    return None


def _refusal_of(frames: Sequence[LabelledFrame]) -> str | None:
    pairs = _table(frames)
    factors = _factors(pairs)
    if not factors:
        return _mismatch(pairs)
    for name, factor in factors.items():
        if 1.0 / _TOLERANCE < factor < _TOLERANCE:
            continue
        known = min(_FACTORS, key=lambda f: abs(np.log(abs(factor / f))) + 9 * (factor * f < 0))
        guess = f" That is the factor of {_FACTORS[known]}." if _close(factor, known) else ""
        return (
            f"energies and {name} do not belong together: the energy differences of similar "
            f"frames are {factor:.3g} times what follows from the {name}.{guess} Check the units "
            f"(energy_unit, length_unit, {name}_unit) and the keys "
            f"({name}_key, {'gradient_key' if name == 'forces' else 'virial_key'})"
        )
    return None


def _mismatch(pairs: FloatArray) -> str | None:
    """Return a sentence where near frames' energies have nothing to do with forces, else None."""
    # Of frames in different cells the stress says less than forces, as many codes compute it.
    pairs = pairs[(pairs[:, 0] > _COPIES) & (pairs[:, 3] == 0.0)]
    for reach in _REACHES:
        near = pairs[pairs[:, 0] <= reach]
        if len(near) >= _FEWEST_MISMATCHED:
            break
    else:
        return None
    differences, works, bounds, noises = near[:, 1], near[:, 2], near[:, 4], near[:, 5]
    work = float(np.median(np.abs(works)))
    if work == 0.0:  # no forces at all are said elsewhere
        return None
    if work > np.median(noises) and np.abs(differences).max() <= _CONSTANT * work:
        return (
            f"energies of {len(near)} pairs of similar frames are the same, where by their forces "
            f"they differ by {work:.2g} eV: the energy may be a placeholder, or one that a "
            "dynamics conserves. Check the key (energy_key)"
        )
    left = np.abs(differences - works)
    off = left > _OPEN * bounds + noises
    if 2 * off.sum() <= len(near):
        return None
    typical, possible = np.median(left[off]), np.median(bounds[off])
    return (
        f"energies and forces do not belong together: in {off.sum()} of {len(near)} pairs of "
        f"similar frames the energy changes by {typical:.2g} eV more or less than the work of the "
        f"forces, which can be wrong by {possible:.2g} eV. One of them may be of other frames, of "
        "another order of atoms or of another calculation: check that all stand in one order, "
        "and the keys (energy_key, forces_key)"
    )


def _close(factor: float, known: float) -> bool:
    return factor * known > 0 and abs(np.log(factor / known)) < 0.15


class _Pair(NamedTuple):
    """Two similar frames, in Å and eV; ``left_open`` is how wrong the work of the forces may be."""

    rms_displacement: float
    energy_difference: float
    force_work: float
    stress_work: float
    left_open: float
    noise: float


def _table(frames: Sequence[LabelledFrame]) -> FloatArray:
    """Return (n_pairs, 6), the columns of :class:`_Pair`."""
    return np.array(list(_pairs(frames[:_MOST_FRAMES])), dtype=np.float64).reshape(-1, 6)


def _pairs(frames: Sequence[LabelledFrame]) -> Iterator[_Pair]:
    groups: dict[bytes, list[LabelledFrame]] = {}
    for frame in frames:
        key = frame.atoms.numbers.tobytes() + frame.atoms.pbc.tobytes()
        groups.setdefault(key, []).append(frame)
    for group in groups.values():
        for one, other in _neighbours(group):
            found = _works(one, other)
            if found is not None:
                yield found


def _neighbours(group: list[LabelledFrame]) -> Iterator[tuple[LabelledFrame, LabelledFrame]]:
    """Yield successive frames, and each with the one that is most similar."""
    pairs = {(k, k + 1) for k in range(len(group) - 1)}
    if len(group) > 2:
        flat = np.array([frame.atoms.positions.ravel() for frame in group])
        flat -= flat.mean(axis=0)
        squares = np.square(flat).sum(axis=1)
        distances = squares[:, None] + squares[None, :] - 2.0 * flat @ flat.T
        np.fill_diagonal(distances, np.inf)
        nearest = distances.argmin(axis=1)
        pairs |= {(min(k, int(n)), max(k, int(n))) for k, n in enumerate(nearest)}
    for k, n in sorted(pairs):
        yield group[k], group[n]


def _works(one: LabelledFrame, other: LabelledFrame) -> _Pair | None:
    if one.forces is None or other.forces is None:
        return None
    cells = (one.atoms.cell.array, other.atoms.cell.array)
    periodic, strain_work = one.atoms.pbc.all(), 0.0
    displacement = other.atoms.positions - one.atoms.positions
    if one.atoms.pbc.any():
        if abs(np.linalg.det(cells[0])) == 0.0 or abs(np.linalg.det(cells[1])) == 0.0:
            return None
        changed = np.abs(cells[0] - cells[1]).max() > 1e-9 * np.abs(cells[0]).max()
        if changed and (not periodic or one.stress is None or other.stress is None):
            return None
        middle = 0.5 * (cells[0] + cells[1])
        scaled = other.atoms.positions @ np.linalg.inv(cells[1])
        scaled -= one.atoms.positions @ np.linalg.inv(cells[0])
        scaled -= np.round(scaled) * one.atoms.pbc
        displacement = scaled @ middle
        if changed and one.stress is not None and other.stress is not None:
            strain = np.linalg.solve(middle, cells[1] - cells[0])
            strain = 0.5 * (strain + strain.T)
            stress_volume = [
                abs(np.linalg.det(cell)) * _matrix(stress)
                for cell, stress in zip(cells, (one.stress, other.stress), strict=True)
            ]
            strain_work = 0.5 * float((sum(stress_volume) * strain).sum())
    distance = float(np.sqrt(np.square(displacement).sum(axis=1).mean()))
    force_work = -0.5 * float(((one.forces + other.forces) * displacement).sum())
    left_open = 0.5 * float(np.abs((other.forces - one.forces) * displacement).sum())
    noise = _NOISE + _NOISE_PER_ATOM * len(one.atoms) + _FLOAT32 * abs(one.energy)
    difference = other.energy - one.energy
    return _Pair(distance, difference, force_work, strain_work, left_open, noise)


def _matrix(voigt: FloatArray) -> FloatArray:
    full = np.zeros((3, 3))
    for value, (a, b) in zip(voigt, VOIGT, strict=True):
        full[a, b] = full[b, a] = value
    return full
