"""silu with a second derivative of its own."""

import pytest
import torch
from torch.nn import functional

from eqcalc.tabulated.activations import silu

POINTS = torch.tensor([-90.0, -20.0, -3.0, -0.4, 0.0, 0.7, 5.0, 40.0], dtype=torch.float64)


def derivatives(function, x, order):
    """Return the function's values and its derivatives up to an order, each (n,)."""
    x = x.clone().requires_grad_(True)
    found = [function(x)]
    for _ in range(order):
        (slope,) = torch.autograd.grad(found[-1].sum(), x, create_graph=True)
        found.append(slope)
    return [value.detach() for value in found]


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-14), (torch.float32, 3e-7)])
def test_silu_and_its_derivatives_are_those_of_torch(dtype, allowed):
    ours = derivatives(silu, POINTS.to(dtype), 3)
    theirs = derivatives(functional.silu, POINTS, 3)
    for own, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(own.double(), expected, rtol=allowed, atol=allowed)


def test_derivatives_of_silu_are_finite_differences():
    x = torch.linspace(-4.0, 4.0, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(silu, (x,))
    assert torch.autograd.gradgradcheck(silu, (x,))
