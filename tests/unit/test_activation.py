"""Activations by name, as modules and as functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from eqcalc.errors import ConfigError
from eqcalc.nn.activation import ACTIVATIONS, Swish, activation_name, build_activation

X = torch.linspace(-3.0, 3.0, 13, dtype=torch.float64)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_name_leads_to_its_module_and_back(name):
    module = build_activation(name)
    assert type(module) is ACTIVATIONS[name]
    assert activation_name(module) == name
    assert activation_name(name) == name


def test_none_means_silu_and_stays_none_in_a_configuration():
    assert activation_name(None) is None
    assert type(build_activation(None)) is nn.SiLU


def test_modules_with_their_own_settings_are_not_taken_for_the_plain_ones():
    own = nn.Softplus(beta=2.0)
    assert activation_name(own) == "custom:Softplus"
    assert build_activation(own) is own


def test_functions_are_wrapped():
    assert activation_name(torch.tanh) == "custom:tanh"
    torch.testing.assert_close(build_activation(torch.tanh)(X), X.tanh(), rtol=0, atol=0)


@pytest.mark.parametrize("beta", [1.0, 0.5, 3.0])
def test_swish_is_x_times_sigmoid(beta):
    torch.testing.assert_close(Swish(beta)(X), X * torch.sigmoid(beta * X), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("value", "match"),
    [
        ("swich", r"unknown activation 'swich'; known: elu, gelu"),
        ("Tanh", r"unknown activation 'Tanh'.*Did you mean 'tanh'\?"),
        (nn.SiLU, r"must be None, a name, a module or a function of one tensor, found <class"),
        (1.0, r"must be None, a name, a module or a function of one tensor, found 1\.0"),
    ],
)
def test_what_is_no_activation_is_refused(value, match):
    for use in (activation_name, build_activation):
        with pytest.raises(ConfigError, match=match):
            use(value)


def test_name_of_a_callers_own_function_cannot_be_built():
    assert activation_name("custom:mine") == "custom:mine"
    with pytest.raises(ConfigError, match=r"activation 'custom:mine' is not known by name"):
        build_activation("custom:mine")
