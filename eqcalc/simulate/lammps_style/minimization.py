"""ASE's FIRE until LAMMPS's criteria say that it is enough."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.optimize import FIRE

from eqcalc.errors import ConfigError, NonFiniteError

__all__ = ["Criteria", "Minimization", "MinimizationResult"]

# Of LAMMPS: the least energy (in its unit) that a change is compared with, and the number of steps
# downhill (min_modify delaystep) before energies are compared at all.
_LEAST_ENERGY = 1e-8
_DELAY = 20


@dataclass(frozen=True)
class Criteria:
    """``minimize etol ftol maxiter maxeval``.

    Parameters
    ----------
    etol : change of energy in a step relative to the energy; 0 never stops
    ftol : eV/Å, 2-norm of the forces on all atoms together; 0 never stops
    maxiter, maxeval : steps, and calls of the calculator

    Raises
    ------
    ConfigError : a value is out of range.
    """

    etol: float
    ftol: float
    maxiter: int
    maxeval: int

    def __post_init__(self) -> None:
        for name in ("etol", "ftol"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigError(f"{name} of minimize must be 0 or more, not {value!r}.")
        if self.etol >= 1:
            raise ConfigError(
                f"etol of minimize is relative, and must be below 1, not {self.etol}."
            )
        for name in ("maxiter", "maxeval"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} of minimize must be a whole number >= 1, not {value!r}.")


@dataclass(frozen=True)
class MinimizationResult:
    """What a minimization came to.

    Parameters
    ----------
    stopped_by : "energy tolerance", "force tolerance", "max iterations" or "max force
        evaluations", as LAMMPS names them
    energies : eV, at the start and at the end
    force_norms : eV/Å, 2-norms at the start and at the end
    """

    stopped_by: str
    n_iterations: int
    energies: tuple[float, float]
    force_norms: tuple[float, float]

    @property
    def converged(self) -> bool:
        """Whether a tolerance was met."""
        return self.stopped_by in ("energy tolerance", "force tolerance")

    def lines(self, energy_unit: float) -> list[str]:
        """Return the statistics that LAMMPS prints; ``energy_unit`` is in eV."""
        energies = " ".join(f"{energy / energy_unit:.14g}" for energy in self.energies)
        norms = " ".join(f"{norm / energy_unit:.8g}" for norm in self.force_norms)
        return [
            f"  Stopping criterion = {self.stopped_by}",
            f"  Energy initial, final = {energies}",
            f"  Force two-norm initial, final = {norms}",
            f"  Iterations = {self.n_iterations}",
        ]


class Minimization:
    """A minimization at fixed box.

    Parameters
    ----------
    atoms : moved in place
    energy_unit : eV in one unit of the script's energy
    """

    def __init__(self, atoms: Atoms, criteria: Criteria, energy_unit: float):
        self._atoms = atoms
        self._criteria = criteria
        self._least = _LEAST_ENERGY * energy_unit
        self._optimizer = FIRE(atoms, logfile=None)
        self._steps: list[tuple[float, float]] = []  # energy and norm of the forces
        self._stopped_by = ""

    def steps(self) -> Iterator[bool]:
        """Yield at each step, the first before any move: whether it is the last."""
        # One call of the calculator for the start, and one for each step.
        most = min(self._criteria.maxiter, self._criteria.maxeval - 1)
        # ASE's own criterion is never met.
        for _ in self._optimizer.irun(fmax=0.0, steps=most):
            energy = float(self._atoms.get_potential_energy())
            norm = float(np.linalg.norm(self._atoms.get_forces()))
            if not (math.isfinite(energy) and math.isfinite(norm)):
                raise NonFiniteError("the energy or the forces are NaN or infinite")
            self._steps.append((energy, norm))
            self._stopped_by = self._reason(most)
            yield bool(self._stopped_by)
            if self._stopped_by:
                return

    def result(self) -> MinimizationResult:
        """Return what it came to."""
        (first, first_norm), (last, last_norm) = self._steps[0], self._steps[-1]
        return MinimizationResult(
            self._stopped_by, len(self._steps) - 1, (first, last), (first_norm, last_norm)
        )

    def _reason(self, most: int) -> str:
        """Return why this step is the last, or nothing."""
        energy, norm = self._steps[-1]
        if norm == 0 or norm < self._criteria.ftol:
            return "force tolerance"
        if self._criteria.etol > 0 and self._optimizer.Nsteps > _DELAY:
            before = self._steps[-2][0]
            scale = 0.5 * (abs(energy) + abs(before) + self._least)
            if abs(energy - before) < self._criteria.etol * scale:
                return "energy tolerance"
        if len(self._steps) - 1 >= most:
            few = self._criteria.maxiter > self._criteria.maxeval - 1
            return "max force evaluations" if few else "max iterations"
        return ""
