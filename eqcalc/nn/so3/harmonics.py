"""Real spherical harmonics as polynomials of the unit vector.

With the unit vector (x, y, z) and y as the polar axis,

    Y_{l,m}  = P_l^m(y) · Re (z + ix)^m      m ≥ 0
    Y_{l,-m} = P_l^m(y) · Im (z + ix)^m      m > 0

where P_l^m is the associated Legendre function without its factor (1 - y²)^{m/2}
and without Condon-Shortley sign, normalised such that Σ_m Y_{l,m}² = 2l + 1. Its
recursion, free of square roots of coordinates and of large numbers, is

    P_0^0 = 1,   P_1^1 = √3,   P_m^m = √((2m+1) / 2m) P_{m-1}^{m-1}
    P_l^m = a_l^m (y P_{l-1}^m - b_l^m P_{l-2}^m)
    a_l^m = √((4l² - 1) / (l² - m²)),   b_l^m = √(((l-1)² - m²) / (4(l-1)² - 1))

Source: Holmes and Featherstone, J. Geodesy 76, 279 (2002),
doi:10.1007/s00190-002-0216-2, "standard forward column" recursion, there with the factor
(1 - y²)^{m/2}.
Component order, axes and signs are e3nn's.
"""

import math

import torch
from torch import Tensor

from eqcalc.errors import ConfigError

__all__ = ["spherical_harmonics"]


def spherical_harmonics(l_max: int, vectors: Tensor) -> Tensor:
    """Return Y of the vectors' directions, all degrees 0 ... l_max one after the other.

    >>> spherical_harmonics(1, torch.tensor([[0.0, 0.0, 2.0]])).square()
    tensor([[1., 0., 0., 3.]])

    Parameters
    ----------
    l_max : largest degree
    vectors : (..., 3), of any length but zero

    Returns
    -------
    harmonics : (..., (l_max + 1)²); degree l at columns l² ... (l+1)² - 1, m = -l ... l

    Raises
    ------
    ConfigError : ``l_max`` is negative.
    """
    if l_max < 0:
        raise ConfigError(f"l_max must be an integer >= 0, found {l_max}.")
    lengths = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    x, y, z = torch.unbind(vectors / lengths, dim=-1)
    columns = [y] * ((l_max + 1) * (l_max + 1))  # each is replaced below
    power_re, power_im = torch.ones_like(y), torch.zeros_like(y)  # (z + ix)^m
    diagonal = 1.0  # P_m^m
    for m in range(l_max + 1):
        if m > 0:
            power_re, power_im = power_re * z - power_im * x, power_re * x + power_im * z
            diagonal *= math.sqrt(3.0 if m == 1 else (2.0 * m + 1.0) / (2.0 * m))
        before = torch.zeros_like(y)
        legendre = torch.full_like(y, diagonal)
        for l in range(m, l_max + 1):
            if l > m:
                a = math.sqrt((4.0 * l * l - 1.0) / (l * l - m * m))
                k = l - 1.0
                b = math.sqrt((k * k - m * m) / (4.0 * k * k - 1.0)) if l > m + 1 else 0.0
                before, legendre = legendre, a * (y * legendre - b * before)
            columns[l * l + l + m] = legendre * power_re
            if m > 0:
                columns[l * l + l - m] = legendre * power_im
    return torch.stack(columns, dim=-1)
