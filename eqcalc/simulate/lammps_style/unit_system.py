"""The units of a script: LAMMPS's ``metal`` and ``real``, in ASE's units.

Every constant comes from :mod:`ase.units` (CODATA 2014). LAMMPS carries constants of older
sets: its Boltzmann constant is 1.5e-6 larger relative to these, its other factors agree to 1e-7.
"""

from __future__ import annotations

from dataclasses import dataclass

from ase import units

from eqcalc.errors import ConfigError, did_you_mean
from eqcalc.units import energy_unit, stress_unit

__all__ = ["UnitSystem", "unit_system"]


@dataclass(frozen=True)
class UnitSystem:
    """One of LAMMPS's unit systems whose length is Å, mass g/mol and charge e.

    Parameters
    ----------
    name : as the command ``units`` has it
    time_fs : fs in one unit of time
    time_name, energy_name, pressure_name : for messages and documentation
    default_timestep : in units of time, LAMMPS's own
    """

    name: str
    time_fs: float
    time_name: str
    energy_name: str
    pressure_name: str
    default_timestep: float

    @property
    def energy(self) -> float:
        """The value of one unit of energy, in eV."""
        return energy_unit(self.energy_name)

    @property
    def pressure(self) -> float:
        """The value of one unit of pressure, in eV/Å³."""
        return stress_unit(self.pressure_name)

    @property
    def velocity(self) -> float:
        """The value of one Å per unit of time, in ASE's unit of velocity."""
        return 1.0 / (self.time_fs * units.fs)


_SYSTEMS = {
    "metal": UnitSystem("metal", 1000.0, "ps", "eV", "bar", 0.001),
    "real": UnitSystem("real", 1.0, "fs", "kcal/mol", "atm", 1.0),
}


def unit_system(name: str) -> UnitSystem:
    """Return a unit system by its LAMMPS name.

    >>> unit_system("real").time_name
    'fs'
    >>> round(unit_system("metal").pressure * 1e7, 6)
    6.241509

    Raises
    ------
    ConfigError : neither "metal" nor "real".
    """
    if name not in _SYSTEMS:
        raise ConfigError(
            f"units '{name}' are not supported; known: {', '.join(_SYSTEMS)} (both with Å, g/mol "
            f"and e).{did_you_mean(str(name), _SYSTEMS)}"
        )
    return _SYSTEMS[name]
