"""``eqcalc data``: look at labelled frames, and write them in another format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

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
    label_options,
)
from eqcalc.cli.options import Quiet

if TYPE_CHECKING:
    from eqcalc.data.conversion import Conversion
    from eqcalc.data.summary import DataSummary

__all__ = ["HELP", "convert", "summary"]

HELP = "Look at labelled frames before a training, and convert them."

_FILES = 'npz, extxyz, h5, traj, db, OUTCAR, ... with labels, or "runs/*.xyz".'


def summary(
    context: typer.Context,
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
    from eqcalc.cli.data_tables import show_summary
    from eqcalc.data.data_files import find_files
    from eqcalc.data.frames import LabelRequest
    from eqcalc.data.summary import summarise
    from eqcalc.files import refuse_own_input

    outputs = _outputs_of_summary(picture, json_file, overwrite)
    refuse_own_input(outputs, find_files(files))
    request = LabelRequest(**label_options(context.params))
    with working("reading"):
        found = summarise(files, request, rows=rows, cutoff=cutoff)
    show_summary(found)
    _write_summary(found, picture, json_file)
    if outputs:
        say(f"written: {', '.join(map(str, outputs))}")
    if found.refused:
        say("a training would refuse these data")
        raise typer.Exit(1)


def _outputs_of_summary(
    picture: Optional[Path], json_file: Optional[Path], overwrite: bool
) -> list[Path]:
    """Return the files to write; what is wrong with them is said before anything is read."""
    from eqcalc.errors import ConfigError, import_extra
    from eqcalc.files import refuse_existing, require_folders
    from eqcalc.simulate.run_folder import refuse_run_files

    if picture is not None:
        if picture.suffix.lower() != ".png":
            raise ConfigError(f"'{picture}' is to be a picture; its name must end in .png.")
        import_extra("matplotlib.figure", "plot", "--picture")
    outputs = [path for path in (picture, json_file) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise ConfigError(f"--picture and --json both name '{picture}'; give each its own file.")
    require_folders(outputs)
    refuse_run_files(outputs)
    refuse_existing(outputs, overwrite)
    return outputs


def _write_summary(found: DataSummary, picture: Optional[Path], json_file: Optional[Path]) -> None:
    from eqcalc.files import write_whole

    if picture is not None:
        from eqcalc.data.pictures import summary_picture

        write_whole(picture, summary_picture(found))
    if json_file is not None:
        write_whole(json_file, (json.dumps(finite(found.to_json()), indent=2) + "\n").encode())


def convert(
    context: typer.Context,
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
    complete_only: Annotated[
        bool,
        typer.Option(
            "--complete-only",
            help="Leave out frames that a training refuses: without energy, with NaN, or without "
            "forces or stress among others that have them.",
        ),
    ] = False,
    trust_data: TrustData = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write labelled frames in another format, in eV and Å, every digit kept.

    Example: [bold]eqcalc data convert rmd17_ethanol.npz ethanol.xyz --rows 0:1000[/bold]

    Energy, forces and stress stand where ASE looks for them, in the frames that have them; entries
    such as config_type are kept.
    """
    from eqcalc.data.conversion import convert as convert_frames
    from eqcalc.data.frames import LabelRequest
    from eqcalc.files import refuse_existing
    from eqcalc.simulate.run_folder import refuse_run_files

    refuse_run_files([output])
    refuse_existing([output], overwrite)
    request = LabelRequest(**label_options(context.params))
    with working("converting"):
        done = convert_frames(
            files,
            output,
            request,
            rows=rows,
            complete_only=complete_only,
            trust_data=trust_data,
        )
    _note_what_is_missing(done, output)
    say_pairs(
        {
            "frames": f"{len(done.dataset)} of {done.dataset.n_rows}",
            "labels": f"{', '.join(done.labels)}; from {done.dataset.units} to eV, Angstrom",
            "file": str(output),
        }
    )


def _note_what_is_missing(done: Conversion, output: Path) -> None:
    """Say what the files hold and the new one does not, and what no frame of it may lack."""
    from eqcalc.errors import listing

    if done.left_out:
        n_asked = len(done.dataset) + len(done.left_out)
        note(f"note: left out {len(done.left_out)} of {n_asked} frames: {listing(done.left_out)}.")
    for label, frames in done.lacking.items():
        note(
            f"note: no {label} in {len(frames)} of {len(done.dataset)} frames: "
            f"{listing(frames, limit=6)}. They are written as they are; a training refuses a file "
            "in which only some frames have it, and --complete-only leaves the others out."
        )
    if done.dataset.unkept:
        unkept = listing(done.dataset.unkept)
        note(f"note: not kept are {unkept}; only labels are, and a frame's info.")
    if done.lost_info:
        note(f"note: {output.suffix} does not hold {listing(done.lost_info)} as it was; left out.")
