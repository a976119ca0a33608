"""``eqcalc lammps``: run an input of LAMMPS with models of eqcalc, and build the plugin for it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import say, talk_on_stderr, working
from eqcalc.cli.options import Quiet
from eqcalc.errors import EqcalcError

__all__ = ["HELP", "build", "check", "prepare", "run"]

HELP = "Run inputs of LAMMPS with models of eqcalc, on any number of MPI ranks."

Input = Annotated[Path, typer.Argument(metavar="INPUT", help="An input of LAMMPS.")]
Words = Annotated[
    Optional[list[str]], typer.Argument(metavar="[-- WORDS...]", help="Further words for LAMMPS.")
]
Ranks = Annotated[int, typer.Option("--ranks", "-np", min=1, help="MPI ranks.")]


def run(input_file: Input, arguments: Words = None, ranks: Ranks = 1, quiet: Quiet = False) -> None:
    """Run an input with the installed LAMMPS, the pair style eqcalc loaded.

    In the input stand pair_style eqcalc and pair_coeff * * MODEL ELEMENT..., with
    an element for each atom type. The exit status is that of LAMMPS.

    Example: [bold]eqcalc lammps run in.water -np 2 -- -var T 330[/bold]
    """
    _run(input_file, arguments, ranks)


def check(
    input_file: Input,
    arguments: Words = None,
    ranks: Ranks = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also where a run has left its log.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Do all of an input but its time steps, and say what the model will take.

    LAMMPS reads the input as it will in the run, with all its checks; the first run
    ends after the forces of its first step, and those after it are left out. A rerun
    computes all its frames, and a run of another pair style before that of the model
    is made in full. The lines that begin with "eqcalc:" name model, engine,
    ghosts, edges and memory. What the input writes (dumps, data, restarts) is written,
    of that step: check before the run, or in a copy of its folder.

    Example: [bold]eqcalc lammps check in.water -np 2[/bold]
    """
    _run(input_file, arguments, ranks, is_check=True, overwrite=overwrite)


def build(quiet: Quiet = False) -> None:
    """Build the plugin for the installed LAMMPS and torch, unless that is done.

    A C++ compiler is needed. The result is kept beside the compiled models.

    Example: [bold]eqcalc lammps build[/bold]
    """
    plugin = _plugin()
    say(f"plugin {plugin}")
    say(f"in an input of your own LAMMPS: plugin load {plugin}")


def prepare(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...")],
    engine: Annotated[str, typer.Option(help="auto, inductor or torchscript.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, float64 or model.")] = "model",
    ranks: Annotated[str, typer.Option("--ranks", help="one, exchange, halo or auto.")] = "one",
) -> None:
    """Check and compile a model, and print what the plugin must know of it.

    The plugin runs this command by itself.
    """
    talk_on_stderr(True)
    from eqcalc.hosts.lammps.prepare import ticket

    try:
        lines = list(ticket(models, engine=engine, dtype=dtype, ranks=ranks))
    except EqcalcError as error:
        print("error", " ".join(str(error).split()))
        raise
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _run(
    input_file: Path,
    words: Optional[list[str]],
    ranks: int,
    *,
    is_check: bool = False,
    overwrite: bool = False,
) -> None:
    from eqcalc.hosts.lammps.build import find_lammps
    from eqcalc.hosts.lammps.launch import run_lammps

    plugin = _plugin()
    lammps = find_lammps()
    status = run_lammps(
        lammps, plugin, input_file, ranks, words or [], is_check=is_check, overwrite=overwrite
    )
    raise typer.Exit(status if status >= 0 else 128 - status)


def _plugin() -> Path:
    from eqcalc.hosts.lammps.build import build_plugin, find_lammps, find_plugin

    lammps = find_lammps()
    plugin = find_plugin(lammps)
    if plugin is None:
        start = time.perf_counter()
        with working(f"building the plugin for LAMMPS {lammps.version}"):
            plugin = build_plugin(lammps)
        say(f"built in {time.perf_counter() - start:.0f} s")
    return plugin
