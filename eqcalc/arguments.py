"""Refuse options out of range, naming each one: of networks, trainings and runs alike."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import fields
from numbers import Real
from typing import Any

from eqcalc.errors import ConfigError, did_you_mean

__all__ = [
    "require_at_least",
    "require_bools",
    "require_choice",
    "require_fraction",
    "require_positive",
]


def require_at_least(minimum: int, **values: int) -> None:
    """Check that every named value is an integer of at least ``minimum``.

    Raises
    ------
    ConfigError : a value is not an int, or is smaller.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
            raise ConfigError(f"{name} must be an integer >= {minimum}, found {value!r}.")


def require_bools(config: Any) -> None:
    """Check that every option of a dataclass that is True or False is that.

    Raises
    ------
    ConfigError : one is not.
    """
    for field in fields(config):
        value = getattr(config, field.name)
        if field.type in (bool, "bool") and not isinstance(value, bool):
            raise ConfigError(f"{field.name} must be True or False, found {value!r}.")


def require_choice(options: Iterable[str], **values: str) -> None:
    """Check that every named value is one of the options.

    Raises
    ------
    ConfigError : a value is not; the message lists the options.
    """
    known = list(options)
    for name, value in values.items():
        if value not in known:
            raise ConfigError(
                f"{name} must be one of {', '.join(known)}, found {value!r}."
                + did_you_mean(str(value), known)
            )


def require_fraction(**values: float) -> None:
    """Check that every named value is a number of at least 0 and below 1.

    Raises
    ------
    ConfigError : a value is not.
    """
    for name, value in values.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not 0.0 <= value < 1.0:
            raise ConfigError(f"{name} must be at least 0 and below 1, found {value!r}.")


def require_positive(**values: float) -> None:
    """Check that every named value is a positive, finite number.

    Raises
    ------
    ConfigError : a value is not a number, not finite, or not above zero.
    """
    for name, value in values.items():
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        if not is_number or not math.isfinite(value) or value <= 0:
            raise ConfigError(f"{name} must be a positive number, found {value!r}.")
