"""Graphs of any size through a model: whole where memory suffices, else in blocks of atoms.

What belongs here: cutting graphs into blocks, joining small structures into groups, and
what either needs of memory.
"""

from eqcalc.blockwise.evaluation import Blockwise, MemoryForecast

__all__ = ["Blockwise", "MemoryForecast"]
