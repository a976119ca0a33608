"""The same structure twice: in a copy of a file, or in two roles of one data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eqcalc.data.frames import LabelledFrame

__all__ = ["repeated_structures", "shared_structures"]

_DECIMALS = 5  # of Å: what text files keep


def shared_structures(
    frames: Sequence[LabelledFrame], others: Sequence[LabelledFrame]
) -> list[LabelledFrame]:
    """Return those of ``frames`` whose atoms, in the same places and order, ``others`` have too.

    Single atoms are left out: there is one structure of each.
    """
    known = {_fingerprint(frame) for frame in others}
    return [f for f in frames if len(f.atoms) > 1 and _fingerprint(f) in known]


def repeated_structures(frames: Sequence[LabelledFrame]) -> list[list[LabelledFrame]]:
    """Return the groups of two frames or more that are one structure, in the order of the first.

    Single atoms are left out, as in :func:`shared_structures`.
    """
    groups: dict[bytes, list[LabelledFrame]] = {}
    for frame in frames:
        if len(frame.atoms) > 1:
            groups.setdefault(_fingerprint(frame), []).append(frame)
    return [group for group in groups.values() if len(group) > 1]


def _fingerprint(frame: LabelledFrame) -> bytes:
    atoms = frame.atoms
    numbers = np.concatenate([atoms.positions.ravel(), atoms.cell.array.ravel()])
    # Adding zero makes -0 and 0 the same bytes.
    rounded = np.round(numbers, _DECIMALS) + 0.0
    return atoms.numbers.tobytes() + atoms.pbc.tobytes() + rounded.tobytes()
