"""The contract, for what imported NequIPs are made of: each option, and them together."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rarely import rarely_but

from eqcalc.architectures import NequIP
from eqcalc.potential import Potential
from eqcalc.testing import check_contract
from eqcalc.testing.geometries import ELEMENTS

SMALL = {"num_layers": 2, "cut_off": 4.0, "num_bessels": 4, "radial_mlp_depth": 1}
SMALL |= {"radial_mlp_width": 8, "elements": ELEMENTS}

SEVENNET = {
    "num_features": [12, 6, 4],
    "mirror_symmetric": False,
    "self_connection": "linear",
    "first_self_connection": True,
    "xplor_onset": 3.4,
    "embedding_factor": 0.1,
    "activation_factors": [1.67, 1.67, 1.59],
    "frequencies_per_angstrom": True,
}
NEQUIP = {
    "num_features": [8, 6, 3],
    "embedding_size": 5,
    "pair_cutoffs": [
        [4.0 - 0.1 * (i + 2 * j) for j in range(len(ELEMENTS))] for i in range(len(ELEMENTS))
    ],
    "avg_num_neighbors": [4.0 + i for i in range(len(ELEMENTS))],
    "readout_mlp": [7, 5],
    "activation_factors": [2.0**0.5, 1.68, 1.59],
}
VARIANTS: dict[str, dict[str, Any]] = {
    "SevenNet": SEVENNET,
    "SevenNet of modalities": SEVENNET | {"modalities": 2, "num_features": 6},
    "SevenNet of solid harmonics": SEVENNET | {"solid_harmonics": True, "xplor_onset": None},
    "nequip": NEQUIP,
    "nequip with both parities": NEQUIP | {"parity": True, "num_layers": 3},
}


def variant(options: dict[str, Any]) -> NequIP:
    options = {"parity": False} | SMALL | options
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return NequIP(2, **options)


@pytest.mark.parametrize(
    "kind",
    rarely_but(set(VARIANTS) - {"nequip", "SevenNet of modalities"}, VARIANTS),
)
def test_a_variant_obeys_the_contract_that_it_declares(kind):
    network = variant(VARIANTS[kind])
    report = check_contract(Potential(network), elements=ELEMENTS, raise_on_failure=False)
    assert report.passed, str(report)
    notes = " ".join(report.notes)
    assert ("mirror_symmetric = False" in notes) == (not network.config.mirror_symmetric)
    assert ("vanishing_derivatives = 1" in notes) == (network.config.xplor_onset is not None)
