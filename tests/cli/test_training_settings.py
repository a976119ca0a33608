"""``eqcalc train --set`` and ``--help-config``."""

from __future__ import annotations

from dataclasses import fields

import pytest
from command_line import run
from trainings import COMMENTED_FILE

from eqcalc.cli.config_help import key_meanings
from eqcalc.training.config import OF_NO_FILE, SECTIONS, TrainingConfig


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "train.toml"
    path.write_text(COMMENTED_FILE)
    return path


def test_several_keys_are_set_for_one_run(file, capsys):
    words = ["--set", "training.max_epochs=2", "--set", "training.batch_size=4"]
    assert run("train", file, *words, "-o", "run") == 0
    assert "epoch 2/2" in capsys.readouterr().out
    assert "max_epochs = 2\nbatch_size = 4\n" in (file.parent / "run" / "train.toml").read_text()


def test_an_unknown_key_is_refused_before_anything_is_made(file, capsys):
    assert run("train", file, "--set", "training.max_epoch=2") == 2
    assert "Did you mean 'max_epochs'?" in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["train.toml"]


@pytest.mark.parametrize("options", [TrainingConfig, *SECTIONS.values()])
def test_every_key_of_a_training_file_has_a_meaning(options):
    known = {field.name for field in fields(options)}
    assert known - set(key_meanings(options)) == set()


def test_help_lists_every_key_of_every_section_on_eighty_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert run("train", "--help-config") == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    whole = "\n".join(lines)
    for name, options in SECTIONS.items():
        part = whole.partition(f"\n[{name}]  ")[2].partition("\n[")[0]
        for field in fields(options):
            assert f"\n  {field.name}: " in part or f"{name}.{field.name}" in SECTIONS, field.name
    for field in fields(TrainingConfig):
        if field.name not in (*OF_NO_FILE, *SECTIONS, "architecture"):
            assert f"\n  {field.name}: " in whole.partition("\n[")[0]
    assert '\n  schedule: string = "plateau"\n      "plateau" (factor and patience' in whole
    assert "\n  path: string or array, required\n" in whole
    assert '\n[architecture]  with name = "painn"\n  embedding_dim: integer = 128\n' in whole
