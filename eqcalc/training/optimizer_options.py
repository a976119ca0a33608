"""What a training file says about the optimiser: keys of ``[training]``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Optional, cast

from eqcalc.arguments import require_at_least, require_choice, require_positive
from eqcalc.errors import ConfigError

__all__ = ["OptimizerOptions"]

OPTIMIZERS = ("adamw", "soap")
SCHEDULES = ("plateau", "cosine")


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the weights change.

    max_epochs : passes over all training frames
    optimizer : "adamw" or "soap" (:mod:`eqcalc.training.soap`), which needs fewer epochs
    learning_rate : that the schedule begins with; 1e-3 by default, 1e-4 with ``start_from``
    warmup_steps : of the optimiser, over which the learning rate rises from zero to that of the
        schedule, along a line
    schedule : "plateau" (factor and patience on the validation loss) or "cosine" over
        ``max_epochs``
    plateau_factor : by which the learning rate is multiplied on a plateau; 0.8 by default
    plateau_patience : epochs without a lower validation loss (by 1e-4 of it at least) that are
        waited for; one more is a plateau, after which the learning rate falls; 25 by default
    min_learning_rate : that no schedule goes below
    early_stop_patience : epochs without a lower validation loss after which the training ends; by
        default it never does before max_epochs
    amsgrad : AdamW with AMSGrad, as it is by default: steps by the largest second moment so far,
        not the present one
    weight_decay : part of the weights that a step with learning rate 1 takes off
    gradient_clip : largest norm of the gradient of a step
    ema_decay : of the weights' moving average, which is what is validated and saved; smaller
        over the first steps, see :mod:`eqcalc.training.averaging`
    """

    max_epochs: int = 1000
    optimizer: str = "adamw"
    learning_rate: Optional[float] = None
    warmup_steps: int = 0
    schedule: str = "plateau"
    plateau_factor: Optional[float] = None
    plateau_patience: Optional[int] = None
    min_learning_rate: float = 1e-6
    early_stop_patience: Optional[int] = None
    amsgrad: Optional[bool] = None
    weight_decay: float = 0.0
    gradient_clip: float = 10.0
    ema_decay: float = 0.999

    @property
    def first_learning_rate(self) -> float:
        """The learning rate that the schedule begins with."""
        return cast("float", self.learning_rate)  # None was replaced

    @property
    def plateau(self) -> tuple[float, int]:
        """Factor and patience of the schedule "plateau"."""
        factor, patience = self.plateau_factor, self.plateau_patience
        return 0.8 if factor is None else factor, 25 if patience is None else patience

    @property
    def uses_amsgrad(self) -> bool:
        """Whether AdamW is AMSGrad."""
        return self.amsgrad is not False

    def warmth_after(self, n_steps: int) -> float:
        """Return the part of the schedule's learning rate that is used after so many steps.

        >>> options = OptimizerOptions(warmup_steps=4)
        >>> [options.warmth_after(n) for n in range(1, 6)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
        """
        return min(1.0, n_steps / self.warmup_steps) if self.warmup_steps > 0 else 1.0

    def check_optimizer(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        ConfigError : there is one.
        """
        require_at_least(1, max_epochs=self.max_epochs)
        require_at_least(0, warmup_steps=self.warmup_steps)
        if self.early_stop_patience is not None:
            require_at_least(1, early_stop_patience=self.early_stop_patience)
        require_positive(
            learning_rate=self.first_learning_rate,
            gradient_clip=self.gradient_clip,
            min_learning_rate=self.min_learning_rate,
        )
        if self.min_learning_rate > self.first_learning_rate:
            raise ConfigError(
                f"min_learning_rate must not be above learning_rate, from which no schedule "
                f"rises; found {self.min_learning_rate:g} and {self.first_learning_rate:g}."
            )
        require_choice(OPTIMIZERS, optimizer=self.optimizer)
        if self.amsgrad is not None and self.optimizer != "adamw":
            raise ConfigError(
                f'amsgrad is AdamW\'s, and optimizer is "{self.optimizer}"; leave amsgrad out.'
            )
        require_choice(SCHEDULES, schedule=self.schedule)
        self._check_plateau()
        if not 0 < self.ema_decay < 1:
            raise ConfigError(f"ema_decay must lie in (0, 1), found {self.ema_decay}.")
        if not 0 <= self.weight_decay < math.inf:
            raise ConfigError(f"weight_decay must be >= 0, found {self.weight_decay}.")

    def _check_plateau(self) -> None:
        for name in ("plateau_factor", "plateau_patience"):
            if getattr(self, name) is not None and self.schedule != "plateau":
                raise ConfigError(
                    f'{name} goes with schedule = "plateau"; schedule is "{self.schedule}": leave '
                    f"{name} out."
                )
        factor, patience = self.plateau
        require_at_least(0, plateau_patience=patience)
        if not 0 < factor < 1:
            raise ConfigError(f"plateau_factor must lie in (0, 1), found {factor}.")
