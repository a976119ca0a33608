"""Keys of a training file that are set for one run, and the file that is kept of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainings import COMMENTED_FILE

from eqcalc.errors import ConfigError
from eqcalc.training.config import read_config, tomllib
from eqcalc.training.finish import export_run
from eqcalc.training.overrides import to_toml, with_overrides
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "train.toml"
    path.write_text(COMMENTED_FILE)
    return path


def test_values_are_read_as_toml_and_bare_words_as_strings(file):
    settings = [
        "training.max_epochs=5",
        "training.learning_rate = 2e-3",
        "training.schedule=cosine",
        "data.path=['a.xyz', \"b.xyz\"]",
        "data.trust_data=true",
        "data.reference_energies.H=-13.6",
        "name=other=name",
    ]
    config = read_config(file, overrides=settings)
    assert (config.training.max_epochs, config.training.learning_rate) == (5, 0.002)
    assert (config.training.schedule, config.name) == ("cosine", "other=name")
    assert list(config.data.path) == ["a.xyz", "b.xyz"]
    assert config.data.trust_data is True
    assert config.data.reference_energies == {"H": -13.6}


def test_what_toml_takes_for_a_date_or_a_time_is_a_string(file):
    config = read_config(file, overrides=["name=2026-11-30", "data.train_rows=10:50:20"])
    assert (config.name, config.data.train_rows) == ("2026-11-30", "10:50:20")


def test_the_last_of_two_settings_counts(file):
    config = read_config(file, overrides=["seed=1", "seed=2"])
    assert config.seed == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("training.max_epoch=5", r"unknown key 'max_epoch' in \[training\].*mean 'max_epochs'\?"),
        ("trainig.max_epochs=5", r"unknown key 'trainig' in .*Did you mean 'training'\?"),
        ("architecture.n_chanels=5", r"unknown key 'n_chanels' in \[architecture\]; known: n_ch"),
        ("training.max_epochs", r"section\.key=value, such as .*found 'training\.max_epochs'"),
        ("training..x=1", r"section\.key=value, .*found 'training\.\.x=1'"),
        ("=1", r"section\.key=value, .*found '=1'"),
        ("name.x=1", r"cannot set 'name\.x': 'name' is no table, it is 'tiny'"),
        ("training.max_epochs.x=1", r"'training\.max_epochs' is no table, it is 3"),
        ("training.max_epochs=5O", r"max_epochs in \[training\] must be an integer, found '5O'"),
        ("training.max_epochs=5\nseed=1", r"must be an integer, found '5\\nseed=1'"),
        (
            "training={max_epochs=5}",
            r"replace the whole table of \d+ keys: .* one by one, such as training\.\w+=\.\.\.",
        ),
        ("training=5", r"\[training\] of .* must be a table, found 5"),
    ],
)
def test_a_wrong_setting_is_refused(setting, message, file):
    with pytest.raises(ConfigError, match=message):
        read_config(file, overrides=[setting])


def test_settings_do_not_change_what_they_are_given():
    content = {"training": {"max_epochs": 3}}
    with_overrides(content, ["training.max_epochs=5"])
    assert content == {"training": {"max_epochs": 3}}


_VALUES = st.recursive(
    st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.text('ab.é "\n', min_size=1), _VALUES, max_size=4))
def test_what_is_written_as_toml_is_read_as_the_same(content):
    assert tomllib.loads(to_toml(content)) == content


def test_a_run_keeps_the_file_as_it_was_in_effect(file, tmp_path):
    settings = ["training.max_epochs=1", "training.batch_size=4"]
    config = read_config(file, overrides=settings)
    train(config, tmp_path / "run")
    text = (tmp_path / "run" / "train.toml").read_text()
    assert text.startswith(f'# train.toml with {", ".join(settings)}\n\nname = "tiny"\n')
    begun = TrainingFolder(tmp_path / "run").read_config()
    assert begun.training == config.training
    assert begun.data == config.data
    kept = json.loads((tmp_path / "run" / "manifest.json").read_text())["settings"]
    assert kept["training"]["batch_size"] == 4
    assert kept["training"]["ema_decay"] == 0.999  # a default, which may be another one later
    export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    assert (tmp_path / "model" / "train.toml").read_text() == text


def test_a_setting_of_several_lines_leaves_a_file_that_can_be_read(file, tmp_path):
    config = read_config(file, overrides=["description=one\ntwo = 2", "seed=4"])
    (tmp_path / "kept.toml").write_text(config.text)
    assert config.text.startswith(r"# train.toml with 'description=one\ntwo = 2', seed=4")
    kept = read_config(tmp_path / "kept.toml")
    assert (kept.description, kept.seed) == ("one\ntwo = 2", 4)


def test_a_file_without_settings_is_kept_as_it_is(file, tmp_path):
    file.write_bytes(COMMENTED_FILE.replace("\n", "\r\n").encode())
    train(read_config(file, overrides=[]), tmp_path / "run")
    assert (tmp_path / "run" / "train.toml").read_bytes() == file.read_bytes()


def test_resuming_needs_the_same_settings(file, tmp_path):
    train(read_config(file, overrides=["training.max_epochs=1", "seed=5"]), tmp_path / "run")
    with pytest.raises(ConfigError, match="cannot be resumed with another seed"):
        train(read_config(file), tmp_path / "run", resume=True)
    train(read_config(file, overrides=["seed=5"]), tmp_path / "run", resume=True)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 1 + 3
