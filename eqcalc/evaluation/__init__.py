"""Models judged against labelled frames: errors, a committee's spread, and pictures of them."""

from eqcalc.evaluation.calibration import Bin, Calibration, Calibrations, evaluate_committee
from eqcalc.evaluation.comparison import Comparison, Errors, Quantity, evaluate

__all__ = [
    "Bin",
    "Calibration",
    "Calibrations",
    "Comparison",
    "Errors",
    "Quantity",
    "evaluate",
    "evaluate_committee",
]
