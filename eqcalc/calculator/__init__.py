"""A trained model as an ASE calculator, and what it keeps between calls."""

from eqcalc.calculator.calculator import EqCalculator

__all__ = ["EqCalculator"]
