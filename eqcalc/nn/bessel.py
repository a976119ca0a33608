"""Bessel functions as bases of distances, exact to the last digit of float32.

Source: Gasteiger, Groß, Günnemann, ICLR (2020), arXiv:2003.03123, eqs. (6)-(8).

    x        = d / cutoff
    radial_n = u(x)/x · sin(ν_n π x)                               ν_n = n at the start
    sph_ln   = u(x)/x · √2/|j_{l+1}(z_ln)| · j_l(z_ln x)           z_ln: n-th zero of j_l
    Y_l(α)   = √((2l+1)/4π) P_l(cos α)

The textbook formulas of j_l lose every digit at small arguments. Here

    j_l(z x) = x^l · Σ_k c_k T_k(2x² - 1),       c from Poisson's integral

    j_l(a)   = a^l / (2^{l+1} l!) ∫_{-1}^{1} (1 - t²)^l cos(a t) dt,

which has no branch, no cancellation for x -> 0, and derivatives of every order. The
expansion converges like J_2k(z), that is as soon as 2k exceeds z. Arguments are formed in
float64 whatever the network's precision: ν π x rounded to float32 moves a zero by 1e-6.

Shapes: n_edges, n_spherical (orders l = 0, 1, ...), n_radial (n = 1, 2, ...).
"""

import math
from typing import Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eqcalc.errors import ConfigError
from eqcalc.nn.envelope import polynomial_envelope, xplor_envelope

__all__ = [
    "BesselBasis",
    "SphericalBesselBasis",
    "legendre_basis",
    "spherical_bessel_zeros",
]

_ACCURACY = 1e-7
"""Of the largest basis sizes accepted, relative to the basis' own size."""


class BesselBasis(nn.Module):
    """Expand distances as u(x)/x · sin(ν_n π x), x = d/cutoff, with ν_n = n at first.

    Parameters
    ----------
    n_radial : functions
    cutoff : Å
    p : power of the envelope
    trainable : whether the frequencies ν_n are parameters
    xplor_onset : Å; the XPLOR envelope in place of the polynomial
    per_angstrom : the frequencies are w_n of sin(w_n d), 1/Å
    """

    frequencies: Tensor

    def __init__(
        self,
        n_radial: int,
        cutoff: float,
        p: int = 6,
        *,
        trainable: bool = True,
        xplor_onset: Optional[float] = None,
        per_angstrom: bool = False,
    ) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.p = p
        self.xplor_onset = None if xplor_onset is None else float(xplor_onset)
        self.unit = self.cutoff if per_angstrom else math.pi
        # In units of π, where the starting values are exact in every precision.
        frequencies = torch.arange(1.0, n_radial + 1.0) * (math.pi / self.unit)
        if trainable:
            self.frequencies = nn.Parameter(frequencies)
        else:
            self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Return (n_edges, n_radial) in the dtype of ``distances`` (n_edges,), Å."""
        x = distances.to(torch.float64).unsqueeze(1) / self.cutoff  # (n_edges, 1)
        waves = torch.sin(x * (self.unit * self.frequencies.to(torch.float64)))
        if self.xplor_onset is None:
            envelope = polynomial_envelope(x, 1.0, self.p)
        else:
            envelope = xplor_envelope(x, 1.0, self.xplor_onset / self.cutoff)
        return (envelope / x * waves).to(distances.dtype)


class SphericalBesselBasis(nn.Module):
    """Expand distances as u(x)/x · √2/|j_{l+1}(z_ln)| · j_l(z_ln x).

    Parameters
    ----------
    n_spherical, n_radial : orders l = 0 ... n_spherical - 1, zeros n = 1 ... n_radial
    cutoff : Å
    p : power of the envelope

    Raises
    ------
    ConfigError : a basis so large that float64 cannot resolve it to 1e-7.
    """

    orders: Tensor
    multiples: Tensor

    def __init__(self, n_spherical: int, n_radial: int, cutoff: float, p: int = 6) -> None:
        super().__init__()
        self.cutoff = float(cutoff)
        self.p = p
        self.n_spherical = n_spherical
        self.n_radial = n_radial
        coefficients = _chebyshev_coefficients(n_spherical, n_radial)
        self.n_doublings = (coefficients.shape[0] - 1).bit_length() - 1
        # Kept as integers times a power of two: casting a network to float32 rounds every
        # buffer of floats, and casting it back does not restore them.
        self.unit = 2.0 ** (math.ceil(math.log2(np.abs(coefficients).max())) - 62)
        multiples = torch.from_numpy(np.rint(coefficients / self.unit).astype(np.int64))
        self.register_buffer("multiples", multiples, persistent=False)
        self.register_buffer("orders", torch.arange(n_spherical), persistent=False)

    def forward(self, distances: Tensor) -> Tensor:
        """Return (n_edges, n_spherical, n_radial) for ``distances`` (n_edges,), Å."""
        x = distances.to(torch.float64).unsqueeze(1) / self.cutoff  # (n_edges, 1)
        envelope = polynomial_envelope(x, 1.0, self.p) / x
        # Beyond the cutoff the envelope is zero, and the polynomials must stay finite.
        inside = x.clamp(max=1.0)
        polynomials = _chebyshev_polynomials(2.0 * inside * inside - 1.0, self.n_doublings)
        values = polynomials @ (self.multiples.to(torch.float64) * self.unit)
        values = values.view(-1, self.n_spherical, self.n_radial)
        powers = (envelope * inside.pow(self.orders)).unsqueeze(2)  # (n_edges, n_spherical, 1)
        return (powers * values).to(distances.dtype)


def legendre_basis(cosines: Tensor, n_spherical: int, dim: int = -1) -> Tensor:
    """Return Y_l(α) = √((2l+1)/4π) P_l(cos α), with l as a new dimension: by default the last.

    A polynomial in cos α: the angle itself has no derivative at 0 and 180°.

    Parameters
    ----------
    cosines : (...)
    """
    polynomials = [torch.ones_like(cosines), cosines]
    for l in range(1, n_spherical - 1):
        # Bonnet's recurrence.
        following = (2 * l + 1) * cosines * polynomials[l] - l * polynomials[l - 1]
        polynomials.append(following / (l + 1))
    scaled = [math.sqrt((2 * l + 1) / (4.0 * math.pi)) * polynomials[l] for l in range(n_spherical)]
    return torch.stack(scaled, dim=dim)


def spherical_bessel_zeros(n_orders: int, n_zeros: int) -> NDArray[np.float64]:
    """Return the first zeros z_ln of j_l for l = 0 ... n_orders - 1: (n_orders, n_zeros).

    The zeros of neighbouring orders alternate, so that each one is bracketed by two of
    the order below; those of j_0 are the multiples of π.

    >>> float(round(spherical_bessel_zeros(2, 1)[1, 0], 12))
    4.493409457909
    """
    zeros = math.pi * np.arange(1.0, n_zeros + n_orders)
    rows = [zeros[:n_zeros]]
    for l in range(1, n_orders):
        low, high = zeros[:-1].copy(), zeros[1:].copy()
        sign_at_low = np.sign(_spherical_bessel(l, low))
        for _ in range(60):  # halves the gap of about π down to its last bit
            middle = 0.5 * (low + high)
            is_left = np.sign(_spherical_bessel(l, middle)) == sign_at_low
            low, high = np.where(is_left, middle, low), np.where(is_left, high, middle)
        zeros = 0.5 * (low + high)
        rows.append(zeros[:n_zeros])
    return np.stack(rows)


def _spherical_bessel(l: int, a: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return j_l by upward recurrence, which is stable for arguments a > l."""
    before, value = np.cos(a) / a, np.sin(a) / a  # j_{-1}, j_0
    for k in range(l):
        before, value = value, (2 * k + 1) / a * value - before
    return value


def _chebyshev_coefficients(n_spherical: int, n_radial: int) -> NDArray[np.float64]:
    """Return the coefficients of √2/|j_{l+1}(z_ln)| j_l(z_ln x) / x^l in T_k(2x² - 1).

    Shape (n_terms, n_spherical * n_radial); n_terms is a power of two plus one.
    """
    zeros = spherical_bessel_zeros(n_spherical, n_radial)
    largest = float(zeros.max())
    n_terms = 1 + 2 ** math.ceil(math.log2(0.5 * largest + 18.0))  # J_2k(z) < 1e-17
    angles = (np.arange(n_terms) + 0.5) * math.pi / n_terms
    x = np.cos(0.5 * angles)  # 2x² - 1 = cos(angle)
    t, weights = np.polynomial.legendre.leggauss(int(largest) + 40)
    columns = []
    for l in range(n_spherical):
        waves = np.cos(x[:, None, None] * zeros[l][:, None] * t) @ (weights * (1.0 - t * t) ** l)
        size = zeros[l] ** l / (2.0 ** (l + 1) * math.factorial(l))
        norm = math.sqrt(2.0) / np.abs(_spherical_bessel(l + 1, zeros[l]))
        columns.append(waves * size * norm)  # (n_terms, n_radial)
    values = np.concatenate(columns, axis=1)
    # At x = 1 the sum falls from the size of its terms to zero, with a slope of about z.
    loss = np.finfo(np.float64).eps * float(np.abs(values).max()) / largest
    if loss > _ACCURACY:
        raise ConfigError(
            f"num_spherical_basis = {n_spherical} with num_radial_basis = {n_radial} is too "
            f"large a basis: float64 resolves it to {loss:.1g} only. Make either smaller."
        )
    coefficients = 2.0 / n_terms * np.cos(np.outer(np.arange(n_terms), angles)) @ values
    coefficients[0] *= 0.5
    return np.ascontiguousarray(coefficients)


def _chebyshev_polynomials(y: Tensor, n_doublings: int) -> Tensor:
    """Return T_0 ... T_m of y (n_edges, 1), m = 2**n_doublings.

    T_{m+k} = 2 T_m T_k - T_{m-k} doubles the number of polynomials at each step.
    """
    polynomials = torch.cat([torch.ones_like(y), y], dim=1)
    for _ in range(n_doublings):  # a model's program has no loop without a known end
        m = polynomials.shape[1] - 1
        more = 2.0 * polynomials[:, m:] * polynomials[:, 1:] - polynomials[:, :m].flip(1)
        polynomials = torch.cat([polynomials, more], dim=1)
    return polynomials
