"""``eqcalc select``: frames of runs that are worth a label."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from eqcalc.cli.console import note, print_json, say, say_pairs
from eqcalc.cli.options import (
    AsJson,
    CalculatorOptions,
    Device,
    Dtype,
    Engine,
    MaxEdges,
    Quiet,
    Threads,
    Trust,
)

if TYPE_CHECKING:
    from eqcalc.selection import Selection, SelectionSettings

__all__ = ["select"]

_MOST_BROKEN = 5  # that are named


def select(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Folders of eqcalc md, or files of frames (traj, extxyz, ...)."),
    ],
    model: Annotated[
        Optional[list[str]],
        typer.Option(
            "--model",
            "-m",
            help="A member of the committee: name of a shipped model or path of a model file. "
            "Given twice or more.",
            show_default=False,
        ),
    ] = None,
    n_frames: Annotated[
        Optional[int],
        typer.Option(
            "--frames",
            "-n",
            help="How many frames to select, at most. Default: 50, or all where there are fewer.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="extxyz file for the frames.")
    ] = Path("selected.xyz"),
    known: Annotated[
        Optional[list[Path]],
        typer.Option(
            help="Structures that have labels, such as the training data: frames shall differ "
            "from them too. May be given several times.",
            show_default=False,
        ),
    ] = None,
    min_spread: Annotated[
        float, typer.Option(help="Lowest force spread (of the worst atom) to select, eV/Å.")
    ] = 0.1,
    max_spread: Annotated[
        Optional[float],
        typer.Option(help="Highest force spread to select, eV/Å. Default: no limit."),
    ] = None,
    min_distance: Annotated[
        float, typer.Option(help="Å, below which frames are near-duplicates.")
    ] = 0.05,
    min_contact: Annotated[
        float,
        typer.Option(help="Of two covalent radii: a frame with atoms nearer is broken, left out."),
    ] = 0.5,
    seed: Annotated[int, typer.Option(help="Seed that breaks ties.")] = 0,
    device: Device = "auto",
    dtype: Dtype = None,
    engine: Engine = "auto",
    max_edges: MaxEdges = None,
    threads: Threads = None,
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Select frames for labelling: where a committee disagrees, and unlike each other.

    Example: [bold]eqcalc select run1 run2 -m a.pt -m b.pt -n 50 -o selected.xyz[/bold]

    Exit code 1 where no frame is worth a label; then nothing is written.
    """
    from eqcalc.cli.progress import StepProgress
    from eqcalc.cli.setup_run import set_up_calculator
    from eqcalc.errors import ConfigError
    from eqcalc.files import refuse_existing, refuse_own_input
    from eqcalc.selection import SelectionSettings, frames_to_label, read_candidates, select_frames
    from eqcalc.simulate.run_folder import refuse_run_files
    from eqcalc.simulate.structures import read_structures
    from eqcalc.simulate.writers import require_extxyz, write_structures

    settings = SelectionSettings(n_frames, min_spread, max_spread, min_distance, min_contact, seed)
    require_extxyz(output)
    refuse_run_files([output])
    refuse_existing([output], overwrite)
    if model is None or len(model) < 2:
        raise ConfigError(
            "select needs a committee: two models or more, each with --model, trained with "
            f"different seeds or on different data; found {len(model or [])}."
        )
    candidates = read_candidates(runs)
    refuse_own_input([output], [*(known or []), *{each.source for each in candidates}])
    labelled = [atoms for path in known or [] for atoms in read_structures(path)]
    options = CalculatorOptions(model, device, dtype, engine, 0.0, max_edges, threads, trust)
    calculator, source = set_up_calculator([each.atoms for each in candidates], options)
    n_candidates = len(candidates)
    with StepProgress("select", n_candidates, line_every=max(n_candidates // 4, 1)) as display:
        selection = select_frames(
            candidates,
            calculator,
            settings,
            known=labelled,
            progress=lambda done: display.show(done, "frames"),
        )
    for line in selection.broken[:_MOST_BROKEN]:
        note(f"note: left out as broken: {line}")
    if len(selection.broken) > _MOST_BROKEN:
        note(f"note: {len(selection.broken)} broken frames in all")
    frames = frames_to_label(selection)
    if frames:
        write_structures(output, frames)
    if as_json:
        reasons = [frame.info for frame in frames]
        found = {"output": str(output) if frames else None, "model": source["model"]}
        print_json({**found, **_counts(selection), "selected": reasons})
    else:
        _summarise(selection, settings, output)
    if not frames:
        raise typer.Exit(1)


def _counts(selection: Selection) -> dict[str, Any]:
    return {
        "frames": selection.n_candidates,
        "broken": len(selection.broken),
        "below_min_spread": selection.n_agreed,
        "above_max_spread": selection.n_beyond,
        "near_duplicates": selection.n_duplicates,
        "left": selection.n_left,
    }


def _summarise(selection: Selection, settings: SelectionSettings, output: Path) -> None:
    import numpy as np

    pairs = {"frames": str(selection.n_candidates), "broken": str(len(selection.broken))}
    spreads = selection.spreads
    if len(spreads) > 0:
        pairs["force spread"] = (
            f"{spreads.min():.3g} to {spreads.max():.3g} eV/Å, median {np.median(spreads):.3g}"
        )
    pairs["too sure"] = f"{selection.n_agreed} below --min-spread {settings.min_spread:g} eV/Å"
    if settings.max_spread is not None:
        pairs["beyond use"] = f"{selection.n_beyond} above {settings.max_spread:g} eV/Å"
    pairs["near-duplicates"] = f"{selection.n_duplicates} within {settings.min_distance:g} Å"
    pairs["not needed"] = f"{selection.n_left} more are worth a label"
    pairs["selected"] = str(len(selection.selected))
    if settings.n_frames is not None:
        pairs["selected"] += f" of {settings.n_frames} asked for"
    apart = [each.distance for each in selection.selected if each.distance is not None]
    if apart:
        pairs["selected"] += f", {min(apart):.3g} Å apart or more"
    if selection.selected:
        pairs["file"] = str(output)
    say_pairs(pairs)
    if not selection.selected:
        say("no frame is worth a label at these limits; nothing is written")
