"""Which frames of runs are worth a label: those on which a committee disagrees, each of its kind.

What belongs here: reading candidates, measuring them (spread, descriptor, closest distance) and the
choice among them. Labels come from outside.
"""

from eqcalc.selection.candidates import Candidate, read_candidates
from eqcalc.selection.select import (
    Selected,
    Selection,
    SelectionSettings,
    frames_to_label,
    select_frames,
)

__all__ = [
    "Candidate",
    "Selected",
    "Selection",
    "SelectionSettings",
    "frames_to_label",
    "read_candidates",
    "select_frames",
]
