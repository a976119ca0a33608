"""The contract holds for the architecture of the examples, which is not eqcalc's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small_models import small_options

from eqcalc import architectures
from eqcalc.potential import Potential
from eqcalc.testing import check_contract

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_new_architecture.py"
NAME = "embeddedatom"

FORMS = ["eager float64", "eager float32", "exported float64", "exported float32"]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """Return the example's network, small."""
    monkeypatch.setattr(architectures, "_registered", {})
    architectures.register_file(EXAMPLE, NAME)
    torch.manual_seed(0)
    return architectures.build(NAME, **small_options(NAME))


def test_network_of_the_example_obeys_the_contract_in_every_form(network):
    report = check_contract(Potential(network))
    assert report.name == "EmbeddedAtom"
    assert list(dict.fromkeys(check.form for check in report.checks)) == FORMS
    applied = {form: {c.law for c in report.checks if c.form == form} for form in FORMS}
    everywhere = set.intersection(*applied.values())
    assert {"rotation", "reflection", "ghosts_stand_for_images", "no_memory"} <= everywhere
    assert applied["eager float64"] - everywhere == {
        "energies_keep_the_dtype",
        "every_parameter_learns",
        "finite_second_derivatives",
        "forces_are_derivatives",
        "stress_is_derivative",
        "smooth_at_cutoff",
        "smooth_at_symmetric_sites",
    }
    assert applied["exported float32"] - everywhere == {
        "same_numbers",
        "model_file",
        "needs_torch_alone",
    }
