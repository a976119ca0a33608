"""NVE: the error of the total energy must shrink with the square of the timestep.

Velocity Verlet conserves an energy that differs from the true one by a term of dt²: over the same
time, its ripple shrinks four times when the step is halved. Forces that are no derivative of the
energy, kinks and jumps leave a part that does not shrink.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import units
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from numpy.typing import NDArray

from eqcalc.verification.finding import Finding, Verdict, skipped
from eqcalc.verification.specimen import Specimen

__all__ = ["Ripple", "energy_ripple", "nve_slope"]

_CHECK = "NVE: energy ripple ~ dt²"
_HALVINGS = (1, 2, 4)
_STEPS = 12  # of the longest timestep; half an oscillation of the fastest bonds
_TEMPERATURE_K = 300.0
_OF_HYDROGEN_FS = 0.5  # the longest timestep with it; others in proportion to √mass
_SLACK = 0.3  # of the exponent, which is 2 in the limit of short steps
_SHORTER = 4  # where atoms fly apart, the usual step is long
_INVISIBLE = 1e-9  # eV per atom; nothing moves against anything


@dataclass(frozen=True)
class Ripple:
    """Root mean square changes of the total energy over one time, by timestep.

    timesteps : fs; ripples : eV per atom
    """

    timesteps: NDArray
    ripples: NDArray

    @property
    def slope(self) -> float:
        """The exponent: ripple ~ timestep**slope."""
        return float(np.polyfit(np.log(self.timesteps), np.log(self.ripples), 1)[0])

    def as_dict(self) -> dict[str, Any]:
        """Return timesteps in fs, ripples in eV per atom, and their slope."""
        return {
            "timesteps_fs": self.timesteps.tolist(),
            "ripples_eV_per_atom": self.ripples.tolist(),
            "slope": self.slope,
        }


def energy_ripple(specimen: Specimen, parts_of_step: int = 1) -> Ripple:
    """Run the same 12 long steps with three timesteps; the structure starts at 300 K.

    Parameters
    ----------
    parts_of_step : by which the usual timestep is divided
    """
    masses = specimen.atoms.get_masses()
    longest = _OF_HYDROGEN_FS * float(np.sqrt(masses.min())) / parts_of_step
    timesteps = np.array([longest / parts for parts in _HALVINGS])
    ripples = []
    for parts, timestep in zip(_HALVINGS, timesteps, strict=True):
        atoms = specimen.rattled()
        atoms.calc = specimen.calculator
        generator = np.random.default_rng(0)
        MaxwellBoltzmannDistribution(atoms, temperature_K=_TEMPERATURE_K, rng=generator)
        Stationary(atoms)
        energies = [atoms.get_total_energy()]
        dynamics = VelocityVerlet(atoms, timestep=timestep * units.fs)
        for _ in range(_STEPS):
            dynamics.run(parts)
            energies.append(atoms.get_total_energy())
        changes = np.array(energies[1:]) - energies[0]
        ripples.append(np.sqrt(np.square(changes).mean()) / len(atoms))
    return Ripple(timesteps, np.array(ripples))


def nve_slope(specimen: Specimen) -> tuple[Finding, Ripple | None]:
    """Return whether the ripple shrinks as it must, and the ripples."""
    if len(specimen.atoms) < 2:
        return skipped(_CHECK, "one atom alone does not move against anything"), None
    ripple = energy_ripple(specimen)
    if ripple.ripples.min() < _INVISIBLE:
        why = "no energy is exchanged: atoms stand out of each other's reach"
        return skipped(_CHECK, why), None
    if abs(ripple.slope - 2.0) > _SLACK:  # the law is that of short steps
        ripple = energy_ripple(specimen, _SHORTER)
    slope = ripple.slope
    shown = ", ".join(
        f"{1e3 * y:.2g} meV/atom at {x:.3g} fs"
        for x, y in zip(ripple.timesteps, ripple.ripples, strict=True)
    )
    shown = f"dt^{slope:.2f}: {shown}"
    holds = abs(slope - 2.0) <= _SLACK
    advice = ""
    if slope < 2.0 - _SLACK:
        advice = (
            "The energy is not conserved, however short the timestep: see the checks of forces, "
            "smoothness and closest approach."
        )
    elif not holds:
        advice = "Atoms fly apart from here: relax the structure first, and verify that."
    verdict = Verdict.OK if holds else Verdict.FAILED
    finding = Finding(_CHECK, verdict, shown, abs(slope - 2.0), _SLACK, "off dt²", advice=advice)
    return finding, ripple
