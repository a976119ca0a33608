"""Irreps of O(3): a degree and a parity, and which of them couple."""

from __future__ import annotations

from typing import NamedTuple

from eqcalc.errors import ConfigError
from eqcalc.nn.arguments import require_at_least

__all__ = ["Irrep", "Layout", "irreps_up_to"]


class Irrep(NamedTuple):
    """How 2l + 1 numbers turn (degree ``l``) and what inversion does (``parity`` ±1).

    >>> str(Irrep(1, -1)), Irrep(2, 1).dim
    ('1o', 5)
    """

    l: int
    parity: int

    @property
    def dim(self) -> int:
        """Number of components, 2l + 1."""
        return 2 * self.l + 1

    @property
    def is_natural(self) -> bool:
        """Whether inversion acts as on a spherical harmonic, by (-1)^l."""
        return self.parity == (-1) ** self.l

    def filters_to(self, target: Irrep, l_max: int) -> list[int]:
        """Return the degrees l ≤ l_max of harmonics that couple this irrep to another.

        >>> Irrep(1, -1).filters_to(Irrep(1, -1), 4)  # vector to vector: l = 0 and 2
        [0, 2]
        >>> Irrep(1, -1).filters_to(Irrep(1, 1), 4)  # to an axial vector: the cross product
        [1]
        """
        degrees = range(abs(self.l - target.l), min(self.l + target.l, l_max) + 1)
        return [l for l in degrees if self.parity * (-1) ** l == target.parity]

    def __str__(self) -> str:
        return f"{self.l}{'e' if self.parity == 1 else 'o'}"


Layout = dict[Irrep, int]
"""Channels of each irrep, in the order of a feature list."""


def irreps_up_to(l_max: int, parity: bool) -> list[Irrep]:
    """Return all irreps of degree ≤ l_max, natural parity first.

    >>> [str(irrep) for irrep in irreps_up_to(1, parity=True)]
    ['0e', '0o', '1o', '1e']
    >>> [str(irrep) for irrep in irreps_up_to(2, parity=False)]
    ['0e', '1o', '2e']

    Parameters
    ----------
    parity : both parities, or the natural one (-1)^l alone

    Raises
    ------
    ConfigError : ``l_max`` is not an integer ≥ 0, or ``parity`` no bool.
    """
    require_at_least(0, l_max=l_max)
    if not isinstance(parity, bool):
        raise ConfigError(f"parity must be True or False, found {parity!r}.")
    signs = (1, -1) if parity else (1,)
    return [Irrep(l, sign * (-1) ** l) for l in range(l_max + 1) for sign in signs]
