"""What is strange about a structure before its first step, in sentences.

Lengths that may be in another unit, atoms out of reach, and what a model does not look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from numbers import Real

import numpy as np
from ase import Atoms
from ase.constraints import FixAtoms
from ase.data import atomic_masses

from eqcalc.electrons import ELECTRONS
from eqcalc.errors import GraphError, listing
from eqcalc.neighbours import build_graph
from eqcalc.neighbours.nearest import is_as_in_bohr, typical_ratio
from eqcalc.simulate.cell_state import widest_gaps
from eqcalc.simulate.degrees_of_freedom import INTERNAL

__all__ = ["doubts", "doubts_of_many", "timestep_doubt"]

_CLOSEST = 0.5  # Å; H2 has 0.74, and dense hydrogen hardly less
_SHORTEST_FS = 0.02
_HYDROGEN_PERIOD_FS, _HYDROGEN_FOLLOWS_FS = 10.0, 1.5
_GAP = 5.0  # Å without atoms, beside which a cell is a box
_OUTSIDE = 0.1  # of a cell
_MOST_ATOMS = 100_000  # more would take seconds to look at


def doubts(atoms: Atoms, cutoff: float) -> list[str]:
    """Return sentences about charge and spin, lengths in another unit than Å, and lonely atoms.

    Parameters
    ----------
    cutoff : Å; the model's

    Raises
    ------
    GraphError : the structure has no meaningful graph.
    """
    found = _ignored(atoms)
    return found if len(atoms) > _MOST_ATOMS else found + _strange_lengths(atoms, cutoff)


def doubts_of_many(structures: Sequence[Atoms], cutoff: float) -> list[str]:
    """Return :func:`doubts` of the frames of a file: electrons of each, lengths of the first.

    A sentence that holds for several stands once, with the number of the first of them.
    """
    if len(structures) == 1:
        return doubts(structures[0], cutoff)
    found: dict[str, int] = {}
    for k, atoms in enumerate(structures):
        for sentence in _ignored(atoms):
            found.setdefault(sentence, k)
    with suppress(GraphError):  # whoever computes the frame says it
        for sentence in doubts(structures[0], cutoff):
            found.setdefault(sentence, 0)
    return [f"frame {k}: {sentence}" for sentence, k in found.items()]


def timestep_doubt(atoms: Atoms, timestep_fs: float) -> str | None:
    """Return a sentence where the lightest moving atom cannot follow a timestep, else None.

    Neither does one that is so short that hardly anything would happen: it may be meant in ps.
    What a bond of hydrogen follows is 1.5 fs, and of other atoms longer as the root of the mass.
    """
    if timestep_fs < _SHORTEST_FS:
        return (
            f"a timestep of {timestep_fs:g} fs is much shorter than any motion of atoms needs "
            "(0.25 to 2 fs): timesteps are in fs, not in ps."
        )
    is_moving = np.ones(len(atoms), dtype=bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms):
            is_moving[constraint.index] = False
        elif isinstance(constraint, INTERNAL):  # rigid bonds do not vibrate
            is_moving[constraint.get_indices()] = False
    if not is_moving.any():
        return None
    masses = np.where(is_moving, atoms.get_masses(), np.inf)
    lightest = int(masses.argmin())
    slowness = float(np.sqrt(masses[lightest] / atomic_masses[1]))
    if timestep_fs <= _HYDROGEN_FOLLOWS_FS * slowness:
        return None
    return (
        f"a timestep of {timestep_fs:g} fs is long for {atoms.symbols[lightest]} "
        f"({masses[lightest]:.3g} amu), whose bonds vibrate in about "
        f"{_HYDROGEN_PERIOD_FS * slowness:.0f} fs: a twentieth of that is usual."
    )


def _ignored(atoms: Atoms) -> list[str]:
    """Name what the structure says of its electrons: no model here sees it."""
    found = [
        f"{name} {atoms.info[name]}"
        for name, ordinary in ELECTRONS.items()
        if isinstance(atoms.info.get(name), Real) and atoms.info[name] != ordinary
    ]
    found += ["initial charges"] * bool(atoms.get_initial_charges().any())
    found += ["initial magnetic moments"] * bool(atoms.get_initial_magnetic_moments().any())
    doubts = [f"the model knows nothing of the structure's {', '.join(found)}."] if found else []
    if not atoms.pbc.any() and _is_filled(atoms):
        doubts.append(
            "the structure has a cell that its atoms fill and no periodic direction, so it is "
            "taken for a cluster; a crystal or a liquid needs pbc='T T T'."
        )
    return doubts


def _is_filled(atoms: Atoms) -> bool:
    """Return whether atoms stand all over a cell, as those of a molecule in a box do not."""
    if atoms.cell.rank < 3:
        return False
    places = atoms.get_scaled_positions(wrap=False)
    if np.ptp(places, axis=0).max() > 1.0 + _OUTSIDE:
        return False
    return bool((widest_gaps(atoms, places) < _GAP).all())


def _strange_lengths(atoms: Atoms, cutoff: float) -> list[str]:
    graph = build_graph(atoms, cutoff)
    senders, receivers = graph.edge_index.numpy()
    found = []
    if len(receivers) > 0:
        distances = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
        closest = int(distances.argmin())
        if distances[closest] < _CLOSEST:
            i, j = int(senders[closest]), int(receivers[closest])
            across = i == j or atoms.get_distance(i, j) > 1.01 * distances[closest]
            hint = " across a face of the cell, which may be too small" if across else ""
            found.append(
                f"atoms {i} and {j} are {distances[closest]:.2g} Å apart{hint}; positions and cell "
                "must be in Å."
            )
    is_bond = len(atoms) == 2 and not atoms.pbc.any()  # which may be pulled apart
    ratio = typical_ratio(graph)
    if ratio is not None and is_as_in_bohr(ratio) and not is_bond:
        found.append(
            f"nearest neighbours are {ratio:.2f} times the sum of covalent radii apart (bonds have "
            "about 1), as where positions are in Bohr; positions and cell must be in Å."
        )
    lonely = np.setdiff1d(np.arange(len(atoms)), receivers).tolist()
    if len(atoms) == 1:
        return found  # an atom alone is meant so
    if len(lonely) == len(atoms):
        found.append(
            f"no atom has a neighbour within the model's cutoff of {cutoff:g} Å, so there are no "
            "forces; positions and cell must be in Å."
        )
    elif lonely:
        found.append(
            f"without a neighbour within the model's cutoff of {cutoff:g} Å: "
            f"atoms {listing(lonely)}."
        )
    return found
