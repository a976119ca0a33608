"""What an architecture gives up of the contract, declared by attributes of its class."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple

from torch import nn

from eqcalc.errors import ConfigError

__all__ = ["NO_CONCESSIONS", "Concessions", "declared"]


class Concessions(NamedTuple):
    """What a network declares, each field by a class attribute of its name.

        class Handed(nn.Module):
            mirror_symmetric = False

    mirror_symmetric : mirror images have the same energy. False: the law of reflection is not
        applied, all others are.
    vanishing_derivatives : how many derivatives of an edge's effect vanish at the cutoff, 2 or
        1. With 1, as a cosine cutoff has, forces are continuous and their derivatives jump; the
        effect must vanish with exactly that power.
    smooth_at_symmetric_sites : an atom off a perfect site by 1e-3 Å has the force constant that
        it has at the site. False: only within 1e-6 Å, as with lengths √(Σ v² + 1e-8).
    """

    mirror_symmetric: bool = True
    vanishing_derivatives: int = 2
    smooth_at_symmetric_sites: bool = True

    def sentences(self) -> list[str]:
        """Return what a user of the model has to know, for its card.

        >>> Concessions(vanishing_derivatives=1).sentences()
        ['Derivatives of forces jump where a pair crosses the cutoff function.']
        """
        found = []
        if not self.mirror_symmetric:
            found.append(
                "Mirror images of a structure differ in energy: the network has no parity."
            )
        if self.vanishing_derivatives < 2:
            found.append("Derivatives of forces jump where a pair crosses the cutoff function.")
        if not self.smooth_at_symmetric_sites:
            found.append("Force constants on sites of high symmetry mean nothing: there is a kink.")
        return found

    @classmethod
    def from_sentences(cls, sentences: Collection[str]) -> Concessions:
        """Return what a card says that its network gives up; other sentences say something else.

        >>> Concessions.from_sentences(["Derivatives of forces jump where a pair crosses the "
        ...                             "cutoff function."]).vanishing_derivatives
        1
        """
        found = cls()
        changes: tuple[dict[str, Any], ...] = (
            {"mirror_symmetric": False},
            {"vanishing_derivatives": 1},
            {"smooth_at_symmetric_sites": False},
        )
        for change in changes:
            (sentence,) = cls(**change).sentences()
            if sentence in sentences:
                found = found._replace(**change)
        return found


NO_CONCESSIONS = Concessions()
"""The whole contract."""


def declared(network: nn.Module) -> Concessions:
    """Return what a network declares; the whole contract where it says nothing.

    Raises
    ------
    ConfigError : a declaration is not one of the values above.
    """
    stated = {key: getattr(network, key) for key in Concessions._fields if hasattr(network, key)}
    found = Concessions(**stated)
    name = type(network).__name__
    for key in ("mirror_symmetric", "smooth_at_symmetric_sites"):
        value = getattr(found, key)
        if not isinstance(value, bool):
            raise ConfigError(f"{name}.{key} must be True or False, found {value!r}.")
    n = found.vanishing_derivatives
    if isinstance(n, bool) or n not in (1, 2):
        raise ConfigError(f"{name}.vanishing_derivatives must be 2 or 1, found {n!r}.")
    return found
