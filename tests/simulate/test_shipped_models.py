"""The shipped models are what their cards say, and they hold dynamics."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read
from rarely import rarely

from eqcalc import EqCalculator, available_models, load_model
from eqcalc.data import read_dataset
from eqcalc.dynamics import NBodySystem, Propagator, simulate
from eqcalc.evaluation import evaluate
from eqcalc.model_file import find_model, read_card
from eqcalc.simulate import MDSettings, run_md
from eqcalc.training.config import read_config
from eqcalc.verification import verify_model

ROOT = Path(__file__).parents[2]
TEST_SET = ROOT / "examples" / "data" / "ethanol_rmd17_test.npz"

KINDS = {name: read_card(name).kind for name in available_models()}


def test_models_of_both_kinds_are_shipped():
    assert KINDS == {
        "gmn-nbody": "propagator",
        "nequip-ethanol": "potential",
        "painn-ethanol": "potential",
        "sevennet-0": "potential",
        "sevennet-l3i5": "potential",
    }


@pytest.mark.parametrize("name", KINDS)
def test_model_folder_agrees_with_the_card_inside(name):
    folder, card = find_model(name).parent, read_card(name)
    assert card.name == name
    assert (folder / "card.md").read_text() == card.to_markdown()
    assert card.licence
    if card.kind == "potential" and card.origin:
        assert (folder / "LICENSE").read_text().startswith("MIT License")
        return  # its errors are those of whoever trained it
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.items() >= card.errors.items()
    assert card.errors


TRAINED_HERE = [
    name for name, kind in KINDS.items() if kind == "potential" and not read_card(name).origin
]


@pytest.mark.parametrize("name", TRAINED_HERE)
def test_potential_was_trained_by_the_file_beside_it(name):
    folder, card = find_model(name).parent, read_card(name)
    config = read_config(folder / "train.toml")
    assert config.name == name
    given = {key: value for key, value in config.architecture.items() if key != "name"}
    assert card.config.items() >= given.items()


@pytest.mark.parametrize(
    ("name", "largest_mev_per_a", "largest_mev"),
    [
        ("painn-ethanol", 15, 4),
        pytest.param("nequip-ethanol", 7.5, 2, marks=pytest.mark.slow),
    ],
)
def test_a_model_makes_the_errors_of_its_card(name, largest_mev_per_a, largest_mev):
    model = load_model(name, device="cpu")
    comparison = evaluate(model, read_dataset(TEST_SET).frames)
    for key, value in comparison.summary().items():
        assert model.card.errors[key] == pytest.approx(value, rel=1e-3)
    assert model.card.errors["forces_mae_mev_per_a"] < largest_mev_per_a
    assert model.card.errors["energy_mae_mev"] < largest_mev


@pytest.mark.parametrize("name", ["painn-ethanol", rarely("nequip-ethanol")])
def test_a_model_of_ethanol_conserves_energy(name, tmp_path):
    start = read(ROOT / "examples" / "ethanol.xyz")
    settings = MDSettings(ensemble="nve", n_steps=4000, temperature_K=300)
    result = run_md(start, EqCalculator(name, device="cpu"), settings, tmp_path / "nve")
    assert abs(result.drift_mev_per_atom_ps) < 0.1
    table = np.loadtxt(tmp_path / "nve" / "thermo.csv", delimiter=",", skiprows=1)
    assert 1e3 * table[:, 5].std() / len(start) < 1.0  # meV/atom, the integrator's ripple


@pytest.mark.slow
@pytest.mark.parametrize("name", ["painn-ethanol", rarely("nequip-ethanol")])
def test_a_model_of_ethanol_stays_bonded_at_500_kelvin(name, tmp_path):
    start = read(ROOT / "examples" / "ethanol.xyz")
    settings = MDSettings(temperature_K=500, n_steps=10_000, log_every=20)
    run_md(start, EqCalculator(name, device="cpu"), settings, tmp_path / "nvt")
    bonded = start.get_all_distances() < 1.8
    for frame in read(tmp_path / "nvt" / "trajectory.traj", index=":"):
        distances = frame.get_all_distances()
        assert distances[bonded].max() < 1.9
        assert distances[~bonded].min() > 1.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "structure"),
    [("nequip-ethanol", "ethanol.xyz"), rarely("sevennet-0", "rutile.cif")],
)  # .ci/run verifies painn-ethanol
def test_a_shipped_potential_passes_its_verification(name, structure):
    found = verify_model(name, read(ROOT / "examples" / structure))
    assert found.passed, [finding.check for finding in found.failures]


# --- the propagator


@pytest.fixture(scope="module")
def recipe():
    """Return the script that the card of gmn-nbody names."""
    words = read_card("gmn-nbody").training_data["made by"].split()
    assert words[0] == "python"
    spec = importlib.util.spec_from_file_location("recipe", ROOT / words[1])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fresh():
    """Return samples that no training, validation or test of gmn-nbody has seen."""
    return simulate(NBodySystem(3, 2, 1), 30, n_steps=2000, seed=1234)


@pytest.fixture(scope="module")
def measured_on(recipe):
    """Return the samples that the errors on the card of gmn-nbody were measured on."""
    return simulate(recipe.SYSTEM, recipe.N_TEST, seed=recipe.TEST_SEED)


def test_gmn_nbody_makes_the_errors_of_one_step_of_its_card(recipe, measured_on):
    propagator = Propagator("gmn-nbody", device="cpu")
    found = recipe.one_step_errors(propagator, measured_on)
    on_card = {key: propagator.card.errors[key] for key in found}
    assert found.pop("rod_error") < 2e-6  # float32's own rounding, not a figure to repeat
    assert on_card.pop("rod_error") < 2e-6
    assert found == pytest.approx(on_card, rel=1e-2)


@pytest.mark.slow
def test_gmn_nbody_makes_the_errors_of_its_card(recipe, measured_on):
    propagator = Propagator("gmn-nbody", device="cpu")
    found = recipe.errors_of(propagator, measured_on)
    on_card = dict(propagator.card.errors)
    assert found.pop("rod_error") < 2e-6
    assert on_card.pop("rod_error") < 2e-6
    assert found == pytest.approx(on_card, rel=1e-2)


def test_gmn_nbody_is_closer_than_straight_motion_on_fresh_samples(fresh):
    propagator = Propagator("gmn-nbody", device="cpu")
    apart, straight = [], []
    for sample in range(len(fresh)):
        atoms = fresh.atoms(sample, 0)
        unforced = atoms.positions + 1.0 * atoms.get_velocities()
        propagator.run(atoms, 5)
        assert propagator.get_time() == pytest.approx(1.0)
        expected = fresh.positions[sample, 10]
        apart.append(np.linalg.norm(atoms.positions - expected, axis=1))
        straight.append(np.linalg.norm(unforced - expected, axis=1))
    on_card = propagator.card.errors["median_distance_at_time_1"]
    assert np.median(apart) < 1.25 * on_card
    assert np.median(apart) < 0.8 * np.median(straight)


@pytest.mark.parametrize(("dtype", "allowed"), [(None, 2e-5), ("float64", 1e-12)])
def test_gmn_nbody_keeps_the_lengths_of_rods(fresh, dtype, allowed):
    propagator = Propagator("gmn-nbody", device="cpu", dtype=dtype)
    for sample in range(5):
        atoms = fresh.atoms(sample, 0)
        start = atoms.positions.copy()
        propagator.run(atoms, 25)
        first, second = fresh.system.rods
        lengths = np.linalg.norm(atoms.positions[first] - atoms.positions[second], axis=1)
        assert np.abs(atoms.positions - start).max() > 0.1
        assert np.abs(lengths - fresh.rod_lengths()[sample, 0]).max() < allowed


def test_gmn_nbody_makes_the_same_run_again(fresh):
    ends = []
    for _ in range(2):
        atoms = fresh.atoms(0, 0)
        Propagator("gmn-nbody", device="cpu").run(atoms, 25)
        ends.append(np.stack([atoms.positions, atoms.get_velocities()]))
    np.testing.assert_array_equal(ends[0], ends[1])
