"""What long trainings of these scripts print."""

from __future__ import annotations

import time

from eqcalc.training.reports import Report


class Progress:
    """Print a line now and then, and what a fine-tuning starts from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.printed = time.monotonic()

    def __call__(self, report: Report) -> None:
        now = time.monotonic()
        if report.message:
            print(f"{self.name}: {report.message}", flush=True)
        elif now - self.printed > 20.0 and report.metrics:
            self.printed = now
            mae = report.metrics["validation_forces_mae_mev_per_a"]
            print(
                f"{self.name}: epoch {report.epoch}/{report.n_epochs}, "
                f"validation forces {mae:.1f} meV/Å",
                flush=True,
            )
