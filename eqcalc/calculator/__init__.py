"""A trained model as an ASE calculator, and what it keeps between calls.

What belongs here: what is asked of a calculator, its Hessian and descriptors too. What is done
with one over time is eqcalc.simulate's.
"""

from eqcalc.calculator.calculator import EqCalculator

__all__ = ["EqCalculator"]
