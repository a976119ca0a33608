"""What the edges of a structure depend on, and the refusal of structures without a graph."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import GraphError, listing
from eqcalc.neighbours.lattice import complete, reduced

__all__ = ["COINCIDENT", "Structure", "check_structure"]

COINCIDENT = 1e-3
"""Å; no two nuclei of a meaningful structure come this close."""

_FARTHEST = 1e12
"""Å; where float64 begins to tell no positions apart that a bond depends on."""

_DEPENDENT = 1e-6  # volume of the box over the product of its edges; 0 for dependent vectors


class Structure(NamedTuple):
    """What the edges of a structure depend on, checked and copied from ``ase.Atoms``.

    numbers : (n_atoms,) int64
    positions : (n_atoms, 3) float64, Å
    lattice : (3, 3) float64, Å; rows are lattice vectors, zero along open directions
    pbc : (3,) bool
    """

    numbers: NDArray
    positions: NDArray
    lattice: NDArray
    pbc: NDArray


def check_structure(atoms: Atoms) -> Structure:
    """Copy what the edges depend on, refusing structures without a meaningful graph.

    Raises
    ------
    GraphError : zero atoms; a position or lattice vector that is not finite or longer than
        1e12 Å; a periodic direction without a proper lattice vector; an atomic number of no
        element, or not whole; complex numbers.
    """
    if len(atoms) == 0:
        raise GraphError("the structure has zero atoms; at least one is needed.")
    if np.iscomplexobj(atoms.positions):
        raise GraphError("positions must be real numbers, found complex ones.")
    numbers = _whole(np.asarray(atoms.numbers))
    strange = np.flatnonzero((numbers < 1) | (numbers >= N_ELEMENTS))
    if len(strange) > 0:
        raise GraphError(
            f"atomic numbers must lie in 1..{N_ELEMENTS - 1}, found "
            f"{listing(numbers[strange].tolist())} on atoms {listing(strange.tolist())}; "
            "replace or delete these atoms."
        )
    positions = np.array(atoms.positions, dtype=np.float64)
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1)).tolist()
    if broken:
        raise GraphError(f"positions must be finite, found NaN or inf on atoms {listing(broken)}.")
    if not np.isfinite(atoms.cell.array).all():
        raise GraphError(f"the cell must be finite, found {atoms.cell.array.tolist()}.")
    pbc = np.array(atoms.pbc, dtype=np.bool_)
    lattice = np.where(pbc[:, None], atoms.cell.array, 0.0)
    far = np.flatnonzero((np.abs(positions) > _FARTHEST).any(axis=1)).tolist()
    if far or np.abs(lattice).max() > _FARTHEST:
        found = f"positions of atoms {listing(far)}" if far else "lattice vectors"
        raise GraphError(
            f"lengths must be below {_FARTHEST:g} Å, where float64 still tells them apart; found "
            f"longer ones in {found}."
        )
    box = complete(lattice, pbc)
    flat = abs(np.linalg.det(box)) <= _DEPENDENT * np.linalg.norm(box, axis=1).prod()
    if flat or np.linalg.norm(reduced(box, pbc)[0], axis=1).min() < COINCIDENT:
        raise GraphError(
            f"the lattice vectors {lattice[pbc].tolist()} along the periodic directions are zero "
            f"or linearly dependent; set the cell, or pbc (now {pbc.tolist()}) to False there."
        )
    return Structure(numbers, positions, lattice, pbc)


def _whole(numbers: NDArray) -> NDArray:
    """Return atomic numbers as int64; a part of one is not cut off, which would be an element."""
    with np.errstate(invalid="ignore"):
        whole = np.array(numbers.real, dtype=np.int64)
    broken = np.flatnonzero(whole != numbers)
    if len(broken) > 0:
        raise GraphError(
            f"atomic numbers must be whole, found {listing(numbers[broken].tolist())} on atoms "
            f"{listing(broken.tolist())}."
        )
    return whole
