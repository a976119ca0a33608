"""What a frame says and a training does not see: charge, spin, weights, an unused cell."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eqcalc.data.frames import LabelledFrame
from eqcalc.electrons import CHARGES, SPINS
from eqcalc.errors import listing

__all__ = ["notes_on_cells", "notes_on_electrons", "notes_on_weights"]

_STATES = {"charge": CHARGES, "spin": SPINS}
_WEIGHT = re.compile(r"^(?!.*(mol|atom)).*weight", re.IGNORECASE)  # of no molecule


def notes_on_electrons(frames: Sequence[LabelledFrame]) -> list[str]:
    """Return sentences on frames, of one file or of several, that differ in charge or spin.

    Who joins frames asks for them: each file may be of one charge, and their union of several.
    """
    notes = []
    for kind, names in _STATES.items():
        for name, ordinary in names.items():
            if not any(name in frame.info for frame in frames):
                continue
            shown = _several(frames, name, ordinary)
            if shown:
                notes.append(
                    f"frames differ in their {kind} ({name}: {shown}), which a network does not "
                    "see: equal structures would have several energies. Train on one of them."
                )
    return notes


def notes_on_weights(frames: Sequence[LabelledFrame]) -> list[str]:
    """Return sentences on weights of single frames, such as ``config_weight``, that differ.

    Other trainers take them, and give those frames 0 whose labels are none.
    """
    notes = []
    for name in sorted({key for frame in frames for key in frame.info if _WEIGHT.match(key)}):
        shown = _several(frames, name, ordinary=1.0)
        if shown:
            notes.append(
                f"frames differ in their '{name}' ({shown}), which is not used: all count alike. "
                "Leave out frames, or labels, that shall not count."
            )
    return notes


def notes_on_cells(images: Sequence[Atoms], rows: Sequence[int]) -> list[str]:
    """Return a sentence on frames with a cell that is not periodic.

    Parameters
    ----------
    rows : numbers of the frames, for the sentence
    """
    lost = [
        row
        for row, atoms in zip(rows, images, strict=True)
        if not atoms.pbc.any() and abs(np.linalg.det(atoms.cell.array)) > 0.0
    ]
    if not lost:
        return []
    return [
        f"{len(lost)} of {len(rows)} frames have a cell but pbc = F F F and are taken as "
        f"molecules (frames {listing(lost)}); a crystal needs pbc = T T T in the file."
    ]


def _several(frames: Sequence[LabelledFrame], name: str, ordinary: float) -> str:
    """Return the numbers that an entry has in the frames, where these are several, else nothing.

    Frames without it have the ordinary one.
    """
    found = {_number(frame.info.get(name, ordinary)) for frame in frames}
    values = sorted(value for value in found if value is not None)
    return listing([f"{value:g}" for value in values]) if len(values) > 1 else ""


def _number(value: object) -> float | None:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 and array.dtype.kind in "fiu" else None
