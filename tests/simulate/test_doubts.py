"""Structures whose lengths may be in another unit are doubted, others are not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLengths, FixLinearTriatomic

from eqcalc.simulate import doubts as module
from eqcalc.simulate.doubts import doubts, doubts_of_many, timestep_doubt


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
        (bulk("Cu", a=0.4), r"atoms 0 and 0 are 0\.28 Å apart across a face"),
        (
            scaled(1 / units.Bohr),
            r"are 1\.9\d times the sum of .* in Bohr; positions and cell must",
        ),
        (bulk("Cu", a=3.61 / units.Bohr), r"are 1\.8\d times the sum .* in Bohr"),
        (scaled(100.0), r"no atom has a neighbour within the model's cutoff of 5 Å"),
        (apart(), r"without a neighbour within the model's cutoff of 5 Å: atoms 3\."),
    ],
    ids=["nm", "cell in nm", "Bohr", "crystal in Bohr", "pm", "one apart"],
)
def test_strange_lengths_are_said(atoms, expected):
    (found,) = doubts(atoms, 5.0)
    assert re.search(expected, found)


@pytest.mark.parametrize(
    "atoms",
    [
        molecule("H2"),
        scaled(1.0),
        bulk("C", "diamond", a=3.2),
        bulk("Cs") * (2, 1, 1),
        bulk("NaCl", "rocksalt", a=5.64) * (2, 1, 1),
        Atoms("He"),
        Atoms("H2", [[0, 0, 0], [1.3, 0, 0]]),  # on a curve of its energy
        bulk("Ar", a=5.3) * (2, 1, 1),
    ],
)
def test_ordinary_structures_are_not_doubted(atoms):
    assert doubts(atoms, 6.0) == []


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


@pytest.mark.parametrize(
    ("atoms", "longest_fs"),
    [(molecule("CH3CH2OH"), 1.5), (molecule("CO2"), 5.1), (bulk("Cu"), 11.9)],
    ids=["hydrogen", "carbon", "copper"],
)
def test_timestep_that_the_lightest_atom_cannot_follow(atoms, longest_fs):
    assert timestep_doubt(atoms, 0.99 * longest_fs) is None
    lightest = atoms.symbols[int(atoms.get_masses().argmin())]
    expected = rf"is long for {lightest} \([\d.]+ amu\), whose bonds vibrate in about \d+ fs"
    assert re.search(expected, timestep_doubt(atoms, 1.02 * longest_fs))


def test_timestep_that_may_be_in_ps_is_doubted():
    assert "timesteps are in fs, not in ps" in timestep_doubt(molecule("CH3CH2OH"), 0.0005)
    assert timestep_doubt(molecule("CH3CH2OH"), 0.05) is None


def test_timestep_of_atoms_that_are_fixed_or_made_heavier():
    atoms = molecule("CH3CH2OH")
    atoms.set_constraint(FixAtoms([k for k, s in enumerate(atoms.symbols) if s == "H"]))
    assert timestep_doubt(atoms, 5.0) is None
    assert "long for C" in timestep_doubt(atoms, 6.0)
    atoms.set_constraint(FixAtoms(range(len(atoms))))
    assert timestep_doubt(atoms, 100.0) is None
    rigid = molecule("H2O")
    rigid.set_constraint(FixBondLengths([[0, 1], [0, 2], [1, 2]]))
    assert timestep_doubt(rigid, 2.0) is None
    partly = molecule("CH3CH2OH")
    partly.set_constraint(FixBondLengths([[0, 1]]))  # C-C, and the hydrogen atoms are free
    assert "long for H" in timestep_doubt(partly, 4.0)
    carbon_dioxide = molecule("CO2")
    carbon_dioxide.set_constraint(FixLinearTriatomic([(1, 0, 2)]))
    assert timestep_doubt(carbon_dioxide, 8.0) is None
    heavier = molecule("CH3CH2OH")
    heavier.set_masses(np.where(heavier.numbers == 1, 3.024, heavier.get_masses()))
    assert timestep_doubt(heavier, 2.5) is None


def test_atoms_that_meet_across_a_face_say_so():
    water = molecule("H2O")
    water.set_cell([5.0, 2.0, 5.0])  # the hydrogen atoms are 1.53 Å apart in it
    water.pbc = True
    (found,) = doubts(water, 3.0)
    assert "across a face of the cell, which may be too small" in found


def test_every_frame_of_a_file_is_looked_at():
    frames = [scaled(1.0), scaled(1.0), scaled(1.0)]
    frames[1].info["charge"] = frames[2].info["charge"] = 1
    said = "frame 1: the model knows nothing of the structure's charge 1."
    assert doubts_of_many(frames, 5.0) == [said]
    near = doubts_of_many([scaled(0.1), scaled(1.0)], 5.0)
    assert len(near) == 1
    assert near[0].startswith("frame 0: atoms ")
    broken = scaled(1.0)
    broken.positions[0] = np.nan
    assert doubts_of_many([broken, frames[1]], 5.0) == [said]


def test_a_filled_cell_without_periodic_directions_is_named():
    crystal = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    assert not any("cluster" in text for text in doubts(crystal, 5.0))
    crystal.pbc = False
    assert any("taken for a cluster" in text for text in doubts(crystal, 5.0))
    primitive = bulk("Cu")  # one atom
    primitive.pbc = False
    assert any("taken for a cluster" in text for text in doubts(primitive, 5.0))
    boxed = molecule("CH3CH2OH", cell=[12.0] * 3)
    boxed.center()
    assert doubts(boxed, 5.0) == []
    assert doubts(Atoms("Cu", cell=[12.0] * 3), 5.0) == []
