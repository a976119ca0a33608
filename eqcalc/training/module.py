"""The Lightning module: optimiser, schedule, training and validation steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor

from eqcalc.data.batches import LabelledGraph
from eqcalc.errors import NonFiniteError
from eqcalc.potential import Potential
from eqcalc.training.gradients import LossGradients
from eqcalc.training.kernels import can_use_kernels, with_kernels
from eqcalc.training.loss import LossFunction, error_counts, residuals
from eqcalc.training.randomness import seed_of_batch, seeded
from eqcalc.training.soap import Soap
from eqcalc.training.team import ALONE
from eqcalc.training.training_options import TrainingOptions
from eqcalc.training.validation import ErrorTotals

__all__ = ["PotentialModule"]


class PotentialModule(pl.LightningModule):
    """Train a potential on energies, forces and, where weighted, stress.

    The optimisation is manual because loss and gradients come from one traced
    graph (:mod:`eqcalc.training.gradients`).

    architecture : arguments of ``architectures.build`` for the potential's network; every
        checkpoint holds them, as some may come from the training data
    seed : of what the network draws, such as dropout: with epoch and batch it fixes the
        random numbers, so that a resumed run has those of an uninterrupted one
    one_size : all validation frames have as many atoms; else the error of total energies
        says nothing, and that per atom is logged

    ``team`` says which of the processes that train together this one is.
    """

    def __init__(
        self,
        potential: Potential,
        options: TrainingOptions,
        architecture: Mapping[str, Any],
        seed: int,
        *,
        one_size: bool = True,
    ) -> None:
        super().__init__()
        self.one_size = one_size
        self.architecture = dict(architecture)
        self.automatic_optimization = False
        self.potential = potential
        self.options = options
        self.seed = seed
        self.team = ALONE
        # Not submodules, and not copied with the averaged weights.
        self._fast: list[Potential] = []  # none or one
        self._gradients: dict[LossFunction, LossGradients] = {}
        self._totals: dict[str, ErrorTotals] = {}

    @property
    def will_compile(self) -> bool:
        """Whether the next step compiles loss and gradients first, which takes minutes."""
        function = self.options.loss_of_epoch(self.current_epoch)
        return self.options.compile and function not in self._gradients

    @property
    def fast_potential(self) -> Potential:
        """The potential, or one of the same parameters that uses kernels."""
        if not self._fast:
            usable = self.options.kernels and can_use_kernels(self.potential, self.device)
            self._fast.append(with_kernels(self.potential) if usable else self.potential)
        self._fast[0].training = self.potential.training
        return self._fast[0]

    def configure_optimizers(self) -> Any:
        """Return the optimiser and the schedule; Lightning saves both in checkpoints."""
        options = self.options
        weights = [weight for weight in self.potential.parameters() if weight.requires_grad]
        rate, decay = options.first_learning_rate, options.weight_decay
        optimizer: torch.optim.Optimizer
        if options.optimizer == "soap":
            optimizer = Soap(weights, rate, weight_decay=decay)
        else:
            optimizer = torch.optim.AdamW(
                weights, rate, weight_decay=decay, amsgrad=options.uses_amsgrad, fused=True
            )
        scheduler: Any
        if options.schedule == "plateau":
            factor, patience = options.plateau
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimizer,
                factor=factor,
                patience=patience,
                min_lr=options.min_learning_rate,
                eps=0.0,  # else steps of less than 1e-8 are not made, above any smaller minimum
            )
        else:
            scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, T_max=options.max_epochs, eta_min=options.min_learning_rate
            )
        return [optimizer], [scheduler]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the network is built from."""
        checkpoint["architecture"] = self.architecture

    def training_step(self, batch: LabelledGraph, batch_index: int) -> Tensor:
        """Make one step of the optimiser and return the loss before it, ()."""
        function, potential = self.options.loss_of_epoch(self.current_epoch), self.fast_potential
        if function not in self._gradients:
            self._gradients[function] = LossGradients(potential, function, self.options.compile)
        value, n_structures = self._set_gradients(self._gradients[function], batch, batch_index)
        torch.nn.utils.clip_grad_norm_(self.potential.parameters(), self.options.gradient_clip)
        self._step()
        self.log("train_loss", value, on_step=False, on_epoch=True, batch_size=n_structures)
        # A GPU is asked for a number here alone, when it has been told all that there is to do.
        self._refuse_divergence("training", float(value))
        return value

    def _set_gradients(
        self, gradients: LossGradients, batch: LabelledGraph, batch_index: int
    ) -> tuple[Tensor, int]:
        """Set the gradients of the whole batch, of which this may be a share.

        Returns
        -------
        its loss, (), and how many structures it has
        """
        is_alone = self.team.size == 1
        # A frame that stands for none, of which one process alone has none.
        is_empty = not is_alone and bool(torch.isnan(batch.energy).any())
        counts = torch.zeros(3, dtype=torch.float64, device=batch.energy.device)
        counts = self.team.total(counts if is_empty else error_counts(batch))
        value = counts.new_zeros(())
        if is_empty:
            self.potential.zero_grad()
        else:
            with self._seeded(batch_index):
                value = gradients(batch, counts)
        self.team.add_gradients(self.potential.parameters())
        return self.team.total(value), len(batch.energy) if is_alone else int(counts[0])

    def on_train_epoch_start(self) -> None:
        """Set the learning rate that the second stage begins with, in its first epoch."""
        stage = self.options.stage_two
        if stage is None or stage.learning_rate is None or self.current_epoch != stage.start_epoch:
            return
        self._optimizer().param_groups[0]["lr"] = stage.learning_rate

    def on_validation_epoch_start(self) -> None:
        """Begin to add up errors: of new frames, and of old ones, where some are replayed."""
        function = self.options.validation_function
        self._totals = {
            "validation": ErrorTotals(function, self.one_size),
            "replay": ErrorTotals(function, one_size=False),
        }

    def validation_step(
        self, batch: LabelledGraph, batch_index: int, dataloader_idx: int = 0
    ) -> None:
        """Add the errors of the averaged weights on a batch; the second loader holds old frames."""
        with self._seeded(batch_index), torch.enable_grad():
            found = residuals(self.fast_potential, batch, with_stress=self.options.needs_stress)
        list(self._totals.values())[dataloader_idx].add(found)

    def on_validation_epoch_end(self) -> None:
        """Log loss and mean absolute errors over all frames; move the schedule on by an epoch."""
        metrics = {
            f"{role}_{name}": value
            for role, totals in self._totals.items()
            if len(totals.sums) > 0
            for name, value in totals.metrics().items()
        }
        metrics = self.team.leader_s(metrics)
        value = metrics["validation_loss"]
        self._refuse_divergence("validation", value)  # before a checkpoint is written
        warmth = self.options.warmth_after(self.global_step)
        self.log_dict(
            {**metrics, "learning_rate": warmth * self._optimizer().param_groups[0]["lr"]}
        )
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(value)
        elif isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
            scheduler.step()

    def _step(self) -> None:
        """Make a step of the optimiser, at a part of the schedule's rate while it warms up."""
        optimizer = self._optimizer()
        group = optimizer.param_groups[0]
        scheduled = group["lr"]
        group["lr"] = scheduled * self.options.warmth_after(self.global_step + 1)
        optimizer.step()
        group["lr"] = scheduled  # what schedules go on from

    def _seeded(self, batch_index: int) -> AbstractContextManager[None]:
        # Around the network alone: what a caller's progress draws is the caller's.
        seed = seed_of_batch(self.seed, self.trainer.current_epoch, batch_index) + self.team.rank
        return seeded(seed, self.device)

    def _refuse_divergence(self, kind: str, value: float) -> None:
        if not math.isfinite(value):
            raise NonFiniteError(
                f"the training diverged in epoch {self.trainer.current_epoch + 1}: the {kind} "
                f"loss is {value}; lower learning_rate (it is "
                f"{self.options.first_learning_rate:g}) and start the run again."
            )

    def _optimizer(self) -> LightningOptimizer:
        return cast("LightningOptimizer", self.optimizers())  # one, not a list of them
