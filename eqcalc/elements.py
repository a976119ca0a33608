"""Elements: their number, their names, formulas, and the refusal of what a model does not know."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers as _number_of
from ase.data import chemical_symbols
from ase.formula import Formula
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, UnsupportedElementError, did_you_mean, listing

__all__ = [
    "N_ELEMENTS",
    "atomic_number",
    "by_atomic_number",
    "first_other_mass",
    "require_elements",
    "symbols_of",
    "trained_on",
]

_ISOTOPE = 2e-3  # relative

N_ELEMENTS = 119
"""Rows of a table that atomic numbers index directly: H to Og, and row 0, which is unused."""


def atomic_number(element: str | int) -> int:
    """Return the atomic number of a symbol or number, which may be typed as text.

    >>> atomic_number("C"), atomic_number(6), atomic_number("6")
    (6, 6, 6)

    Raises
    ------
    ConfigError : not an element between H and Og.
    """
    if isinstance(element, str) and element in _number_of and element != "X":
        return _number_of[element]
    if isinstance(element, str) and element.isdecimal():
        return atomic_number(int(element))
    if isinstance(element, str) or not 1 <= int(element) < N_ELEMENTS:
        hint = did_you_mean(str(element), chemical_symbols[1:])
        raise ConfigError(f"'{element}' is no element's symbol or atomic number.{hint}")
    return int(element)


def by_atomic_number(values: Mapping[Any, float]) -> dict[int, float]:
    """Return values of elements, given by symbol or atomic number, by atomic number.

    >>> by_atomic_number({"H": -13.6, 8: -2040.0})
    {1: -13.6, 8: -2040.0}

    Raises
    ------
    ConfigError : not an element, or one that is given twice.
    """
    found: dict[int, float] = {}
    for element, value in values.items():
        number = atomic_number(element)
        if number in found:
            raise ConfigError(
                f"{chemical_symbols[number]} is given twice, with {found[number]} and {value}; "
                "keep one of them."
            )
        found[number] = float(value)
    return found


def symbols_of(numbers: Collection[int]) -> list[str]:
    """Return the symbols of atomic numbers, each once, by atomic number.

    >>> symbols_of([8, 1, 1])
    ['H', 'O']
    """
    return [chemical_symbols[number] for number in sorted({int(n) for n in numbers})]


def require_elements(
    numbers: Sequence[int], known: Collection[str], model: str, *, where: str = ""
) -> None:
    """Refuse atoms of elements that a model has never seen.

    Parameters
    ----------
    numbers : (n_atoms,) atomic numbers
    known : symbols that the model was trained on
    model : what a message calls it, such as "model 'painn-ethanol'"
    where : what a message says of the place; the atoms' indices by default

    >>> require_elements([1, 11], {"H", "O"}, "model 'water'")
    Traceback (most recent call last):
    ...
    eqcalc.errors.UnsupportedElementError: model 'water' does not know Na (atoms 1); it was trained on H, O.

    Raises
    ------
    UnsupportedElementError : there is one; the message names it.
    """  # noqa: E501  (a message is one line)
    unknown = set(symbols_of(numbers)) - set(known)
    if not unknown:
        return
    if not where:
        atoms = [k for k, number in enumerate(numbers) if chemical_symbols[int(number)] in unknown]
        where = f"atoms {listing(atoms)}"
    found = sorted(unknown, key=chemical_symbols.index)
    trained_on = ", ".join(sorted(known, key=chemical_symbols.index))
    raise UnsupportedElementError(
        f"{model} does not know {', '.join(found)} ({where}); it was trained on {trained_on}."
    )


def trained_on(compositions: Collection[str], atoms: Atoms) -> bool:
    """Return whether the formula of ``atoms`` is among those of a model's card.

    A crystal or a liquid is the same substance in a cell of any size; a cluster of
    molecules is not the molecule.
    """
    if atoms.get_chemical_formula(mode="hill") in compositions:
        return True
    if not atoms.pbc.any():
        return False
    reduced = [Formula(c).reduce()[0].format("hill") for c in compositions]
    return atoms.symbols.formula.reduce()[0].format("hill") in reduced


def first_other_mass(masses: NDArray[np.float64], expected: NDArray[np.float64]) -> Optional[int]:
    """Return the first atom whose mass (n_atoms,) is another isotope's than expected, or None.

    Tables of natural masses differ by less than 0.2 %, isotopes by more.
    """
    others = np.flatnonzero(np.abs(masses - expected) > _ISOTOPE * expected)
    return int(others[0]) if len(others) > 0 else None
