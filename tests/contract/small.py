"""Every potential of the registry, small enough to be tested often."""

from __future__ import annotations

import copy
from functools import cache

import torch
from small_models import POTENTIALS, small_options

from eqcalc import architectures
from eqcalc.potential import Potential
from eqcalc.testing.geometries import ELEMENTS
from eqcalc.testing.preparation import prepared_copy

__all__ = ["POTENTIALS", "small_potential"]


def small_potential(name: str) -> Potential:
    """Return an architecture in float32, prepared as check_contract does it."""
    return copy.deepcopy(_prepared(name))


@cache
def _prepared(name: str) -> Potential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architectures.build(name, **small_options(name))
    return prepared_copy(Potential(network, dict.fromkeys(ELEMENTS, 0.0)), ELEMENTS)
