"""Frozen parts of a fine-tuning."""

from __future__ import annotations

import json
import re

import pytest
import torch
from fine_tunings import config_of, small_potential
from trainings import weights_of

from eqcalc.errors import ConfigError
from eqcalc.training.freezing import freeze
from eqcalc.training.run import train


def test_frozen_parameters_stay_and_others_move(parent, tmp_path):
    config = config_of(tmp_path, freeze='["embedding", "messages.0", "*.out.bias"]')
    reports = []
    train(config, tmp_path / "run", progress=reports.append)
    before = dict(small_potential().named_parameters())
    frozen = {
        name
        for name in before
        if re.match(r"architecture\.(embedding\.|messages\.0\.)|.*\.out\.bias$", name)
    }
    assert 3 < len(frozen) < len(before)
    for name in ("best", "last"):
        for key in ("state_dict", "current_model_state"):
            after = weights_of(tmp_path / "run" / f"{name}.ckpt", key)
            same = {n for n, value in before.items() if torch.equal(after[f"potential.{n}"], value)}
            assert same == frozen
    n_frozen = sum(before[name].numel() for name in frozen)
    n_all = sum(p.numel() for p in before.values())
    said = [report.message for report in reports if report.event == "start"]
    assert any(line.startswith(f"frozen: {n_frozen} of {n_all} parameters") for line in said)
    optimiser = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["optimizer_states"]
    assert len(optimiser[0]["param_groups"][0]["params"]) == len(before) - len(frozen)


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (
            ["embeding"],
            r"freeze: no parameter is called 'embeding'; its parts are embedding, .*messages\.0, .*"
            r"Did you mean 'embedding'\?",
        ),
        (["embedding", "messages.7"], r"no parameter is called 'messages\.7'"),
        (["embed"], "no parameter is called 'embed'"),
        (["*"], r"freeze = \['\*'\] leaves no parameter to train"),
    ],
)
def test_patterns_that_freeze_nothing_or_all_are_refused(patterns, message, parent, tmp_path):
    with pytest.raises(ConfigError, match=message):
        freeze(small_potential(), patterns)
    with pytest.raises(ConfigError, match=message):
        train(config_of(tmp_path, freeze=json.dumps(patterns)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.exhaustive
def test_a_compiled_training_leaves_frozen_parameters_alone(parent, tmp_path):
    runs = {}
    for compiled in ("true", "false"):
        config = config_of(tmp_path, freeze='["embedding", "updates"]', compile=compiled)
        train(config, tmp_path / compiled)
        runs[compiled] = weights_of(tmp_path / compiled / "last.ckpt", "current_model_state")
    before = dict(small_potential().named_parameters())
    for name, value in runs["true"].items():
        torch.testing.assert_close(value, runs["false"][name], rtol=1e-6, atol=1e-8, equal_nan=True)
    name = "architecture.embedding.weight"
    assert torch.equal(runs["true"][f"potential.{name}"], before[name])
