"""``eqcalc verify``: the physics of a model on a structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import note, print_json, say, show
from eqcalc.cli.options import AsJson, Quiet, Threads, Trust
from eqcalc.cli.setup_run import say_last_frame
from eqcalc.errors import import_extra

if TYPE_CHECKING:
    from ase import Atoms

    from eqcalc.model_file import ModelFile
    from eqcalc.verification import Verification

__all__ = ["verify"]

_OUTPUTS = ("verify.json", "verify.png")
_STYLES = {"ok": "green", "FAILED": "bold red", "noted": "yellow", "skipped": "dim"}


def verify(
    model: Annotated[str, typer.Argument(help="A shipped model's name or a model file.")],
    structure: Annotated[
        Optional[Path],
        typer.Argument(
            help="Structure file, the last frame. Default: the first frame of the model's passport."
        ),
    ] = None,
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output",
            "-o",
            help="Folder for verify.json and verify.png. Default: the model's name with -verify.",
            show_default=False,
        ),
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace these files.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Check the physics of a model on a structure of yours, before you rely on it.

    Example: [bold]eqcalc verify painn-ethanol examples/ethanol.xyz[/bold]

    Finite differences, symmetries, smoothness, NVE, closest approach, engines,
    lone atoms and the card; docs/verify.md has each check with its limit.

    Exit code 0: no check failed; 1: one failed; 2: an error, nothing was judged.
    """
    from eqcalc.cli.model_choice import model_line
    from eqcalc.files import refuse_existing
    from eqcalc.model_file import open_potential
    from eqcalc.verification import verify_model

    file = open_potential(model, trust=trust)
    folder = output if output is not None else Path(f"{Path(file.card.name).name}-verify")
    refuse_existing([folder / name for name in _OUTPUTS], overwrite)
    import_extra("matplotlib.figure", "plot", "the picture of a verification")
    if threads is not None:
        import torch

        torch.set_num_threads(threads)  # the process belongs to the command line
    say(model_line(file.card, file.path, was_chosen=False))
    atoms = _structure(file, structure)
    _make(folder)  # what cannot be written shall not be computed first
    from eqcalc.cli.progress import StepProgress

    try:
        with StepProgress("verify", 100, line_every=10) as display:
            found = verify_model(
                file.path,
                atoms,
                threads=threads,
                trust=trust,
                progress=lambda done, total, name: display.show(round(100 * done / total), name),
            )
    except BrokenPipeError as error:  # nobody reads the progress; 1 would say that a check failed
        raise typer.Exit(141) from error
    _write(folder, found)
    if as_json:
        print_json({**found.as_dict(), "folder": str(folder)})
    else:
        _print_table(found)
        say(f"files    {folder / _OUTPUTS[0]}, {folder / _OUTPUTS[1]}")
    if not found.passed:
        raise typer.Exit(1)


def _structure(file: ModelFile, path: Path | None) -> Atoms | None:
    """Read the structure and say what is odd about it."""
    if path is None:
        say("structure: the first frame of the model's passport (none was named)")
        return None
    from eqcalc.elements import require_elements
    from eqcalc.simulate.doubts import doubts
    from eqcalc.simulate.structures import read_structure

    atoms = read_structure(path)
    say_last_frame(path)
    require_elements(atoms.numbers, file.card.elements, f"model '{file.card.name}'")
    for doubt in doubts(atoms, file.card.cutoff):
        note(f"note: {doubt}")
    return atoms


def _print_table(found: Verification) -> None:
    from rich.table import Table
    from rich.text import Text

    from eqcalc.verification import Verdict

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("check", "measured", "allowed", "verdict"):
        table.add_column(column, no_wrap=True)
    for finding in found.findings:
        word = finding.verdict.value
        table.add_row(
            finding.check, finding.measured, finding.limit, Text(word, style=_STYLES[word])
        )
    show(table)
    for verdict in (Verdict.SKIPPED, Verdict.NOTED, Verdict.FAILED):
        told = [finding for finding in found.findings if finding.verdict is verdict]
        if not told:
            continue
        show(Text(f"\n{verdict.value}", style=_STYLES[verdict.value]))
        rows = Table.grid(padding=(0, 2, 0, 0))
        for finding in told:
            text = ". ".join(filter(None, (finding.detail.rstrip("."), finding.advice)))
            rows.add_row(Text(f"  {finding.check}"), Text(text))
        show(rows)
    counts = ", ".join(
        f"{found.count(verdict)} {verdict.value}" for verdict in Verdict if found.count(verdict)
    )
    say(f"\n{found.file.card.name} on {found.formula}: {counts}")


def _make(folder: Path) -> None:
    from eqcalc.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create '{folder}': {error}.") from error


def _write(folder: Path, found: Verification) -> None:
    from eqcalc.cli.console import finite
    from eqcalc.files import write_whole
    from eqcalc.verification.plots import verification_plot

    content = json.dumps(finite(found.as_dict()), indent=1) + "\n"
    write_whole(folder / _OUTPUTS[0], content.encode())
    write_whole(folder / _OUTPUTS[1], verification_plot(found))
