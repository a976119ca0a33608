"""Targets of thermostat and barostat that change linearly during a run.

The target of step k is A + (B - A) k / ramp_steps, and B afterwards. It is what the step that
leads to k had, and a function of k alone: a run that goes on has the targets of one that was
never interrupted. A run that is made longer keeps its ramp and holds B.
"""

from __future__ import annotations

from typing import Any

from ase import units
from ase.md.md import MolecularDynamics

from eqcalc.simulate.settings import MDSettings

__all__ = ["Ramp", "targets_at"]

# Masses of ASE's thermostats and barostats, all proportional to the temperature, and the momenta
# that belong to each: owner, "" for the integrator itself, and attribute.
_MASSES: dict[tuple[str, str], tuple[tuple[str, str], ...]] = {
    ("_thermostat", "_Q"): (("_thermostat", "_p_eta"),),
    ("_barostat", "_R"): (("_barostat", "_p_xi"),),
    ("_barostat", "_W"): (("", "_p_eps"), ("", "_p_g"), ("", "_p_c")),
}


def targets_at(settings: MDSettings, step: int) -> dict[str, float]:
    """Return the targets of a step that change: temperature_K, pressure_gpa."""
    if settings.ramp_steps is None:
        return {}
    share = min(1.0, step / settings.ramp_steps)
    ends = {
        "temperature_K": (settings.temperature_K, settings.to_temperature_K),
        "pressure_gpa": (settings.pressure_gpa, settings.to_pressure_gpa),
    }
    # Both ends are met exactly.
    return {
        name: (1.0 - share) * begin + share * end
        for name, (begin, end) in ends.items()
        if end is not None
    }


class Ramp:
    """Sets the targets of one of ASE's integrators; nothing where the settings have no ramp.

    Thermostat and barostat keep their times: their masses grow with the temperature, and their
    momenta so that their velocities stay.

    Parameters
    ----------
    dynamics : as it was built for the temperature at which the ramp begins
    """

    def __init__(self, dynamics: MolecularDynamics, settings: MDSettings) -> None:
        self._dynamics: Any = dynamics  # its class tells what it has
        self._settings = settings
        self._now = {"temperature_K": settings.temperature_K, "pressure_gpa": settings.pressure_gpa}
        self._first_masses = {
            (part, key): getattr(self._owner(part), key)
            for part, key in _MASSES
            if hasattr(self._owner(part), key)
        }

    def at(self, step: int) -> None:
        """Set the targets of the step that leads to ``step``."""
        for name, target in targets_at(self._settings, step).items():
            if target == self._now[name]:
                continue
            if name == "pressure_gpa":
                self._dynamics._pressure_au = target * units.GPa
            elif hasattr(self._dynamics, "_thermostat"):
                self._set_chains(target)
            else:  # Langevin
                self._dynamics.set_temperature(temperature_K=target)
            self._now[name] = target

    def _set_chains(self, temperature_K: float) -> None:
        # From the first masses, not step by step, lest rounding depend on where a run began.
        growth = temperature_K / self._settings.temperature_K
        change = temperature_K / self._now["temperature_K"]
        for (part, key), mass in self._first_masses.items():
            setattr(self._owner(part), key, mass * growth)
            for owner_part, momentum in _MASSES[part, key]:
                owner = self._owner(owner_part)
                if momentum in vars(owner):  # a masked barostat computes _p_g of _p_c
                    setattr(owner, momentum, getattr(owner, momentum) * change)
        for part in ("_thermostat", "_barostat", ""):
            owner = self._owner(part)
            if hasattr(owner, "_kT"):
                owner._kT = units.kB * temperature_K

    def _owner(self, part: str) -> Any:
        return getattr(self._dynamics, part, None) if part else self._dynamics
