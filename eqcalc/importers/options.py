"""Entries of a foreign configuration, checked as they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from eqcalc.errors import ModelFileError

__all__ = ["integer", "positive", "widths"]


def integer(config: Mapping[str, Any], key: str) -> int:
    """Return an entry that must be an integer.

    Raises
    ------
    ModelFileError : it is missing, or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
        raise ModelFileError(f"config['{key}'] must be an integer, found {value!r}.")
    return int(value)


def positive(config: Mapping[str, Any], key: str) -> float:
    """Return an entry that must be a number above zero.

    Raises
    ------
    ModelFileError : it is missing, or something else.
    """
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise ModelFileError(f"config['{key}'] must be a positive number, found {value!r}.")
    return float(value)


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
