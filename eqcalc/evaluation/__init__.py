"""Models judged against labelled frames: errors, a committee's spread, and pictures of them."""

from eqcalc.evaluation.breakdown import breakdown, by_element, by_kind, worst_frames
from eqcalc.evaluation.calibration import Bin, Calibration, Calibrations, evaluate_committee
from eqcalc.evaluation.comparison import Comparison, Errors, Quantity, evaluate

__all__ = [
    "Bin",
    "Calibration",
    "Calibrations",
    "Comparison",
    "Errors",
    "Quantity",
    "breakdown",
    "by_element",
    "by_kind",
    "evaluate",
    "evaluate_committee",
    "worst_frames",
]
