"""Every potential of the registry, small enough to be tested often.

A new architecture needs no entry here: its integer options are cut down by rule, and an
option that the rule should not touch, or that it cannot know, is set in :data:`OPTIONS`.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from derivative_laws import perturb

from eqcalc import architectures
from eqcalc.errors import ConfigError
from eqcalc.potential import Potential

__all__ = [
    "OPTIONS",
    "POTENTIALS",
    "REAL_REFERENCE_ENERGIES",
    "REFERENCE_ENERGIES",
    "small_options",
    "small_potential",
]

OPTIONS: dict[str, dict[str, Any]] = {}
"""Options by architecture that replace what the rule of :func:`small_options` gives."""

POTENTIALS = [name for name in architectures.available() if architectures.is_potential(name)]

REFERENCE_ENERGIES = {"H": -0.5, "C": -1.5, "O": -2.0, "Na": 0.7, "Cl": -1.1, "Cu": 0.3}
"""eV; of the size of the interactions, so that no relative tolerance hides behind them."""

REAL_REFERENCE_ENERGIES = {"H": -13.587222780835477, "C": -1029.4889999755, "O": -2041.9816003861}
"""eV; float32 would round them by up to 1e-4 eV."""

_WIDTH, _DEPTH, _CUTOFF = 16, 2, 4.0
_DEPTH_WORDS = ("block", "layer", "interaction")
_CUTOFF_NAMES = ("cutoff", "cut_off", "r_max")


def small_options(name: str) -> dict[str, Any]:
    """Return options of an architecture cut down to 16 channels, 2 layers and 4 Å.

    Options that the architecture refuses in this combination are left at its defaults.
    """
    options: dict[str, Any] = {}
    config = architectures.config_class(name)
    for field in fields(config):
        default = getattr(config(), field.name)
        if field.name in _CUTOFF_NAMES:
            options[field.name] = _CUTOFF
        elif isinstance(default, int) and not isinstance(default, bool):
            is_depth = any(word in field.name for word in _DEPTH_WORDS)
            options[field.name] = min(default, _DEPTH if is_depth else _WIDTH)
    options |= OPTIONS.get(name, {})
    try:
        config(**options)
    except ConfigError:
        return OPTIONS.get(name, {})
    return options


def small_potential(
    name: str, reference_energies: dict[str, float] = REFERENCE_ENERGIES
) -> Potential:
    """Build an architecture in float32, its parameters moved off every special value."""
    torch.manual_seed(0)
    potential = Potential(architectures.build(name, **small_options(name)), reference_energies)
    perturb(potential)
    return potential.eval()
