"""The contract holds for the architecture of the examples, which is not eqcalc's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import geometries
import pytest
from laws import ANY_PRECISION, FLOAT64, TRAINING
from small import small_potential
from subjects import exported_subject, potential_subject

from eqcalc import architectures
from eqcalc.engines import load_model
from eqcalc.export import export_model

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_new_architecture.py"
NAME = "embeddedatom"

LAWS = {law.__name__.removeprefix("assert_"): law for law in (*ANY_PRECISION, *FLOAT64)}
TRAINING_LAWS = {law.__name__.removeprefix("assert_"): law for law in TRAINING}


@pytest.fixture(scope="module", autouse=True)
def registry() -> Iterator[None]:
    """Register the example's architecture for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(architectures, "_registered", {})
        architectures.register_file(EXAMPLE, NAME)
        yield


@pytest.fixture(scope="module")
def exported(registry, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "model.pt"
    export_model(small_potential(NAME), path, elements=geometries.ELEMENTS)
    return exported_subject(load_model(path, device="cpu", dtype="float64"))


@pytest.mark.parametrize("law", LAWS)
def test_network_of_the_example_obeys(law):
    LAWS[law](potential_subject(small_potential(NAME).double()))


@pytest.mark.parametrize("law", TRAINING_LAWS)
def test_network_of_the_example_can_be_trained(law):
    TRAINING_LAWS[law](small_potential(NAME).double())


@pytest.mark.parametrize("law", LAWS)
def test_exported_network_of_the_example_obeys(law, exported):
    LAWS[law](exported)
