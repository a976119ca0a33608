"""What long trainings of these scripts print."""

from __future__ import annotations

import time

from eqcalc.training.reports import Report

EVERY_S = 20.0


class Progress:
    """Print a line now and then at the end of an epoch, and what a fine-tuning starts from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.printed = self.begun = time.monotonic()
        self.first_epoch: int | None = None

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        if report.message:
            print(f"{self.name}: {report.message}", flush=True)
        if report.batch or not report.metrics:
            return
        if self.first_epoch is None:  # reading and compiling came before it
            self.first_epoch, self.begun = report.epoch, now
        elif now - self.printed > EVERY_S:
            self.printed = now
            pace = (now - self.begun) / max(1, report.epoch - self.first_epoch)
            mae = report.metrics["validation_forces_mae_mev_per_a"]
            print(
                f"{self.name}: epoch {report.epoch}/{report.n_epochs}, validation forces "
                f"{mae:.1f} meV/Å, {pace * (report.n_epochs - report.epoch) / 60:.0f} min left",
                flush=True,
            )
