"""What the models of a calculator say of a structure, and the results that ASE knows.

Shapes: n_atoms.

The spread of a committee is the sample standard deviation of its members' values, component by
component, with n_members - 1 degrees of freedom: its square is the unbiased estimate of the
variance among networks of that training. Every host has the same definition.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqcalc.engines import Model
from eqcalc.errors import DataWarning, NonFiniteError

__all__ = [
    "SPREADS",
    "MemberResult",
    "combined",
    "refuse_not_finite",
    "spread",
]

_OTHER_ZEROS = 5.0  # eV per atom: networks of one kind never disagree so much

SPREADS = ("energy", "energies", "forces", "stress", "stresses")
"""Results of which a committee has the spread too, as ``NAME_spread``."""


class MemberResult:
    """What one model says of the atoms."""

    def __init__(self, energies: NDArray, forces: NDArray) -> None:
        self.energies = energies  # (n_atoms,), eV
        self.forces = forces  # (n_atoms, 3), eV/Å
        self.energy = float(energies.sum())


def refuse_not_finite(model: Model, member: MemberResult, where: str = "") -> None:
    """Refuse what holds a NaN or infinity.

    Raises
    ------
    NonFiniteError : it does; the message begins with ``where``.
    """
    # A sum of squares is finite where every term is, and takes a fifth of the time to check.
    squares = float(np.vdot(member.forces, member.forces))
    if not (math.isfinite(member.energy) and math.isfinite(squares)):
        raise NonFiniteError(
            f"{where}model '{model.card.name}' returned NaN or infinity for these "
            f"{len(member.energies)} atoms; the structure is far outside what it was trained on "
            "(look at the last frames)."
        )


def combined(members: list[MemberResult]) -> dict[str, Any]:
    """Return a model's results, or the mean and the spread of a committee's."""
    if len(members) == 1:
        member = members[0]
        return _named(member.energy, member.energies, member.forces)
    energies = np.mean([member.energies for member in members], axis=0)
    forces = np.mean([member.forces for member in members], axis=0)
    energy_spread = float(spread([member.energy for member in members]))
    if energy_spread > _OTHER_ZEROS * len(energies):
        # Without numbers, so that a run says it once.
        warnings.warn(
            f"the members' energies differ by more than {_OTHER_ZEROS:g} eV per atom: they count "
            "from different zeros, or some do not know such structures; their mean is no energy.",
            DataWarning,
            stacklevel=2,
        )
    return _named(float(energies.sum()), energies, forces) | {
        "energy_spread": energy_spread,
        "energies_spread": spread([member.energies for member in members]),
        "forces_spread": spread([member.forces for member in members]),
    }


def spread(of_members: Sequence[Any] | NDArray) -> NDArray:
    """Return the sample standard deviation over the first axis, which is that of the members.

    >>> spread([[1.0, 2.0], [3.0, 2.0]]).round(3).tolist()
    [1.414, 0.0]
    """
    return np.asarray(np.std(of_members, axis=0, ddof=1))


def _named(energy: float, energies: NDArray, forces: NDArray) -> dict[str, Any]:
    return {"energy": energy, "free_energy": energy, "energies": energies, "forces": forces}
