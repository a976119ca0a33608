"""Simulations in LAMMPS's words: its commands, argument order and units over ASE's classes.

What belongs here: commands, the data files and units they speak, and nothing that computes:
integrators, optimizers, trajectories and calculators are those of :mod:`eqcalc.simulate` and ASE.
"""

from eqcalc.simulate.lammps_style.data_file import write_data
from eqcalc.simulate.lammps_style.minimization import MinimizationResult
from eqcalc.simulate.lammps_style.script import LammpsScript

__all__ = ["LammpsScript", "MinimizationResult", "write_data"]
