"""``eqcalc report``: the page of a run, which ``md`` writes at its end too."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import note, print_json, say
from eqcalc.cli.options import AsJson, Quiet
from eqcalc.errors import EqcalcError

__all__ = ["report", "report_of_run"]


def report(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="Folder that eqcalc md or relax wrote.")
    ],
    output: Annotated[
        Optional[Path],
        typer.Option(
            "--output", "-o", metavar="FILE", help="Default: report.html in the folder of the run."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of --output.")
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write a page that shows a run: report.html opens in any browser, without a network.

    Example: [bold]eqcalc report ethanol-md[/bold]

    Figures with their errors, curves, distances, settings and versions, warnings, and the
    trajectory in three dimensions. A run that stopped early, failed or still goes on has one too.
    """
    from eqcalc.report import write_report

    path = write_report(run, output, overwrite=overwrite)
    if as_json:
        print_json({"report": str(path)})
    else:
        say(f"report: {path}")


@contextmanager
def report_of_run(folder: Path, *, wanted: bool) -> Iterator[None]:
    """Write the page of the run that happens within, however it ends.

    The run's own result is never touched: what goes wrong with the page is a note.
    """
    before = _stamp(folder)
    try:
        yield
    except (EqcalcError, typer.Exit):
        # Unchanged, the folder is that of an older run, which nobody asked to describe.
        if wanted and _stamp(folder) not in (None, before):
            _write(folder)
        raise
    if wanted:
        _write(folder)


def _stamp(folder: Path) -> int | None:
    """Return when the manifest of a run was written, None without one."""
    try:
        return (folder / "manifest.json").stat().st_mtime_ns
    except OSError:
        return None


def _write(folder: Path) -> None:
    from eqcalc.report import write_report

    try:
        say(f"report: {write_report(folder)}")
    except (EqcalcError, OSError, MemoryError) as error:
        note(f"note: the run is as it is, but its report could not be written: {error}")
    except KeyboardInterrupt:
        note(f"note: stopped before the report was written; eqcalc report {folder} writes it.")
