"""Trainings that end when the validation loss falls no more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping

from eqcalc.training.training_options import TrainingOptions

__all__ = ["EarlyStop", "early_stop", "stopped_early"]


class EarlyStop(EarlyStopping):
    """End a training after so many epochs without a lower validation loss.

    Checkpoints hold how many there were. Where there is a second stage, epochs count from its
    beginning: what it changes may lower the loss again.
    """

    def __init__(self, options: TrainingOptions) -> None:
        super().__init__(
            "validation_loss",
            patience=options.early_stop_patience or 0,
            check_finite=False,  # what is not finite is an error, in the module
            check_on_train_epoch_end=True,
        )
        self._first_epoch = 0 if options.stage_two is None else options.stage_two.start_epoch

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Count the epoch, and end the training where it is the last of too many."""
        if trainer.current_epoch >= self._first_epoch:
            super().on_train_epoch_end(trainer, pl_module)

    @property
    def message(self) -> str:
        """What to say of the end of the training; nothing, where it was not ended."""
        if self.stopped_epoch == 0:
            return ""
        return _message(self.stopped_epoch, self.patience)


def early_stop(options: TrainingOptions) -> list[EarlyStop]:
    """Return what ends a training early; nothing, where it shall not."""
    return [] if options.early_stop_patience is None else [EarlyStop(options)]


def stopped_early(checkpoint: Mapping[str, Any]) -> str:
    """Return what to say of a training that had ended early; nothing, where it had not."""
    for name, state in checkpoint.get("callbacks", {}).items():
        if name.startswith(EarlyStop.__qualname__) and state["stopped_epoch"] > 0:
            return _message(state["stopped_epoch"], state["patience"])
    return ""


def _message(epoch: int, patience: int) -> str:
    return (
        f"stopped early after epoch {epoch + 1}: the validation loss has not fallen for {patience} "
        "epochs (early_stop_patience)"
    )
