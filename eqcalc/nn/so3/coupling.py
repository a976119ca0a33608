"""Clebsch-Gordan coefficients: how a product of two irreps decomposes.

Between complex spherical harmonics, by Racah's closed formula
(Racah, Phys. Rev. 62, 438 (1942), doi:10.1103/PhysRev.62.438, eq. (16); the form
used is found in Varshalovich, Moskalev, Khersonskii, 1988, section 8.2):

    ⟨l1 m1 l2 m2 | l3 m3⟩ = √A Σ_k (-1)^k / d_k          m3 = m1 + m2, else 0
    A   = (2l3+1) (l1+l2-l3)! (l1-l2+l3)! (-l1+l2+l3)! / (l1+l2+l3+1)!
          · Π_{i=1,2,3} (l_i+m_i)! (l_i-m_i)!
    d_k = k! (l1+l2-l3-k)! (l1-m1-k)! (l2+m2-k)! (l3-l2+m1+k)! (l3-l1-m2+k)!

The real components are unitary combinations of the complex ones, with a phase
(-i)^l that makes every coefficient real. A and Σ are computed in exact integers
and fractions, so that each coefficient is rounded once.
"""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import factorial, sqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.arguments import require_at_least
from eqcalc.errors import ConfigError

__all__ = ["clebsch_gordan"]


def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """Return the real coefficients C that map a ⊗ b to its part of degree l3.

    (a ⊗ b)_{m3} = Σ C_{m1 m2 m3} a_{m1} b_{m2} turns as degree l3 does. Order and signs
    are e3nn's ``wigner_3j``, and Σ C² = 1.

    >>> 3**0.5 * clebsch_gordan(1, 1, 0)[:, :, 0]  # the scalar product
    tensor([[1.0000, 0.0000, 0.0000],
            [0.0000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]], dtype=torch.float64)

    Parameters
    ----------
    l1, l2, l3 : degrees; |l1 - l2| ≤ l3 ≤ l1 + l2

    Returns
    -------
    coefficients : (2 l1 + 1, 2 l2 + 1, 2 l3 + 1), float64

    Raises
    ------
    ConfigError : a degree is not an integer ≥ 0, or the three do not couple.
    """
    require_at_least(0, l1=l1, l2=l2, l3=l3)
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ConfigError(
            f"degrees l1={l1} and l2={l2} couple to l3 from {abs(l1 - l2)} to {l1 + l2}, "
            f"found l3={l3}."
        )
    return torch.from_numpy(_real_coefficients(l1, l2, l3).copy())


@cache
def _real_coefficients(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Return C (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) between real components, of unit norm."""
    of_complex = np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            value = _racah(l1, m1, l2, m2, l3)
            of_complex[l1 + m1, l2 + m2, l3 + m1 + m2] = value
    real = np.einsum(
        "abc,ai,bj,ck->ijk",
        of_complex,
        _real_basis(l1),
        _real_basis(l2),
        _real_basis(l3).conj(),
    ).real
    return real / sqrt(2 * l3 + 1)


def _racah(l1: int, m1: int, l2: int, m2: int, l3: int) -> float:
    """Return ⟨l1 m1 l2 m2 | l3 m1+m2⟩ by the module's formula."""
    m3 = m1 + m2
    f = factorial
    a = Fraction(
        (2 * l3 + 1) * f(l1 + l2 - l3) * f(l1 - l2 + l3) * f(l2 - l1 + l3), f(l1 + l2 + l3 + 1)
    )
    for l, m in ((l1, m1), (l2, m2), (l3, m3)):
        a *= f(l + m) * f(l - m)
    total = Fraction(0)
    for k in range(max(0, l2 - l3 - m1, l1 - l3 + m2), min(l1 + l2 - l3, l1 - m1, l2 + m2) + 1):
        d = f(k) * f(l1 + l2 - l3 - k) * f(l1 - m1 - k) * f(l2 + m2 - k)
        d *= f(l3 - l2 + m1 + k) * f(l3 - l1 - m2 + k)
        total += Fraction((-1) ** k, d)
    return (1 if total > 0 else -1) * sqrt(a * total * total)


def _real_basis(l: int) -> NDArray[np.complex128]:
    """Return the real components (columns) in terms of the complex ones (rows).

    For m > 0 the column m is (|-m⟩ + (-1)^m |m⟩) / √2 and the column -m is
    i ((-1)^m |m⟩ - |-m⟩) / √2; every column carries the phase (-i)^l.
    """
    basis = np.zeros((2 * l + 1, 2 * l + 1), dtype=np.complex128)
    basis[l, l] = 1.0
    for m in range(1, l + 1):
        sign = (-1) ** m
        basis[l + m, l + m], basis[l - m, l + m] = sign, 1.0
        basis[l + m, l - m], basis[l - m, l - m] = 1j * sign, -1j
    basis[:, np.arange(2 * l + 1) != l] /= sqrt(2.0)
    return (-1j) ** l * basis
