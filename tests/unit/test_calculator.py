"""EqCalculator: results, caching, refusals, committees, and how it lives inside ASE."""

from __future__ import annotations

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import (
    calculate_numerical_forces,
    calculate_numerical_stress,
)
from ase.constraints import FixAtoms
from ase.mep import NEB
from ase.optimize import BFGS
from ase.units import fs
from small_models import crystal, ethanol, potential, slab, water

from eqcalc import EqCalculator
from eqcalc.calculator import EqCalculator as Home
from eqcalc.engines import Model
from eqcalc.errors import (
    ConfigError,
    GraphError,
    NonFiniteError,
    UnknownModelError,
    UnsupportedElementError,
)
from eqcalc.neighbours import build_graph
from eqcalc.neighbours.transfers import Transfers

PROPERTIES = ("energy", "free_energy", "energies", "forces", "stress", "stresses")


@pytest.fixture
def calculator(models: dict[str, Path]) -> EqCalculator:
    return EqCalculator(models["double"])


class Counted:
    """A model that counts its calls and may answer with its own numbers."""

    def __init__(self, model: Model, answer: Callable | None = None) -> None:
        self.model, self.card, self.device = model, model.card, model.device
        self.answer, self.n_calls = answer, 0

    def __call__(self, graph):
        self.n_calls += 1
        outputs = self.model(graph)
        return outputs if self.answer is None else self.answer(*outputs)

    def using_threads(self, n_atoms):
        return self.model.using_threads(n_atoms)


def count_calls(calculator: EqCalculator, answer: Callable | None = None) -> Counted:
    counted = Counted(calculator.models[0], answer)
    calculator.models = [counted]
    return counted


def eager(atoms: Atoms, **options):
    """Return the eager potential's evaluation of one structure."""
    network = potential(**options)
    return network.evaluate(build_graph(atoms, network.cutoff))


def voigt(stress: torch.Tensor) -> np.ndarray:
    a = stress[0].numpy()
    return np.array([a[0, 0], a[1, 1], a[2, 2], a[1, 2], a[0, 2], a[0, 1]])


# --- results -----------------------------------------------------------------------------


@pytest.mark.parametrize("make", [ethanol, crystal, slab])
def test_results_equal_those_of_the_eager_potential(make, calculator):
    atoms = make()
    expected = eager(atoms)
    atoms.calc = calculator
    assert atoms.get_potential_energy() == pytest.approx(float(expected.energy), rel=1e-13)
    assert atoms.get_potential_energy(force_consistent=True) == atoms.get_potential_energy()
    np.testing.assert_allclose(atoms.get_potential_energies(), expected.energies, rtol=1e-13)
    np.testing.assert_allclose(atoms.get_forces(), expected.forces, rtol=1e-11, atol=1e-12)
    if expected.stress is not None:
        np.testing.assert_allclose(
            atoms.get_stress(), voigt(expected.stress), rtol=1e-11, atol=1e-14
        )


def test_a_float32_model_agrees_with_its_float64_self_to_rounding(models):
    atoms = ethanol()
    single = EqCalculator(models["single"]).get_forces(atoms)
    double = EqCalculator(models["single"], dtype="float64").get_forces(atoms)
    assert single.dtype == np.float64
    np.testing.assert_allclose(single, double, atol=2e-5 * np.abs(double).max())
    assert np.abs(single - double).max() > 0


def test_energies_sum_to_the_energy(calculator):
    atoms = crystal()
    atoms.calc = calculator
    assert atoms.get_potential_energies().sum() == pytest.approx(
        atoms.get_potential_energy(), rel=1e-15
    )


@pytest.mark.parametrize("make", [ethanol, crystal, slab])
def test_forces_equal_finite_differences_of_the_energy(make, calculator):
    atoms = make()
    atoms.calc = calculator
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=range(len(atoms)))
    np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)


def test_stress_equals_finite_differences_in_a_triclinic_cell(calculator):
    atoms = crystal()
    atoms.calc = calculator
    numerical = calculate_numerical_stress(atoms, eps=1e-5, voigt=True)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)
    assert np.abs(numerical).max() > 1e-2


def test_stress_comes_as_a_symmetric_matrix_too(calculator):
    atoms = crystal()
    atoms.calc = calculator
    matrix = atoms.get_stress(voigt=False)
    assert matrix.shape == (3, 3)
    np.testing.assert_array_equal(matrix, matrix.T)
    assert matrix[1, 2] == atoms.get_stress()[3]


def test_stresses_sum_to_the_stress(calculator):
    atoms = crystal()
    atoms.calc = calculator
    stress = atoms.get_stress()
    stresses = atoms.get_stresses()
    assert stresses.shape == (len(atoms), 6)
    np.testing.assert_allclose(stresses.sum(axis=0), stress, rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(atoms.get_stress(), stress, rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("make", [ethanol, slab])
@pytest.mark.parametrize("name", ["stress", "stresses"])
def test_stress_without_three_periodic_directions_is_not_implemented(make, name, calculator):
    atoms = make()
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match=f"'{name}' is defined where all three"):
        calculator.get_property(name, atoms)
    energy = atoms.get_potential_energy()
    with pytest.raises(PropertyNotImplementedError, match=r"pbc=\[.*False\]"):
        calculator.get_property(name, atoms)
    assert "stress" not in calculator.results
    assert atoms.get_potential_energy() == energy


def test_a_refused_property_keeps_the_results_that_are_there(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    counted = count_calls(calculator)
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError, match="stress"):
        atoms.get_stress()
    atoms.get_potential_energy()
    assert counted.n_calls == 1


def test_a_property_that_no_model_has_is_not_implemented(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError, match="dipole"):
        atoms.get_dipole_moment()


def test_an_isolated_atom_has_its_energy_and_no_force(calculator):
    atoms = Atoms("O", [[0.3, 0.1, -2.0]], calculator=calculator)
    assert atoms.get_potential_energy() == pytest.approx(float(eager(atoms).energy), rel=1e-14)
    np.testing.assert_array_equal(atoms.get_forces(), np.zeros((1, 3)))


def test_one_atom_in_a_small_cell_feels_its_own_images(calculator):
    atoms = Atoms("C", cell=[[0, 1.6, 1.7], [1.8, 0, 1.6], [1.7, 1.75, 0]], pbc=True)
    atoms.calc = calculator
    np.testing.assert_allclose(atoms.get_forces(), 0.0, atol=1e-12)
    numerical = calculate_numerical_stress(atoms, eps=1e-5)
    np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


# --- cache -------------------------------------------------------------------------------


def test_the_same_atoms_are_evaluated_once(calculator):
    atoms = crystal()
    atoms.calc = calculator
    counted = count_calls(calculator)
    for _ in range(2):
        atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    calculator.get_forces(atoms.copy())
    assert counted.n_calls == 1


def _move(atoms: Atoms) -> None:
    atoms.positions[3, 1] += 1e-9


def _transmute(atoms: Atoms) -> None:
    atoms.numbers[0] = 8


def _strain(atoms: Atoms) -> None:
    atoms.cell[1, 0] += 1e-6


def _open(atoms: Atoms) -> None:
    atoms.pbc[2] = False


def _swap(atoms: Atoms) -> None:
    atoms.numbers[[0, 1]] = atoms.numbers[[1, 0]]


def _delete(atoms: Atoms) -> None:
    del atoms[2]


@pytest.mark.parametrize("change", [_move, _transmute, _strain, _open, _swap, _delete])
def test_a_change_in_place_gives_a_new_result(change, calculator):
    atoms = crystal()
    atoms.calc = calculator
    counted = count_calls(calculator)
    before = atoms.get_potential_energy()
    original = atoms.copy()
    change(atoms)
    after = atoms.get_potential_energy()
    assert counted.n_calls == 2
    assert after == pytest.approx(float(eager(atoms).energy), rel=1e-14)
    assert after != before
    original.calc = calculator
    assert original.get_potential_energy() == before
    assert counted.n_calls == 3


@pytest.mark.parametrize(
    ("change", "named"),
    [(_move, "positions"), (_transmute, "numbers"), (_strain, "cell"), (_open, "pbc")],
)
def test_check_state_names_what_changed(change, named, calculator):
    atoms = crystal()
    calculator.get_forces(atoms)
    assert calculator.check_state(atoms) == []
    change(atoms)
    assert calculator.check_state(atoms) == [named]
    assert calculator.calculation_required(atoms, ["energy"])


def test_what_no_model_depends_on_does_not_evaluate_again(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    counted = count_calls(calculator)
    before = atoms.get_potential_energy()
    atoms.set_initial_charges(np.full(len(atoms), 0.5))
    atoms.set_initial_magnetic_moments(np.ones(len(atoms)))
    atoms.set_masses(np.full(len(atoms), 2.0))
    atoms.info["temperature"] = 300
    assert atoms.get_potential_energy() == before
    assert counted.n_calls == 1


def test_returned_arrays_belong_to_the_caller(calculator):
    atoms = crystal()
    atoms.calc = calculator
    forces, stress = atoms.get_forces(), atoms.get_stress()
    energies = atoms.get_potential_energies()
    kept = forces.copy(), stress.copy(), energies.copy()
    for array in (forces, stress, energies):
        array += 1.0
    np.testing.assert_array_equal(atoms.get_forces(), kept[0])
    np.testing.assert_array_equal(atoms.get_stress(), kept[1])
    np.testing.assert_array_equal(atoms.get_potential_energies(), kept[2])


def test_results_of_an_earlier_structure_are_not_overwritten(calculator):
    atoms = crystal()
    atoms.calc = calculator
    atoms.get_stress()
    first = calculator.results
    kept = {name: np.copy(value) for name, value in first.items()}
    atoms.rattle(0.05, seed=1)
    atoms.get_stress()
    for name, value in kept.items():
        np.testing.assert_array_equal(first[name], value, err_msg=name)


def test_the_structure_of_the_results_is_known_and_is_a_copy(calculator):
    assert calculator.atoms is None
    atoms = crystal()
    calculator.get_forces(atoms)
    assert calculator.atoms == atoms
    calculator.atoms.positions += 1.0
    assert calculator.check_state(atoms) == []
    calculator.reset()
    assert calculator.atoms is None
    assert calculator.results == {}


# --- what it leaves alone ----------------------------------------------------------------


def test_atoms_are_not_changed(calculator):
    atoms = crystal()
    atoms.positions[0] += 7.0  # outside the cell
    atoms.info["note"] = {"a": [1]}
    atoms.set_array("marks", np.arange(len(atoms)))
    atoms.set_velocities(np.ones((len(atoms), 3)))
    atoms.set_constraint(FixAtoms([1]))
    atoms.set_tags(range(len(atoms)))
    kept = copy.deepcopy(atoms)
    arrays = {name: id(array) for name, array in atoms.arrays.items()}
    atoms.calc = calculator
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stresses(), atoms.get_stress()
    assert atoms == kept
    assert atoms.info == kept.info
    assert {name: id(array) for name, array in atoms.arrays.items()} == arrays
    for name, array in kept.arrays.items():
        np.testing.assert_array_equal(atoms.arrays[name], array)
    assert len(atoms.constraints) == 1
    assert atoms.calc is calculator


@pytest.mark.parametrize("make", [ethanol, crystal])
@pytest.mark.parametrize(
    "laid_out",
    [
        np.asfortranarray,
        lambda positions: np.repeat(positions, 2, axis=1)[:, ::2],
        lambda positions: positions[::-1].copy()[::-1],
        lambda positions: positions.astype(">f8"),
    ],
    ids=["columns", "strides", "backwards", "other order of bytes"],
)
def test_results_do_not_depend_on_how_arrays_lie_in_memory(make, laid_out, calculator):
    atoms = make()
    expected = calculator.get_forces(atoms), calculator.get_potential_energy(atoms)
    other = make()
    other.arrays["positions"] = laid_out(other.positions)
    other.arrays["numbers"] = np.repeat(other.numbers, 2)[::2]
    assert not other.numbers.flags["C_CONTIGUOUS"]
    calculator.reset()
    np.testing.assert_array_equal(calculator.get_forces(other), expected[0])
    assert calculator.get_potential_energy(other) == expected[1]


def test_atoms_may_be_read_only(calculator):
    atoms = crystal()
    for array in (atoms.positions, atoms.numbers, atoms.cell.array):
        array.flags.writeable = False
    assert np.isfinite(calculator.get_forces(atoms)).all()


def test_globals_are_left_as_they_were(models):
    environment = dict(os.environ)
    before = (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        np.geterr(),
    )
    seeds = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    for name in ("single", "double"):
        for dtype in ("float32", "float64"):
            EqCalculator(models[name], dtype=dtype).get_stress(crystal())
    assert before == (
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        np.geterr(),
    )
    assert torch.equal(torch.get_rng_state(), seeds[0])
    np.testing.assert_array_equal(np.random.get_state()[1], seeds[1])  # noqa: NPY002
    assert dict(os.environ) == environment


def test_a_default_dtype_of_float64_changes_nothing(models):
    expected = EqCalculator(models["single"]).get_forces(crystal())
    torch.set_default_dtype(torch.float64)
    try:
        found = EqCalculator(models["single"]).get_forces(crystal())
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_need_nothing_of_the_caller(context, models):
    outside = EqCalculator(models["double"])
    expected = outside.get_forces(crystal())
    outside.reset()
    with context():
        inside = EqCalculator(models["double"])
        np.testing.assert_array_equal(inside.get_forces(crystal()), expected)
        np.testing.assert_array_equal(outside.get_forces(crystal()), expected)
    inside.reset()
    np.testing.assert_array_equal(inside.get_forces(crystal()), expected)


# --- refusals ----------------------------------------------------------------------------


def test_an_unknown_element_is_named_with_its_atoms(calculator):
    atoms = Atoms("CNON", np.eye(4, 3) * 2.0)
    with pytest.raises(
        UnsupportedElementError,
        match=r"model 'double' does not know N \(atoms 1, 3\); it was trained on H, C, O\.",
    ):
        calculator.get_potential_energy(atoms)


def test_an_element_set_in_place_is_refused(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    atoms.get_forces()
    atoms.numbers[2] = 14
    with pytest.raises(UnsupportedElementError, match=r"Si \(atoms 2\)"):
        atoms.get_forces()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_positions_that_are_not_finite_are_refused(value, calculator):
    atoms = ethanol()
    atoms.positions[4, 2] = value
    with pytest.raises(GraphError, match=r"finite.*4"):
        calculator.get_forces(atoms)


def test_zero_atoms_are_refused(calculator):
    with pytest.raises(GraphError, match="at least one"):
        calculator.get_potential_energy(Atoms())


def test_coincident_atoms_are_refused(calculator):
    atoms = ethanol()
    atoms.positions[5] = atoms.positions[2]
    with pytest.raises(GraphError, match="atoms 2 and 5 coincide"):
        calculator.get_forces(atoms)


def test_a_periodic_cell_without_volume_is_refused(calculator):
    atoms = crystal()
    atoms.cell[2] = atoms.cell[0]
    with pytest.raises(GraphError, match="lattice vector"):
        calculator.get_forces(atoms)


def _raise_not_finite(atoms: Atoms) -> None:
    atoms.positions[0, 0] = np.nan


def _raise_element(atoms: Atoms) -> None:
    atoms.numbers[0] = 92


@pytest.mark.parametrize("breaking", [_raise_not_finite, _raise_element])
def test_after_an_error_no_old_result_is_returned_and_the_next_call_works(breaking, calculator):
    atoms = ethanol()
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    good = atoms.copy()
    breaking(atoms)
    for _ in range(2):
        with pytest.raises((GraphError, UnsupportedElementError), match=r"finite|does not know U"):
            atoms.get_potential_energy()
        assert calculator.results == {}
    good.calc = calculator
    assert good.get_potential_energy() == before


@pytest.mark.parametrize("where", ["energies", "forces"])
def test_a_model_that_returns_nan_is_refused(where, calculator):
    def broken(energies, gradients):
        bad = torch.full_like(energies if where == "energies" else gradients, torch.nan)
        return (bad, gradients) if where == "energies" else (energies, bad)

    count_calls(calculator, broken)
    with pytest.raises(NonFiniteError, match=r"'double' returned NaN or infinity for these 9"):
        calculator.get_forces(ethanol())
    assert calculator.results == {}


def test_calculate_without_any_atoms_is_refused(calculator):
    with pytest.raises(ConfigError, match="needs atoms"):
        calculator.calculate()
    with pytest.raises(ConfigError, match="needs atoms"):
        calculator.get_property("energy")


def test_unknown_keywords_are_refused(models):
    with pytest.raises(TypeError, match="cutoff"):
        EqCalculator(models["double"], cutoff=5.0)
    with pytest.raises(TypeError, match="positional"):
        EqCalculator(models["double"], "cpu")


def test_options_cannot_be_set_later(calculator):
    with pytest.raises(ConfigError, match=r"fixed when it is built, found set\(skin\)"):
        calculator.set(skin=1.0)
    assert calculator.set() == {}


def test_a_bad_skin_is_refused(models):
    for skin in (-0.1, np.nan, np.inf):
        with pytest.raises(ConfigError, match="skin must be zero or positive"):
            EqCalculator(models["double"], skin=skin)


def test_a_missing_model_is_refused():
    with pytest.raises(UnknownModelError, match=r"no such model file: 'nowhere/model\.pt'"):
        EqCalculator("nowhere/model.pt")


# --- copies ------------------------------------------------------------------------------


def _pickled(calculator: EqCalculator) -> EqCalculator:
    return pickle.loads(pickle.dumps(calculator))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled])
def test_copies_have_the_same_options_and_a_state_of_their_own(duplicate, models):
    original = EqCalculator(models["single"], dtype="float64", skin=0.3)
    atoms = ethanol()
    expected = original.get_forces(atoms)
    twin = duplicate(original)
    assert type(twin) is EqCalculator
    assert twin.todict() == original.todict()
    assert (twin.models[0].dtype, twin.neighbours.skin) == (torch.float64, 0.3)
    np.testing.assert_array_equal(twin.results["forces"], expected)
    np.testing.assert_array_equal(twin.get_forces(atoms), expected)
    twin.get_forces(crystal())
    np.testing.assert_array_equal(original.get_forces(atoms), expected)


def test_a_subclass_copies_as_itself(models):
    class Mine(Home):
        pass

    assert type(copy.copy(Mine(models["double"]))) is Mine


def test_atoms_with_the_calculator_are_copied_deeply(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    twin = copy.deepcopy(atoms)
    assert twin.calc is not calculator
    assert twin.get_potential_energy() == atoms.get_potential_energy()


def test_a_committee_keeps_its_members_when_the_list_changes(models):
    members = [models["double"], models["other"]]
    committee = EqCalculator(members)
    members.clear()
    assert len(copy.copy(committee).models) == 2
    from_generator = EqCalculator(models[name] for name in ("double", "other"))
    assert len(copy.copy(from_generator).models) == 2


def test_todict_holds_plain_values(models):
    calculator = EqCalculator([models["double"], models["other"]], device="cpu", skin=0.25)
    assert calculator.todict() == {
        "model": [str(models["double"]), str(models["other"])],
        "device": "cpu",
        "engine": "auto",
        "skin": 0.25,
        "reduction": "torch",
    }


def test_the_card_says_what_the_model_is(calculator):
    assert (calculator.card.architecture, calculator.card.cutoff) == ("painn", 4.0)
    assert calculator.name == "eqcalc"


# --- committees --------------------------------------------------------------------------


def test_a_committee_returns_mean_and_spread_of_its_members(models):
    names = ("double", "other", "short")
    atoms = crystal()
    committee = EqCalculator([models[name] for name in names])
    committee.calculate(atoms, ["stresses"])
    members = [EqCalculator(models[name]) for name in names]
    for member in members:
        member.calculate(atoms, ["stresses"])
    for name in PROPERTIES:
        mean = np.mean([member.results[name] for member in members], axis=0)
        np.testing.assert_allclose(
            committee.results[name], mean, rtol=1e-11, atol=1e-12, err_msg=name
        )
    for name in ("energy", "energies", "forces", "stress", "stresses"):
        spread = np.std([member.results[name] for member in members], axis=0, ddof=1)
        np.testing.assert_allclose(
            committee.results[f"{name}_spread"], spread, rtol=1e-8, atol=1e-11, err_msg=name
        )
        assert np.shape(committee.results[f"{name}_spread"]) == np.shape(mean_of(members, name))
    assert committee.results["energy_spread"] > 1e-3


def mean_of(members: list[EqCalculator], name: str) -> np.ndarray:
    return np.mean([member.results[name] for member in members], axis=0)


def test_a_single_model_has_no_spread(calculator):
    calculator.get_forces(ethanol())
    assert set(calculator.results) == {"energy", "free_energy", "energies", "forces"}
    with pytest.raises(PropertyNotImplementedError, match="that of a committee, and this calc"):
        calculator.get_property("forces_spread", ethanol())


def test_ase_asks_for_a_spread_as_for_a_property(models):
    committee = EqCalculator([models["double"], models["other"]])
    atoms = crystal()
    first = committee.get_property("forces_spread", atoms)
    atoms.rattle(0.05, seed=1)
    assert committee.get_property("forces_spread", atoms, allow_calculation=False) is None
    second = committee.get_property("forces_spread", atoms)
    assert np.abs(second - first).max() > 1e-4
    np.testing.assert_array_equal(second, committee.results["forces_spread"])
    second[:] = 0.0  # a copy
    assert committee.results["forces_spread"].min() > 0.0
    assert committee.get_property("stresses_spread", atoms).shape == (8, 6)
    assert committee.get_property("stress_spread", atoms).shape == (6,)


def test_a_spread_of_what_is_not_defined_is_refused(models):
    committee = EqCalculator([models["double"], models["other"]])
    with pytest.raises(
        PropertyNotImplementedError, match="no 'dipole_spread'; spreads are energy_"
    ):
        committee.get_property("dipole_spread", ethanol())
    with pytest.raises(PropertyNotImplementedError, match="'stress' is defined where all three"):
        committee.get_property("stress_spread", ethanol())


def test_a_committee_that_holds_a_model_twice_is_refused(models, tmp_path):
    twin = tmp_path / "twin.pt"
    twin.write_bytes(models["double"].read_bytes())
    with pytest.raises(
        ConfigError, match=r"twin\.pt' is the same as .*double\.pt'.*spread is zero"
    ):
        EqCalculator([models["double"], models["other"], twin])


@pytest.mark.parametrize("make", [ethanol, crystal, slab])
def test_a_member_of_shorter_cutoff_is_exact_inside_a_committee(make, models):
    atoms = make()
    alone = EqCalculator(models["short"])
    pair = EqCalculator([models["short"], models["double"]])
    assert pair.neighbours.cutoff == 4.0
    longer = EqCalculator(models["double"])
    expected = (alone.get_forces(atoms) + longer.get_forces(atoms)) / 2
    np.testing.assert_allclose(pair.get_forces(atoms), expected, atol=1e-12)


def test_a_committee_of_one_is_that_model(models):
    atoms = crystal()
    np.testing.assert_array_equal(
        EqCalculator([models["double"]]).get_stress(atoms),
        EqCalculator(models["double"]).get_stress(atoms),
    )


def test_a_committee_of_mixed_dtypes_is_refused_unless_one_is_chosen(models):
    mixed = [models["double"], models["single"]]
    with pytest.raises(ConfigError, match=r"differ in dtype \(torch.float32, torch.float64\)"):
        EqCalculator(mixed)
    assert EqCalculator(mixed, dtype="float64").get_forces(ethanol()).shape == (9, 3)


def test_an_empty_committee_is_refused():
    with pytest.raises(ConfigError, match="at least one model, found an empty list"):
        EqCalculator([])


def test_a_committee_refuses_elements_that_one_member_lacks(models, tmp_path):
    from eqcalc.export import export_model

    export_model(potential(), tmp_path / "ch.pt", elements="CH")
    committee = EqCalculator([models["double"], tmp_path / "ch.pt"])
    with pytest.raises(UnsupportedElementError, match=r"does not know O.*trained on H, C\."):
        committee.get_forces(ethanol())


def test_a_committee_without_a_common_element_is_refused(models, tmp_path):
    from eqcalc.export import export_model

    export_model(potential(), tmp_path / "c.pt", elements="C")
    export_model(potential(), tmp_path / "h.pt", elements="H")
    with pytest.raises(ConfigError, match="share no element: c C; h H"):
        EqCalculator([tmp_path / "c.pt", tmp_path / "h.pt"])


# --- skin --------------------------------------------------------------------------------


def _trajectory(n_steps: int) -> list[Atoms]:
    """Return a walk with a breathing, shearing cell and wrapped atoms."""
    generator = np.random.default_rng(5)
    atoms, frames = crystal(), []
    velocities = generator.normal(scale=0.02, size=atoms.positions.shape)
    for step in range(n_steps):
        velocities += generator.normal(scale=0.01, size=velocities.shape)
        atoms.positions += velocities
        strain = np.eye(3) * (1 + 0.004 * np.sin(step / 3))
        strain[0, 1] = 0.003 * np.cos(step / 4)
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        if step % 7 == 6:
            atoms.wrap()
        frames.append(atoms.copy())
    return frames


def test_results_do_not_depend_on_the_skin(models):
    fresh = EqCalculator(models["double"], skin=0.0)
    kept = EqCalculator(models["double"], skin=0.6)
    for atoms in _trajectory(40):
        assert kept.get_potential_energy(atoms) == pytest.approx(
            fresh.get_potential_energy(atoms), rel=1e-13
        )
        np.testing.assert_allclose(
            kept.get_forces(atoms), fresh.get_forces(atoms), rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            kept.get_stress(atoms), fresh.get_stress(atoms), rtol=0, atol=1e-12
        )
    assert fresh.neighbours.n_builds == 40
    assert 1 < kept.neighbours.n_builds < 35


def test_alternating_structures_are_not_confused(calculator):
    expected = {make: eager(make()) for make in (ethanol, crystal, slab, water)}
    for _ in range(2):
        for make, evaluation in expected.items():
            np.testing.assert_allclose(calculator.get_forces(make()), evaluation.forces, atol=1e-11)


# --- inside ASE --------------------------------------------------------------------------


def test_get_property_without_atoms_returns_the_last_result(calculator):
    atoms = ethanol()
    energy = calculator.get_potential_energy(atoms)
    assert calculator.get_property("energy") == energy
    np.testing.assert_array_equal(calculator.get_forces(), calculator.get_forces(atoms))


def test_get_property_without_calculation_returns_none(calculator):
    assert calculator.get_property("energy", ethanol(), allow_calculation=False) is None


@pytest.mark.parametrize("committee", [False, True])
def test_calculate_properties_returns_ases_mapping(committee, models):
    names = ["double", "other"] if committee else ["double"]
    calculator = EqCalculator([models[name] for name in names])
    found = calculator.calculate_properties(crystal(), ["energy", "forces", "stress"])
    assert found["energy"] == calculator.results["energy"]
    assert found["natoms"] == 8


def test_constraints_leave_the_raw_forces_untouched(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    raw = atoms.get_forces()
    atoms.set_constraint(FixAtoms([0, 1]))
    np.testing.assert_array_equal(atoms.get_forces(apply_constraint=False), raw)
    np.testing.assert_array_equal(atoms.get_forces()[:2], 0.0)
    np.testing.assert_array_equal(atoms.get_forces()[2:], raw[2:])


@pytest.mark.parametrize("suffix", ["traj", "extxyz"])
@pytest.mark.parametrize("committee", [False, True])
def test_a_written_frame_reads_back_with_its_results(suffix, committee, models, tmp_path):
    names = ["double", "other"] if committee else ["double"]
    atoms = crystal()
    atoms.calc = EqCalculator([models[name] for name in names])
    energy, forces, stress = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
    path = tmp_path / f"frame.{suffix}"
    ase.io.write(path, atoms)
    back = ase.io.read(path)
    assert back.get_potential_energy() == pytest.approx(energy, rel=1e-12)
    np.testing.assert_allclose(back.get_forces(), forces, atol=1e-7)
    np.testing.assert_allclose(back.get_stress(), stress, atol=1e-7)
    if suffix == "traj":
        assert back.calc.name == "eqcalc"


def test_a_database_keeps_the_calculators_name_and_arguments(calculator, tmp_path):
    from ase.db import connect

    atoms = ethanol()
    atoms.calc = calculator
    atoms.get_forces()
    with connect(tmp_path / "frames.db") as database:
        database.write(atoms)
    row = connect(tmp_path / "frames.db").get(id=1)
    assert row.calculator == "eqcalc"
    assert row.calculator_parameters == calculator.todict()
    assert row.energy == atoms.get_potential_energy()


def test_bfgs_goes_downhill(calculator):
    atoms = ethanol()
    atoms.calc = calculator
    before = atoms.get_potential_energy()
    BFGS(atoms, logfile=None).run(fmax=0.001, steps=5)
    assert atoms.get_potential_energy() < before


def test_velocity_verlet_conserves_energy(calculator):
    from ase.md.verlet import VelocityVerlet

    atoms = ethanol()
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=30)
    atoms.set_momenta(np.random.default_rng(0).normal(scale=0.1, size=(9, 3)))
    totals = []
    dynamics = VelocityVerlet(atoms, timestep=0.2 * fs)
    dynamics.attach(lambda: totals.append(atoms.get_total_energy()))
    dynamics.run(60)
    assert np.ptp(totals) < 2e-3
    assert np.ptp([atoms.get_kinetic_energy(), 0.0]) > 10 * np.ptp(totals)


@pytest.mark.parametrize("shared", [True, False])
def test_neb_runs_with_one_calculator_or_one_per_image(shared, models):
    first, last = ethanol(), ethanol()
    last.rattle(0.1, seed=2)
    images = [first, *(first.copy() for _ in range(2)), last]
    calculator = EqCalculator(models["double"])
    for image in images:
        image.calc = calculator if shared else copy.copy(calculator)
    band = NEB(images, allow_shared_calculator=shared, method="improvedtangent")
    band.interpolate()
    before = np.abs(band.get_forces()).max()
    BFGS(band, logfile=None).run(fmax=0.0, steps=3)
    assert np.isfinite(band.get_forces()).all()
    assert np.abs(band.get_forces()).max() != before


def test_energies_and_forces_come_from_a_device_as_they_are():
    energies, forces = torch.randn(5, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    found = Transfers(torch.device("cpu")).download(energies, forces)
    np.testing.assert_array_equal(found[0], energies)
    np.testing.assert_array_equal(found[1], forces)
    for array in found:  # no views that keep each other alive
        assert array.base is None
        assert array.flags.c_contiguous


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gpu_results_are_those_of_the_cpu(dtype, models):
    on_gpu, on_cpu = (
        EqCalculator(models["double"], device=device, dtype=dtype) for device in ("cuda", "cpu")
    )
    atol = {"float32": 2e-5, "float64": 1e-10}[dtype]
    for atoms in (ethanol(), crystal(), slab(), water(), crystal()):
        for calculator in (on_gpu, on_cpu):
            calculator.calculate(atoms)
        assert on_gpu.results.keys() == on_cpu.results.keys()
        for name, value in on_cpu.results.items():
            np.testing.assert_allclose(on_gpu.results[name], value, 1e-9, atol, err_msg=name)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (None, r"None \(NoneType\)"),
        (3, r"3 \(int\)"),
        (b"painn-ethanol", r"b'painn-ethanol' \(bytes\)"),
        (["painn-ethanol", None], r"None \(NoneType\)"),
    ],
)
def test_what_is_neither_name_nor_path_is_no_model(source, found):
    with pytest.raises(ConfigError, match=f"a model is given by its name or path, found {found}"):
        EqCalculator(source)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": 3}, "unknown engine '3'"),
        ({"engine": None}, "unknown engine 'None'"),
        ({"device": None}, "unknown device 'None'"),
        ({"dtype": 32}, "unknown dtype '32'"),
        ({"skin": None}, r"skin must be zero or positive and finite \(Å\), found None"),
        ({"skin": True}, r"skin must be zero or positive and finite \(Å\), found True"),
        ({"max_edges": "many"}, "max_edges must be at least 1, found many"),
        ({"max_edges": 1.5}, r"max_edges must be at least 1, found 1\.5"),
        ({"threads": "2"}, "threads must be a whole number"),
        # Any text is true, 'no' too.
        ({"trust": "no"}, "trust must be True or False, found 'no'"),
    ],
)
def test_an_option_of_another_kind_is_refused_by_name(options, message, models):
    with pytest.raises(ConfigError, match=message):
        EqCalculator(models["double"], **options)


def test_atomic_numbers_that_are_not_whole_are_refused(calculator):
    atoms = ethanol()
    atoms.arrays["numbers"] = atoms.numbers + np.where(np.arange(9) == 2, 0.9, 0.0)
    with pytest.raises(GraphError, match=r"atomic numbers must be whole, found 8\.9 on atoms 2"):
        calculator.get_potential_energy(atoms)


@pytest.mark.parametrize(
    ("name", "added", "message"),
    [
        ("numbers", 0.9, "atomic numbers must be whole"),
        ("positions", 1j, "positions must be real numbers"),
    ],
)
def test_what_is_refused_is_not_taken_for_the_last_structure(name, added, message, calculator):
    """As bytes of the usual type it would be the same."""
    atoms = ethanol()
    calculator.get_potential_energy(atoms)
    atoms.arrays[name] = atoms.arrays[name] + added
    with pytest.raises(GraphError, match=message):
        calculator.get_potential_energy(atoms)


def test_whole_atomic_numbers_of_any_type_are_taken(calculator):
    expected = calculator.get_potential_energy(ethanol())
    for kind in (np.int32, np.uint8, np.float64):
        atoms = ethanol()
        atoms.arrays["numbers"] = atoms.numbers.astype(kind)
        assert calculator.get_potential_energy(atoms) == expected


def test_complex_positions_are_refused():
    atoms = ethanol()
    atoms.arrays["positions"] = atoms.positions + 0j
    with pytest.raises(GraphError, match="positions must be real numbers"):
        build_graph(atoms, 4.0)
