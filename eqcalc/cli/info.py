"""``eqcalc info``: the card of a model."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import say

__all__ = ["info"]


def info(
    model: Annotated[
        Optional[str],
        typer.Argument(help="A shipped model's name or a model file; none lists the shipped."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print card.json itself.")] = False,
) -> None:
    """Show what a model is: elements, cutoff, units, training data, errors.

    Example: [bold]eqcalc info painn-ethanol[/bold]
    """
    from rich.console import Console
    from rich.markdown import Markdown

    from eqcalc.model_file import available_models, open_model_file, read_card

    if model is None:
        say("Shipped models:")
        for name in available_models():
            say(f"  {name}: {read_card(name).description}")
        return
    file = open_model_file(model)
    if as_json:
        say(json.dumps(asdict(file.card), indent=2))
        return
    Console(highlight=False).print(Markdown(file.card.to_markdown()))
    say(f"\nfile    {file.path} ({file.path.stat().st_size / 1e6:.1f} MB)\nsha256  {file.sha256}")
