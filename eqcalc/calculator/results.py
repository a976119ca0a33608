"""What the models of a calculator say of a structure, and the results that ASE knows.

Shapes: n_atoms.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqcalc.engines import Model
from eqcalc.errors import NonFiniteError

__all__ = ["MemberResult", "combined", "refuse_not_finite"]


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
    return _named(float(energies.sum()), energies, forces) | {
        "energy_spread": float(np.std([member.energy for member in members])),
        "forces_spread": np.std([member.forces for member in members], axis=0),
    }


def _named(energy: float, energies: NDArray, forces: NDArray) -> dict[str, Any]:
    return {"energy": energy, "free_energy": energy, "energies": energies, "forces": forces}
