"""The registry of architectures: this folder is the list.

A module ``name.py`` holds the class whose lower-case name is ``name`` and its
frozen ``Config``. To add an architecture, add one file; trainer, exporter,
command line and contract tests find it here.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import asdict, fields
from typing import Any

from torch import nn

from eqcalc.errors import ConfigError, UnknownArchitectureError, did_you_mean

__all__ = ["available", "build", "config_class", "is_potential", "load"]


def available() -> list[str]:
    """Return the lower-case names of all architectures.

    >>> "painn" in available()
    True
    """
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str) -> type[nn.Module]:
    """Return the network class of an architecture.

    Raises
    ------
    UnknownArchitectureError : ``name`` is not in :func:`available`.
    """
    module = _module(name)
    for attribute in module.__all__:
        if attribute.lower() == name.lower():
            return getattr(module, attribute)
    raise UnknownArchitectureError(
        f"eqcalc/architectures/{name.lower()}.py must list a class named like the file "
        f"in __all__, found {module.__all__}."
    )


def config_class(name: str) -> type:
    """Return the frozen dataclass of an architecture's options and defaults."""
    return _module(name).Config


def build(name: str, **config: Any) -> nn.Module:
    """Build an architecture from its defaults and the options given.

    >>> build("painn", embedding_dim=64).cutoff
    5.0

    Raises
    ------
    UnknownArchitectureError : ``name`` is not in :func:`available`.
    ConfigError : an option is unknown or out of range.
    """
    options = config_class(name)
    known = [field.name for field in fields(options)]
    for key in config:
        if key not in known:
            raise ConfigError(
                f"{name} has no option '{key}'; known: {', '.join(known)}."
                + did_you_mean(key, known)
            )
    return load(name)(**asdict(options(**config)))


def is_potential(name: str) -> bool:
    """Tell a potential (it has ``atomic_energies``) from a learned dynamics."""
    return hasattr(load(name), "atomic_energies")


def _module(name: str) -> Any:
    if name.lower() not in available():
        raise UnknownArchitectureError(
            f"unknown architecture '{name}'; available: {', '.join(available())}."
            + did_you_mean(name, available())
        )
    return importlib.import_module(f"{__name__}.{name.lower()}")


def __getattr__(attribute: str) -> Any:
    # ``from eqcalc.architectures import PaiNN`` imports only the modules it must.
    if not attribute.startswith("_"):
        candidates = sorted(available(), key=lambda name: name != attribute.lower())
        for name in candidates:
            module = importlib.import_module(f"{__name__}.{name}")
            if attribute in module.__all__ and attribute != "Config":
                return getattr(module, attribute)
    raise AttributeError(
        f"module '{__name__}' has no attribute '{attribute}'."
        + did_you_mean(attribute, available())
    )
