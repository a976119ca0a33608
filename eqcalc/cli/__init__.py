"""The command line: ``eqcalc VERB``, one module of this package per verb.

Importing a verb imports neither torch nor ase, so that ``--help`` is quick; a
verb imports what it needs when it runs.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, TextIO

import typer

from eqcalc import __version__
from eqcalc.cli.console import begin, note, report_error
from eqcalc.cli.encoding import prepare_streams
from eqcalc.cli.option_names import naming_options
from eqcalc.cli.options import Quiet
from eqcalc.errors import (
    DataWarning,
    EqcalcError,
    HalfFrameWarning,
    MissingDependencyError,
    NameWarning,
    PerformanceWarning,
)

__all__ = ["VERBS", "build_app", "main"]

VERBS: tuple[str, ...] = (
    "md",
    "relax",
    "convert",
    "energy",
    "analyse",
    "report",
    "models",
    "info",
    "data",
    "train",
    "evaluate",
    "select",
    "verify",
    "export",
    "import",
    "compile",
    "bench",
    "doctor",
    "lammps",
    "ipi",
    "nbody",
)
"""In the order of ``--help``. Verb ``x`` is the function ``x`` of ``eqcalc.cli.x``."""

_FUNCTIONS = {"import": "import_model"}
"""Of verbs that are no names in Python."""

_GROUPS: dict[str, tuple[str, ...]] = {
    "data": ("summary", "convert"),
    "lammps": ("run", "check", "build", "prepare"),
}
"""Verbs that take one of these words first; each is a function of the verb's module."""

_HIDDEN = ("prepare",)
"""What programs call."""

_HELP = "Trained equivariant networks as an ASE calculator: dynamics, relaxation, training."


def build_app() -> typer.Typer:
    """Return the command line with every verb whose module is there."""
    app = typer.Typer(
        name="eqcalc",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(help=_HELP)(_eqcalc)
    for verb in VERBS:
        name = _FUNCTIONS.get(verb, verb)
        module = f"{__name__}.{name}"
        if importlib.util.find_spec(module) is None:
            continue
        found = importlib.import_module(module)
        if verb not in _GROUPS:
            app.command(verb)(naming_options(getattr(found, name)))
            continue
        group = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help=found.HELP)
        for word in _GROUPS[verb]:
            hidden = word in _HIDDEN
            group.command(word, hidden=hidden)(naming_options(getattr(found, word)))
        app.add_typer(group, name=verb)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave Python.

    Exit codes: 0 success, 1 the result is not what was asked for (a relaxation
    that did not converge), 2 an error that the message explains, 130 Ctrl-C, and as
    128 + its number for other signals (143 SIGTERM, 129 SIGHUP, 141 a closed pipe).
    ``EQCALC_DEBUG=1`` in the environment shows the traceback of an error.

    Parameters
    ----------
    arguments : the words after ``eqcalc``; those of the process by default
    """
    begin()
    prepare_streams()
    show_warning = warnings.showwarning
    warnings.showwarning = _show_warning
    try:
        words = None if arguments is None else list(arguments)
        build_app()(args=words, prog_name="eqcalc")
    except (EqcalcError, ImportError) as error:
        if os.environ.get("EQCALC_DEBUG") == "1":
            raise
        if not isinstance(error, EqcalcError):
            error = MissingDependencyError(
                f"{error}: a package is missing, or another version than eqcalc supports; "
                "'eqcalc doctor' says which."
            )
        report_error(error)
        sys.exit(2)
    finally:
        warnings.showwarning = show_warning


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print eqcalc's own warnings as notes, without the line of code that they came from."""
    if isinstance(message, (DataWarning, HalfFrameWarning, NameWarning, PerformanceWarning)):
        note(f"note: {message}")
    else:
        text = warnings.formatwarning(message, category, filename, lineno, line)
        (file or sys.stderr).write(text)


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    typer.echo(f"eqcalc {__version__}")
    raise typer.Exit


def _eqcalc(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Take the options that stand before the verb; the callback above does the work."""
