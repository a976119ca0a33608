"""``eqcalc analyse``: what a trajectory says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.console import note, print_json, say, say_pairs
from eqcalc.cli.options import AsJson, Quiet
from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from eqcalc.analysis import Averages, AverageSettings, Trajectory

__all__ = ["analyse"]


def analyse(
    trajectory: Annotated[
        Path,
        typer.Argument(help="Folder of a run, or a file of frames (traj, extxyz, ...)."),
    ],
    rdf: Annotated[bool, typer.Option("--rdf", help="Radial distribution functions.")] = False,
    msd: Annotated[
        bool, typer.Option("--msd", help="Mean square displacements and diffusion coefficients.")
    ] = False,
    vacf: Annotated[
        bool, typer.Option("--vacf", help="Velocity autocorrelation and spectrum of vibrations.")
    ] = False,
    density: Annotated[bool, typer.Option("--density", help="Density along --axis.")] = False,
    skip: Annotated[
        int, typer.Option(help="Frames left out at the beginning, before equilibrium.")
    ] = 0,
    every: Annotated[int, typer.Option(help="Use every N-th frame.")] = 1,
    elements: Annotated[
        Optional[str], typer.Option(metavar="A,B", help="Elements to look at. Default: all.")
    ] = None,
    r_max: Annotated[
        Optional[float],
        typer.Option(
            help="Å, of --rdf. Default: half of the shortest lattice vector, from 5 to 10 Å."
        ),
    ] = None,
    bins: Annotated[int, typer.Option(help="Of --rdf and --density.")] = 200,
    volume: Annotated[
        Optional[float],
        typer.Option(help="Å³, for the --rdf of what is not periodic in three directions."),
    ] = None,
    axis: Annotated[
        str, typer.Option(metavar="a|b|c", help="Vector of the cell, of --density.")
    ] = "c",
    interval_fs: Annotated[
        Optional[float],
        typer.Option(
            help="fs between two frames of a file that does not say it; not the time step of "
            "the dynamics."
        ),
    ] = None,
    fit: Annotated[
        Optional[str],
        typer.Option(
            metavar="FROM:TO", help="ps, where D is fitted. Default: 2 to 10 % of the trajectory."
        ),
    ] = None,
    remove_drift: Annotated[
        bool,
        typer.Option("--remove-drift", help="Take the motion of the centre of mass out of --msd."),
    ] = False,
    resolution: Annotated[
        float, typer.Option(help="cm⁻¹, of the spectrum, where the trajectory is long enough.")
    ] = 10.0,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            help="Folder. Default: analysis in the folder of the run, or the file's name with "
            "-analysis after it.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the analysis of another trajectory.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Average over a trajectory: distances, diffusion, vibrations, density, each with its error.

    Example: [bold]eqcalc analyse water-md --skip 200 --rdf --msd[/bold]

    Without one of --rdf, --msd, --vacf and --density all are taken that the frames allow. Leaves
    a folder with a csv of each, analysis.png and analysis.json.
    """
    from eqcalc.analysis import AverageSettings, Trajectory, write_averages
    from eqcalc.analysis.outputs import refuse_other_analysis
    from eqcalc.analysis.plots import require_pictures

    asked = {"rdf": rdf, "msd": msd, "vacf": vacf, "density": density}
    settings = AverageSettings(
        quantities=tuple(name for name, wanted in asked.items() if wanted),
        skip=skip,
        every=every,
        elements=None if elements is None else _elements(elements),
        r_max=r_max,
        n_bins=bins,
        volume=volume,
        axis=axis,
        interval_fs=interval_fs,
        fit_ps=None if fit is None else _range(fit),
        remove_drift=remove_drift,
        resolution=resolution,
    )
    require_pictures()
    folder = output or _folder_of(trajectory)
    # What stands in the folder of a run is its own, also after the folder was moved.
    may_replace = overwrite or (output is None and trajectory.is_dir())
    with Trajectory(trajectory) as frames:
        refuse_other_analysis(folder, frames.path, may_replace)
        found = _average(frames, settings)
    write_averages(folder, found, overwrite=may_replace)
    _tell(found, folder, as_json)


def _average(frames: Trajectory, settings: AverageSettings) -> Averages:
    from eqcalc.analysis import average
    from eqcalc.cli.progress import StepProgress

    n_frames = len(range(settings.skip, len(frames), settings.every))
    with StepProgress("analyse", n_frames, line_every=max(n_frames // 4, 500)) as display:
        return average(frames, settings, lambda done, _: display.show(done, "frames"))


def _folder_of(trajectory: Path) -> Path:
    from eqcalc.simulate.run_folder import ANALYSIS

    if trajectory.is_dir():
        return trajectory / ANALYSIS
    return Path(f"{trajectory.stem}-analysis")


def _elements(text: str) -> tuple[str, ...]:
    from eqcalc.elements import atomic_number, symbols_of

    return tuple(symbols_of([atomic_number(word) for word in text.replace(",", " ").split()]))


def _range(text: str) -> tuple[float, float]:
    first, _, last = text.partition(":")
    try:
        return float(first), float(last)
    except ValueError as error:
        raise ConfigError(f"--fit takes two times in ps, as in 2:10, not '{text}'.") from error


def _tell(found: Averages, folder: Path, as_json: bool) -> None:
    from eqcalc.analysis import summary_of
    from eqcalc.cli.option_names import with_options

    if as_json:
        for text in found.notes:
            note(f"note: {text}")
        print_json({"folder": str(folder), **summary_of(found)})
        return
    say_pairs({**_results(found), "files": str(folder)})
    for name, why in found.left_out.items():
        say(f"  no {name}: {with_options(why, analyse)}", style="yellow")
    for text in found.notes:
        note(f"note: {text}")


def _results(found: Averages) -> dict[str, str]:
    lines: dict[str, Any] = {"frames": f"{found.n_frames}"}
    chosen = found.settings.elements
    of = "" if chosen is None else f", of {' and '.join(chosen)} alone"
    if found.interval_fs is not None:
        lines["frames"] += f", every {found.interval_fs:g} fs"
    if found.rdf is not None:
        for pair in found.rdf.error:
            peak = found.rdf.first_peak(pair)
            if peak is not None:
                k = int(abs(found.rdf.r - peak[0]).argmin())
                height = f"{peak[1]:.2f}" + _plus_minus(found.rdf.error[pair][k], 2)
                lines[f"g(r) {'–'.join(pair)}"] = f"highest at {peak[0]:.2f} Å, {height}"
    if found.msd is not None:
        for element, each in found.msd.diffusion.items():
            error = "" if each.error is None else _plus_minus(each.error, None)
            lines[f"D {element}"] = f"{each.value:.3g}{error} Å²/ps, " + (
                f"{each.value * 1e-4:.3g} cm²/s, fit {found.msd.fit_ps[0]:.3g} to "
                f"{found.msd.fit_ps[1]:.3g} ps"
            )
    if found.vacf is not None:
        peaks = ", ".join(f"{peak:.0f}" for peak in found.vacf.peaks())
        at = f"{peaks} cm⁻¹ (± {found.vacf.resolution / 2:.0f})" if peaks else "no maximum above 0"
        lines["vibrations"] = f"{at}{of}"
    if found.density is not None:
        lines["density"] = f"mean {found.density.mass.mean():.4g} g/cm³ over the cell{of}"
    return lines


def _plus_minus(error: float, digits: int | None) -> str:
    """Return an error as it is written behind a value, nothing where it is not known."""
    if math.isnan(error):
        return ""
    return f" ± {error:.{digits}f}" if digits is not None else f" ± {error:.1g}"
