"""Checkpoints that were damaged, folders that go away, and what a training says meanwhile."""

from __future__ import annotations

import errno
import random
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import ase.io
import lightning.pytorch as pl
import pytest
import torch
import trainings
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES
from trainings import DATA

import eqcalc.cli.train as verb
import eqcalc.training.module as training_module
import eqcalc.training.run as training_run
from eqcalc.cli import main
from eqcalc.data import read_dataset
from eqcalc.data.batches import collate, labelled_graphs
from eqcalc.errors import ModelFileError, OutputError, OutputLostError
from eqcalc.training.checkpoints import damage, read_checkpoint, whole_epoch
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.gradients import LossGradients
from eqcalc.training.loss import residuals
from eqcalc.training.reports import Report
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder


def config_of(folder: Path, epochs: int = 2, data: Path = ETHANOL_FRAMES, **options: object):
    return trainings.config_of(folder, DATA | {"path": str(data)}, max_epochs=epochs, **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Return the folder of a run of two epochs."""
    folder = tmp_path_factory.mktemp("trained")
    train(config_of(folder), folder / "run")
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path) -> TrainingFolder:
    """Return a copy of that folder, to be damaged."""
    return TrainingFolder(Path(shutil.copytree(trained, tmp_path / "run")))


def flip_a_weight(path: Path) -> None:
    """Flip one bit in the largest record of a checkpoint."""
    with zipfile.ZipFile(path) as archive:
        weights = [info for info in archive.infolist() if "/data/" in info.filename]
        record = max(weights, key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    lengths = struct.unpack_from("<HH", content, record.header_offset + 26)  # of name and extra
    content[record.header_offset + 30 + sum(lengths) + record.file_size // 2] ^= 0x40
    path.write_bytes(content)


# --- damaged checkpoints ----------------------------------------------------------------


def test_flipped_bit_is_never_read(run):
    whole = torch.load(run.best_checkpoint, weights_only=True)["state_dict"]
    flip_a_weight(run.best_checkpoint)
    found = torch.load(run.best_checkpoint, weights_only=True)["state_dict"]
    assert any(not torch.equal(found[k], whole[k]) for k in whole)  # torch says nothing
    with pytest.raises(ModelFileError, match=r"damaged \(bad checksum of .*data"):
        read_checkpoint(run.best_checkpoint)


def test_bits_flipped_anywhere_change_no_weight(run):
    content = run.best_checkpoint.read_bytes()
    whole = read_checkpoint(run.best_checkpoint)["state_dict"]
    draw = random.Random(5)
    refused = 0
    for _ in range(60):
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        run.best_checkpoint.write_bytes(flipped)
        try:
            found = read_checkpoint(run.best_checkpoint)["state_dict"]
        except ModelFileError:
            refused += 1
            continue
        # padding and dates between the records
        assert all(torch.equal(found[k].nan_to_num(), whole[k].nan_to_num()) for k in whole)
    assert refused > 20


@pytest.mark.parametrize("keep", [0, 1, 1000, -1, -400])
def test_short_checkpoint_is_refused(run, keep):
    run.best_checkpoint.write_bytes(run.best_checkpoint.read_bytes()[:keep])
    assert damage(run.best_checkpoint).startswith("it is damaged or no checkpoint (")
    with pytest.raises(ModelFileError, match=r"best\.ckpt' is not a checkpoint of this run: it is"):
        load_potential(run)


def test_export_of_a_damaged_checkpoint_names_the_other_one(run, tmp_path, capsys):
    flip_a_weight(run.best_checkpoint)
    expected = r"best\.ckpt' is not .*bad checksum.*last\.ckpt' of epoch 2 is whole, .*--checkpoint"
    with pytest.raises(ModelFileError, match=expected):
        export_run(run, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    for words in (["--checkpoint", "best"], ["--checkpoint", "last"]):
        with pytest.raises(SystemExit) as caught:
            main(["export", str(run.path), str(tmp_path / "model"), *words])
        assert caught.value.code == (2 if words[1] == "best" else 0), capsys.readouterr()
    assert (tmp_path / "model" / "model.pt").exists()
    flip_a_weight(run.last_checkpoint)
    with pytest.raises(ModelFileError, match=r"no other whole one, train again"):
        export_run(run, tmp_path / "other")


def test_unknown_checkpoint_is_refused(run, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["export", str(run.path), str(tmp_path / "model"), "--checkpoint", "lst"])
    assert "unknown checkpoint 'lst'; known: best, last. Did you" in capsys.readouterr().err


def test_resuming_from_a_damaged_checkpoint_offers_the_best_one(tmp_path):
    run = TrainingFolder(tmp_path / "run")
    train(config_of(tmp_path), run.path)
    flip_a_weight(run.last_checkpoint)
    config = config_of(tmp_path, epochs=3)
    expected = r"last\.ckpt' is damaged .*copy '.*best\.ckpt', which is whole, over it to go on fr"
    with pytest.raises(ModelFileError, match=expected):
        train(config, run.path, resume=True)
    done = whole_epoch(run.best_checkpoint)
    shutil.copy(run.best_checkpoint, run.last_checkpoint)
    reports = []
    train(config, run.path, resume=True, progress=reports.append)
    assert reports[0].epoch == done
    assert whole_epoch(run.last_checkpoint) == 3


@pytest.mark.parametrize("reason", ["it is gone", "it is damaged"])
def test_training_does_not_go_on_without_its_best_weights(reason, tmp_path):
    run = TrainingFolder(tmp_path / "run")
    train(config_of(tmp_path), run.path)
    if reason == "it is gone":
        run.best_checkpoint.unlink()
    else:
        flip_a_weight(run.best_checkpoint)
    config = config_of(tmp_path, epochs=3)
    with pytest.raises(ModelFileError, match=rf"best\.ckpt' cannot be read, .*{reason}"):
        train(config, run.path, resume=True)
    shutil.copy(run.last_checkpoint, run.best_checkpoint)
    train(config, run.path, resume=True)
    assert whole_epoch(run.best_checkpoint) in (2, 3)


def test_checkpoint_without_an_epoch_is_not_resumed(run, tmp_path):
    torch.save({"state_dict": {}}, run.last_checkpoint)
    run.best_checkpoint.unlink()
    with pytest.raises(ModelFileError, match=r"no epoch in it: 'epoch'; start the run again"):
        train(config_of(tmp_path, epochs=3), run.path, resume=True)


def test_checkpoint_that_holds_no_table_is_refused(tmp_path):
    torch.save([1], tmp_path / "a.ckpt")
    with pytest.raises(ModelFileError, match="it holds a list"):
        read_checkpoint(tmp_path / "a.ckpt")
    with zipfile.ZipFile(tmp_path / "b.ckpt", "w") as archive:
        archive.writestr("a", "b")
    with pytest.raises(ModelFileError, match="file in archive is not in a subdirectory"):
        read_checkpoint(tmp_path / "b.ckpt")
    assert whole_epoch(tmp_path / "gone.ckpt") is None


# --- folders that go away, disks that are full ------------------------------------------


def after(epoch: int, action):
    """Return a progress that calls ``action`` once an epoch has ended."""

    def show(report: Report) -> None:
        if (report.epoch, report.batch) == (epoch, 0):
            action()

    return show


def test_removed_folder_of_a_training_is_an_error(tmp_path):
    folder = tmp_path / "run"
    remove = after(1, lambda: shutil.rmtree(folder))
    with pytest.raises(OutputLostError, match=r"run' was removed during the training; train again"):
        train(config_of(tmp_path, epochs=3), folder, progress=remove)


def test_removed_checkpoint_of_a_training_is_an_error(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    fit = training_run.fit

    def fit_and_remove(*arguments, **options) -> None:
        fit(*arguments, **options)
        (folder / "best.ckpt").unlink()

    monkeypatch.setattr(training_run, "fit", fit_and_remove)
    with pytest.raises(OutputLostError, match=r"best\.ckpt' was removed during the training"):
        train(config_of(tmp_path), folder)


def test_full_disk_ends_a_training_with_an_error(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    fill = after(2, lambda: monkeypatch.setattr(pl.Trainer, "save_checkpoint", full))
    with pytest.raises(OutputError, match=r"cannot write to '.*run': No space left .*resume=True"):
        train(config_of(tmp_path, epochs=3), tmp_path / "run", progress=fill)
    monkeypatch.undo()
    train(config_of(tmp_path, epochs=3), tmp_path / "run", resume=True)
    assert whole_epoch(tmp_path / "run" / "last.ckpt") == 3


def test_callback_s_broken_pipe_passes(tmp_path):
    def lost() -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody reads")

    with pytest.raises(BrokenPipeError, match="nobody reads"):
        train(config_of(tmp_path), tmp_path / "run", progress=after(1, lost))


# --- what is said -----------------------------------------------------------------------


def mixed_sizes(path: Path) -> Path:
    """Write ethanol frames, every second of them as two molecules far apart."""
    frames = []
    for k, atoms in enumerate(ase.io.read(ETHANOL_FRAMES, ":6")):
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        one = Atoms(atoms.numbers, atoms.positions)
        if k % 2:
            other = one.copy()
            other.translate([40.0, 0.0, 0.0])
            one += other
            energy, forces = 2 * energy, [*forces, *forces]
        one.calc = SinglePointCalculator(one, energy=energy, forces=forces)
        frames.append(one)
    ase.io.write(path, frames)
    return path


def test_energies_of_frames_of_several_sizes_are_compared_per_atom(tmp_path):
    reports = []
    data = mixed_sizes(tmp_path / "mixed.xyz")
    train(config_of(tmp_path, 1, data), tmp_path / "run", progress=reports.append)
    metrics = reports[-1].metrics
    assert "validation_energy_mae_mev" not in metrics
    averaged = load_potential(TrainingFolder(tmp_path / "run"))
    frames = read_dataset(data, rows="4:6").frames
    graphs = labelled_graphs(frames, 4.0, torch.float32)
    found = residuals(averaged, collate(graphs), with_stress=False)
    assert metrics["validation_energy_per_atom_mae_mev"] == pytest.approx(
        1e3 * float(found.energy_per_atom.detach().abs().mean()), rel=1e-4
    )
    assert "validation_energy_per_atom_mae_mev" in (tmp_path / "run/metrics.csv").read_text()
    assert verb._values(reports[-1]).startswith(
        f"MAE: E {metrics['validation_energy_per_atom_mae_mev']:.2f} meV/atom  F "
    )


def test_errors_of_total_energies_are_left_out_where_sizes_differ(tmp_path, capsys):
    data = mixed_sizes(tmp_path / "mixed.xyz")
    for rows, shown in (("0:6:2", True), ("0:6", False)):
        with pytest.raises(SystemExit):
            main(["evaluate", "painn-ethanol", str(data), "--rows", rows])
        lines = capsys.readouterr().out.splitlines()
        assert any(line.startswith("energy  ") for line in lines) is shown
        assert any(line.startswith("energy per atom ") for line in lines)
    folder = tmp_path / "run"
    train(config_of(tmp_path, 1, data), folder)
    card = export_run(TrainingFolder(folder), tmp_path / "model").card
    assert "energy_per_atom_mae_mev" in card.errors
    assert "energy_mae_mev" not in card.errors


def test_compilation_is_told_before_and_after(tmp_path, monkeypatch):
    class Eager(LossGradients):
        def __init__(self, potential, weights, compile):
            assert compile
            super().__init__(potential, weights, False)

    monkeypatch.setattr(training_module, "LossGradients", Eager)
    reports = []
    train(config_of(tmp_path, compile=True), tmp_path / "run", progress=reports.append)
    assert [report.event for report in reports[:3]] == ["compiling", "compiled", ""]
    assert {report.event for report in reports[3:]} == {""}
    assert reports[1].seconds > 0
    assert verb._about_compiling(reports[0]).startswith("compiling loss and gradients")
    assert verb._about_compiling(reports[1]).startswith("compiled in ")


def test_times_leave_out_the_compilation(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(verb.time, "monotonic", lambda: now[0])
    clock = verb._EpochClock()
    for seconds, epoch, batch, event in (
        (0, 0, 0, "compiling"),
        (90, 0, 0, "compiled"),
        (90, 0, 1, ""),
        (92, 0, 2, ""),
        (92, 1, 0, ""),
        (96, 2, 0, ""),
    ):
        now[0] = seconds
        clock.note(Report(epoch, 10, batch, 2, {}, event))
    assert clock.per_epoch_s == pytest.approx(3.0)  # two epochs in six seconds
    assert clock.left_s == pytest.approx(24.0)
    line = verb._line_of(Report(2, 10, 0, 2, {}), clock)
    assert line == "epoch 2/10  3 s/epoch  24 s left"


def test_long_epochs_are_told_every_minute(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(verb.time, "monotonic", lambda: now[0])
    verb_display = verb._EpochProgress()
    for batch in range(1, 200):
        now[0] += 1.0
        verb_display.show(Report(0, 5, batch, 1000, {}))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("epoch 0/5, batch 60/1000  17 min/epoch  82 min left")


# --- another network, and a kill in the middle ------------------------------------------


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_channels = 8": "n_channels = 4"}, r"is of .*dim=8.*this run.*dim=4"),
        ({"painn": "schnet"}, r"is of another network: painn .*this run's is schnet"),
    ],
)
def test_a_checkpoint_of_another_network_is_not_resumed(change, reason, run, tmp_path):
    config_of(tmp_path, epochs=3)
    text = (tmp_path / "train.toml").read_text()
    for old, new in change.items():
        text = text.replace(old, new)
    (tmp_path / "train.toml").write_text(text)
    (run.path / "train.toml").write_text(text)  # of a folder that was put together by hand
    with pytest.raises(ModelFileError, match=rf"last\.ckpt' {reason}"):
        train(read_config(tmp_path / "train.toml"), run.path, resume=True)


KILLED_WHILE_SAVING = """
import os, signal, sys
from pathlib import Path
from fsspec.implementations.local import LocalFileOpener
from eqcalc.training.config import read_config
from eqcalc.training.run import train

write, n_saved = LocalFileOpener.write, 0

def half(self, content):
    global n_saved
    n_saved += self.path.endswith(".ckpt")
    if n_saved == int(sys.argv[3]):
        write(self, content[: len(content) // 2])
        self.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, content)

LocalFileOpener.write = half
train(read_config(Path(sys.argv[1])), Path(sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("n_saved", [3, 4])  # best and last of the second epoch
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_one_before(n_saved, tmp_path):
    config = config_of(tmp_path, epochs=3)
    train(config, tmp_path / "whole")
    words = [sys.executable, "-c", KILLED_WHILE_SAVING, tmp_path / "train.toml", tmp_path / "run"]
    done = subprocess.run([*map(str, words), str(n_saved)], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    run = TrainingFolder(tmp_path / "run")
    assert whole_epoch(run.last_checkpoint) == 1
    assert whole_epoch(run.best_checkpoint) is not None
    train(config, run.path, resume=True)
    found, expected = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True)["state_dict"]
        for name in ("run", "whole")
    )
    assert all(torch.equal(found[k].nan_to_num(), expected[k].nan_to_num()) for k in expected)
