"""What a training run says while it runs: metrics.csv, and reports to the caller."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Optional, cast

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from eqcalc.files import write_whole
from eqcalc.training.loaders import FilledBatches

__all__ = ["METRICS", "MetricsFile", "Progress", "Report"]

METRICS = (
    "train_loss",
    "validation_loss",
    "validation_energy_mae_mev",
    "validation_energy_per_atom_mae_mev",
    "validation_forces_mae_mev_per_a",
    "validation_stress_mae_mev_per_a3",
    "replay_loss",
    "replay_energy_per_atom_mae_mev",
    "replay_forces_mae_mev_per_a",
    "replay_stress_mae_mev_per_a3",
    "learning_rate",
)
"""Columns of metrics.csv: energies per atom where sizes differ, stress where the loss has it,
those of old frames where some are replayed."""


class Report(NamedTuple):
    """Where a run is.

    epoch, n_epochs : finished ones, and how many there will be
    batch, n_batches : of the present epoch; 0 right after an epoch has ended
    metrics : of the last finished epoch, by the names of metrics.csv; at first empty
    event : "", "compiling" before the first batch of a compiled training and "compiled" after
        it, "start" before a fine-tuning and "end" after one
    seconds : that the event took
    message : of the events "start" and "end": what the training starts from or what it came to
    """

    epoch: int
    n_epochs: int
    batch: int
    n_batches: int
    metrics: dict[str, float]
    event: str = ""
    seconds: float = 0.0
    message: str = ""


Progress = Callable[[Report], None]


class MetricsFile(Callback):
    """Write one row per epoch, and report after every batch and epoch.

    A resumed run keeps the rows of the epochs that it does not repeat.
    """

    def __init__(self, path: Path, progress: Optional[Progress] = None) -> None:
        self.path = path
        self.progress = progress
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[str, float] = {}
        self._compiling_since: Optional[float] = None
        self._counted: Optional[tuple[int, int]] = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the rows of a run that is resumed."""
        if self.path.exists():
            with open(self.path, newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            self.rows = [row for row in rows if int(row["epoch"]) < trainer.current_epoch]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Report that the first batch of a compiled training takes long."""
        if getattr(pl_module, "will_compile", False):
            self._compiling_since = time.perf_counter()
            self._report(trainer, trainer.current_epoch, 0, "compiling")

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Report the batch."""
        if self._compiling_since is not None:
            seconds = time.perf_counter() - self._compiling_since
            self._compiling_since = None
            self._report(trainer, trainer.current_epoch, 0, "compiled", seconds)
        self._report(trainer, trainer.current_epoch, batch_idx + 1)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the epoch's row, and report it."""
        found = trainer.callback_metrics
        self.metrics = {name: _rounded(float(found[name])) for name in METRICS if name in found}
        counts = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        self.rows.append({**counts, **self.metrics})
        text = io.StringIO(newline="")
        # A run that an older version began may have columns of other names.
        writer = csv.DictWriter(
            text, [*counts, *self.metrics], extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue().encode())
        self._report(trainer, trainer.current_epoch + 1, 0)

    def _report(
        self, trainer: pl.Trainer, epoch: int, batch: int, event: str = "", seconds: float = 0.0
    ) -> None:
        if self.progress is not None:
            n_epochs, n_batches = trainer.max_epochs or 0, self._n_batches(trainer)
            self.progress(Report(epoch, n_epochs, batch, n_batches, self.metrics, event, seconds))

    def _n_batches(self, trainer: pl.Trainer) -> int:
        """Return how many batches the present epoch has, counted once."""
        epoch = trainer.current_epoch
        if self._counted is None or self._counted[0] != epoch:
            loader = cast("DataLoader[Any]", trainer.train_dataloader)
            self._counted = epoch, cast("FilledBatches", loader.batch_sampler).n_batches
        return self._counted[1]


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")  # float32 holds no more
