"""What a training's folder keeps: checksums, versions, a log, and pictures at its end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil

import ase.io
import matplotlib.image
import numpy as np
import pytest
import torch
from small_models import ETHANOL_FRAMES
from test_training import write_config
from trainings import (
    DATA,
    config_of,
    crystal_file,
    interrupt_in_the_third_epoch,
    metrics_of,
)

from eqcalc.data import read_dataset
from eqcalc.data.batches import collate, labelled_graphs
from eqcalc.engines import load_model
from eqcalc.errors import (
    ConfigError,
    DataError,
    DataWarning,
    MissingDependencyError,
    NonFiniteError,
    OutputError,
    OutputExistsError,
    OutputLostError,
)
from eqcalc.evaluation import evaluate
from eqcalc.training.checkpoints import read_checkpoint, whole_epoch
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.pictures import compare_with_labels, learning_curve
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder, read_config_of_run

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00  (.*)")


def log_of(run) -> list[str]:
    """Return the lines of a run's log, without their times."""
    found = [LINE.fullmatch(line) for line in (run / "train.log").read_text().splitlines()]
    return [each[1] for each in found]


def test_the_manifest_says_which_data_and_versions_a_model_comes_from(tmp_path):
    train(config_of(tmp_path, max_epochs=1), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    digest = hashlib.sha256(ETHANOL_FRAMES.read_bytes()).hexdigest()
    assert manifest["data"]["sha256"] == {str(ETHANOL_FRAMES.resolve()): digest}
    assert set(manifest["versions"]) == {"eqcalc", "torch", "ase", "numpy", "lightning"}
    assert manifest["versions"]["torch"] == torch.__version__


def test_data_that_have_changed_are_refused_on_resuming(tmp_path):
    shutil.copy(ETHANOL_FRAMES, tmp_path / "frames.xyz")
    data = DATA | {"path": "frames.xyz"}
    train(config_of(tmp_path, data, max_epochs=1), tmp_path / "run")
    text = (tmp_path / "frames.xyz").read_text()
    (tmp_path / "frames.xyz").write_text(text.replace("0.", "0.0", 1))
    config = config_of(tmp_path, data, max_epochs=2)
    with pytest.raises(
        ConfigError, match=r"cannot be resumed: [^,]*frames\.xyz has changed, come or gone since"
    ):
        train(config, tmp_path / "run", resume=True)
    (tmp_path / "frames.xyz").write_text(text)
    train(config, tmp_path / "run", resume=True)


def test_a_file_that_a_pattern_finds_since_is_refused_on_resuming(tmp_path):
    shutil.copy(ETHANOL_FRAMES, tmp_path / "a.xyz")
    data = DATA | {"path": "*.xyz"}
    train(config_of(tmp_path, data, max_epochs=1), tmp_path / "run")
    shutil.copy(ETHANOL_FRAMES, tmp_path / "b.xyz")
    config = config_of(tmp_path, data, max_epochs=2)
    with pytest.raises(ConfigError, match=r"cannot be resumed: [^,]*b\.xyz has changed, come or"):
        train(config, tmp_path / "run", resume=True)


def test_data_that_have_changed_are_refused_on_exporting(tmp_path):
    """In another order the rows that are judged may be those that were trained on."""
    shutil.copy(ETHANOL_FRAMES, tmp_path / "frames.xyz")
    train(config_of(tmp_path, DATA | {"path": "frames.xyz"}, max_epochs=1), tmp_path / "run")
    frames = ase.io.read(tmp_path / "frames.xyz", index=":")
    ase.io.write(tmp_path / "frames.xyz", frames[::-1])
    match = (
        r"cannot be exported: [^,]*frames\.xyz has changed, .* Put back what there was, or start"
    )
    with pytest.raises(ConfigError, match=match):
        export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    assert not (tmp_path / "model").exists()
    shutil.copy(ETHANOL_FRAMES, tmp_path / "frames.xyz")
    export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")


@pytest.mark.parametrize("name", ["train.csv", "train.txt", "TRAIN.CSV"])
def test_rows_of_a_file_that_has_changed_are_refused(name, tmp_path):
    rows = tmp_path / name
    rows.write_text("0\n1\n2\n3\n")
    data = DATA | {"train_rows": name}
    train(config_of(tmp_path, data, max_epochs=1), tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    digest = hashlib.sha256(rows.read_bytes()).hexdigest()
    assert manifest["data"]["sha256 of rows"] == {str(rows.resolve()): digest}
    config = config_of(tmp_path, data, max_epochs=2)
    rows.write_text("0\n1\n2\n")
    with pytest.raises(ConfigError, match=rf"cannot be resumed: [^,]*{name} has changed, come or"):
        train(config, tmp_path / "run", resume=True)
    with pytest.raises(ConfigError, match=rf"cannot be exported: [^,]*{name} has changed, come or"):
        export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    rows.unlink()
    with pytest.raises(DataError, match=rf"cannot read '.*{name}': No such file"):
        train(config, tmp_path / "run", resume=True)
    rows.write_text("0\n1\n2\n3\n")
    del manifest["data"]["sha256 of rows"]  # as older versions wrote it
    path.write_text(json.dumps(manifest))
    train(config, tmp_path / "run", resume=True)


def test_a_run_whose_data_have_moved_is_resumed(tmp_path):
    for folder in ("before", "after"):
        (tmp_path / folder).mkdir()
        shutil.copy(ETHANOL_FRAMES, tmp_path / folder / "frames.xyz")
    data = DATA | {"path": "frames.xyz"}
    train(config_of(tmp_path / "before", data, max_epochs=1), tmp_path / "run")
    config = config_of(tmp_path / "after", data, max_epochs=2)
    train(config, tmp_path / "run", resume=True)
    (tmp_path / "after" / "frames.xyz").write_text("")
    config = config_of(tmp_path / "after", data, max_epochs=3)
    with pytest.raises(ConfigError, match=r"after/frames\.xyz has changed"):
        train(config, tmp_path / "run", resume=True)


def test_a_finished_run_whose_project_has_moved_is_exported(tmp_path):
    (tmp_path / "here").mkdir()
    shutil.copy(ETHANOL_FRAMES, tmp_path / "here" / "frames.xyz")
    data = DATA | {"path": "frames.xyz"}
    path = write_config(tmp_path / "here", data__path="frames.xyz", training__max_epochs=1)
    run = tmp_path / "here" / "runs" / "m"
    train(read_config(path), run)
    assert read_config_of_run(run / "train.toml").folder == tmp_path / "here"
    (tmp_path / "here").rename(tmp_path / "there")
    path, run = tmp_path / "there" / path.name, tmp_path / "there" / "runs" / "m"
    with pytest.raises(
        DataError, match=r"here/frames\.xyz does not exist .*was moved, .* --resume"
    ):
        export_run(TrainingFolder(run), tmp_path / "model")
    before = (run / "last.ckpt").read_bytes()
    train(read_config(path), run, resume=True)
    assert (run / "last.ckpt").read_bytes() == before
    assert read_config_of_run(run / "train.toml").data.path == data["path"]
    export_run(TrainingFolder(run), tmp_path / "model")
    assert (tmp_path / "model" / "model.pt").is_file()


def test_a_run_is_exported_though_the_folder_of_its_file_is_gone(tmp_path):
    (tmp_path / "here").mkdir()
    shutil.copy(ETHANOL_FRAMES, tmp_path / "frames.xyz")
    options = {"data__path": str(tmp_path / "frames.xyz"), "training__max_epochs": 1}
    train(read_config(write_config(tmp_path / "here", **options)), tmp_path / "run")
    shutil.rmtree(tmp_path / "here")
    export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")


@pytest.mark.parametrize("manifest", [None, '{"name": "a page of the web"}', "[]", "{"])
def test_a_training_file_beside_no_run_has_paths_of_its_own_folder(manifest, tmp_path):
    path = write_config(tmp_path)
    if manifest is not None:
        (tmp_path / "manifest.json").write_text(manifest)
    assert read_config_of_run(path).folder == tmp_path


@pytest.mark.parametrize(
    "name", ["train.toml", "network.py", "start.pt", "metrics.csv", "best.ckpt", "tensorboard/old"]
)
def test_files_of_a_user_where_a_run_would_begin_are_refused(name, tmp_path):
    """They are no run's: without a word they would be removed or replaced."""
    file = tmp_path / "here" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    config = read_config(write_config(tmp_path, training__max_epochs=1))
    first = name.partition("/")[0]
    with pytest.raises(OutputExistsError, match=rf"here/{first}' exists; pass overwrite=True"):
        train(config, tmp_path / "here")
    assert file.read_text() == "mine"


def test_a_run_begins_beside_its_training_file_which_stays_as_it_is(tmp_path):
    path = write_config(tmp_path, training__max_epochs=1)
    text = path.rename(tmp_path / "train.toml").read_text()
    changed = read_config(tmp_path / "train.toml", overrides=["training.max_epochs=2"])
    with pytest.raises(OutputExistsError, match=r"train\.toml' exists; pass overwrite=True"):
        train(changed, tmp_path)
    train(read_config(tmp_path / "train.toml"), tmp_path)
    assert (tmp_path / "train.toml").read_text() == text


def test_a_finished_run_without_its_best_checkpoint_is_not_called_done(tmp_path):
    config = config_of(tmp_path, max_epochs=1)
    train(config, tmp_path / "run")
    (tmp_path / "run" / "best.ckpt").unlink()
    with pytest.raises(OutputLostError, match=r"best\.ckpt' was removed"):
        train(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize("options", [{"overwrite": True}, {"resume": True}])
def test_a_folder_in_which_a_training_runs_is_not_taken(options, tmp_path):
    config = config_of(tmp_path, max_epochs=1)
    train(config, tmp_path / "run")
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    more = config_of(tmp_path, max_epochs=2)
    with (
        TrainingFolder(tmp_path / "run").held(),
        pytest.raises(OutputExistsError, match=r"another training is running in '.*run'; wait"),
    ):
        train(more, tmp_path / "run", **options)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before
    train(more, tmp_path / "run", **options)
    assert not (tmp_path / "run" / ".in_use").exists()


def test_a_warm_up_that_never_ends_is_said(tmp_path):
    with pytest.warns(DataWarning, match=r"warmup_steps = 100, and the whole training has \d+ st"):
        train(config_of(tmp_path, max_epochs=1, warmup_steps=100), tmp_path / "run")
    assert any("never reached" in line for line in log_of(tmp_path / "run"))


def test_a_moved_run_keeps_its_best_checkpoint_on_resuming(tmp_path):
    options = {"learning_rate": 0.1, "ema_decay": 1e-6}  # the second epoch is the best
    train(config_of(tmp_path, max_epochs=2, **options), tmp_path / "begun")
    shutil.copytree(tmp_path / "begun", tmp_path / "kept")
    (tmp_path / "begun").rename(tmp_path / "moved")
    config = config_of(tmp_path, max_epochs=4, **options)
    for name in ("kept", "moved"):
        train(config, tmp_path / name, resume=True)
        losses = [row["validation_loss"] for row in metrics_of(tmp_path / name)]
        best = whole_epoch(tmp_path / name / "best.ckpt")
        assert best == int(np.argmin(losses)) + 1
        assert best <= 2, losses  # else the test shows nothing
    # A second move, of a run whose last checkpoint was written where it had gone to.
    (tmp_path / "moved").rename(tmp_path / "again")
    train(config_of(tmp_path, max_epochs=6, **options), tmp_path / "again", resume=True)
    assert whole_epoch(tmp_path / "again" / "best.ckpt") == best


def test_a_checkpoint_of_lightning_s_own_class_keeps_its_best_score(tmp_path):
    """As older versions wrote them: a class of another name would not find its state."""
    train(config_of(tmp_path, max_epochs=1), tmp_path / "run")
    states = read_checkpoint(tmp_path / "run" / "last.ckpt")["callbacks"]
    assert sum(key.startswith("ModelCheckpoint{") for key in states) == 2


def test_a_resumed_run_keeps_the_time_of_its_beginning(tmp_path):
    train(config_of(tmp_path, max_epochs=1), tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    begun = "2001-02-03T04:05:06+00:00"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": begun}))
    train(config_of(tmp_path, max_epochs=2), tmp_path / "run", resume=True)
    manifest = json.loads(path.read_text())
    assert (manifest["started"], manifest["settings"]["training"]["max_epochs"]) == (begun, 2)
    train(config_of(tmp_path, max_epochs=1), tmp_path / "run", overwrite=True)
    assert json.loads(path.read_text())["started"] > begun


def test_the_log_has_a_line_of_every_epoch_of_both_parts_of_a_resumed_run(tmp_path):
    config = config_of(tmp_path, max_epochs=4)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=interrupt_in_the_third_epoch)
    first = log_of(tmp_path / "run")
    assert first[0].startswith("started: tiny, painn with ")
    assert " parameters, on frames: 4 training, 2 validation; eqcalc " in first[0]
    assert first[-1] == "interrupted"
    train(config, tmp_path / "run", resume=True)
    lines = log_of(tmp_path / "run")
    assert lines[: len(first)] == first
    assert lines[len(first)].startswith("resumed: tiny")
    epochs = [line.partition("  ")[0] for line in lines if line.startswith("epoch ")]
    assert epochs == ["epoch 1/4", "epoch 2/4", "epoch 3/4", "epoch 4/4"]
    assert "validation_forces_mae_mev_per_a" in next(x for x in lines if x.startswith("epoch 4"))
    assert lines[-1] == "complete"


def test_the_log_says_why_a_training_failed(tmp_path):
    with pytest.raises(NonFiniteError):
        train(config_of(tmp_path, learning_rate=1e30), tmp_path / "run")
    assert re.match(
        r"failed: NonFiniteError: the training diverged in ep", log_of(tmp_path / "run")[-1]
    )


def test_a_replaced_run_leaves_no_log_and_no_picture(tmp_path):
    train(config_of(tmp_path, max_epochs=1), tmp_path / "run")
    with pytest.raises(NonFiniteError):
        train(config_of(tmp_path, learning_rate=1e30), tmp_path / "run", overwrite=True)
    assert len([line for line in log_of(tmp_path / "run") if line.startswith("started")]) == 1
    assert not list((tmp_path / "run").glob("*.png"))


def test_pictures_are_drawn_at_the_end_of_a_training(tmp_path):
    data = {"path": str(crystal_file(tmp_path)), "train_rows": "0:2", "validation_rows": "2:3"}
    config = config_of(tmp_path, data, max_epochs=3, stress_weight=100.0)
    train(config, tmp_path / "run")
    for name, panels in (("learning_curve", 5), ("parity", 3)):
        image = matplotlib.image.imread(tmp_path / "run" / f"{name}.png")
        assert image[..., :3].std() > 0.05
        shape = image.shape[:2]
        assert shape[0 if name == "learning_curve" else 1] > 250 * panels


def test_the_parity_picture_shows_what_the_best_checkpoint_predicts(tmp_path):
    path = crystal_file(tmp_path)
    data = {"path": str(path), "train_rows": "0:2", "validation_rows": "2:3"}
    train(config_of(tmp_path, data, max_epochs=2, stress_weight=100.0), tmp_path / "run")
    run = TrainingFolder(tmp_path / "run")
    frames = read_dataset(path, rows="2:3").frames
    batch = collate(labelled_graphs(frames, 4.0, torch.float32))
    found = compare_with_labels(load_potential(run), [batch], with_stress=True)
    export_run(run, tmp_path / "model")
    expected = evaluate(load_model(tmp_path / "model" / "model.pt", device="cpu"), frames)
    for one, other in zip(found.quantities, expected.quantities, strict=True):
        assert one.name == other.name
        np.testing.assert_allclose(one.expected, other.expected, rtol=1e-12)
        np.testing.assert_allclose(one.predicted, other.predicted, rtol=1e-5, atol=1e-5)


def test_a_name_with_dollar_signs_stands_over_the_pictures(tmp_path):
    config = dataclasses.replace(config_of(tmp_path, max_epochs=1), name=r"for $\x$")
    train(config, tmp_path / "run")  # no formula that matplotlib cannot read
    assert len(list((tmp_path / "run").glob("*.png"))) == 2


def test_a_picture_that_cannot_be_drawn_is_said_and_leaves_the_training_whole(
    tmp_path, monkeypatch
):
    def broken(*_: object) -> bytes:
        raise RuntimeError("no font")

    monkeypatch.setattr("eqcalc.training.run.parity_plot", broken)
    reports = []
    best = train(config_of(tmp_path), tmp_path / "run", progress=reports.append)
    assert best.is_file()
    line = "the pictures could not be drawn (RuntimeError: no font); the checkpoints are whole"
    assert (reports[-1].message, reports[-1].event, reports[-1].epoch) == (line, "end", 2)
    assert log_of(tmp_path / "run")[-2:] == [line, "complete"]


def test_a_disk_that_takes_no_picture_is_an_error(tmp_path, monkeypatch):
    def full(path, *_: object) -> None:
        raise OutputError(f"cannot write '{path}': No space left on device.")

    monkeypatch.setattr("eqcalc.training.run.write_whole", full)
    with pytest.raises(OutputError, match=r"learning_curve\.png': No space left"):
        train(config_of(tmp_path, max_epochs=1), tmp_path / "run")


def test_a_training_without_matplotlib_is_refused_before_it_begins(tmp_path, monkeypatch):
    def absent(*_: object) -> None:
        raise MissingDependencyError("the learning curve of a training needs matplotlib")

    monkeypatch.setattr("eqcalc.training.pictures.import_extra", absent)
    with pytest.raises(MissingDependencyError, match="learning curve of a training needs matplot"):
        train(config_of(tmp_path), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_learning_curve_takes_rows_of_a_run_begun_with_other_columns():
    rows = [{"epoch": "0", "train_loss": "0.5", "validation_loss": ""}]
    rows += [{"epoch": "1", "train_loss": "0.4", "validation_loss": "0.3", "learning_rate": "0.1"}]
    assert learning_curve(rows, "tiny").startswith(b"\x89PNG")


def test_errors_of_old_energies_are_drawn_where_those_of_new_ones_are_of_totals(monkeypatch):
    drawn = []
    monkeypatch.setattr("eqcalc.training.pictures.png_of", drawn.append)
    row = {"validation_loss": 0.3, "validation_energy_mae_mev": 5.0, "learning_rate": 0.1}
    row |= {"validation_forces_mae_mev_per_a": 20.0, "replay_energy_per_atom_mae_mev": 0.7}
    learning_curve([{"epoch": k, **row} for k in range(2)], "tiny")
    shown = {
        axes.get_ylabel(): [line.get_ydata()[0] for line in axes.lines] for axes in drawn[0].axes
    }
    assert 5.0 in shown["energy MAE\n(meV)"]
    assert 0.7 in shown["energy MAE\n(meV/atom)"]
