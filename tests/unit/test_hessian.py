"""The batched Hessian, against ase.vibrations and ase.phonons."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms
from ase.phonons import Phonons
from ase.vibrations import Vibrations, VibrationsData
from small_models import crystal, ethanol, export_small, slab

from eqcalc import EqCalculator
from eqcalc.calculator.hessian import hessian
from eqcalc.errors import ConfigError, UnsupportedElementError


@pytest.fixture(scope="module")
def calculator(tmp_path_factory) -> EqCalculator:
    return EqCalculator(export_small(tmp_path_factory.mktemp("models") / "double.pt"), device="cpu")


def by_ase(atoms: Atoms, calculator: EqCalculator, folder, indices=None) -> VibrationsData:
    atoms = atoms.copy()
    atoms.calc = calculator
    vibrations = Vibrations(atoms, indices=indices, delta=0.02, name=str(folder / "vib"))
    vibrations.run()
    return vibrations.get_vibrations()


@pytest.mark.parametrize("make", [ethanol, crystal, slab])
@pytest.mark.parametrize("indices", [None, [4, 1]])
def test_hessian_is_that_of_ase_vibrations(make, indices, calculator, tmp_path):
    expected = by_ase(make(), calculator, tmp_path, indices).get_hessian_2d()
    found = hessian(make(), calculator, indices=indices, displacement=0.02)
    if indices is not None:  # ASE's data keep the atoms in the order of the structure
        order = [3, 4, 5, 0, 1, 2]
        found_sorted = hessian(make(), calculator, indices=[1, 4], displacement=0.02)
        np.testing.assert_allclose(found, found_sorted[np.ix_(order, order)], atol=1e-10)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert np.abs(expected).max() > 1e-2


def test_method_of_the_calculator_gives_the_same_matrix(calculator):
    found = calculator.get_hessian(slab(), indices=[4, 1], displacement=0.02, max_edges=50)
    expected = hessian(slab(), calculator, indices=[4, 1], displacement=0.02, max_edges=50)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(found, found.T)
    assert found.shape == (6, 6)


def test_hessian_of_a_committee_is_the_mean_of_its_members(tmp_path):
    paths = [export_small(tmp_path / f"{seed}.pt", seed=seed) for seed in (0, 1)]
    alone = [EqCalculator(path, device="cpu").get_hessian(ethanol()) for path in paths]
    together = EqCalculator(paths, device="cpu").get_hessian(ethanol())
    np.testing.assert_allclose(together, np.mean(alone, axis=0), atol=1e-9)
    assert np.abs(alone[0] - alone[1]).max() > 1e-2


def test_vibrations_data_take_the_hessian(calculator, tmp_path):
    expected = by_ase(ethanol(), calculator, tmp_path).get_energies()
    found = VibrationsData.from_2d(
        ethanol(), hessian(ethanol(), calculator, displacement=0.02)
    ).get_energies()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_rows_of_a_supercell_are_the_force_constants_of_ase_phonons(calculator, tmp_path):
    cell = crystal()
    phonons = Phonons(
        cell, calculator, supercell=(2, 1, 1), delta=0.02, name=str(tmp_path / "phonon")
    )
    phonons.run()
    phonons.read(method="standard", acoustic=False, symmetrize=0)
    constants = phonons.get_force_constant()  # (2, 24, 24)
    found = hessian(cell.repeat((2, 1, 1)), calculator, displacement=0.02)
    n = 3 * len(cell)
    # ASE does not take the mean with the transpose.
    np.testing.assert_allclose(found[:n, :n], 0.5 * (constants[0] + constants[0].T), atol=1e-9)


def test_hessian_neither_moves_atoms_nor_heeds_constraints(calculator):
    atoms = ethanol()
    free = hessian(atoms, calculator)
    atoms.set_constraint(FixAtoms([0]))
    kept, results = atoms.copy(), calculator.results
    np.testing.assert_array_equal(hessian(atoms, calculator), free)
    assert atoms == kept
    assert calculator.results is results


def test_hessian_does_not_depend_on_the_batches(calculator):
    expected = hessian(ethanol(), calculator)
    np.testing.assert_allclose(hessian(ethanol(), calculator, max_edges=1), expected, atol=1e-9)


@pytest.mark.parametrize("indices", [np.array([False, True, True]), [1.7], [[0, 1]], ["0"]])
def test_indices_that_are_no_list_of_integers_are_refused(indices, calculator):
    with pytest.raises(ConfigError, match=r"indices must be integers, found .* of shape \("):
        hessian(ethanol(), calculator, indices=indices)


@pytest.mark.parametrize("indices", [[0, 9], [-1], [2, 2]])
def test_indices_that_are_not_there_are_refused(indices, calculator):
    with pytest.raises(ConfigError, match=r"indices must be different and lie in 0\.\.8, found"):
        hessian(ethanol(), calculator, indices=indices)


@pytest.mark.parametrize("displacement", [0.0, -0.01, np.nan, np.inf])
def test_a_displacement_that_is_not_positive_is_refused(displacement, calculator):
    with pytest.raises(ConfigError, match="displacement must be positive and finite"):
        hessian(ethanol(), calculator, displacement=displacement)


def test_an_unknown_element_is_refused(calculator):
    with pytest.raises(UnsupportedElementError, match=r"^structure 0: .* does not know N"):
        hessian(Atoms("NH", [[0, 0, 0], [0, 0, 1.0]]), calculator)
