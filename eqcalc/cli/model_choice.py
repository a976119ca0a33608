"""Which shipped model fits structures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eqcalc.errors import ConfigError, listing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ase import Atoms

    from eqcalc.model_file import ModelCard

__all__ = ["choose_model", "model_line"]


def choose_model(structures: Sequence[Atoms]) -> str:
    """Return the shipped potential to take for structures.

    The smallest that was trained on the composition of each, else the smallest universal one that
    knows their elements: of the others the user says that they shall take their time.

    Raises
    ------
    ConfigError : there is none; the message says which models there are.
    """
    from eqcalc.elements import trained_on
    from eqcalc.model_file import available_models, find_model, read_card

    by_size = sorted(available_models(), key=lambda name: find_model(name).stat().st_size)
    cards = {name: read_card(name) for name in by_size}
    shipped = {name: card for name, card in cards.items() if card.kind == "potential"}
    special = {name: card for name, card in shipped.items() if not card.is_universal}
    kinds = {_formula(atoms): atoms for atoms in structures}
    for name, card in special.items():
        if all(trained_on(card.compositions, atoms) for atoms in kinds.values()):
            return name
    elements = {symbol for atoms in kinds.values() for symbol in atoms.symbols}
    lacking = []
    for name, card in shipped.items():
        if card.is_universal:
            unknown = sorted(elements - set(card.elements))
            if not unknown:
                return name
            lacking.append(f"{name} does not know {', '.join(unknown)}")
    known = "; ".join(
        f"{name} ({', '.join(card.compositions) or 'unknown'})" for name, card in special.items()
    )
    raise ConfigError(
        f"no shipped model was trained on {listing(list(kinds))}. Shipped are: {known or 'none'}. "
        + "".join(f"{text}. " for text in lacking)
        + "Choose one, or a model file of your own, with --model."
    )


def model_line(card: ModelCard, path: Path, *, was_chosen: bool) -> str:
    """Return which model runs, in a line.

    Parameters
    ----------
    was_chosen : by :func:`choose_model`, not by the user
    """
    if card.is_universal:
        return f"model {card.name} ({'shipped' if was_chosen else path}), universal: {card.scope}"
    if not was_chosen:
        return f"model {card.name} ({path})"
    # Only formulas were compared.
    known = ", ".join(card.compositions)
    return f"model {card.name}: shipped, trained on {known} (isomers are not told apart)"


def _formula(atoms: Atoms) -> str:
    return str(atoms.get_chemical_formula(mode="hill"))
