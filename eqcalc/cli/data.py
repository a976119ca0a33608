"""``eqcalc data``: look at labelled frames, and write them in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import finite, say, working
from eqcalc.cli.data_options import (
    EnergyKey,
    EnergyUnit,
    ForcesKey,
    ForcesUnit,
    GradientKey,
    LengthUnit,
    NumbersKey,
    PositionsKey,
    Rows,
    StressKey,
    StressUnit,
    VirialKey,
)
from eqcalc.cli.options import Quiet

__all__ = ["HELP", "summary"]

HELP = "Look at labelled frames before a training, and convert them."

_FILES = 'npz, extxyz, traj, db, OUTCAR, ... with labels, or "runs/*.xyz".'


def summary(
    files: Annotated[list[str], typer.Argument(help=_FILES)],
    rows: Rows = None,
    energy_key: EnergyKey = None,
    forces_key: ForcesKey = None,
    gradient_key: GradientKey = None,
    stress_key: StressKey = None,
    virial_key: VirialKey = None,
    positions_key: PositionsKey = None,
    numbers_key: NumbersKey = None,
    energy_unit: EnergyUnit = None,
    length_unit: LengthUnit = None,
    forces_unit: ForcesUnit = None,
    stress_unit: StressUnit = None,
    cutoff: Annotated[
        float, typer.Option(help="Å, within which pairs and lonely atoms are looked for.")
    ] = 5.0,
    picture: Annotated[
        Optional[Path],
        typer.Option(
            metavar="FILE.png",
            help="Histograms of energies, forces, distances and stress.",
            show_default=False,
        ),
    ] = None,
    json_file: Annotated[
        Optional[Path],
        typer.Option("--json", metavar="FILE", help="The summary as JSON.", show_default=False),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these files.")] = False,
    quiet: Quiet = False,
) -> None:
    """Print what data hold and what a training would say: counts, labels, copies, outliers.

    Example: [bold]eqcalc data summary train.xyz --picture train.png[/bold]

    Exit code 1 where a training would refuse the data; then the last lines say why.
    """
    from eqcalc.data.frames import LabelRequest
    from eqcalc.data.summary import summarise
    from eqcalc.errors import ConfigError, import_extra
    from eqcalc.files import refuse_existing, write_whole

    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise ConfigError(f"'{picture}' is to be a picture; its name must end in .png.")
        import_extra("matplotlib.figure", "plot", "--picture")
    outputs = [path for path in (picture, json_file) if path is not None]
    if not overwrite:
        refuse_existing(outputs)
    request = LabelRequest(
        energy_key=energy_key,
        forces_key=forces_key,
        gradient_key=gradient_key,
        stress_key=stress_key,
        virial_key=virial_key,
        positions_key=positions_key,
        numbers_key=numbers_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        forces_unit=forces_unit,
        stress_unit=stress_unit,
    )
    with working("reading"):
        found = summarise(files, request, rows=rows, cutoff=cutoff)
    from eqcalc.cli.data_tables import show_summary

    show_summary(found)
    if picture is not None:
        from eqcalc.data.pictures import summary_picture

        write_whole(picture, summary_picture(found))
    if json_file is not None:
        write_whole(json_file, (json.dumps(finite(found.to_json()), indent=2) + "\n").encode())
    if outputs:
        say(f"written: {', '.join(map(str, outputs))}")
    if found.refused:
        say("a training would refuse these data")
        raise typer.Exit(1)
