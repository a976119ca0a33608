"""``eqcalc doctor``: what this installation can do, and what is in its way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from eqcalc.cli.console import print_json, say, show, working
from eqcalc.cli.options import AsJson, Quiet

if TYPE_CHECKING:
    from eqcalc.doctor import Examination

__all__ = ["doctor"]

_STYLES = {"ok": "green", "note": "yellow", "BROKEN": "bold red"}


def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Look at this installation: packages, devices, compiler, engines, cache, hosts.

    Example: [bold]eqcalc doctor[/bold]

    Exit code 0: energies and forces can be computed; 1: they cannot.
    """
    from eqcalc.doctor import examine

    with working("computing, importing and compiling, to see what works"):
        found = examine()
    if as_json:
        print_json(found.as_dict())
    else:
        _print(found)
    if not found.can_compute:
        raise typer.Exit(1)


def _print(found: Examination) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for remark in found.remarks:
        state = remark.state.value
        table.add_row(Text(state, style=_STYLES[state]), Text(remark.topic), Text(remark.found))
        if remark.advice:
            table.add_row("", "", Text(f"-> {remark.advice}", style="yellow"))
    show(table)
    say(
        "\nenergies and forces can be computed"
        if found.can_compute
        else "\nenergies and forces cannot be computed: begin with the first line"
    )
