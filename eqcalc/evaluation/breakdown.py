"""Where the errors are: by element, by kind of frame, and in the worst frames.

A mean over everything hides one element or one kind of structure that the model does not know.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqcalc.data.frames import LabelledFrame
from eqcalc.evaluation.comparison import Comparison, Errors, errors_of

__all__ = ["KindOfFrame", "WorstFrame", "breakdown", "by_element", "by_kind", "worst_frames"]

KIND = "config_type"
"""What frames say their kind by, in ``info``: the custom of training sets for potentials."""


class KindOfFrame(NamedTuple):
    """Errors of the frames of one kind: eV/atom and eV/Å, forces where they have some."""

    name: str
    n_frames: int
    energy_per_atom: Errors
    forces: Optional[Errors]


class WorstFrame(NamedTuple):
    """A frame by its largest error of a force: eV/Å, the length of an atom's vector."""

    frame: str
    atom: int
    element: str
    force_error: float


def by_element(comparison: Comparison, frames: Sequence[LabelledFrame]) -> dict[str, Errors]:
    """Return the errors of force components by element, in the order of atomic numbers.

    Parameters
    ----------
    comparison : of these frames, in their order
    """
    numbers = np.concatenate([frame.atoms.numbers for frame in frames])
    differences = _force_differences(comparison, frames)
    found = {}
    for number in np.unique(numbers):
        own = differences[numbers == number]
        own = own[np.isfinite(own)]
        if len(own) > 0:
            found[chemical_symbols[number]] = errors_of(own)
    return found


def by_kind(comparison: Comparison, frames: Sequence[LabelledFrame]) -> list[KindOfFrame]:
    """Return errors by ``config_type``, the worst energies first; nothing where all are alike."""
    members: dict[str, list[int]] = defaultdict(list)
    for k, frame in enumerate(frames):
        members[str(frame.info.get(KIND, "none"))].append(k)
    if len(members) < 2:
        return []
    energies = comparison.energy_per_atom.predicted - comparison.energy_per_atom.expected
    differences = _force_differences(comparison, frames)
    of_frame = np.repeat(np.arange(len(frames)), [len(frame.atoms) for frame in frames])
    found = []
    for name, numbers in members.items():
        own = differences[np.isin(of_frame, numbers)]
        own = own[np.isfinite(own)]
        forces = errors_of(own) if len(own) > 0 else None
        found.append(KindOfFrame(name, len(numbers), errors_of(energies[numbers]), forces))
    return sorted(found, key=lambda kind: -kind.energy_per_atom.mae)


def worst_frames(
    comparison: Comparison, frames: Sequence[LabelledFrame], most: int = 3
) -> list[WorstFrame]:
    """Return the frames with the largest errors of a force, the worst first."""
    lengths = np.linalg.norm(_force_differences(comparison, frames), axis=1)
    found, end = [], 0
    for k, frame in enumerate(frames):
        begin, end = end, end + len(frame.atoms)
        own = np.where(np.isnan(lengths[begin:end]), -1.0, lengths[begin:end])
        atom = int(own.argmax())
        if own[atom] >= 0:
            element = chemical_symbols[frame.atoms.numbers[atom]]
            name = str(frame.origin or f"frame {k}")
            found.append(WorstFrame(name, atom, element, float(own[atom])))
    return sorted(found, key=lambda worst: -worst.force_error)[:most]


def breakdown(comparison: Comparison, frames: Sequence[LabelledFrame]) -> dict[str, Any]:
    """Return all three as JSON holds them, in meV: those that there are."""

    def told(errors: Errors, unit: str) -> dict[str, float]:
        return {f"{k}_{unit}": round(1e3 * v, 4) for k, v in vars(errors).items()}

    found: dict[str, Any] = {}
    if comparison.forces is not None:
        elements = by_element(comparison, frames).items()
        found["forces_by_element"] = {e: told(errors, "mev_per_a") for e, errors in elements}
        found["largest_force_errors"] = [
            {"frame": w.frame, "atom": w.atom, "element": w.element, "ev_per_a": w.force_error}
            for w in worst_frames(comparison, frames)
        ]
    for kind in by_kind(comparison, frames):
        own = {"n_frames": kind.n_frames, "energy_per_atom": told(kind.energy_per_atom, "mev")}
        if kind.forces is not None:
            own["forces"] = told(kind.forces, "mev_per_a")
        found.setdefault(f"by_{KIND}", {})[kind.name] = own
    return found


def _force_differences(comparison: Comparison, frames: Sequence[LabelledFrame]) -> NDArray:
    """Return prediction minus label (n_atoms, 3), eV/Å; NaN where there is no label."""
    n_atoms = sum(len(frame.atoms) for frame in frames)
    differences = np.full((n_atoms, 3), np.nan)
    if comparison.forces is not None:
        given = [
            np.full((len(f.atoms), 3), np.nan) if f.forces is None else f.forces for f in frames
        ]
        has_label = np.isfinite(np.concatenate(given))
        differences[has_label] = comparison.forces.predicted - comparison.forces.expected
    return differences
