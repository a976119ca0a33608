"""``eqcalc train``: train a potential from a TOML file."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.console import is_quiet, note, say
from eqcalc.cli.duration import duration
from eqcalc.cli.options import Quiet, Trust
from eqcalc.cli.progress import Bar, print_line
from eqcalc.errors import import_extra

if TYPE_CHECKING:
    from eqcalc.training.reports import Report

__all__ = ["train"]

_MOST_LINES = 100  # of a run whose output is no terminal
_LONGEST_SILENCE_S = 60.0


def _print_config_help(wanted: bool) -> None:
    if not wanted:
        return
    from eqcalc.cli.config_help import print_config_help

    print_config_help()
    raise typer.Exit


def train(
    config: Annotated[Path, typer.Argument(help="Training file, such as train.toml.")],
    settings: Annotated[
        Optional[list[str]],
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="Set a key as if it stood in the file, such as training.max_epochs=5; may be "
            "given several times.",
            show_default=False,
        ),
    ] = None,
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
        bool,
        typer.Option(
            "--overwrite", help="Replace a run in that folder, or files that are called as its own."
        ),
    ] = False,
    trust: Trust = False,
    quiet: Quiet = False,
    help_config: Annotated[
        bool,
        typer.Option(
            "--help-config",
            help="List every key of a training file, with type, default and meaning.",
            callback=_print_config_help,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Train a potential; leaves a folder with metrics.csv, best.ckpt and last.ckpt.

    Example: [bold]eqcalc train train.toml --set training.max_epochs=5[/bold]

    docs/training.md explains the file; models/painn-ethanol/train.toml is one, without its data.

    Ctrl-C ends the training after the present step; --resume goes on from the last epoch.
    """
    from eqcalc.training.training_folder import read_config_of_run

    chosen = read_config_of_run(config, settings or ())
    for package in ("lightning.pytorch", "tensorboard"):
        import_extra(package, "train", "training")
    import torch

    if threads is not None:
        torch.set_num_threads(threads)  # the process belongs to the command line
    _silence_lightning()
    from eqcalc.training.run import train as run_training

    folder = output if output is not None else Path("runs") / chosen.name
    stop = _Interrupts()
    try:
        with stop, _EpochProgress() as display:
            best = run_training(
                chosen,
                folder,
                resume=resume,
                overwrite=overwrite,
                progress=display.show,
                trust=trust,
            )
    except BrokenPipeError as error:  # nobody reads the progress any more
        raise typer.Exit(141) from error
    except KeyboardInterrupt as interrupt:
        note(
            f"stopped in epoch {display.epoch + 1}; what is finished is in {folder}, and "
            "--resume goes on from there."
        )
        raise typer.Exit(128 + stop.number) from interrupt
    if not display.started:
        say(f"nothing left to do: all {chosen.training.max_epochs} epochs are done.")
    say(f"best checkpoint: {best}\nnext: eqcalc export {folder} models/{chosen.name}")


class _Interrupts:
    """Let SIGTERM and SIGHUP do what Ctrl-C does, unless ignored (nohup), and remember which."""

    def __init__(self) -> None:
        self.number: int = signal.SIGINT
        self._former: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # SIGHUP is not on every system
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                self._former[number] = signal.signal(number, self._interrupt)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt


class _EpochProgress:
    """Show finished epochs: a bar on a terminal, lines with times elsewhere."""

    def __init__(self) -> None:
        self.started = False
        self.epoch = 0
        self._bar = Bar()
        self._console = self._bar.console
        self._clock = _EpochClock()
        self._last_line = time.monotonic()
        self._task = self._bar.add_task("train", total=None, values="starting")

    def show(self, report: Report) -> None:
        """Show a report; the first comes before or after the first batch."""
        self.started = True
        self.epoch = report.epoch
        self._clock.note(report)
        if is_quiet():
            return
        if report.message:
            self._line(report.message)
        elif report.event:
            self._line(_about_compiling(report))
        elif self._console.is_terminal:
            values = f"{_values(report)} batch {report.batch}/{report.n_batches}"
            self._bar.update(
                self._task, completed=report.epoch, total=report.n_epochs, values=values
            )
        elif self._is_due(report):
            self._line(_line_of(report, self._clock))

    def _is_due(self, report: Report) -> bool:
        """Tell whether it is time for a line: at most a hundred, or one a minute."""
        long_ago = time.monotonic() - self._last_line >= _LONGEST_SILENCE_S
        if report.batch > 0:
            return long_ago
        every = -(-report.n_epochs // _MOST_LINES)
        return long_ago or report.epoch % every == 0 or report.epoch == report.n_epochs

    def _line(self, line: str) -> None:
        if self._console.is_terminal:
            self._console.print(line)
        else:
            print_line(line)
        self._last_line = time.monotonic()

    def __enter__(self) -> _EpochProgress:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


class _EpochClock:
    """The time of an epoch, and what is left: without that of a compilation."""

    def __init__(self) -> None:
        self.per_epoch_s: Optional[float] = None
        self.left_s: Optional[float] = None
        self._start: Optional[tuple[float, float]] = None  # time, and epochs done then

    def note(self, report: Report) -> None:
        """Take a report; times begin with the first batch that is done."""
        now, n_batches = time.monotonic(), max(report.n_batches, 1)
        n_done = report.epoch + report.batch / n_batches
        if self._start is None or report.event:
            self._start = (now, n_done)
        start, n_before = self._start
        if n_done > n_before:
            self.per_epoch_s = (now - start) / (n_done - n_before)
            self.left_s = self.per_epoch_s * (report.n_epochs - n_done)


def _line_of(report: Report, clock: _EpochClock) -> str:
    where = f"epoch {report.epoch}/{report.n_epochs}"
    if report.batch > 0:
        where += f", batch {report.batch}/{report.n_batches}"
    parts = [where, _values(report)]
    if clock.per_epoch_s is not None and clock.left_s is not None:
        parts.append(f"{duration(clock.per_epoch_s)}/epoch")
        if clock.left_s > 0:
            parts.append(f"{duration(clock.left_s)} left")
    return "  ".join(part for part in parts if part)


def _about_compiling(report: Report) -> str:
    if report.event == "compiling":
        return "compiling loss and gradients, some minutes without a sign ..."
    return f"compiled in {duration(report.seconds)}"


def _values(report: Report) -> str:
    if not report.metrics:
        return ""
    forces = f"F {report.metrics['validation_forces_mae_mev_per_a']:.1f} meV/Å"
    total = report.metrics.get("validation_energy_mae_mev")
    if total is not None:
        return f"MAE: E {total:.1f} meV  {forces}"
    per_atom = report.metrics["validation_energy_per_atom_mae_mev"]
    return f"MAE: E {per_atom:.2f} meV/atom  {forces}"


def _silence_lightning() -> None:
    """Keep Lightning's notices (devices, tips, where it stopped) off the terminal."""
    import logging

    import lightning.pytorch  # noqa: F401  its import sets the levels

    # The process belongs to the command line; a library must not do this.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
