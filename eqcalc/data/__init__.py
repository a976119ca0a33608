"""Labelled structures: from files of any layout to frames, graphs and batches, in eV and Å.

What belongs here: readers, one per kind of file (:mod:`eqcalc.data.readers` chooses), writers, the
choice of rows, and what is counted or drawn from frames alone. Units are converted here, once;
nothing here knows a network or a model.
"""

from eqcalc.data.frames import Dataset, LabelledFrame
from eqcalc.data.readers import read_dataset
from eqcalc.data.rows import parse_rows
from eqcalc.data.split import random_split
from eqcalc.data.statistics import (
    average_neighbours,
    force_rms,
    reference_energies,
    reference_energies_by_least_squares,
)

__all__ = [
    "Dataset",
    "LabelledFrame",
    "average_neighbours",
    "force_rms",
    "parse_rows",
    "random_split",
    "read_dataset",
    "reference_energies",
    "reference_energies_by_least_squares",
]
