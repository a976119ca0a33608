"""Which shipped model fits a structure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["choose_model", "trained_on"]


def choose_model(atoms: Atoms) -> str:
    """Return the first shipped model that was trained on the composition of ``atoms``.

    Raises
    ------
    ConfigError : there is none; the message says which models there are.
    """
    from eqcalc.model_file import available_models, read_card

    shipped = {name: _compositions(read_card(name)) for name in available_models()}
    for name, compositions in shipped.items():
        if _includes(compositions, atoms):
            return name
    known = "; ".join(f"{name} ({', '.join(c) or 'unknown'})" for name, c in shipped.items())
    raise ConfigError(
        f"no shipped model was trained on {_formula(atoms)}. Shipped are: {known or 'none'}. "
        "Choose one, or a model file of your own, with --model."
    )


def trained_on(model: str, atoms: Atoms) -> str | None:
    """Return None if the model's card names the composition, else what it names.

    An empty string means that the card names nothing.
    """
    from eqcalc.model_file import read_card

    compositions = _compositions(read_card(model))
    return None if _includes(compositions, atoms) else ", ".join(compositions)


def _compositions(card: object) -> list[str]:
    training_data = getattr(card, "training_data", None) or {}
    return list(training_data.get("compositions", []))


def _includes(compositions: list[str], atoms: Atoms) -> bool:
    from ase.formula import Formula

    if _formula(atoms) in compositions:
        return True
    if not atoms.pbc.any():
        return False
    # A crystal or a liquid is the same substance in a cell of any size.
    reduced = [Formula(c).reduce()[0].format("hill") for c in compositions]
    return atoms.symbols.formula.reduce()[0].format("hill") in reduced


def _formula(atoms: Atoms) -> str:
    return str(atoms.get_chemical_formula(mode="hill"))
