"""Which element a LAMMPS atom type is: its mass decides, and a swap is refused."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
from ase.data import atomic_masses, chemical_symbols
from numpy.typing import NDArray

from eqcalc.elements import N_ELEMENTS, atomic_number
from eqcalc.errors import ConfigError, DataWarning

__all__ = ["elements_by_mass", "require_masses"]

# Two elements whose masses are equally near up to this (amu) are not told apart by a mass:
# Bi and Po, Cm and Bk.
_SAME = 0.01
# A mass this close to an element's is that element's: within a share of it, or so many amu. A
# hydrogen that was made four times as heavy (4.032) is no helium.
_SHARE, _NEAR = 0.005, 0.02
_HEAVY_HYDROGEN = (2.2, 4.5)  # amu: no isotope in use, but mass taken from what it is bound to
_DEUTERIUM = 2.014  # amu; a hydrogen by every potential here

_MASSES = np.asarray(atomic_masses[:N_ELEMENTS])


def elements_by_mass(masses: NDArray[np.float64]) -> list[str]:
    """Return the symbols of types by their masses.

    Parameters
    ----------
    masses : (n_types,) amu

    >>> elements_by_mass(np.array([15.9994, 1.0]))
    ['O', 'H']

    Raises
    ------
    ConfigError : a mass is as near to one element as to another, or is no element's: a hydrogen
        made heavier is no helium, and a united CH₃ no oxygen.
    """
    found = []
    for number, mass in enumerate(masses, start=1):
        nearest = _nearest(float(mass))
        is_deuterium = abs(mass - _DEUTERIUM) <= _NEAR
        if not (is_deuterium or _is_of(float(mass), nearest[0])):
            raise ConfigError(
                f"the mass {mass:g} of type {number} is no element's (nearest is {nearest[0]} with "
                f"{_MASSES[atomic_number(nearest[0])]:g}); name the elements: pair_coeff(model, "
                "element of type 1, ...)."
            )
        if len(nearest) > 1:
            raise ConfigError(
                f"the mass {mass:g} of type {number} is that of {' and of '.join(nearest)}; name "
                "the elements: pair_coeff(model, element of type 1, ...)."
            )
        found += nearest
    return found


def require_masses(elements: Sequence[str], masses: NDArray[np.float64]) -> None:
    """Refuse elements whose masses are not those of the types, in their order.

    Where another element is nearer in mass than the one stated, its own mass is refused and what
    is no element's, such as tritium's, is a warning. Where mass was shifted to hydrogen from what
    it is bound to (3.024, and water's oxygen 11.967, which is carbon's), all are warnings.
    ``pair_style eqcalc`` has the same rule.

    Parameters
    ----------
    elements : symbols, one a type
    masses : (n_types,) amu

    Raises
    ------
    ConfigError : their numbers differ, a symbol is no element, or a mass is another element's.
    """
    if len(elements) != len(masses):
        raise ConfigError(
            f"pair_coeff names {len(elements)} elements ({' '.join(map(str, elements))}), and the "
            f"data file has {len(masses)} atom types; name one element a type, in their order."
        )
    is_shifted = "He" not in elements and any(
        element == "H" and _HEAVY_HYDROGEN[0] < mass < _HEAVY_HYDROGEN[1]
        for element, mass in zip(elements, masses, strict=True)
    )
    for number, (element, mass) in enumerate(zip(elements, masses, strict=True), start=1):
        atomic_number(element)
        nearest = _nearest(float(mass))
        if element in nearest:
            continue
        expected = _MASSES[atomic_number(element)]
        if not is_shifted and _is_of(float(mass), nearest[0]):
            raise ConfigError(
                f"pair_coeff says that type {number} is {element} (mass {expected:g}), and its "
                f"mass in the data file is {mass:g}, that of {' or '.join(nearest)}; put the "
                "elements into the order of the types, or correct the section Masses."
            )
        warnings.warn(
            f"type {number} is {element} with a mass of {mass:g} (commonly {expected:g})",
            DataWarning,
            stacklevel=3,
        )


def _is_of(mass: float, element: str) -> bool:
    """Return whether a mass is an element's, not only near to it."""
    expected = float(_MASSES[atomic_number(element)])
    return abs(mass - expected) <= max(_SHARE * expected, _NEAR)


def _nearest(mass: float) -> list[str]:
    """Return the element of the nearest mass, and those that are as near."""
    distance = np.abs(_MASSES - mass)
    distance[0] = np.inf  # X, which is no element
    numbers = np.flatnonzero(distance <= distance.min() + _SAME)
    return [chemical_symbols[number] for number in numbers]
