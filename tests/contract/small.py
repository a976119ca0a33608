"""Every potential of the registry, small enough to be tested often."""

from __future__ import annotations

import torch
from derivative_laws import perturb
from small_models import POTENTIALS, small_options

from eqcalc import architectures
from eqcalc.potential import Potential

__all__ = [
    "POTENTIALS",
    "REAL_REFERENCE_ENERGIES",
    "REFERENCE_ENERGIES",
    "small_options",
    "small_potential",
]

REFERENCE_ENERGIES = {"H": -0.5, "C": -1.5, "O": -2.0, "Na": 0.7, "Cl": -1.1, "Cu": 0.3}
"""eV; of the size of the interactions, so that no relative tolerance hides behind them."""

REAL_REFERENCE_ENERGIES = {"H": -13.587222780835477, "C": -1029.4889999755, "O": -2041.9816003861}
"""eV; float32 would round them by up to 1e-4 eV."""


def small_potential(
    name: str, reference_energies: dict[str, float] = REFERENCE_ENERGIES
) -> Potential:
    """Build an architecture in float32, its parameters moved off every special value."""
    torch.manual_seed(0)
    potential = Potential(architectures.build(name, **small_options(name)), reference_energies)
    perturb(potential)
    return potential.eval()
