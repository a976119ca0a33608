"""A run's numbers beside those of the longest way to them: a step is computed again.

The frame is evaluated in float64 on TorchScript with a neighbour list made for it, and its
energy differentiated along a random direction by finite differences. What a wrong engine, a stale
list, a damaged memory or a force that is no derivative does shows here, while energies that are
only looked at stay smooth.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from eqcalc.units import EV_PER_A3_TO_GPA

__all__ = ["AUDIT_COLUMNS", "Audit", "SelfAudit", "has_reference"]

AUDIT_COLUMNS: tuple[str, ...] = (
    "step",
    "time_fs",
    "energy_error_meV_per_atom",
    "force_error_eV_per_A",
    "slope_error_eV_per_A",
    "net_force_eV_per_A",
    "net_torque_eV",
    "stress_error_gpa",
    "passed",
)

_STEP = 1e-3  # Å by which the atom moves that moves most; the formula's error is of fourth order
_WEIGHTS = {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}
# A passport has few, ordinary frames; a run has many atoms, and hot ones. What is wrong is wrong
# by far more.
_TIMES_THE_PASSPORT = 5.0
_OF_OTHERS = 0.05, 1e-3  # eV/Å and relative: nothing is known of the noise of their energies
_OF_DIFFERENCES = 1e-4, 1e-5  # eV/Å and relative: rounding and the formula's own error
_SUM = 1e-6  # of the sum of the forces' lengths; forces are summed in float64


class Audit(NamedTuple):
    """What an audit found; NaN where a quantity is not defined.

    failures : in words; none of an audit that passed
    energy_error (meV/atom), force_error (eV/Å, largest component) and stress_error (GPa, largest
    component): the run's beside the reference's. slope_error (eV/Å): the run's forces along a
    unit direction beside the finite difference of the reference's energies. net_force (eV/Å) and
    net_torque (eV, of structures without periodic directions): of the run's forces.
    """

    energy_error: float
    force_error: float
    slope_error: float
    net_force: float
    net_torque: float
    stress_error: float
    failures: list[str]

    def row(self, step: int, time_fs: float) -> list[float]:
        """Return the values of ``AUDIT_COLUMNS``."""
        return [step, time_fs, *self[:6], float(not self.failures)]


class _Found(NamedTuple):
    energy: float
    forces: NDArray[np.float64]
    stress: NDArray[np.float64] | None


def has_reference(calculator: Calculator) -> bool:
    """Tell whether a calculator can say how its models are evaluated exactly."""
    return hasattr(calculator, "reference")


class SelfAudit:
    """Audits of a run.

    A calculator without a ``reference()`` (any of ASE's) is its own: its energies are
    differentiated, and nothing else is known of it.

    Parameters
    ----------
    atoms : the run's own, with its calculator
    seed : of the directions; those of a step are the same in every run

    Raises
    ------
    ModelFileError : the model's file is gone or is another one by now.
    """

    def __init__(self, atoms: Atoms, seed: int):
        self._atoms, self._seed = atoms, seed
        self._reference: Any = None  # an EqCalculator, or nothing
        if has_reference(atoms.calc):
            self._reference = atoms.calc.reference()
            first = atoms.calc.models[0]
            self._tolerance = atoms.calc.tolerance()
            energies = first.card.reference_energies
            self._isolated = sum(energies[symbol] for symbol in atoms.symbols)
            self._cutoff = first.card.cutoff

    def audit(self, step: int) -> Audit:
        """Compute the present step again."""
        if self._reference is not None:  # a run that was interrupted shall write the same bits
            self._reference.keep_atom_order(self._atoms, self._atoms.calc.atom_order)
        run = _evaluate(self._atoms, self._atoms.calc)
        n_atoms, largest = len(self._atoms), float(np.abs(run.forces).max())
        slope = self._slope_error(step, run.forces)
        nothing = math.nan
        if self._reference is None:
            allowed = _OF_OTHERS[0] + _OF_OTHERS[1] * largest
            failures = _failures({"slope": (slope, allowed, "eV/Å")})
            return Audit(nothing, nothing, slope, nothing, nothing, nothing, failures)
        exact = _evaluate(self._atoms, self._reference)
        share = self._tolerance.relative
        differences = _OF_DIFFERENCES[0] + _OF_DIFFERENCES[1] * largest
        allowed = _TIMES_THE_PASSPORT * (self._tolerance.forces + share * largest)
        bound = abs(exact.energy - self._isolated) / n_atoms
        allowed_energy = _TIMES_THE_PASSPORT * (self._tolerance.energy + share * bound)
        net_force, torque, arm = self._sums(run.forces)
        lengths = float(np.linalg.norm(run.forces, axis=1).sum())
        energy_error = 1000.0 * abs(run.energy - exact.energy) / n_atoms
        force_error = float(np.abs(run.forces - exact.forces).max())
        stress_error, allowed_stress = self._stress_error(run, exact, allowed)
        found = {
            "energy": (energy_error, 1000.0 * allowed_energy, "meV/atom"),
            "forces": (force_error, allowed, "eV/Å"),
            "slope": (slope, allowed + differences, "eV/Å"),
            "net force": (net_force, _SUM * (1.0 + lengths), "eV/Å"),
        }
        if not self._atoms.pbc.any():
            found["net torque"] = (torque, allowed * arm, "eV")
        if exact.stress is not None:
            found["stress"] = (stress_error, allowed_stress, "GPa")
        return Audit(
            energy_error,
            force_error,
            slope,
            net_force,
            torque,
            stress_error,
            _failures(found),
        )

    def _slope_error(self, step: int, forces: NDArray[np.float64]) -> float:
        rng = np.random.default_rng([self._seed, step])
        direction = rng.standard_normal(forces.shape)
        direction /= np.linalg.norm(direction)
        length = _STEP / float(np.linalg.norm(direction, axis=1).max())
        calculator = self._atoms.calc if self._reference is None else self._reference
        probe = Atoms(self._atoms.numbers, cell=self._atoms.cell, pbc=self._atoms.pbc)
        slope = 0.0
        for multiple, weight in _WEIGHTS.items():
            probe.positions = self._atoms.positions + multiple * length * direction
            slope += weight * float(calculator.get_property("energy", probe)) / length
        return abs(float((forces * direction).sum()) + slope)

    def _sums(self, forces: NDArray[np.float64]) -> tuple[float, float, float]:
        """Return net force, net torque (NaN where a direction is periodic), and √Σr²."""
        net = float(np.linalg.norm(forces.sum(axis=0)))
        arms = self._atoms.positions - self._atoms.positions.mean(axis=0)
        arm = float(np.linalg.norm(arms))
        if self._atoms.pbc.any():
            return net, math.nan, arm
        return net, float(np.linalg.norm(np.cross(arms, forces).sum(axis=0))), arm

    def _stress_error(
        self, run: _Found, exact: _Found, allowed_force: float
    ) -> tuple[float, float]:
        """Return the error and what is allowed, as if every atom's force were that wrong."""
        if run.stress is None or exact.stress is None:
            return math.nan, math.inf
        error = float(np.abs(run.stress - exact.stress).max()) * EV_PER_A3_TO_GPA
        virial = allowed_force * self._cutoff * math.sqrt(len(self._atoms))
        return error, virial / float(self._atoms.get_volume()) * EV_PER_A3_TO_GPA


def _evaluate(atoms: Atoms, calculator: Any) -> _Found:
    """Return what a calculator says of a structure, without its constraints."""
    stress = None
    if atoms.pbc.all() and "stress" in calculator.implemented_properties:
        stress = calculator.get_property("stress", atoms)
    return _Found(
        float(calculator.get_property("energy", atoms)),
        calculator.get_property("forces", atoms),
        stress,
    )


def _failures(found: dict[str, tuple[float, float, str]]) -> list[str]:
    return [
        f"{what} {'' if what.startswith('net') else 'off by '}{value:.3g} {unit}, allowed "
        f"{allowed:.3g}"
        for what, (value, allowed, unit) in found.items()
        if not value <= allowed  # NaN fails too
    ]
