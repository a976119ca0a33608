"""Numbers of a data set that a potential needs before its training starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from ase.units import Hartree

from eqcalc.data.frames import LabelledFrame
from eqcalc.elements import by_atomic_number
from eqcalc.errors import ConfigError, DataError, did_you_mean, listing
from eqcalc.graph import AtomicGraph

__all__ = [
    "METHODS",
    "average_neighbours",
    "force_rms",
    "reference_energies",
    "reference_energies_by_least_squares",
]

METHODS = ("least_squares", "isolated_atoms")
"""Where reference energies come from, by name."""

_STRONGEST_BINDING = 50.0  # eV/atom; tungsten has 9


def reference_energies(
    frames: Sequence[LabelledFrame],
    method: str | Mapping[Any, float],
    isolated: Mapping[int, float] | None = None,
    also: Collection[int] = (),
) -> dict[int, float]:
    """Return atomic number -> reference energy in eV, for the elements of ``frames``.

    Parameters
    ----------
    method : "least_squares", "isolated_atoms", or the energies in eV themselves by
        symbol or atomic number; those of other elements are left out
    isolated : energies in eV by atomic number, for "isolated_atoms"
    also : atomic numbers of further elements, whose energies are returned where they are known

    Raises
    ------
    ConfigError : an unknown method or element, or an element that is given twice.
    DataError : no frames, or an element of them has no energy; energies that no bonds explain
        are left beside the reference energies.
    """
    elements = _elements(frames)
    if isinstance(method, str):
        if method == "least_squares":
            return reference_energies_by_least_squares(frames)
        if method != "isolated_atoms":
            raise ConfigError(
                f"unknown method '{method}' for reference energies; known: {', '.join(METHODS)}, "
                "or a table of element -> eV." + did_you_mean(method, METHODS)
            )
        known, missing_from = dict(isolated or {}), "the isolated atoms of the data set"
    else:
        known = by_atomic_number(method)
        missing_from = "the given reference energies"
    missing = [chemical_symbols[z] for z in elements if z not in known]
    if missing:
        raise DataError(
            f"no reference energy for {listing(missing)} in {missing_from}, found "
            f"{listing([chemical_symbols[z] for z in sorted(known)]) or 'none'}; add them, "
            "or use least_squares."
        )
    chosen = {z: known[z] for z in elements}
    _refuse_unbound(frames, chosen, missing_from)
    return chosen | {z: known[z] for z in also if z in known}


def _refuse_unbound(
    frames: Sequence[LabelledFrame], energies: Mapping[int, float], which: str
) -> None:
    """Refuse reference energies in another unit, or of another method, by what they leave."""
    several = [frame for frame in frames if len(frame.atoms) > 1]
    if not several:
        return
    left = float(
        np.median(
            [
                (frame.energy - sum(energies[z] for z in frame.atoms.numbers)) / len(frame.atoms)
                for frame in several
            ]
        )
    )
    if abs(left) > _STRONGEST_BINDING:
        raise DataError(
            f"beside {which} the frames have {left:.4g} eV/atom, where bonds have at most about "
            f"10: they are in another unit (1 Hartree is {Hartree:.4f} eV) or of another method "
            "than the frames; give them in eV, or use least_squares."
        )


def reference_energies_by_least_squares(frames: Sequence[LabelledFrame]) -> dict[int, float]:
    """Return the energies per element, in eV, that fit the total energies best.

    Minimises Σ_frames (E - Σ_z n_z e_z)². Where the compositions do not fix the
    answer (one molecule, or one stoichiometry) it is the solution of minimum
    norm: the frames' energies are fitted, but a single e_z means nothing alone.

    Raises
    ------
    DataError : no frames.
    """
    elements = _elements(frames)
    counts = np.array([[np.sum(f.atoms.numbers == z) for z in elements] for f in frames])
    energies = np.array([frame.energy for frame in frames])
    solution = np.linalg.lstsq(counts.astype(np.float64), energies, rcond=None)[0]
    return dict(zip(elements, solution.tolist(), strict=True))


def force_rms(frames: Sequence[LabelledFrame]) -> float:
    """Return the root mean square of all force components, in eV/Å.

    Raises
    ------
    DataError : no frames, or some of them have no forces.
    """
    _elements(frames)
    forces = [frame.forces for frame in frames if frame.forces is not None]
    if len(forces) < len(frames):
        missing = [k for k, frame in enumerate(frames) if frame.forces is None]
        raise DataError(f"every frame needs forces, found none in frames {listing(missing)}.")
    return float(np.sqrt(np.mean(np.concatenate(forces) ** 2)))


def average_neighbours(graphs: Sequence[AtomicGraph]) -> float:
    """Return the mean number of edges that an atom receives.

    Raises
    ------
    DataError : no graphs, or no atoms in them.
    """
    n_atoms = sum(graph.atomic_numbers.shape[0] for graph in graphs)
    if n_atoms == 0:
        raise DataError("average_neighbours needs at least one atom, found none.")
    return sum(graph.edge_index.shape[1] for graph in graphs) / n_atoms


def _elements(frames: Sequence[LabelledFrame]) -> list[int]:
    if len(frames) == 0:
        raise DataError("the statistics of a data set need at least one frame, found none.")
    return np.unique(np.concatenate([frame.atoms.numbers for frame in frames])).tolist()
