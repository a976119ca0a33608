"""What a training file says about the optimiser: warm-up, AMSGrad, early stopping."""

from __future__ import annotations

import itertools

import pytest
import torch
from trainings import assert_resumes_exactly, config_of, rows_of, weights_of

from eqcalc.errors import ConfigError
from eqcalc.training.run import train
from eqcalc.training.training_options import TrainingOptions


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps must be an integer >= 0, found -1"),
        ({"warmup_steps": 1.5}, r"warmup_steps in \[training\] must be an integer, found 1\.5"),
        ({"early_stop_patience": 0}, "early_stop_patience must be an integer >= 1, found 0"),
        (
            {"learning_rate": 1e-3, "min_learning_rate": 1e-2},
            "min_learning_rate must not be above learning_rate, .* found 0.01 and 0.001",
        ),
        (
            {"schedule": "cosine", "plateau_patience": 3},
            'plateau_patience goes with schedule = "plateau"; schedule is "cosine": leave plateau',
        ),
        (
            {"schedule": "cosine", "plateau_factor": 0.5},
            'plateau_factor goes with schedule = "plateau"',
        ),
        ({"amsgrad": "no"}, r"amsgrad in \[training\] must be true or false, found 'no'"),
    ],
)
def test_wrong_options_of_the_optimizer_are_refused(option, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**option)


def test_amsgrad_can_be_left_out_and_changes_the_weights(tmp_path):
    for name, amsgrad in (("with", True), ("without", False)):
        train(config_of(tmp_path, amsgrad=amsgrad, max_epochs=4), tmp_path / name)
    states = {
        name: torch.load(tmp_path / name / "last.ckpt", weights_only=True)["optimizer_states"][0]
        for name in ("with", "without")
    }
    assert "max_exp_avg_sq" in states["with"]["state"][0]
    assert "max_exp_avg_sq" not in states["without"]["state"][0]


def test_the_learning_rate_warms_up_over_steps_and_then_follows_its_schedule(tmp_path):
    config = config_of(tmp_path, warmup_steps=6, max_epochs=4, ema_decay=1e-9)
    train(config, tmp_path / "run")  # of two steps an epoch
    rates = [row["learning_rate"] for row in rows_of(tmp_path / "run")]
    assert rates == [float(f"{0.005 * part:.6g}") for part in (2 / 6, 4 / 6, 1, 1)]
    # A first step of AdamW has the length of the learning rate.
    one = config_of(tmp_path, warmup_steps=5, max_epochs=1, batch_size=4)
    train(one, tmp_path / "one")
    train(config_of(tmp_path, max_epochs=1, batch_size=4), tmp_path / "cold")
    key, name = "current_model_state", "potential.architecture.filters.weight"
    start = _begun(config)[name]
    steps = [weights_of(tmp_path / run / "last.ckpt", key)[name] - start for run in ("one", "cold")]
    torch.testing.assert_close(steps[0], steps[1] / 5, rtol=1e-2, atol=1e-6)
    assert float(steps[1].abs().max()) == pytest.approx(0.005, rel=0.01)


def _begun(config) -> dict[str, torch.Tensor]:
    from eqcalc.training.data import read_training_data
    from eqcalc.training.network import build_start

    start = build_start(config, read_training_data(config))
    return {f"potential.{k}": v for k, v in start.potential.state_dict().items()}


def worse_from(epoch: int, monkeypatch) -> None:
    """Let the validation loss fall up to an epoch, and rise from then on."""
    counter = itertools.count()

    def loss(*_: object) -> torch.Tensor:
        n = next(counter)
        return torch.tensor(1.0 / (1 + n) if n <= epoch else 1.0 + n)

    monkeypatch.setattr("eqcalc.training.validation.mean_loss", loss)


def test_a_training_stops_early_where_the_loss_falls_no_more(tmp_path, monkeypatch):
    worse_from(2, monkeypatch)
    reports = []
    config = config_of(tmp_path, max_epochs=20, early_stop_patience=3)
    train(config, tmp_path / "run", progress=reports.append)
    assert len(rows_of(tmp_path / "run")) == 3 + 3
    message = (
        "stopped early after epoch 6: the validation loss has not fallen for 3 epochs "
        "(early_stop_patience)"
    )
    assert [(r.epoch, r.message) for r in reports if r.message] == [(6, message)]
    assert torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)["epoch"] == 2
    reports.clear()
    train(config, tmp_path / "run", resume=True, progress=reports.append)
    assert [(r.epoch, r.message) for r in reports] == [(6, message)]
    assert len(rows_of(tmp_path / "run")) == 6


def test_a_second_stage_is_reached_before_a_training_stops(tmp_path, monkeypatch):
    worse_from(0, monkeypatch)
    stage = {"start_epoch": 4, "energy_weight": 10.0}
    config = config_of(tmp_path, max_epochs=20, early_stop_patience=1, stage_two=stage)
    train(config, tmp_path / "run")
    assert len(rows_of(tmp_path / "run")) == 4 + 2


def test_the_learning_rate_falls_after_one_epoch_more_than_are_waited_for(tmp_path, monkeypatch):
    worse_from(0, monkeypatch)
    config = config_of(tmp_path, max_epochs=5, plateau_patience=2, plateau_factor=0.5)
    train(config, tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in rows_of(tmp_path / "run")]
    assert rates == pytest.approx([rates[0]] * 4 + [0.5 * rates[0]])


def test_small_learning_rates_fall_to_their_minimum_too(tmp_path, monkeypatch):
    worse_from(0, monkeypatch)
    options = {"learning_rate": 5e-8, "min_learning_rate": 4e-8}
    config = config_of(tmp_path, max_epochs=4, plateau_patience=0, plateau_factor=0.9, **options)
    train(config, tmp_path / "run")
    rates = [float(row["learning_rate"]) for row in rows_of(tmp_path / "run")]
    assert rates == pytest.approx([5e-8, 5e-8, 4.5e-8, 4.05e-8], rel=1e-5)


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_resumed_run_with_warm_up_and_patience_equals_an_uninterrupted_one(schedule, tmp_path):
    options = {"warmup_steps": 7, "early_stop_patience": 2, "amsgrad": False}
    if schedule == "plateau":
        options["plateau_patience"] = 0
    config = config_of(tmp_path, max_epochs=5, schedule=schedule, **options)
    assert_resumes_exactly(config, tmp_path)


def test_patience_goes_on_where_a_run_was_interrupted(tmp_path, monkeypatch):
    worse_from(1, monkeypatch)
    config = config_of(tmp_path, max_epochs=20, early_stop_patience=3)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=_interrupt_in_the_fourth_epoch)
    train(config, tmp_path / "run", resume=True)
    assert len(rows_of(tmp_path / "run")) == 2 + 3


def _interrupt_in_the_fourth_epoch(report) -> None:
    if (report.epoch, report.batch) == (3, 1):
        raise KeyboardInterrupt
