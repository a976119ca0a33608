"""Models judged against labelled frames: errors, and pictures of them."""

from eqcalc.evaluation.comparison import Comparison, Errors, Quantity, evaluate

__all__ = ["Comparison", "Errors", "Quantity", "evaluate"]
