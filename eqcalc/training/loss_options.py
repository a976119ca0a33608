"""What a training file says about the loss: keys of ``[training]``."""

from __future__ import annotations

import math
from dataclasses import dataclass

from eqcalc.errors import ConfigError

__all__ = ["LossOptions"]


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What is made small.

    energy_weight : of the mean squared energy error per atom, (eV/atom)⁻²
    forces_weight : of the mean squared force component error, (eV/Å)⁻²
    stress_weight : of the mean squared stress component error, (eV/Å³)⁻²
    """

    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 0.0

    def check_loss(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        ConfigError : there is one.
        """
        weights = (self.energy_weight, self.forces_weight, self.stress_weight)
        if not all(0 <= weight < math.inf for weight in weights) or max(weights) == 0:
            raise ConfigError(
                f"loss weights must be >= 0, finite and not all zero, found {weights} for "
                "energy, forces, stress."
            )
