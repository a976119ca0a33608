"""Whether atoms that a host sends without elements are those of a structure file.

A host that sends positions alone relies on the order of atoms, on one unit and on one orientation
of the cell. Where one of them differs, a model answers with numbers that look like any others.

Shapes: n_atoms. ``cell`` (3, 3) in Å, rows are lattice vectors.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.neighborlist import neighbor_list
from numpy.typing import NDArray

from eqcalc.errors import HostError
from eqcalc.units import length_unit

__all__ = ["refuse_other_atoms", "refuse_torn"]

_NEAR = 1.0  # Å; farther, no atom moves between two calls, and no bead lies from its start
_SAME_SCALE = 0.02  # of a length: a box under pressure changes by less from its file
_BOHR = length_unit("Bohr")


def refuse_other_atoms(
    reference: Atoms, positions: NDArray, cell: NDArray, host: str = "i-PI"
) -> str:
    """Compare the first positions that a host sends with those of the file.

    Returns a sentence where they are too far apart to tell, as after a restart; else "".

    Parameters
    ----------
    reference : the atoms of the file
    positions : (n_atoms, 3), Å; as sent
    cell : as sent; used along periodic directions

    Raises
    ------
    HostError : the atoms are in another order, the lengths in another unit, or the positions in
        another orientation than the cell.
    """
    _refuse_units(reference, positions, cell, host)
    moved = _largest(_displacements(reference, positions, cell))
    if moved < _NEAR:
        _refuse_order(reference, positions, cell, host)  # O and H of a bond are so near
        return ""
    if reference.pbc.all() and _largest(positions - reference.positions) < _NEAR:
        raise HostError(
            f"{host} has turned the cell but not the atoms: it sends the positions of the file in "
            f"the cell {np.round(cell, 4).tolist()}, the file has "
            f"{np.round(reference.cell.array, 4).tolist()}. Start both from a structure whose "
            "first lattice vector lies along x and whose second lies in the xy plane."
        )
    _refuse_order(reference, positions, cell, host)
    return (
        f"the first positions from {host} are up to {moved:.2g} Å from those of the file; {host} "
        "sends no elements, so its atoms must be in the order of the file."
    )


def refuse_torn(
    before: NDArray, positions: NDArray, cell: NDArray, pbc: NDArray, host: str = "i-PI"
) -> None:
    """Refuse atoms that were moved into the cell along an open direction, away from the others.

    Parameters
    ----------
    before : (n_atoms, 3), Å; of the call before, or of the file
    positions : (n_atoms, 3), Å; as sent
    cell : as sent
    pbc : (3,) bool; the directions along which the model sees images

    Raises
    ------
    HostError : some atoms lie a lattice vector of an open direction away, others do not.
    """
    if pbc.all() or abs(np.linalg.det(cell)) < 1e-9:  # no cell, into which to move
        return
    if np.linalg.norm(cell[~pbc], axis=1).min() < 2.0 * _NEAR:
        return  # one that stands for none: atoms move so far by themselves
    moved = positions - before
    shifts = np.rint(moved @ np.linalg.inv(cell))  # (n_atoms, 3)
    if not np.ptp(shifts[:, ~pbc], axis=0).any():
        return
    remainder = moved - shifts @ cell
    if _largest(remainder - remainder.mean(axis=0)) >= _NEAR:
        return  # they are elsewhere for another reason
    apart = np.flatnonzero((shifts != np.median(shifts, axis=0)).any(axis=1)).tolist()
    raise HostError(
        f"{host} moved atoms by lattice vectors along a direction that is open to the model "
        f"(pbc={pbc.tolist()}), such as atom {apart[0]}: molecules are torn apart. Send positions "
        "as they are (i-PI: pbc='false' in <ffsocket>), or make the structure periodic."
    )


def _refuse_units(reference: Atoms, positions: NDArray, cell: NDArray, host: str) -> None:
    """Refuse lengths that are Bohr in the place of Å, or the other way round."""
    if reference.pbc.all():
        ratio = float(np.cbrt(abs(np.linalg.det(cell)) / reference.get_volume()))
    else:
        spreads = [np.linalg.norm(r - r.mean(axis=0)) for r in (positions, reference.positions)]
        if spreads[1] == 0.0:  # one atom
            return
        ratio = float(spreads[0] / spreads[1])
    for scale, said, meant in ((_BOHR, "Å", "Bohr"), (1.0 / _BOHR, "Bohr", "Å")):
        if abs(ratio / scale - 1.0) < _SAME_SCALE:
            raise HostError(
                f"lengths from {host} are {ratio:.3f} times those of the file: it took numbers in "
                f"{said} for {meant}. State the unit where {host} reads the structure (i-PI: "
                "positions{angstrom} cell{angstrom} in the comment, or units='angstrom')."
            )


def _refuse_order(reference: Atoms, positions: NDArray, cell: NDArray, host: str) -> None:
    """Refuse atoms that stand on the places of other elements, where all of them are known."""
    n_atoms = len(reference)
    places = reference.get_scaled_positions(wrap=False) @ cell if reference.pbc.all() else None
    here = reference.positions if places is None else places
    both = Atoms(
        np.concatenate([reference.numbers, reference.numbers]),
        np.concatenate([here, positions]),
        cell=cell,
        pbc=reference.pbc,
    )
    i, j, distances = neighbor_list("ijd", both, _NEAR)
    across = (i >= n_atoms) & (j < n_atoms)
    order = np.lexsort((distances[across], i[across]))
    sent, nearest = np.unique(i[across][order], return_index=True)
    on = j[across][order][nearest]  # the atom of the file on whose place each stands
    if len(sent) < n_atoms or len(np.unique(on)) < n_atoms:
        return
    wrong = np.flatnonzero(reference.numbers[on] != reference.numbers)
    if len(wrong) > 0:
        atom = int(wrong[0])
        raise HostError(
            f"the atoms of {host} are not in the order of the file: atom {atom} of {host} stands "
            f"where the file has atom {on[atom]} ({reference.symbols[on[atom]]}), but atom {atom} "
            f"of the file is {reference.symbols[atom]}. Start both from the same file."
        )


def _displacements(reference: Atoms, positions: NDArray, cell: NDArray) -> NDArray:
    """Return how far atoms are from the file (n_atoms, 3), by the nearest image, without drift.

    In a periodic cell by fractions of it: it may be turned, or have changed its volume.
    """
    if reference.pbc.all():
        moved = positions @ np.linalg.inv(cell) - reference.get_scaled_positions(wrap=False)
        moved -= np.rint(moved)
        return moved @ cell
    moved = positions - reference.positions
    if reference.pbc.any():
        fractions = np.rint(moved @ np.linalg.inv(cell))
        fractions[:, ~reference.pbc] = 0.0
        return moved - fractions @ cell
    return moved - moved.mean(axis=0)


def _largest(vectors: NDArray) -> float:
    return float(np.linalg.norm(vectors, axis=1).max())
