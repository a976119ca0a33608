"""Units of eqcalc and the only place where they are converted.

Inside: eV, Å, amu, e. Every constant comes from :mod:`ase.units` (CODATA 2014
there), so that a converted number agrees with what ASE prints.
"""

from __future__ import annotations

from ase import units as _ase

from eqcalc.errors import ConfigError, did_you_mean

__all__ = [
    "ENERGY_UNITS",
    "EV_PER_A3_TO_GPA",
    "LENGTH_UNITS",
    "energy_unit",
    "length_unit",
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

EV_PER_A3_TO_GPA: float = 1.0 / _ase.GPa

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


def _value(name: str, table: dict[str, float], kind: str) -> float:
    canonical = _ALIASES.get(name.strip().lower())
    if canonical not in table:
        raise ConfigError(
            f"unknown {kind} unit '{name}'; known: {', '.join(table)}." + did_you_mean(name, table)
        )
    return table[canonical]
