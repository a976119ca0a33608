"""Options of NequIP that imported networks need: what is refused, what they do."""

from __future__ import annotations

import math

import pytest
import torch

from eqcalc.architectures import NequIP, build
from eqcalc.architectures.nequip import feature_layouts
from eqcalc.errors import ConfigError
from eqcalc.nn.constants import Constants
from eqcalc.nn.envelope import xplor_envelope
from eqcalc.nn.so3 import EquivariantLinear, Irrep, UnitVarianceLinear

SMALL = {"num_layers": 2, "num_features": 4, "num_bessels": 3, "elements": ["H", "O"]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_features": [4, 4]}, "num_features needs 3 numbers, one for each degree 0 ... 2"),
        ({"num_features": [4, 0, 1]}, r"num_features\[1\] must be an integer >= 1, found 0"),
        ({"num_features": 0}, "num_features must be an integer >= 1, found 0"),
        ({"num_features": "4"}, "num_features must be a list of numbers .* found '4'"),
        ({"mirror_symmetric": False, "parity": True}, "mirror_symmetric = False needs parity"),
        ({"mirror_symmetric": 0}, "mirror_symmetric must be True or False, found 0"),
        ({"solid_harmonics": "no"}, "solid_harmonics must be True or False, found 'no'"),
        ({"self_connection": "none"}, "self_connection must be one of species, linear, found 'no"),
        ({"embedding_size": 0}, "embedding_size must be an integer >= 1"),
        ({"embedding_factor": math.nan}, "embedding_factor must be a positive number, found nan"),
        ({"xplor_onset": 4.0}, "xplor_onset must be below cut_off = 4 Å, found 4"),
        ({"xplor_onset": -1.0}, "xplor_onset must be a positive number, found -1.0"),
        ({"modalities": -1}, "modalities must be an integer >= 0"),
        ({"modalities": 2, "readout_mlp": [4]}, "modalities > 0 needs the linear readout"),
        ({"readout_mlp": 4}, "readout_mlp must be a list of numbers"),
        ({"readout_mlp": [4, 0]}, r"readout_mlp\[1\] must be an integer >= 1"),
        ({"activation_factors": [1.0, 1.0]}, "activation_factors must be three numbers, found 2"),
        ({"activation_factors": 1.0}, "activation_factors must be a list of numbers"),
        ({"activation_factors": [1, 1, 0]}, r"activation_factors\[2\] must be a positive number"),
        ({"avg_num_neighbors": [1.0]}, "avg_num_neighbors needs 2 entries, one for each element"),
        ({"avg_num_neighbors": [1.0, 0.0]}, r"avg_num_neighbors\[1\] must be a positive number"),
        ({"avg_num_neighbors": 0.0}, "avg_num_neighbors must be a positive number"),
        ({"pair_cutoffs": [[4.0, 4.0]]}, "pair_cutoffs needs 2 entries, one for each element"),
        ({"pair_cutoffs": [[4.0], [4.0]]}, r"pair_cutoffs\[0\] needs 2 entries"),
        ({"pair_cutoffs": [4.0, 4.0]}, "pair_cutoffs must be a list of numbers"),
        ({"pair_cutoffs": [[4.0, 4.5], [4.0, 4.0]]}, r"pair_cutoffs\[0\]\[1\] must be at most cut"),
        ({"pair_cutoffs": [[4.0, 0.0], [4.0, 4.0]]}, r"pair_cutoffs\[0\]\[1\] must be a positive"),
    ],
)
def test_an_option_that_means_nothing_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        build("nequip", **({"l_max": 2, "parity": False} | SMALL | options))


def test_channels_are_those_of_each_degree():
    network = NequIP(2, False, **(SMALL | {"num_features": [8, 4, 2], "embedding_size": 5}))
    first, second, last = feature_layouts(network.config)
    assert list(first.values()) == [5]
    assert {str(irrep): n for irrep, n in second.items()} == {"0e": 8, "1o": 4, "2e": 2}
    assert list(last.values()) == [8]
    assert network.embedding.weight.shape == (2, 5)


def test_a_network_says_what_it_gives_up():
    whole = NequIP(1, False, **SMALL)
    assert (whole.mirror_symmetric, whole.vanishing_derivatives) == (True, 2)
    less = NequIP(1, False, **SMALL, mirror_symmetric=False, xplor_onset=3.5)
    assert (less.mirror_symmetric, less.vanishing_derivatives) == (False, 1)


def test_a_constant_input_is_a_bias_of_scalars_alone():
    layout = {Irrep(0, 0): 3, Irrep(1, 0): 2}
    linear = EquivariantLinear(layout, layout, n_constants=2)
    zero = linear([torch.zeros(4, 1, 3), torch.zeros(4, 3, 2)])
    torch.testing.assert_close(zero[0], (linear.bias / 5**0.5).expand(4, 1, 3))
    assert bool((zero[1] == 0).all())
    scalar = UnitVarianceLinear(3, 2, n_constants=1)
    torch.testing.assert_close(scalar(torch.zeros(3)), scalar.bias / 2.0)


def test_xplor_keeps_one_derivative():
    d = torch.tensor([4.5, 5.0], dtype=torch.float64)
    for side in (-1e-6, 1e-6):
        at = (d + side).requires_grad_()
        (slope,) = torch.autograd.grad(xplor_envelope(at, 5.0, 4.5).sum(), at)
        torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-4)


def test_constants_survive_a_cast_to_float32_and_back():
    values = torch.rand(5, dtype=torch.float64)
    constants = Constants(values).double().float().double()
    torch.testing.assert_close(constants.constants(torch.float64), values, rtol=1e-13, atol=0)
    assert constants.constants(torch.float32).dtype == torch.float32
