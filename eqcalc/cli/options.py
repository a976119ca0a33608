"""Options that several verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional, Union

import typer

from eqcalc.cli.console import be_quiet, talk_on_stderr

__all__ = [
    "AsJson",
    "CalculatorOptions",
    "Device",
    "Dtype",
    "Engine",
    "Index",
    "MaxEdges",
    "Model",
    "NoReport",
    "Output",
    "Overwrite",
    "Quiet",
    "Skin",
    "Structure",
    "Threads",
    "TrajectoryFormat",
    "Trust",
]


def _shipped_models(incomplete: str) -> list[str]:
    """Return what a shell may complete a model's name to."""
    from eqcalc.model_file import available_models

    return [name for name in available_models() if name.startswith(incomplete)]


Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="No progress, no summary; notes go to stderr.",
        callback=be_quiet,
    ),
]
"""Does its work in the callback; the same before and behind the verb."""
AsJson = Annotated[
    bool,
    typer.Option(
        "--json",
        help="One JSON object on stdout; everything else goes to stderr.",
        callback=talk_on_stderr,
    ),
]
Structure = Annotated[
    Path, typer.Argument(help="Structure file: extxyz, traj, cif, POSCAR, ...; the last frame.")
]
Index = Annotated[
    Optional[str],
    typer.Option(
        "--index",
        metavar="N",
        help="Which frame of a structure file with several: 0 the first, -1 the last. "
        "Default: the last.",
        show_default=False,
    ),
]
Model = Annotated[
    Optional[list[str]],
    typer.Option(
        "--model",
        "-m",
        help="Name of a shipped model or path of a model file; given several times, a committee. "
        "Default: the shipped model that was trained on this composition, else sevennet-0.",
        show_default=False,
        autocompletion=_shipped_models,
    ),
]
Output = Annotated[
    Optional[Path],
    typer.Option(
        "--output",
        "-o",
        help="Folder of the run. Default: the structure's name followed by the command's.",
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run in that folder.")]
NoReport = Annotated[
    bool, typer.Option("--no-report", help="Do not write report.html, the page of the run.")
]
TrajectoryFormat = Annotated[
    str,
    typer.Option("--format", metavar="NAME", help="Format of the trajectory: traj or extxyz."),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[
    Optional[str],
    typer.Option(help="float32 or float64. Default: the model's own.", show_default=False),
]
Engine = Annotated[str, typer.Option(help="What runs the model; auto takes the best there is.")]


def _number_or_word(text: Union[str, float]) -> Union[str, float]:
    try:
        return float(text)
    except ValueError:
        return text  # the calculator knows the words


Skin = Annotated[
    Any,  # Union[float, str], which typer does not take
    typer.Option(
        help="Skin of the neighbour list in Å, or auto: found during the run.",
        parser=_number_or_word,
        metavar="FLOAT|auto",
    ),
]
MaxEdges = Annotated[
    Optional[int],
    typer.Option(
        help="Edges of one model call at most: larger structures are evaluated in blocks. "
        "Default: as many as memory holds.",
        show_default=False,
        min=1,
    ),
]
Threads = Annotated[
    Optional[int],
    typer.Option(
        help="CPU threads. Default: one per 100 atoms, at most as many as torch has "
        "(OMP_NUM_THREADS).",
        show_default=False,
        min=1,
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run whatever program the model file holds; only for files from sources you trust.",
    ),
]


@dataclass(frozen=True)
class CalculatorOptions:
    """What the user chose about the calculator; the fields are EqCalculator's."""

    model: str | list[str] | None
    device: str
    dtype: str | None
    engine: str
    skin: Union[float, str]
    max_edges: int | None
    threads: int | None
    trust: bool = False
