"""``eqcalc train``: train a potential from a TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import say

__all__ = ["train"]


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
    from eqcalc.training.run import train as run_training

    folder = output if output is not None else Path("runs") / settings.name
    best = run_training(settings, folder, resume=resume, overwrite=overwrite)
    say(f"best checkpoint: {best}\nnext: eqcalc export {folder} models/{settings.name}")


def _require_lightning() -> None:
    from importlib.util import find_spec

    from eqcalc.errors import MissingDependencyError

    if find_spec("lightning") is None:
        raise MissingDependencyError(
            "training needs Lightning, which is not installed; run pip install 'eqcalc[train]'."
        )
