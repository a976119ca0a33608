"""``eqcalc export``: turn a training run into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqcalc.cli.console import note, say
from eqcalc.cli.options import Quiet
from eqcalc.errors import ConfigError, did_you_mean

__all__ = ["export"]


def export(
    run: Annotated[Path, typer.Argument(help="Folder that eqcalc train wrote.")],
    folder: Annotated[Path, typer.Argument(help="Folder of the model, such as models/my-model.")],
    checkpoint: Annotated[
        str,
        typer.Option(metavar="NAME", help="best (lowest validation loss) or last (last epoch)."),
    ] = "best",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a model in that folder.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Export a checkpoint; leaves model.pt, card.md, metrics.json and train.toml.

    The errors on the card are those of the exported file, measured on the
    training file's test rows, or where it names none on its validation frames.

    Example: [bold]eqcalc export runs/painn-ethanol models/painn-ethanol[/bold]
    """
    from eqcalc.cli.evaluate import print_errors
    from eqcalc.training.finish import export_run
    from eqcalc.training.training_folder import TrainingFolder

    trained = TrainingFolder(run)
    choices = {"best": trained.best_checkpoint, "last": trained.last_checkpoint}
    if checkpoint not in choices:
        raise ConfigError(
            f"unknown checkpoint '{checkpoint}'; known: best, last."
            + did_you_mean(checkpoint, choices)
        )
    finished = export_run(trained, folder, overwrite=overwrite, checkpoint=choices[checkpoint])
    say(f"{finished.card.name}, {finished.judged_on}")
    print_errors(finished.comparison, finished.before)
    say(f"written: {finished.path}")
    kept, beside = run / "train.toml", folder / "train.toml"
    if beside.is_file() and beside.read_bytes() != kept.read_bytes():
        note(
            f"note: {beside} was there and stays as it is; what the model was trained by is {kept}."
        )
