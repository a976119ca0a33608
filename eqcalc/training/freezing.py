"""Parameters that a fine-tuning leaves as they are.

A pattern is a parameter's name or the beginning of one up to a dot, with ``*``, ``?`` and
``[...]`` as in file names: ``embedding``, ``interactions.0``, ``*.radial_network``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from eqcalc.errors import ConfigError, did_you_mean, listing

__all__ = ["Frozen", "freeze", "matches"]

_NETWORK = "architecture."


class Frozen(NamedTuple):
    """What does not change.

    names : of the parameters
    n_frozen, n_all : numbers in them, and in all parameters
    """

    names: list[str]
    n_frozen: int
    n_all: int


def matches(name: str, pattern: str) -> bool:
    """Tell whether a pattern means a parameter.

    >>> matches("messages.1.mix.weight", "messages.1"), matches("messages.10.mix.weight", "messages.1")
    (True, False)
    >>> matches("messages.1.mix.weight", "*.mix"), matches("embedding.weight", "embed")
    (True, False)
    """  # noqa: E501  (an example is one line)
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def freeze(potential: nn.Module, patterns: Sequence[str]) -> Frozen:
    """Let all parameters be trained but those that a pattern means.

    Raises
    ------
    ConfigError : a pattern means no parameter, or nothing is left to train.
    """
    parameters = {
        name.removeprefix(_NETWORK): parameter for name, parameter in potential.named_parameters()
    }
    for pattern in patterns:
        if not any(matches(name, pattern) for name in parameters):
            parts = _parts(parameters)
            raise ConfigError(
                f"freeze: no parameter is called '{pattern}'; its parts are "
                f"{listing(parts, limit=40)}; patterns such as '*.weight' are allowed."
                + did_you_mean(pattern, parts)
            )
    frozen = [name for name in parameters if any(matches(name, pattern) for pattern in patterns)]
    if len(frozen) == len(parameters):
        raise ConfigError(
            f"freeze = {list(patterns)} leaves no parameter to train; freeze fewer of them: "
            f"{listing(_parts(parameters), limit=40)}."
        )
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in frozen)
    sizes = {name: parameter.numel() for name, parameter in parameters.items()}
    return Frozen(frozen, sum(sizes[name] for name in frozen), sum(sizes.values()))


def _parts(names: Iterable[str]) -> list[str]:
    """Return the parts of a network that have parameters, in their order.

    A part of a list is one by itself: ``messages.0`` and ``messages.1``.
    """
    parts = []
    for name in names:
        first, *others = name.split(".")
        parts.append(f"{first}.{others[0]}" if others and others[0].isdigit() else first)
    return list(dict.fromkeys(parts))
