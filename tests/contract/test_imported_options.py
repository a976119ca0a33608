"""Options that weights trained with other packages need: the contract, or what they declare."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rarely import rarely
from small_models import small_options

from eqcalc.architectures import build
from eqcalc.concessions import Concessions, declared
from eqcalc.errors import ConfigError
from eqcalc.potential import Potential
from eqcalc.testing import check_contract
from eqcalc.testing.geometries import ELEMENTS

OPTIONS: list[Any] = [
    ("painn", {"envelope": "cosine", "vector_norm": "published"}),
    rarely("gvp", {"vector_norm": "published"}),
    rarely("painn", {"envelope": "cosine", "radial_basis": "stored_gaussian", "radial_unit": 0.53}),
    ("painn", {"radial_basis": "stored_sine"}),
    rarely("schnet", {"envelope": "cosine", "readout_activation": "silu"}),
    ("schnet", {"radial_basis": "stored_gaussian", "radial_unit": 0.53}),
    rarely("schnet", {"envelope": "cosine", "radial_basis": "stored_sine"}),
]


def _network(kind: str, options: dict[str, Any]) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(kind, **small_options(kind) | options)


@pytest.mark.parametrize(("kind", "options"), OPTIONS)
def test_networks_with_imported_options_obey_the_contract_that_they_declare(kind, options):
    network = _network(kind, options)
    assert declared(network) == Concessions(
        vanishing_derivatives=1 if options.get("envelope") == "cosine" else 2,
        smooth_at_symmetric_sites=options.get("vector_norm") != "published",
    )
    check_contract(Potential(network), elements=ELEMENTS)


@pytest.mark.parametrize("kind", ["painn", "schnet"])
def test_a_cosine_that_claims_two_vanishing_derivatives_breaks_the_contract(kind):
    network = _network(kind, {"envelope": "cosine"})
    network.vanishing_derivatives = 2
    with pytest.raises(AssertionError, match="smooth_at_cutoff"):
        check_contract(Potential(network), elements=ELEMENTS, exported=False)


def test_a_published_norm_that_claims_to_be_smooth_breaks_the_contract():
    network = _network("painn", {"vector_norm": "published"})
    network.smooth_at_symmetric_sites = True
    with pytest.raises(AssertionError, match="smooth_at_symmetric_sites"):
        check_contract(Potential(network), elements=ELEMENTS, exported=False)


def test_a_norm_without_rounding_breaks_what_a_declared_kink_leaves(monkeypatch):
    network = _network("painn", {"vector_norm": "published"})
    monkeypatch.setattr(
        "eqcalc.nn.norm.channel_norm", lambda v: torch.sqrt(v.square().sum(dim=1) + 1e-24)
    )
    with pytest.raises(AssertionError, match=r"smooth_at_symmetric_sites.*\n.*a kink"):
        check_contract(Potential(network), elements=ELEMENTS, exported=False)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("painn", {"envelope": "cosin"}, r"envelope must be one of polynomial, cosine, found"),
        ("painn", {"radial_basis": "gauss"}, r"radial_basis must be one of sine, stored_gaussian"),
        ("painn", {"radial_unit": 0.5}, r"radial_unit = 0.5 belongs to a stored basis"),
        ("schnet", {"envelope": "step"}, r"envelope must be one of polynomial, cosine"),
        ("schnet", {"radial_basis": "sine"}, r"one of gaussian, stored_gaussian, stored_sine"),
        ("schnet", {"readout_activation": "relu"}, r"readout_activation must be one of ssp, silu"),
        ("schnet", {"cutoff": None, "envelope": "cosine"}, r"need a cutoff, found cutoff = None"),
    ],
)
def test_imported_options_that_there_are_not_are_refused(kind, options, message):
    with pytest.raises(ConfigError, match=message):
        build(kind, **options)


def test_bare_tensors_do_not_tell_a_stored_basis():
    network = _network("schnet", {"radial_basis": "stored_gaussian", "radial_unit": 0.53})
    pair = torch.tensor([[0, 1], [1, 0]])
    with pytest.raises(ConfigError, match=r"has the basis 'stored_gaussian'.*call atomic_energies"):
        network(torch.tensor([6, 8]), torch.eye(3)[:2], pair)
