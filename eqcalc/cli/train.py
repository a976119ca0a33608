"""``eqcalc train``: train a potential from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import note, say
from eqcalc.cli.options import Quiet

if TYPE_CHECKING:
    from eqcalc.training.reports import Report

__all__ = ["train"]

_MOST_LINES = 100  # of a run whose output is no terminal


def train(
    config: Annotated[Path, typer.Argument(help="Training file, such as train.toml.")],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output", "-o", help="Folder of the run. Default: runs/NAME.", show_default=False
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the folder's run.")] = False,
    threads: Annotated[
        Optional[int], typer.Option(help="CPU threads. Default: torch's own.", min=1)
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a run in that folder.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Train a potential; leaves a folder with metrics.csv, best.ckpt and last.ckpt.

    Example: [bold]eqcalc train models/painn-ethanol/train.toml[/bold]

    Ctrl-C ends the training after the present step; --resume goes on from the last epoch.
    """
    from eqcalc.training.config import read_config

    settings = read_config(config)
    _require_lightning()
    import torch

    if threads is not None:
        torch.set_num_threads(threads)  # the process belongs to the command line
    _silence_lightning()
    from eqcalc.training.run import train as run_training

    folder = output if output is not None else Path("runs") / settings.name
    try:
        with _EpochProgress() as display:
            best = run_training(
                settings, folder, resume=resume, overwrite=overwrite, progress=display.show
            )
    except KeyboardInterrupt as stop:
        note(
            f"stopped in epoch {display.epoch + 1}; what is finished is in {folder}, and "
            "--resume goes on from there."
        )
        raise typer.Exit(130) from stop
    if not display.started:
        say(f"nothing left to do: all {settings.training.max_epochs} epochs are done.")
    say(f"best checkpoint: {best}\nnext: eqcalc export {folder} models/{settings.name}")


class _EpochProgress:
    """Show finished epochs: a bar on a terminal, up to a hundred lines elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self.started = False
        self.epoch = 0
        self._console = Console(highlight=False)
        self._bar = Progress(
            TextColumn("[bold]train"),
            BarColumn(bar_width=12),  # the line has to fit 80 columns
            MofNCompleteColumn(),
            TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=None, values="starting")

    def show(self, report: Report) -> None:
        """Show a report; the first comes after the first batch."""
        self.started = True
        self.epoch = report.epoch
        if self._console.is_terminal:
            values = f"{_values(report)} batch {report.batch}/{report.n_batches}"
            self._bar.update(
                self._task, completed=report.epoch, total=report.n_epochs, values=values
            )
        elif report.batch == 0:
            every = -(-report.n_epochs // _MOST_LINES)
            if report.epoch % every == 0 or report.epoch == report.n_epochs:
                print(f"epoch {report.epoch}/{report.n_epochs}  {_values(report)}", flush=True)

    def __enter__(self) -> _EpochProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def _values(report: Report) -> str:
    if not report.metrics:
        return ""
    energy = report.metrics["validation_energy_mae_mev"]
    forces = report.metrics["validation_forces_mae_mev_per_a"]
    return f"MAE: E {energy:.1f} meV  F {forces:.1f} meV/Å"


def _silence_lightning() -> None:
    """Keep Lightning's notices (devices, tips, where it stopped) off the terminal."""
    import logging

    import lightning.pytorch  # noqa: F401  its import sets the levels

    # The process belongs to the command line; a library must not do this.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _require_lightning() -> None:
    from importlib.util import find_spec

    from eqcalc.errors import MissingDependencyError

    if find_spec("lightning") is None:
        raise MissingDependencyError(
            "training needs Lightning, which is not installed; run pip install 'eqcalc[train]'."
        )
