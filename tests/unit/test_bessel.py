"""Bessel bases against scipy's functions, in both precisions and to the second derivative."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.special import eval_legendre, spherical_jn

from eqcalc.errors import ConfigError
from eqcalc.nn.bessel import (
    BesselBasis,
    SphericalBesselBasis,
    legendre_basis,
    spherical_bessel_zeros,
)

CUTOFF = 5.0

SINGLE = 2.0**-23
"""Unit of float32's last digit; the bases are rounded once, at the end."""


def _envelope_over_x(x: np.ndarray, p: int = 6) -> np.ndarray:
    a, b, c = (p + 1) * (p + 2) / 2, p * (p + 2), p * (p + 1) / 2
    u = 1 - a * x**p + b * x ** (p + 1) - c * x ** (p + 2)
    return np.where(x < 1, u, 0.0) / x


def _spherical_by_scipy(d: torch.Tensor, n_spherical: int, n_radial: int, p: int) -> np.ndarray:
    x = d.double().numpy() / CUTOFF
    zeros = spherical_bessel_zeros(n_spherical, n_radial)
    values = np.empty((len(x), n_spherical, n_radial))
    for l in range(n_spherical):
        for n in range(n_radial):
            norm = math.sqrt(2.0) / abs(spherical_jn(l + 1, zeros[l, n]))
            values[:, l, n] = norm * spherical_jn(l, zeros[l, n] * x)
    return values * _envelope_over_x(x, p)[:, None, None]


def test_zeros_are_zeros_and_none_is_missed():
    zeros = spherical_bessel_zeros(9, 7)
    for l in range(9):
        assert np.abs(spherical_jn(l, zeros[l])).max() < 1e-15
        grid = np.linspace(1e-3, zeros[l, -1] + 1e-6, 20000)
        assert (np.diff(np.sign(spherical_jn(l, grid))) != 0).sum() == 7


def test_zeros_are_the_tabulated_ones():
    # Abramowitz and Stegun, table 10.6.
    tabulated = [[math.pi, 2 * math.pi], [4.493409, 7.725252], [5.763459, 9.095011]]
    np.testing.assert_allclose(spherical_bessel_zeros(3, 2), tabulated, rtol=0, atol=5e-7)


@pytest.mark.parametrize(("n_spherical", "n_radial"), [(7, 6), (1, 1), (2, 5), (10, 3), (3, 16)])
@pytest.mark.parametrize("p", [6, 3])
def test_spherical_basis_equals_scipy_in_double_precision(n_spherical, n_radial, p):
    d = torch.linspace(0.01, 1.2 * CUTOFF, 400, dtype=torch.float64)
    expected = _spherical_by_scipy(d, n_spherical, n_radial, p)
    found = SphericalBesselBasis(n_spherical, n_radial, CUTOFF, p)(d).numpy()
    assert found.shape == (400, n_spherical, n_radial)
    np.testing.assert_allclose(
        found / np.abs(expected).max(0), expected / np.abs(expected).max(0), rtol=0, atol=2e-10
    )


@pytest.mark.parametrize(
    ("shortest", "longest", "atol"),
    [
        # Before the first zero of any function. At l = 6 and 0.001 Å the value is 1e-17,
        # and the textbook formulas are wrong by many powers of ten.
        (0.001, 0.5, 0.0),
        # Relative next to the zeros too, down to what float64 leaves of them.
        (0.5, 0.9 * CUTOFF, 1e-11),
    ],
)
def test_float32_is_exact_to_its_last_digit_at_every_order(shortest, longest, atol):
    d = torch.linspace(shortest, longest, 3000)
    assert d.dtype == torch.float32
    expected = _spherical_by_scipy(d, 7, 6, 6)
    found = SphericalBesselBasis(7, 6, CUTOFF)(d)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.double().numpy(), expected, rtol=SINGLE, atol=atol)


def test_radial_basis_is_exact_in_both_precisions():
    for dtype, digit in ((torch.float32, SINGLE), (torch.float64, 1e-11)):
        d = torch.linspace(0.01, 0.9 * CUTOFF, 3000, dtype=dtype)
        x = d.double().numpy()[:, None] / CUTOFF
        expected = _envelope_over_x(x) * np.sin(np.arange(1, 7) * math.pi * x)
        found = BesselBasis(6, CUTOFF).to(dtype)(d)
        assert found.dtype == dtype
        np.testing.assert_allclose(found.detach().double().numpy(), expected, rtol=digit, atol=0)


def test_casting_a_network_there_and_back_costs_nothing():
    d = torch.linspace(0.1, CUTOFF, 50, dtype=torch.float64)
    for basis in (SphericalBesselBasis(7, 6, CUTOFF), BesselBasis(6, CUTOFF)):
        expected = basis.double()(d)
        assert torch.equal(basis.float().double()(d), expected)


def test_radial_frequencies_are_trainable_and_start_at_the_multiples_of_pi():
    basis = BesselBasis(4, CUTOFF).double()
    assert basis.frequencies.tolist() == [1.0, 2.0, 3.0, 4.0]
    basis(torch.tensor([1.3], dtype=torch.float64)).sum().backward()
    x = 1.3 / CUTOFF
    envelope = _envelope_over_x(np.array(x))
    expected = envelope * math.pi * x * np.cos(np.arange(1, 5) * math.pi * x)
    np.testing.assert_allclose(basis.frequencies.grad.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", [SphericalBesselBasis(7, 6, CUTOFF), BesselBasis(6, CUTOFF)])
def test_bases_vanish_at_the_cutoff_with_two_derivatives(basis):
    d = torch.tensor([CUTOFF, 1.01 * CUTOFF, 40.0], dtype=torch.float64, requires_grad=True)
    values = basis(d)
    assert bool((values == 0).all())
    (slope,) = torch.autograd.grad(values.sum(), d, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), d)
    assert bool((slope == 0).all())
    assert bool((curvature == 0).all())
    near = torch.tensor([CUTOFF - 1e-2, CUTOFF - 1e-3], dtype=torch.float64)
    sizes = basis(near).detach().abs().flatten(1).amax(dim=1).tolist()
    # Three for the envelope, and one more for every function's own zero at the cutoff.
    assert math.log10(sizes[0] / sizes[1]) == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize("basis", [SphericalBesselBasis(7, 6, CUTOFF), BesselBasis(6, CUTOFF)])
def test_first_and_second_derivatives_equal_finite_differences(basis):
    d = torch.linspace(0.4, 5.5, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(basis, d, atol=1e-6, rtol=1e-6)
    assert torch.autograd.gradgradcheck(basis, d, atol=1e-4, rtol=1e-6)


def test_spherical_basis_is_orthonormal_without_its_envelope():
    # ∫ x² f_ln f_lm dx = δ_nm on [0, 1]: the √2/|j_{l+1}| is the right norm.
    nodes, weights = np.polynomial.legendre.leggauss(60)
    x, weights = 0.5 * (nodes + 1.0), 0.5 * weights
    values = SphericalBesselBasis(4, 3, 1.0)(torch.from_numpy(x)).numpy()
    values = values / _envelope_over_x(x)[:, None, None]
    for l in range(4):
        overlap = np.einsum("k,kn,km->nm", weights * x**2, values[:, l], values[:, l])
        np.testing.assert_allclose(overlap, np.eye(3), rtol=0, atol=1e-10)


@pytest.mark.parametrize("n_spherical", [1, 2, 7])
def test_legendre_basis_equals_scipy(n_spherical):
    cosines = torch.linspace(-1.0, 1.0, 21, dtype=torch.float64).reshape(3, 7)
    found = legendre_basis(cosines, n_spherical)
    assert found.shape == (3, 7, n_spherical)
    for l in range(n_spherical):
        expected = math.sqrt((2 * l + 1) / (4 * math.pi)) * eval_legendre(l, cosines.numpy())
        np.testing.assert_allclose(found[..., l].numpy(), expected, rtol=0, atol=1e-14)


def test_basis_that_float64_cannot_resolve_is_refused():
    with pytest.raises(ConfigError, match=r"num_spherical_basis = 20 with num_radial_basis = 20"):
        SphericalBesselBasis(20, 20, CUTOFF)


def test_largest_accepted_basis_keeps_the_accuracy_it_promises():
    d = torch.linspace(0.1, 0.99 * CUTOFF, 300, dtype=torch.float64)
    expected = _spherical_by_scipy(d, 13, 13, 6)
    found = SphericalBesselBasis(13, 13, CUTOFF)(d).numpy()
    scale = np.abs(expected).max(0)
    assert (np.abs(found - expected) / scale).max() < 1e-7


def test_bases_know_no_edges():
    assert SphericalBesselBasis(3, 2, CUTOFF)(torch.zeros(0)).shape == (0, 3, 2)
    assert BesselBasis(2, CUTOFF)(torch.zeros(0)).shape == (0, 2)
