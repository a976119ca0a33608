"""The shipped universal potentials give the numbers of the package that trained them."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import Oracle, assert_equal
from rarely import rarely

from eqcalc import EqCalculator
from eqcalc.errors import UnsupportedElementError
from eqcalc.export.rebuild import rebuild_potential
from eqcalc.model_file import open_potential, read_card

RECORDED = Oracle("sevennet")
MODELS = {"sevennet-0": "0_11Jul2024", "sevennet-l3i5": "l3i5"}
LARGEST_ENERGY, LARGEST_FORCE = 2e-6, 3e-5
"""eV/atom and eV/Å, of float32 beside float64; relative to forces above 1 eV/Å."""


@pytest.mark.parametrize("name", MODELS)
def test_shipped_model_gives_the_numbers_of_its_package_in_float64(name):
    potential = rebuild_potential(open_potential(name)).double()
    assert_equal(RECORDED.differences(potential, MODELS[name]))


@pytest.mark.parametrize("name", MODELS)
def test_calculator_gives_the_numbers_of_the_package_in_float32(name):
    calculator = EqCalculator(name, device="cpu", engine="torchscript")
    _compare_in_float32(calculator, MODELS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sevennet-0", rarely("sevennet-l3i5")])
def test_compiled_model_gives_the_numbers_of_the_package_in_float32(name, monkeypatch, tmp_path):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    calculator = EqCalculator(name, device="cpu", engine="inductor")
    assert calculator.models[0].engine.name == "inductor"
    _compare_in_float32(calculator, MODELS[name])


def _compare_in_float32(calculator: EqCalculator, model: str) -> None:
    for name, atoms in RECORDED.structures.items():
        recorded = RECORDED.recorded(model, name)
        atoms = atoms.copy()
        atoms.calc = calculator
        energy = (atoms.get_potential_energy() - recorded["energies"].sum()) / len(atoms)
        assert abs(energy) < LARGEST_ENERGY, (name, energy)
        size = max(1.0, float(np.abs(recorded["forces"]).max()))
        worst = float(np.abs(atoms.get_forces() - recorded["forces"]).max())
        assert worst < LARGEST_FORCE * size, (name, worst, size)


@pytest.mark.parametrize("name", MODELS)
def test_card_says_where_it_comes_from_and_what_it_is_not(name):
    card = read_card(name)
    assert card.is_universal
    assert len(card.elements) == 89
    assert card.origin["package"] == "sevenn"
    assert len(card.origin["sha256"]) == 64
    assert "MIT" in card.licence
    assert "PBE" in card.scope
    assert "MPtrj" in card.scope
    assert "not good for molecules alone" in card.scope
    assert any("Mirror images" in sentence for sentence in card.gives_up)


def test_an_element_outside_the_89_is_refused_by_name():
    atoms = RECORDED.structures["nacl8"].copy()
    atoms.symbols[0] = "Po"
    calculator = EqCalculator("sevennet-0", device="cpu", engine="torchscript")
    with pytest.raises(UnsupportedElementError, match=r"'sevennet-0' does not know Po"):
        calculator.get_potential_energy(atoms)
