"""One spelling of the options that most networks have, beside the names of each paper's own door.

A user's file may say ``cutoff``, ``n_channels``, ``n_layers`` and ``n_radial_basis`` for every
network; what is stored, in checkpoints and on cards, are the fields of its Config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

from eqcalc.errors import ConfigError

__all__ = ["COMMON_NAMES", "common_names", "field_names", "spelled_by_user"]

COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "cutoff": ("cut_off",),
    "n_channels": ("embedding_dim", "hidden_dim", "num_features", "scalar_dim"),
    "n_layers": ("num_layers", "num_blocks", "num_interaction_blocks"),
    "n_radial_basis": ("num_radial_basis", "num_bessels", "num_filters"),
}
"""Common name -> the fields that it stands for; a Config has one of them, or none."""


def common_names(config: type) -> dict[str, str]:
    """Return common name -> field, of those fields of a Config that have another name.

    >>> from dataclasses import make_dataclass
    >>> common_names(make_dataclass("Config", ["embedding_dim", "cutoff"]))
    {'n_channels': 'embedding_dim'}
    """
    own = [field.name for field in fields(config)]
    return {
        common: next(field for field in meant if field in own)
        for common, meant in COMMON_NAMES.items()
        if common not in own and set(meant) & set(own)
    }


def field_names(config: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under the names of a Config's fields; unknown ones stay as they are.

    Raises
    ------
    ConfigError : an option is given under both names.
    """
    meant = common_names(config)
    for common, field in meant.items():
        if common in options and field in options:
            raise ConfigError(f"{common} and {field} are the same option; give one of them.")
    return {meant.get(name, name): value for name, value in options.items()}


@contextmanager
def spelled_by_user(config: type, options: Mapping[str, Any]) -> Iterator[None]:
    """Let errors about fields use the names under which the user gave them."""
    try:
        yield
    except ConfigError as error:
        message = str(error)
        for common, field in common_names(config).items():
            if common in options:
                message = re.sub(rf"\b{field}\b", common, message)
        if message == str(error):
            raise
        raise ConfigError(message) from error
