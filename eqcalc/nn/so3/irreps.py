"""Irreps of O(3), a degree and a parity, or of SO(3), a degree alone, and which of them couple."""

from __future__ import annotations

from typing import NamedTuple

from eqcalc.arguments import require_at_least
from eqcalc.errors import ConfigError

__all__ = ["Irrep", "Layout", "irreps_up_to"]


class Irrep(NamedTuple):
    """How 2l + 1 numbers turn (degree ``l``) and what inversion does (``parity`` ±1).

    Parity 0 stands for rotations alone, SO(3): nothing is said of inversion, and every product
    of two such irreps couples to every degree between |l1 - l2| and l1 + l2.

    >>> str(Irrep(1, -1)), Irrep(2, 1).dim, str(Irrep(2, 0))
    ('1o', 5, '2')
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

    @property
    def is_invariant(self) -> bool:
        """Whether it is a scalar that nothing changes: 0e, or degree 0 of SO(3)."""
        return self.l == 0 and self.parity >= 0

    def filters_to(self, target: Irrep, l_max: int) -> list[int]:
        """Return the degrees l ≤ l_max of harmonics that couple this irrep to another.

        >>> Irrep(1, -1).filters_to(Irrep(1, -1), 4)  # vector to vector: l = 0 and 2
        [0, 2]
        >>> Irrep(1, -1).filters_to(Irrep(1, 1), 4)  # to an axial vector: the cross product
        [1]
        >>> Irrep(1, 0).filters_to(Irrep(1, 0), 4)  # both, where mirror images may differ
        [0, 1, 2]
        """
        degrees = range(abs(self.l - target.l), min(self.l + target.l, l_max) + 1)
        return [l for l in degrees if self.parity * (-1) ** l == target.parity]

    def __str__(self) -> str:
        return f"{self.l}{('', 'e', 'o')[self.parity]}"


Layout = dict[Irrep, int]
"""Channels of each irrep, in the order of a feature list."""


def irreps_up_to(l_max: int, parity: bool, *, mirror_symmetric: bool = True) -> list[Irrep]:
    """Return all irreps of degree ≤ l_max, natural parity first.

    >>> [str(irrep) for irrep in irreps_up_to(1, parity=True)]
    ['0e', '0o', '1o', '1e']
    >>> [str(irrep) for irrep in irreps_up_to(2, parity=False)]
    ['0e', '1o', '2e']
    >>> [str(irrep) for irrep in irreps_up_to(2, parity=False, mirror_symmetric=False)]
    ['0', '1', '2']

    Parameters
    ----------
    parity : both parities, or the natural one (-1)^l alone
    mirror_symmetric : irreps of O(3); False: of SO(3), where ``parity`` means nothing

    Raises
    ------
    ConfigError : ``l_max`` is not an integer ≥ 0, or ``parity`` no bool.
    """
    require_at_least(0, l_max=l_max)
    if not isinstance(parity, bool):
        raise ConfigError(f"parity must be True or False, found {parity!r}.")
    if not mirror_symmetric:
        return [Irrep(l, 0) for l in range(l_max + 1)]
    signs = (1, -1) if parity else (1,)
    return [Irrep(l, sign * (-1) ** l) for l in range(l_max + 1) for sign in signs]
