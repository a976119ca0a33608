"""What a frame says and a network does not see: charge, spin, a cell without periodicity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eqcalc.errors import listing

__all__ = ["notes_on_unseen"]

_STATES = {
    "charge": ("charge", "total_charge", "net_charge", "charges"),
    "spin": ("spin", "total_spin", "multiplicity", "spin_multiplicity", "magmom", "nupdown"),
}


def notes_on_unseen(images: Sequence[Atoms], rows: Sequence[int]) -> list[str]:
    """Return sentences on frames that differ in what no network is told.

    Parameters
    ----------
    rows : numbers of the frames, for the sentences
    """
    notes = []
    for kind, names in _STATES.items():
        for name in names:
            found = [_number(atoms.info.get(name, 0.0)) for atoms in images]
            values = sorted({value for value in found if value is not None})
            given = [row for row, a in zip(rows, images, strict=True) if name in a.info]
            if given and len(values) > 1:
                shown = listing(
                    [f"{value:g}" for value in sorted(v for v in values if v is not None)]
                )
                notes.append(
                    f"frames differ in their {kind} ({name}: {shown}), which a network does not "
                    "see: equal structures would have several energies. Train on one of them."
                )
    lost = [
        row
        for row, atoms in zip(rows, images, strict=True)
        if not atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 0.0
    ]
    if lost:
        notes.append(
            f"{len(lost)} of {len(rows)} frames have a cell but pbc = F F F and are taken as "
            f"molecules (frames {listing(lost)}); a crystal needs pbc = T T T in the file."
        )
    return notes


def _number(value: object) -> float | None:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "fiu" else None
