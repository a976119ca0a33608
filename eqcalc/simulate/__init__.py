"""Molecular dynamics and relaxation with any ASE calculator.

A run is a folder: the trajectory, a table, a plot, the last structure and a
manifest that says what it was made with and how it ended. Bands of images go through few,
large model calls (:func:`share_calculator`).

What belongs here: what is done with a calculator, and what a run leaves on disk. Integrators
and optimizers are ASE's own; nothing here knows a network.

>>> from ase.build import molecule
>>> from ase.calculators.emt import EMT
>>> run = MDRun(molecule("N2"), EMT(), MDSettings(ensemble="nve", n_steps=10))
>>> run.n_dof  # one vibration: N2 neither drifts nor turns
1
"""

from eqcalc.simulate.conversion import convert_run
from eqcalc.simulate.guard_settings import GuardSettings
from eqcalc.simulate.images import share_calculator
from eqcalc.simulate.interrupts import StopRequested
from eqcalc.simulate.md import MDProgress, MDResult, MDRun, resume_md, run_md
from eqcalc.simulate.relax import RelaxResult, RelaxRun, RelaxStep, run_relax
from eqcalc.simulate.settings import MDSettings, RelaxSettings
from eqcalc.simulate.structures import read_structure

__all__ = [
    "GuardSettings",
    "MDProgress",
    "MDResult",
    "MDRun",
    "MDSettings",
    "RelaxResult",
    "RelaxRun",
    "RelaxSettings",
    "RelaxStep",
    "StopRequested",
    "convert_run",
    "read_structure",
    "resume_md",
    "run_md",
    "run_relax",
    "share_calculator",
]
