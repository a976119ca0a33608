"""Learned dynamics: constrained n-body data, training, and propagators in ASE.

A propagator is a file that makes one large step of time; running one needs none of
the code that trains it. What belongs here: everything about networks that predict where
particles will be; those that predict energies are trained in :mod:`eqcalc.training`.

>>> from eqcalc.dynamics import NBodySystem, simulate
>>> system = NBodySystem(n_isolated=1, n_sticks=2, n_hinges=0)
>>> data = simulate(system, n_samples=3, n_steps=200)
>>> data.positions.shape  # samples, frames, particles, directions
(3, 3, 5, 3)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from eqcalc.late_names import late_names

if TYPE_CHECKING:
    from eqcalc.dynamics.export import export_propagator
    from eqcalc.dynamics.learned import EGNNDynamics, GMNDynamics, build_dynamics
    from eqcalc.dynamics.nbody import simulate
    from eqcalc.dynamics.nbody_data import NBodyData, NBodySystem, read_nbody, write_nbody
    from eqcalc.dynamics.objects import find_objects
    from eqcalc.dynamics.propagator import Propagator
    from eqcalc.dynamics.training import DynamicsOptions, evaluate_dynamics, train_dynamics

__all__ = [
    "DynamicsOptions",
    "EGNNDynamics",
    "GMNDynamics",
    "NBodyData",
    "NBodySystem",
    "Propagator",
    "build_dynamics",
    "evaluate_dynamics",
    "export_propagator",
    "find_objects",
    "read_nbody",
    "simulate",
    "train_dynamics",
    "write_nbody",
]

# A propagator runs without the architectures, and the n-body data without torch's autograd.
__getattr__ = late_names(
    __name__,
    {
        "DynamicsOptions": "training",
        "EGNNDynamics": "learned",
        "GMNDynamics": "learned",
        "NBodyData": "nbody_data",
        "NBodySystem": "nbody_data",
        "Propagator": "propagator",
        "build_dynamics": "learned",
        "evaluate_dynamics": "training",
        "export_propagator": "export",
        "find_objects": "objects",
        "read_nbody": "nbody_data",
        "simulate": "nbody",
        "train_dynamics": "training",
        "write_nbody": "nbody_data",
    },
)
