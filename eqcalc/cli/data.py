"""``eqcalc data``: look at labelled frames, and write them in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import finite, note, say, say_pairs, working
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
    TrustData,
    VirialKey,
)
from eqcalc.cli.options import Quiet

__all__ = ["HELP", "convert", "summary"]

HELP = "Look at labelled frames before a training, and convert them."

_FILES = 'npz, extxyz, h5, traj, db, OUTCAR, ... with labels, or "runs/*.xyz".'


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


def convert(
    files: Annotated[list[str], typer.Argument(metavar="IN...", help=_FILES)],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="File to write: .xyz, .h5, .npz, .traj, .db or .json."),
    ],
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
    trust_data: TrustData = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write labelled frames in another format, in eV and Å, every digit kept.

    Example: [bold]eqcalc data convert rmd17_ethanol.npz ethanol.xyz --rows 0:1000[/bold]

    Energy, forces and stress stand where ASE looks for them; entries such as config_type are kept.
    """
    from eqcalc.data import read_dataset
    from eqcalc.data.writers import write_frames
    from eqcalc.errors import listing
    from eqcalc.files import refuse_existing

    if not overwrite:
        refuse_existing([output])
    with working("converting"):
        dataset = read_dataset(
            files,
            rows=rows,
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
            exclude_isolated=False,
            trust_data=trust_data,
        )
        written = write_frames(output, dataset.frames)
    if dataset.unkept:
        note(f"note: not kept are {listing(dataset.unkept)}; only labels are, and a frame's info.")
    if written.lost_info:
        note(
            f"note: {output.suffix} does not hold {listing(written.lost_info)} as it was; left out."
        )
    first = dataset.frames[0]
    labels = ["energy"]
    labels += ["forces"] if first.forces is not None else []
    labels += ["stress"] if any(frame.stress is not None for frame in dataset.frames) else []
    say_pairs(
        {
            "frames": f"{written.n_frames} of {dataset.n_rows}",
            "labels": f"{', '.join(labels)}; from {dataset.units} to eV, Angstrom",
            "file": str(output),
        }
    )
