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
            help="A shipped model's name, a model file, or an architecture. Without one all are "
            "listed."
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

    Exit code 1: the model was not imported from the file of --source.
    """
    from rich.markdown import Markdown

    from eqcalc.architectures import available
    from eqcalc.cli.architecture_options import describe, print_architecture, print_architectures
    from eqcalc.errors import ConfigError, UnknownModelError, did_you_mean
    from eqcalc.model_file import available_models, open_model_file, read_card

    if model is None:
        if source is not None:
            raise ConfigError("--source is compared with a model; name it too.")
        if as_json:
            print_json({"models": available_models(), "architectures": available()})
            return
        say("Shipped models:")
        for name in available_models():
            say(f"  {name}: {read_card(name).description}")
        print_architectures()
        return
    try:
        file = open_model_file(model, trust=trust)
    except UnknownModelError as error:
        if model.lower() in available():
            if source is not None:
                raise ConfigError(
                    f"'{model}' is an architecture, and --source is compared with a model."
                ) from error
            print_json(describe(model)) if as_json else print_architecture(model)
            return
        if not model.isalnum():
            raise
        raise UnknownModelError(
            f"{error} Architectures: {', '.join(available())}.{did_you_mean(model, available())}"
        ) from error
    same, why = (None, "") if source is None else _is_source(file, source)
    if as_json:
        print_json(asdict(file.card) | ({} if same is None else {"is_source": same, "source": why}))
        raise typer.Exit(0 if same is not False else 1)
    show(Markdown(file.card.to_markdown()))
    say(f"\nfile    {file.path} ({file.path.stat().st_size / 1e6:.1f} MB)\nsha256  {file.sha256}")
    if same is not None:
        note(f"source  {why}")
    if file.card.kind == "potential":
        _say_engine(file)
    if same is False:
        raise typer.Exit(1)


def _is_source(file: ModelFile, source: Path) -> tuple[bool, str]:
    """Return whether a file is the one that the model was imported from, and that in words."""
    from eqcalc.importers.foreign_file import sha256_of

    found, origin = sha256_of(source), file.card.origin
    if not origin:
        return False, "the model was not imported from another package"
    if origin.get("sha256") != found:
        return False, (
            f"'{source}' is not the file that the model was imported from: its sha256 is "
            f"{found}, the card has {origin.get('sha256')}; import it again with --overwrite"
        )
    return True, f"'{source}' is the file that the model was imported from"


def _say_engine(file: ModelFile) -> None:
    """Say what would run the model here; a card is worth reading where nothing can."""
    from eqcalc.engines import load_model
    from eqcalc.errors import EqcalcError

    try:
        report = load_model(file.path, trust=file.trusted).engine_report()
    except EqcalcError as error:
        report = f"none: {error}"
    say("engine  " + report.replace("\n", "\n        "))
