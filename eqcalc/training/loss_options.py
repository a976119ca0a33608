"""What a training file says about the loss: keys of ``[training]`` and of its second stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Optional

from eqcalc.arguments import require_at_least, require_choice, require_positive
from eqcalc.errors import ConfigError
from eqcalc.training.loss import LossFunction, LossWeights
from eqcalc.training.sections import require_types

__all__ = ["LossOptions", "StageTwoOptions"]

LOSSES = ("mse", "huber", "mae")

_HUBER_DELTA = 0.01


@dataclass(frozen=True)
class StageTwoOptions:
    """Section ``[training.stage_two]``: what is another from some epoch on.

    Energies are often learned last: a second stage with a higher energy_weight, and a lower
    learning rate, fits them to forces that are right by then. The validation loss has the weights
    of the second stage in all epochs, so that they compare; ``early_stop_patience`` counts from its
    beginning.

    start_epoch : the stage's first epoch, from 0 as in metrics.csv: so many are in the first stage
    energy_weight, forces_weight, stress_weight : from then on; by default as before
    learning_rate : from then on, with schedule = "plateau"; by default as it then is
    """

    start_epoch: int
    energy_weight: Optional[float] = None
    forces_weight: Optional[float] = None
    stress_weight: Optional[float] = None
    learning_rate: Optional[float] = None

    def __post_init__(self) -> None:
        where = "[training.stage_two]"
        require_types(type(self), vars(self), where)
        require_at_least(1, start_epoch=self.start_epoch)
        if self.learning_rate is not None:
            require_positive(learning_rate=self.learning_rate)
        changes = [field.name for field in fields(self) if field.name != "start_epoch"]
        if all(getattr(self, name) is None for name in changes):
            raise ConfigError(
                f"{where} changes nothing; give one of {', '.join(changes)}, or leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """What is made small.

    loss : of every error, whose mean is taken: "mse", squares; "huber", half squares up to a
        delta and linear beyond; or "mae", absolute values
    per_atom_energy : an energy error is divided by the number of atoms; if false, it is that of
        the total energy, in which large structures count more
    energy_weight : of the mean of energy errors; in (eV/atom)⁻² for "mse" and "huber", in
        (eV/atom)⁻¹ for "mae"; of total energies in eV⁻², eV⁻¹
    forces_weight : of the mean over components of force errors, (eV/Å)⁻² or (eV/Å)⁻¹
    stress_weight : of the mean over components of stress errors, (eV/Å³)⁻² or (eV/Å³)⁻¹, over the
        periodic frames of a batch
    energy_huber_delta : eV/atom (eV of total energies), 0.01 by default
    forces_huber_delta : eV/Å, 0.01 by default
    stress_huber_delta : eV/Å³, 0.01 by default
    stage_two : the section of this name
    """

    loss: str = "mse"
    per_atom_energy: bool = True
    energy_weight: float = 1.0
    forces_weight: float = 1.0
    stress_weight: float = 0.0
    energy_huber_delta: Optional[float] = None
    forces_huber_delta: Optional[float] = None
    stress_huber_delta: Optional[float] = None
    stage_two: Optional[StageTwoOptions] = None

    @property
    def needs_stress(self) -> bool:
        """Whether the loss has a stress term in some epoch."""
        return any(self.loss_of_epoch(n).weights.stress > 0 for n in (0, self._last_epoch))

    @property
    def validation_function(self) -> LossFunction:
        """The loss of validation, in all epochs: that of the last ones."""
        return self.loss_of_epoch(self._last_epoch)

    def loss_of_epoch(self, epoch: int) -> LossFunction:
        """Return the loss that is made small in an epoch, from 0."""
        weights = {name: getattr(self, f"{name}_weight") for name in LossWeights._fields}
        if self.stage_two is not None and epoch >= self.stage_two.start_epoch:
            later = {name: getattr(self.stage_two, f"{name}_weight") for name in weights}
            weights |= {name: value for name, value in later.items() if value is not None}
        deltas = (getattr(self, f"{name}_huber_delta") for name in LossWeights._fields)
        return LossFunction(
            LossWeights(**weights),
            self.loss,
            self.per_atom_energy,
            LossWeights(*(_HUBER_DELTA if delta is None else delta for delta in deltas)),
        )

    @property
    def _last_epoch(self) -> int:
        return 0 if self.stage_two is None else self.stage_two.start_epoch

    def check_loss(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        ConfigError : there is one.
        """
        require_choice(LOSSES, loss=self.loss)
        for name in (f"{each}_huber_delta" for each in LossWeights._fields):
            delta = getattr(self, name)
            if delta is None:
                continue
            require_positive(**{name: delta})
            if self.loss != "huber":
                raise ConfigError(
                    f'{name} goes with loss = "huber", found loss = "{self.loss}"; leave one out.'
                )
        for epoch in (0, self._last_epoch):
            weights = tuple(self.loss_of_epoch(epoch).weights)
            if not all(0 <= weight < math.inf for weight in weights) or max(weights) == 0:
                stage = " of [training.stage_two]" if epoch > 0 else ""
                raise ConfigError(
                    f"loss weights{stage} must be >= 0, finite and not all zero, found {weights} "
                    "for energy, forces, stress."
                )
