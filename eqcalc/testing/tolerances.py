"""Every tolerance of the contract, in one table."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = [
    "DERIVATIVE",
    "FAR_FROM_ORIGIN",
    "FORCE_CONSTANT_FLOOR",
    "FORCE_CONSTANT_SPREAD",
    "MINIMAL_EFFECT",
    "SMALL_DISPLACEMENTS",
    "TOLERANCES",
    "VANISHING_DISTANCES",
    "VANISHING_SLACK",
    "Tolerance",
    "vanishing_orders",
]


@dataclass(frozen=True)
class Tolerance:
    """Largest difference allowed: absolute plus relative times the largest expected value.

    energy : eV
    derivative : eV/Å for forces, eV/Å³ for stress
    relative : fraction of the largest component
    """

    energy: float
    derivative: float
    relative: float


TOLERANCES: dict[torch.dtype, Tolerance] = {
    # Rounding of sums over some hundred edges through a few layers. Forces are differences
    # of edge gradients of up to 10 eV/Å; where vectors cancel, √(Σv² + 1e-8) multiplies the
    # rounding of v by up to 1e4.
    torch.float64: Tolerance(energy=1e-10, derivative=1e-9, relative=1e-10),
    torch.float32: Tolerance(energy=1e-5, derivative=5e-4, relative=1e-5),
}

DERIVATIVE = Tolerance(energy=0.0, derivative=1e-8, relative=1e-6)
"""Finite differences, float64."""

FAR_FROM_ORIGIN: dict[torch.dtype, Tolerance] = {
    # Positions of 1e5 Å are rounded to 1e-11 Å, which a force constant of 1e2 eV/Å² shows.
    torch.float64: Tolerance(energy=1e-8, derivative=1e-8, relative=1e-8),
    torch.float32: TOLERANCES[torch.float32],
}

MINIMAL_EFFECT = 1e-5
"""eV; a neighbour that changes an atom's energy by less is not seen."""

VANISHING_DISTANCES = (1e-2, 5e-3, 2e-3, 2e-4)
"""Fractions of the cutoff by which an edge is short of it; the last is compared with the others."""

SMALL_DISPLACEMENTS = (1e-5, 1e-4, 1e-3)
"""Å; a network of random weights may already be anharmonic at more."""

FORCE_CONSTANT_SPREAD = 0.1
"""Of the largest force constant; a kink changes it by an order of magnitude."""

FORCE_CONSTANT_FLOOR = 1e-4
"""eV/Å²; rounding of a force over the smallest displacement."""

VANISHING_SLACK = 0.5
"""By how much a measured power may fall short; the next worse envelope is a whole power away."""


def vanishing_orders(n_derivatives: int) -> dict[str, int]:
    """Return the powers of (cutoff - d) with which an edge's effect must vanish.

    >>> vanishing_orders(2)
    {'energy': 3, 'forces': 2, 'curvature': 1}

    Parameters
    ----------
    n_derivatives : derivatives of the effect that vanish at the cutoff
    """
    return {"energy": n_derivatives + 1, "forces": n_derivatives, "curvature": n_derivatives - 1}
