"""Structures whose lengths may be in another unit are doubted, others are not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from eqcalc.simulate import doubts as module
from eqcalc.simulate.doubts import doubts


def scaled(factor: float) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions *= factor
    return atoms


def apart() -> Atoms:
    return molecule("H2O") + Atoms("Ar", [[40.0, 0, 0]])


@pytest.mark.parametrize(
    ("atoms", "expected"),
    [
        (scaled(0.1), r"atoms \d and \d are 0\.0\d+ Å apart; positions and cell must be in Å\."),
        (bulk("Cu", a=0.4), r"atoms 0 and 0 are 0\.28 Å apart"),
        (scaled(100.0), r"no atom has a neighbour within the model's cutoff of 5 Å"),
        (apart(), r"without a neighbour within the model's cutoff of 5 Å: atoms 3\."),
    ],
    ids=["nm", "cell in nm", "pm", "one apart"],
)
def test_strange_lengths_are_said(atoms, expected):
    (found,) = doubts(atoms, 5.0)
    assert re.search(expected, found)


@pytest.mark.parametrize(
    "atoms", [molecule("H2"), scaled(1.0), bulk("C", "diamond", a=3.2), Atoms("He")]
)
def test_ordinary_structures_are_not_doubted(atoms):
    assert doubts(atoms, 5.0) == []


def test_a_structure_that_takes_long_to_look_at_is_left_alone(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ATOMS", 8)
    assert doubts(scaled(0.1), 5.0) == []


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"charge": -1}, "charge -1"),
        ({"charge": 1.0, "multiplicity": 2}, "charge 1.0, multiplicity 2"),
        ({"spin": np.int64(1)}, "spin 1"),
    ],
)
def test_electrons_that_the_model_does_not_see_are_named(info, expected):
    atoms = scaled(1.0)
    atoms.info.update(info)
    assert doubts(atoms, 5.0) == [f"the model knows nothing of the structure's {expected}."]


def test_charges_and_moments_of_atoms_are_named():
    atoms = scaled(1.0)
    atoms.set_initial_charges([1.0] + [0.0] * 8)
    atoms.set_initial_magnetic_moments([0.0] * 8 + [-1.0])
    (found,) = doubts(atoms, 5.0)
    assert found.endswith("initial charges, initial magnetic moments.")


def test_a_neutral_singlet_is_not_doubted():
    atoms = scaled(1.0)
    atoms.info.update({"charge": 0, "multiplicity": 1, "spin": "none"})
    assert doubts(atoms, 5.0) == []
