"""Entries of a foreign configuration, checked as they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from eqcalc.errors import ModelFileError

__all__ = ["integer", "is_same", "positive", "widths"]

_LARGEST = 10_000
"""Of widths, layers, degrees: a network is not built to find out that its numbers are absurd."""


def is_same(value: Any, known: Any) -> bool:
    """Whether an entry is of the same type as a known value, and equal to it."""
    return type(value) is type(known) and bool(value == known)


def integer(config: Mapping[str, Any], key: str, minimum: int = 1) -> int:
    """Return an entry that must be an integer, such as 6 or 6.0.

    Raises
    ------
    ModelFileError : it is missing, below the minimum, larger than that of any network, or
        something else.
    """
    value = config.get(key)
    is_whole = type(value) is int or (isinstance(value, float) and float(value).is_integer())
    if not is_whole or value < minimum:  # type: ignore[operator]
        raise ModelFileError(
            f"config['{key}'] must be an integer of at least {minimum}, found {value!r}."
        )
    if value > _LARGEST:  # type: ignore[operator]
        raise ModelFileError(f"config['{key}'] = {value!r} is more than any network has.")
    return int(value)  # type: ignore[arg-type]


def positive(config: Mapping[str, Any], key: str) -> float:
    """Return an entry that must be a number above zero.

    Raises
    ------
    ModelFileError : it is missing, or something else.
    """
    value = config.get(key)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:  # type: ignore[operator]
        raise ModelFileError(f"config['{key}'] must be a positive number, found {value!r}.")
    return float(value)  # type: ignore[arg-type]


def widths(config: Mapping[str, Any], key: str) -> list[int]:
    """Return an entry that must be a list of integers.

    Raises
    ------
    ModelFileError : it is missing, empty, or something else.
    """
    values = config.get(key)
    if not isinstance(values, (list, tuple)) or not values:
        raise ModelFileError(f"config['{key}'] must be a list of widths, found {values!r}.")
    return [integer({key: value}, key) for value in values]
