"""``eqcalc models``: the shipped models, and what is in them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from rich.text import Text

from eqcalc.cli.console import print_json, show
from eqcalc.cli.options import AsJson

if TYPE_CHECKING:
    from eqcalc.model_file import ModelCard

__all__ = ["models"]

_ERRORS = (
    ("energy_per_atom_mae_mev", "energy", "meV/atom"),
    ("forces_mae_mev_per_a", "forces", "meV/Å"),
    ("stress_mae_mev_per_a3", "stress", "meV/Å³"),
)
"""Key of a card -> what the list calls it; all on their cards, eqcalc info MODEL."""


def models(as_json: AsJson = False) -> None:
    """List the shipped models: elements, cutoff, errors, licence.

    Example: [bold]eqcalc models[/bold]; [bold]eqcalc info NAME[/bold] shows the whole card.
    """
    from eqcalc.model_file import available_models, read_card

    cards = [read_card(name) for name in available_models()]
    if as_json:
        contents = [asdict(card) for card in cards]
        for content in contents:
            del content["trained_frames"]  # 30 kB each; eqcalc info NAME --json has them
        print_json({"models": contents})
        return
    for number, card in enumerate(cards):
        if number > 0:
            show("")
        _show(card)


def _show(card: ModelCard) -> None:
    from rich.padding import Padding
    from rich.table import Table

    show(Text.assemble((card.name, "bold"), f"  {card.kind}, {card.architecture}"))
    show(Padding(Text(card.description), (0, 0, 0, 2)))
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _rows(card).items():
        table.add_row(Text(name), Text(value))
    show(Padding(table, (0, 0, 0, 2)))


def _rows(card: ModelCard) -> dict[str, str]:
    rows = {}
    if card.kind == "potential":
        rows["elements"] = ", ".join(card.elements)
        if card.is_universal:
            rows["universal"] = card.scope
        else:
            rows["trained on"] = ", ".join(card.compositions) or "not stated"
        reach = card.cutoff * card.n_hops
        rows["cutoff"] = f"{card.cutoff:g} Å, {card.n_hops} steps: atoms up to {reach:g} Å act"
        errors = [
            f"{name} {card.errors[key]:.3g} {unit}"
            for key, name, unit in _ERRORS
            if key in card.errors
        ]
        rows["errors (MAE)"] = ", ".join(errors) or "not stated"
        if "measured on" in card.errors:
            rows["measured on"] = str(card.errors["measured on"])
    rows["licence"] = card.licence or "not stated"
    return rows
