"""The shipped models are what their cards say, and they hold molecular dynamics."""

import json
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from eqcalc import EqCalculator, available_models, load_model
from eqcalc.data import read_dataset
from eqcalc.evaluation import evaluate
from eqcalc.model_file import find_model, read_card
from eqcalc.simulate import MDSettings, run_md
from eqcalc.training.config import read_config

ROOT = Path(__file__).parents[2]
ETHANOL = ROOT.parent / "shared" / "data" / "rmd17" / "npz_data" / "rmd17_ethanol.npz"


@pytest.mark.parametrize("name", available_models())
def test_model_folder_agrees_with_the_card_inside(name):
    folder, card = find_model(name).parent, read_card(name)
    assert card.name == name
    assert (folder / "card.md").read_text() == card.to_markdown()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics.items() >= card.errors.items()
    config = read_config(folder / "train.toml")
    assert config.name == name
    given = {key: value for key, value in config.architecture.items() if key != "name"}
    assert card.config.items() >= given.items()


def test_painn_ethanol_makes_the_errors_of_its_card():
    model = load_model("painn-ethanol", device="cpu")
    comparison = evaluate(model, read_dataset(ETHANOL, rows="1000:2000").frames)
    for key, value in comparison.summary().items():
        assert model.card.errors[key] == pytest.approx(value, rel=1e-3)
    assert model.card.errors["forces_mae_mev_per_a"] < 15
    assert model.card.errors["energy_mae_mev"] < 4


def test_painn_ethanol_conserves_energy(tmp_path):
    start = read(ROOT / "examples" / "ethanol.xyz")
    settings = MDSettings(ensemble="nve", n_steps=4000, temperature_K=300)
    result = run_md(start, EqCalculator("painn-ethanol", device="cpu"), settings, tmp_path / "nve")
    assert abs(result.drift_mev_per_atom_ps) < 0.1
    table = np.loadtxt(tmp_path / "nve" / "thermo.csv", delimiter=",", skiprows=1)
    assert 1e3 * table[:, 5].std() / len(start) < 1.0  # meV/atom, the integrator's ripple


@pytest.mark.slow
def test_painn_ethanol_stays_bonded_at_500_kelvin(tmp_path):
    start = read(ROOT / "examples" / "ethanol.xyz")
    settings = MDSettings(temperature_K=500, n_steps=10_000, log_every=20)
    run_md(start, EqCalculator("painn-ethanol", device="cpu"), settings, tmp_path / "nvt")
    bonded = start.get_all_distances() < 1.8
    for frame in read(tmp_path / "nvt" / "trajectory.traj", index=":"):
        distances = frame.get_all_distances()
        assert distances[bonded].max() < 1.9
        assert distances[~bonded].min() > 1.4
