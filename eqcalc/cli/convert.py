"""``eqcalc convert``: the trajectory of a run for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqcalc.cli.console import note, say, say_pairs, working
from eqcalc.cli.options import Quiet

__all__ = ["convert"]


def convert(
    run: Annotated[Path, typer.Argument(help="Folder of a run of eqcalc md.")],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="File to write: .xtc, .trr, .dcd or .xyz.", show_default=False
        ),
    ],
    every: Annotated[int, typer.Option(help="Write every N-th frame.")] = 1,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace that file.")] = False,
    quiet: Quiet = False,
) -> None:
    """Write a run's trajectory for MDAnalysis, VMD, GROMACS's tools or OVITO.

    Example: [bold]eqcalc convert ethanol-md -o ethanol.xtc[/bold]

    All formats but .xyz need [bold]pip install 'eqcalc\\[mdanalysis]'[/bold].
    """
    from eqcalc.simulate.conversion import CONVERSIONS, convert_run

    with working("converting"):
        done = convert_run(run, output, every=every, overwrite=overwrite)
    if done.n_left_out > 0:
        note(
            f"note: {done.n_left_out} of {done.n_frames + done.n_left_out} frames are left out: "
            f"{output.suffix} has one spacing of frames, in which they do not lie (a run that "
            "ended between two, or whose timestep was halved); .trr and .xtc have times."
        )
    say_pairs(
        {
            "frames": f"{done.n_frames} of {done.n_atoms} atoms, up to {done.last_fs / 1000:g} ps",
            "holds": CONVERSIONS[output.suffix.lower()],
            "file": str(done.path),
        }
    )
    if output.suffix.lower() != ".xyz" and (run / "final.xyz").is_file():
        say(f"  in Python: MDAnalysis.Universe('{run / 'final.xyz'}', '{output}')")
