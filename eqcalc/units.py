"""Units of eqcalc and the only place where they are converted.

Inside: eV, Å, amu, e. Every constant comes from :mod:`ase.units` (CODATA 2014
there), so that a converted number agrees with what ASE prints.
"""

from __future__ import annotations

import numpy as np
from ase import units as _ase
from numpy.typing import ArrayLike

from eqcalc.errors import ConfigError, did_you_mean

__all__ = [
    "ENERGY_UNITS",
    "EV_PER_A3_TO_GPA",
    "GRAM_PER_CM3",
    "LENGTH_UNITS",
    "STRESS_UNITS",
    "customary_force_unit",
    "energy_unit",
    "force_unit",
    "length_unit",
    "pressure_gpa",
    "stress_unit",
]

ENERGY_UNITS: dict[str, float] = {
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": _ase.kcal / _ase.mol,
    "kJ/mol": _ase.kJ / _ase.mol,
    "Hartree": _ase.Hartree,
    "Rydberg": _ase.Rydberg,
}
"""Name of an energy unit -> its value in eV."""

LENGTH_UNITS: dict[str, float] = {
    "Angstrom": 1.0,
    "Bohr": _ase.Bohr,
    "nm": 10.0,
}
"""Name of a length unit -> its value in Å."""

STRESS_UNITS: dict[str, float] = {
    "eV/Angstrom^3": 1.0,
    "GPa": _ase.GPa,
    "MPa": 1e-3 * _ase.GPa,
    "kbar": 0.1 * _ase.GPa,
    "bar": _ase.bar,
    "atm": 101325 * _ase.Pascal,
    "Hartree/Bohr^3": _ase.Hartree / _ase.Bohr**3,
    "Rydberg/Bohr^3": _ase.Rydberg / _ase.Bohr**3,
    "kcal/mol/Angstrom^3": _ase.kcal / _ase.mol,
}
"""Name of a unit of stress -> its value in eV/Å³."""

EV_PER_A3_TO_GPA: float = 1.0 / _ase.GPa

GRAM_PER_CM3: float = _ase.kg / 1000 / (1e-2 * _ase.m) ** 3
"""In amu/Å³."""

_ALIASES = {
    "ev": "eV",
    "mev": "meV",
    "kcal/mol": "kcal/mol",
    "kj/mol": "kJ/mol",
    "hartree": "Hartree",
    "ha": "Hartree",
    "rydberg": "Rydberg",
    "ry": "Rydberg",
    "angstrom": "Angstrom",
    "ang": "Angstrom",
    "å": "Angstrom",
    "a": "Angstrom",
    "bohr": "Bohr",
    "nm": "nm",
}


def energy_unit(name: str) -> float:
    """Return the value of an energy unit in eV.

    >>> round(energy_unit("kcal/mol"), 9)
    0.043364104

    Raises
    ------
    ConfigError : the name is not a known energy unit.
    """
    return _value(name, ENERGY_UNITS, "energy")


def length_unit(name: str) -> float:
    """Return the value of a length unit in Å.

    >>> round(length_unit("Bohr"), 6)
    0.529177

    Raises
    ------
    ConfigError : the name is not a known length unit.
    """
    return _value(name, LENGTH_UNITS, "length")


def force_unit(name: str) -> float:
    """Return the value of a force unit, energy/length, in eV/Å.

    >>> round(force_unit("Hartree/Bohr"), 6)
    51.422067
    >>> round(force_unit("kcal/mol/Angstrom"), 9)
    0.043364104

    Raises
    ------
    ConfigError : the name is not an energy unit, a slash and a length unit.
    """
    energy, slash, length = name.strip().rpartition("/")
    if (
        energy.strip().lower() not in _ALIASES
        or length.strip().lower() not in _ALIASES
        or not slash
    ):
        raise ConfigError(
            f"unknown force unit '{name}'; expected an energy unit ({', '.join(ENERGY_UNITS)}), a "
            f"slash and a length unit ({', '.join(LENGTH_UNITS)}), such as eV/Angstrom or "
            "Hartree/Bohr."
        )
    return energy_unit(energy) / length_unit(length)


def customary_force_unit(energy: str, length: str) -> str:
    """Return the unit of the forces that come with energies and lengths in these units.

    Codes that print Hartree or Rydberg print forces per Bohr, whatever the unit in which the
    positions were written beside them.

    >>> customary_force_unit("Ha", "Angstrom")
    'Hartree/Bohr'
    >>> customary_force_unit("kcal/mol", "Angstrom")
    'kcal/mol/Angstrom'
    """
    value = energy_unit(energy)
    for atomic in ("Hartree", "Rydberg"):
        if value == ENERGY_UNITS[atomic]:
            return f"{atomic}/Bohr"
    return f"{energy}/{length}"


def stress_unit(name: str) -> float:
    """Return the value of a unit of stress in eV/Å³.

    >>> round(stress_unit("GPa"), 9)
    0.006241509

    Raises
    ------
    ConfigError : the name is not a known unit of stress.
    """
    wanted = name.strip().lower().replace("**", "^").replace("å", "angstrom")
    by_lower = {known.lower(): value for known, value in STRESS_UNITS.items()}
    if wanted not in by_lower:
        raise ConfigError(
            f"unknown stress unit '{name}'; known: {', '.join(STRESS_UNITS)}."
            + did_you_mean(name, STRESS_UNITS)
        )
    return by_lower[wanted]


def pressure_gpa(stress: ArrayLike) -> float:
    """Return the pressure in GPa of a stress (6,) in eV/Å³, Voigt, with ASE's sign.

    ASE's stress is positive under tension, a pressure under compression.

    >>> round(pressure_gpa([-0.01, -0.01, -0.01, 0, 0, 0]), 6)
    1.602177
    """
    return float(-np.asarray(stress)[:3].mean() * EV_PER_A3_TO_GPA)


def _value(name: str, table: dict[str, float], kind: str) -> float:
    canonical = _ALIASES.get(name.strip().lower())
    if canonical not in table:
        raise ConfigError(
            f"unknown {kind} unit '{name}'; known: {', '.join(table)}." + did_you_mean(name, table)
        )
    return table[canonical]
