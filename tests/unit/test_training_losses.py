"""Losses of a training, their weights over the epochs, and runs with them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_models import ETHANOL_FRAMES
from torch import nn
from trainings import config_of, crystal_file, interrupt_in_the_third_epoch, rows_of, weights_of

from eqcalc.data import read_dataset
from eqcalc.data.batches import collate, labelled_graphs
from eqcalc.errors import ConfigError
from eqcalc.training.finish import load_potential
from eqcalc.training.loss import LossFunction, LossWeights, error_counts, loss, residuals
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder
from eqcalc.training.training_options import TrainingOptions

DELTAS = LossWeights(0.05, 0.2, 0.003)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return residuals of an untrained potential on crystals of two sizes, and their batch."""
    from small_models import potential

    path = crystal_file(tmp_path_factory.mktemp("crystals"))
    batch = collate(labelled_graphs(read_dataset(path).frames, 4.0, torch.float64))
    return residuals(potential(seed=1), batch, with_stress=True), batch


def by_torch(errors, kind, delta) -> float:
    losses = {"mse": nn.MSELoss(), "mae": nn.L1Loss(), "huber": nn.HuberLoss(delta=delta)}
    return float(losses[kind](errors.detach(), torch.zeros_like(errors)))


@pytest.mark.parametrize("per_atom", [True, False])
@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_a_loss_is_the_sum_of_torch_s_own_losses(kind, per_atom, found):
    errors, _ = found
    function = LossFunction(LossWeights(2.0, 3.0, 50.0), kind, per_atom, DELTAS)
    energy = errors.energy_per_atom if per_atom else errors.energy
    expected = (
        2.0 * by_torch(energy, kind, DELTAS.energy)
        + 3.0 * by_torch(errors.forces, kind, DELTAS.forces)
        + 50.0 * by_torch(errors.stress, kind, DELTAS.stress)
    )
    assert float(loss(errors, function).detach()) == pytest.approx(expected, rel=1e-12)
    # Errors on both sides of the deltas, or the three would be two.
    assert (errors.forces.abs() < DELTAS.forces).any()
    assert (errors.forces.abs() > DELTAS.forces).any()


def test_losses_of_parts_of_a_batch_add_up_to_that_of_the_whole(tmp_path):
    """The parts have other numbers of atoms, and stress in one of them only."""
    from small_models import potential

    crystals = read_dataset(crystal_file(tmp_path)).frames
    molecules = read_dataset(ETHANOL_FRAMES, rows="0:2").frames
    student, function = potential(seed=1), LossFunction(LossWeights(2.0, 3.0, 50.0), "huber")
    graphs = labelled_graphs([*crystals, *molecules], 4.0, torch.float64)
    whole = collate(graphs)
    counts = error_counts(whole)
    assert counts.tolist() == [5, 3 * len(whole.forces), 6 * 3]
    parts = [graphs[:1], graphs[1:3], graphs[3:]]
    values = [loss(residuals(student, collate(p), True), function, counts) for p in parts]
    expected = loss(residuals(student, whole, True), function)
    assert float(sum(values).detach()) == pytest.approx(float(expected.detach()), rel=1e-12)


# --- options ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "l1"}, r"loss must be one of mse, huber, mae, found 'l1'"),
        (
            {"forces_huber_delta": 0.1},
            r'forces_huber_delta goes with loss = "huber", found .*"mse"',
        ),
        ({"loss": "huber", "stress_huber_delta": 0.0}, "stress_huber_delta must be a positive"),
        ({"per_atom_energy": 1}, r"per_atom_energy in \[training\] must be true or false, found 1"),
        (
            {"stage_two": {"energy_weight": 2.0}},
            r"\[training\.stage_two\] of .* needs .*start_epoch",
        ),
        ({"stage_two": {"start_epoch": 1}}, "changes nothing; give one of energy_weight, forces_w"),
        ({"stage_two": {"start_epoch": 0, "energy_weight": 2.0}}, "start_epoch must be .* >= 1"),
        ({"stage_two": {"start_epoch": 4, "energy_weight": 2.0}}, "must be below max_epochs, .*4"),
        (
            {"stage_two": {"start_epoch": 1, "energy_weigth": 2.0}},
            r"unknown key 'energy_weigth' in \[training\.stage_two\].*mean 'energy_weight'\?",
        ),
        (
            {"stage_two": {"start_epoch": 1, "energy_weight": "high"}},
            r"energy_weight in \[training\.stage_two\] must be a number, found 'high'",
        ),
        (
            {"stage_two": {"start_epoch": 1, "energy_weight": 0.0, "forces_weight": 0.0}},
            r"loss weights of \[training\.stage_two\] must be >= 0, .* not all zero",
        ),
        (
            {"stage_two": {"start_epoch": 1, "learning_rate": 1e-4}, "schedule": "cosine"},
            r'learning_rate in \[training\.stage_two\] goes with schedule = "plateau"',
        ),
        ({"stage_two": {"start_epoch": 1, "learning_rate": -1.0}}, "learning_rate must be a posit"),
        ({"stage_two": 3}, r"\[training\.stage_two\] of .* must be a table, found 3"),
    ],
)
def test_wrong_options_of_the_loss_are_refused(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, max_epochs=4, **options)


def test_weights_of_a_second_stage_are_those_of_the_first_unless_given():
    from eqcalc.training.loss_options import StageTwoOptions

    options = TrainingOptions(
        energy_weight=1.0,
        forces_weight=10.0,
        stage_two=StageTwoOptions(start_epoch=3, energy_weight=100.0),
    )
    assert options.loss_of_epoch(2).weights == (1.0, 10.0, 0.0)
    assert options.loss_of_epoch(3).weights == (100.0, 10.0, 0.0)
    assert options.validation_function.weights == (100.0, 10.0, 0.0)
    assert not options.needs_stress


# --- runs -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["huber", "mae"])
def test_a_training_with_another_loss_lowers_it(kind, tmp_path):
    train(config_of(tmp_path, loss=kind, max_epochs=6), tmp_path / "run")
    rows = rows_of(tmp_path / "run")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]


STAGES = {"stage_two": {"start_epoch": 2, "energy_weight": 1000.0, "learning_rate": 1e-4}}


def test_a_second_stage_begins_in_its_epoch_and_not_before(tmp_path):
    train(config_of(tmp_path, max_epochs=4, **STAGES), tmp_path / "two")
    train(config_of(tmp_path, max_epochs=2), tmp_path / "one")
    two, one = rows_of(tmp_path / "two"), rows_of(tmp_path / "one")
    assert [row["train_loss"] for row in two[:2]] == [row["train_loss"] for row in one]
    assert [row["learning_rate"] for row in two] == [0.005, 0.005, 1e-4, 1e-4]
    # The validation loss is that of the second stage in every epoch.
    assert two[0]["validation_loss"] > one[0]["validation_loss"]
    last = load_potential(TrainingFolder(tmp_path / "two"), tmp_path / "two" / "last.ckpt")
    frames = read_dataset(ETHANOL_FRAMES, rows="4:6").frames
    batch = collate(labelled_graphs(frames, 4.0, torch.float32))
    function = LossFunction(LossWeights(1000.0, 1.0, 0.0))
    expected = float(loss(residuals(last, batch, False), function).detach())
    assert two[-1]["validation_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_training_of_two_stages_needs_the_labels_of_both(tmp_path):
    from eqcalc.errors import DataError

    config = config_of(tmp_path, max_epochs=4, stage_two={"start_epoch": 2, "stress_weight": 1.0})
    with pytest.raises(DataError, match="stress_weight > 0 needs frames that are periodic"):
        train(config, tmp_path / "run")


@pytest.mark.parametrize("start_epoch", [1, 2, 3])
def test_a_resumed_run_of_two_stages_equals_an_uninterrupted_one(start_epoch, tmp_path):
    """Interrupted in the third epoch: before, at and after the beginning of the stage."""
    stages = {"stage_two": {**STAGES["stage_two"], "start_epoch": start_epoch}}
    config = config_of(tmp_path, max_epochs=4, loss="huber", **stages)
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=interrupt_in_the_third_epoch)
    train(config, tmp_path / "parts", resume=True)
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    found, expected = (weights_of(tmp_path / name / "last.ckpt") for name in ("parts", "whole"))
    assert all(np.array_equal(found[k], expected[k], equal_nan=True) for k in expected)


def test_resuming_with_another_second_stage_is_refused(tmp_path):
    config = config_of(tmp_path, max_epochs=4, **STAGES)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=interrupt_in_the_third_epoch)
    with pytest.raises(ConfigError, match="cannot be resumed with another stage_two"):
        train(config_of(tmp_path, max_epochs=4), tmp_path / "run", resume=True)
