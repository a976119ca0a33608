"""Small modules: envelope, radial bases, perceptron, norm, sums, checks of arguments."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from eqcalc.arguments import (
    require_at_least,
    require_fraction,
    require_positive,
)
from eqcalc.errors import ConfigError, GraphError
from eqcalc.nn.activation import ShiftedSoftplus
from eqcalc.nn.bare_inputs import refuse_self_loops
from eqcalc.nn.envelope import polynomial_envelope
from eqcalc.nn.mlp import MLP
from eqcalc.nn.norm import ChannelNorm, channel_norm, smooth_channel_norm
from eqcalc.nn.radial import SineBasis, gaussian_basis
from eqcalc.nn.scatter import sum_at_receivers

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def _derivatives(function, x: float, order: int) -> list[float]:
    """Return f, f', f'' ... at x by repeated automatic differentiation, float64."""
    leaf = torch.tensor([x], dtype=torch.float64, requires_grad=True)
    value = function(leaf).sum()
    values = [value.item()]
    for _ in range(order):
        (slope,) = torch.autograd.grad(value, leaf, create_graph=True)
        value = slope.sum()
        values.append(value.item())
    return values


# --- envelope


@pytest.mark.parametrize("p", [3, 6, 8])
@pytest.mark.parametrize("cutoff", [1.0, 4.0, 5.0])
def test_envelope_starts_at_one_and_ends_with_two_vanishing_derivatives(p, cutoff):
    start = _derivatives(lambda d: polynomial_envelope(d, cutoff, p), 0.0, 2)
    np.testing.assert_allclose(start, [1.0, 0.0, 0.0], atol=1e-12)
    # Just inside, where the polynomial itself is evaluated: -p(p+1)(p+2)/6 (x-1)³ ahead.
    u, slope, curvature = _derivatives(
        lambda d: polynomial_envelope(d, cutoff, p), cutoff * (1 - 1e-5), 2
    )
    leading = p * (p + 1) * (p + 2)
    assert u == pytest.approx(0.0, abs=leading * 1e-14)
    assert slope * cutoff == pytest.approx(0.0, abs=leading * 1e-9)
    assert curvature * cutoff**2 == pytest.approx(leading * 1e-5, rel=1e-3)


@pytest.mark.parametrize("distance", [5.0, 5.0001, 7.0, 30.0, 1e3])
def test_envelope_and_its_derivatives_are_exactly_zero_at_and_beyond_the_cutoff(distance):
    assert _derivatives(lambda d: polynomial_envelope(d, 5.0), distance, 2) == [0.0, 0.0, 0.0]


@given(st.floats(0.0, 0.999))
def test_envelope_equals_its_formula(x):
    p = 6
    expected = 1 - 28 * x**p + 48 * x ** (p + 1) - 21 * x ** (p + 2)
    found = polynomial_envelope(torch.tensor([x * 4.0], dtype=torch.float64), 4.0).item()
    assert found == pytest.approx(expected, abs=1e-12)


def test_envelope_falls_monotonically():
    d = torch.linspace(0.0, 5.0, 1001, dtype=torch.float64)
    u = polynomial_envelope(d, 5.0)
    assert bool((u.diff() <= 1e-14).all())
    assert bool(((u >= -1e-14) & (u <= 1.0)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_envelope_keeps_dtype_and_shape(dtype):
    u = polynomial_envelope(torch.zeros(0, dtype=dtype), 5.0)
    assert (u.dtype, u.shape) == (dtype, (0,))


# --- radial bases


def test_gaussian_basis_equals_its_formula():
    distances = torch.tensor([0.5, 2.0], dtype=torch.float64)
    centres = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    found = gaussian_basis(distances, centres, 3.0)
    expected = [[math.exp(-3.0 * (d - mu) ** 2) for mu in (0, 1, 2)] for d in (0.5, 2.0)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_sine_basis_equals_its_formula():
    found = SineBasis(4, 5.0)(torch.tensor([0.7, 4.9], dtype=torch.float64))
    expected = [[math.sin(n * math.pi * d / 5.0) / d for n in (1, 2, 3, 4)] for d in (0.7, 4.9)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_sine_basis_is_no_parameter_and_not_in_the_checkpoint():
    basis = SineBasis(4, 5.0)
    assert list(basis.parameters()) == []
    assert basis.state_dict() == {}


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_sine_basis_does_not_depend_on_the_default_dtype(default):
    torch.set_default_dtype(default)
    try:
        basis = SineBasis(20, 5.0)
    finally:
        torch.set_default_dtype(torch.float32)
    d = torch.tensor([3.3], dtype=torch.float64)
    expected = [math.sin(n * math.pi * 3.3 / 5.0) / 3.3 for n in range(1, 21)]
    np.testing.assert_allclose(basis(d)[0].numpy(), expected, rtol=1e-12, atol=1e-14)
    assert basis(d.float()).dtype == torch.float32


# --- perceptron and norm


def test_shifted_softplus_equals_its_formula_and_vanishes_at_zero():
    x = torch.tensor([-3.0, 0.0, 2.0], dtype=torch.float64)
    expected = torch.log(0.5 * torch.exp(x) + 0.5)
    torch.testing.assert_close(ShiftedSoftplus()(x), expected, **EXACT)
    assert ShiftedSoftplus()(torch.zeros(1)).item() == 0.0


def test_mlp_is_linear_activation_linear_with_zero_biases():
    mlp = MLP(3, 5, 2, nn.SiLU()).double()
    x = torch.randn(4, 3, dtype=torch.float64)
    first, second = mlp.hidden.weight, mlp.out.weight
    expected = nn.functional.silu(x @ first.T) @ second.T
    torch.testing.assert_close(mlp(x), expected, **EXACT)
    assert mlp(torch.zeros(7, 0, 3, dtype=torch.float64)).shape == (7, 0, 2)


def test_channel_norm_equals_its_formula():
    v = torch.tensor([[[3.0, 0.0], [0.0, 1.0], [4.0, 0.0]]], dtype=torch.float64)
    expected = torch.tensor([[math.sqrt(25 + 1e-8), math.sqrt(1 + 1e-8)]], dtype=torch.float64)
    torch.testing.assert_close(channel_norm(v), expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_channel_norm_is_twice_differentiable_at_zero(dtype):
    v = torch.zeros(2, 3, 4, dtype=dtype, requires_grad=True)
    (slope,) = torch.autograd.grad(channel_norm(v).sum(), v, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), v)
    assert bool((slope == 0).all())
    assert bool(torch.isfinite(curvature).all())


def test_smooth_channel_norm_equals_its_formula_and_keeps_digits_of_short_vectors():
    v = torch.tensor([[[3.0, 1e-4], [0.0, 0.0], [4.0, 0.0]]], dtype=torch.float64)
    found = smooth_channel_norm(v)
    assert found[0, 0].item() == pytest.approx(math.sqrt(26.0) - 1.0, rel=1e-15)
    assert smooth_channel_norm(v.float())[0, 1].item() == pytest.approx(5e-9, rel=1e-6)


def test_smooth_channel_norm_bends_by_one_at_most():
    v = torch.zeros(1, 3, 1, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(smooth_channel_norm(v).sum(), v, create_graph=True)
    (curvature,) = torch.autograd.grad(slope[0, 0, 0], v)
    assert curvature[0, :, 0].tolist() == [1.0, 0.0, 0.0]


def test_an_unknown_form_of_the_norm_is_refused():
    with pytest.raises(ConfigError, match=r"vector_norm must be one of smooth, published, found"):
        ChannelNorm("smoth")


# --- sums


@pytest.mark.parametrize("shape", [(), (4,), (3, 4)])
def test_sums_at_receivers_equal_a_loop(shape):
    receivers = torch.tensor([0, 0, 2, 2, 2])
    features = torch.randn(5, *shape, dtype=torch.float64)
    found = sum_at_receivers(features, receivers, 4)
    expected = torch.stack([features[receivers == k].sum(dim=0) for k in range(4)])
    torch.testing.assert_close(found, expected, **EXACT)


def test_sum_over_no_edges_is_zero():
    found = sum_at_receivers(torch.zeros(0, 6), torch.zeros(0, dtype=torch.int64), 3)
    assert torch.equal(found, torch.zeros(3, 6))


def test_sums_at_receivers_have_second_derivatives():
    features = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    receivers = torch.tensor([0, 1, 1, 3, 3])
    assert torch.autograd.gradgradcheck(
        lambda x: sum_at_receivers(x, receivers, 4).pow(3), features
    )


# --- arguments


@pytest.mark.parametrize("value", [0, -3, 2.0, True, "4", None])
def test_counts_that_are_no_large_enough_integers_are_refused(value):
    with pytest.raises(ConfigError, match=rf"^width must be an integer >= 1, found {value!r}\.$"):
        require_at_least(1, depth=3, width=value)


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "5", None])
def test_values_that_are_not_positive_numbers_are_refused(value):
    with pytest.raises(ConfigError, match=rf"^cutoff must be a positive number, found {value!r}"):
        require_positive(gamma=1.0, cutoff=value)


@pytest.mark.parametrize("value", [1, 1.0, -0.1, math.nan, False, "0", None])
def test_values_that_are_no_fractions_are_refused(value):
    match = rf"^drop_rate must be at least 0 and below 1, found {value!r}\.$"
    with pytest.raises(ConfigError, match=match):
        require_fraction(other=0.5, drop_rate=value)


def test_arguments_in_range_are_accepted():
    require_at_least(2, depth=2, width=100)
    require_fraction(drop_rate=0, other=0.999)
    require_positive(cutoff=5, gamma=1e-9)


def test_self_loops_are_refused_with_their_edges():
    with pytest.raises(GraphError, match=r"must not contain self-loops; found them at edges 1, 3"):
        refuse_self_loops(torch.tensor([[0, 1, 0, 2], [1, 1, 2, 2]]))
    refuse_self_loops(torch.tensor([[0, 1], [1, 0]]))
    refuse_self_loops(torch.zeros(2, 0, dtype=torch.int64))
