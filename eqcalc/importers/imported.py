"""What an importer gets and gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from eqcalc.potential import Potential

__all__ = ["Choices", "Imported"]


@dataclass(frozen=True)
class Choices:
    """What the user says about a file because it does not say it itself.

    energy_unit, length_unit : of the network, such as "kcal/mol" and "Bohr"
    modality : which of several levels of theory a network shall answer for
    elements : symbols that the model shall know; None means all that the file states
    """

    energy_unit: str | None = None
    length_unit: str | None = None
    modality: str | None = None
    elements: tuple[str, ...] | None = None


class Imported(NamedTuple):
    """A network of another package as a potential of eqcalc.

    potential : in the precision of the file's weights
    elements : symbols that it knows
    description : a sentence for the card: what it is, and what was folded
    licence : of the weights, where the file or its package says it, else ""
    level_of_theory : of its training data, such as "PBE (MPtrj)", else ""
    source : "package", "version" and what else the file says of itself, as text
    """

    potential: Potential
    elements: list[str]
    description: str
    licence: str
    level_of_theory: str
    source: dict[str, str]
