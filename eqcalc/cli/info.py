"""``eqcalc info``: the card of a model, or the options of an architecture."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import note, print_json, say, show
from eqcalc.cli.options import Trust

if TYPE_CHECKING:
    from eqcalc.model_file import ModelFile

__all__ = ["info"]


def info(
    model: Annotated[
        Optional[str],
        typer.Argument(
            help="A shipped model's name, a model file, or an architecture; none lists them."
        ),
    ] = None,
    source: Annotated[
        Optional[Path],
        typer.Option(help="The file that the model was imported from: is it still the same?"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    trust: Trust = False,
) -> None:
    """Show what a model is (elements, cutoff, units, errors), or an architecture's options.

    Example: [bold]eqcalc info painn-ethanol[/bold] or [bold]eqcalc info nequip[/bold]
    """
    from rich.markdown import Markdown

    from eqcalc.cli.architecture_options import describe, print_architecture, print_architectures
    from eqcalc.errors import UnknownModelError, did_you_mean
    from eqcalc.model_file import available_models, open_model_file, read_card

    if model is None:
        say("Shipped models:")
        for name in available_models():
            say(f"  {name}: {read_card(name).description}")
        print_architectures()
        return
    try:
        file = open_model_file(model, trust=trust)
    except UnknownModelError as error:
        from eqcalc.architectures import available

        if model.lower() in available():
            print_json(describe(model)) if as_json else print_architecture(model)
            return
        if not model.isalnum():
            raise
        raise UnknownModelError(
            f"{error} Architectures: {', '.join(available())}.{did_you_mean(model, available())}"
        ) from error
    if as_json:
        print_json(asdict(file.card))
        return
    show(Markdown(file.card.to_markdown()))
    say(f"\nfile    {file.path} ({file.path.stat().st_size / 1e6:.1f} MB)\nsha256  {file.sha256}")
    if source is not None:
        _say_source(file, source)
    if file.card.kind == "potential":
        _say_engine(file)


def _say_source(file: ModelFile, source: Path) -> None:
    """Say whether a file is the one that the model was imported from."""
    from eqcalc.importers.foreign_file import sha256_of

    found, origin = sha256_of(source), file.card.origin
    if not origin:
        say("source  the model was not imported from another package")
    elif origin.get("sha256") == found:
        say(f"source  '{source}' is the file that the model was imported from")
    else:
        note(
            f"source  '{source}' is not the file that the model was imported from: its sha256 is "
            f"{found}, the card has {origin.get('sha256')}; import it again with --overwrite"
        )


def _say_engine(file: ModelFile) -> None:
    """Say what would run the model here; a card is worth reading where nothing can."""
    from eqcalc.engines import load_model
    from eqcalc.errors import EqcalcError

    try:
        report = load_model(file.path, trust=file.trusted).engine_report()
    except EqcalcError as error:
        report = f"none: {error}"
    say("engine  " + report.replace("\n", "\n        "))
