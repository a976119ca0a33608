"""Whether a structure is of a composition that a card names."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ase import Atoms

__all__ = ["trained_on"]


def trained_on(compositions: list[str], atoms: Atoms) -> bool:
    """Return whether the formula of ``atoms`` is among those of a model's card.

    A crystal or a liquid is the same substance in a cell of any size; a cluster of
    molecules is not the molecule.
    """
    from ase.formula import Formula

    if atoms.get_chemical_formula(mode="hill") in compositions:
        return True
    if not atoms.pbc.any():
        return False
    reduced = [Formula(c).reduce()[0].format("hill") for c in compositions]
    return atoms.symbols.formula.reduce()[0].format("hill") in reduced
