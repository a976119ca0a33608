"""Trainings in several processes, which share the frames of every batch."""

from __future__ import annotations

import multiprocessing
import os
import signal

import pytest
import torch
from small_models import ETHANOL_FRAMES
from trainings import (
    DATA,
    config_of,
    crystal_file,
    interrupt_in_the_third_epoch,
    rows_of,
    weights_of,
)

from eqcalc.data import read_dataset
from eqcalc.data.batches import labelled_graphs
from eqcalc.errors import ConfigError, DeviceError, NonFiniteError, OutputError, ProcessError
from eqcalc.training.batch_options import BatchOptions
from eqcalc.training.config import read_config
from eqcalc.training.loaders import training_batches
from eqcalc.training.run import train
from eqcalc.training.team import Team
from eqcalc.training.training_options import TrainingOptions


def config(folder, data=None, **options):
    """Return a training in float64, where sums in another order differ by little."""
    config_of(folder, data, **options)
    path = folder / "train.toml"
    path.write_text('dtype = "float64"\n' + path.read_text())
    return read_config(path)


# --- without other processes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": 0}, "devices must be an integer >= 1, found 0"),
        ({"devices": "2"}, r"devices in \[training\] must be an integer, found '2'"),
        ({"accelerator": "gpu"}, "accelerator must be one of auto, cpu, cuda, found 'gpu'"),
    ],
)
def test_wrong_options_of_devices_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**options)


def test_more_processes_than_cores_are_refused_before_a_run_begins(tmp_path):
    with pytest.raises(
        DeviceError, match=r"devices = 5000 .* has \d+ processor cores; set devices"
    ):
        train(config_of(tmp_path, devices=5000, accelerator="cpu"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_gpu_that_is_not_there_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        DeviceError, match=r'accelerator = "cuda" .* finds no CUDA device here; say'
    ):
        train(config_of(tmp_path, accelerator="cuda"), tmp_path / "run")


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert TrainingOptions(devices=2).device_of(1) == torch.device("cuda", 1)
    with pytest.raises(DeviceError, match=r"devices = 3 .* has 2 CUDA devices; set devices = 2 or"):
        TrainingOptions(devices=3).device_of(0)


@pytest.mark.parametrize("bound", [{"batch_size": 3}, {"batch_atoms": 20}])
def test_shares_of_a_batch_are_together_the_batch_and_no_frame_comes_twice(bound):
    frames = read_dataset(ETHANOL_FRAMES, rows="0:5").frames
    graphs = labelled_graphs(frames, 4.0)
    whole = training_batches(graphs, BatchOptions(**bound), seed=1)
    parts = [
        training_batches(graphs, BatchOptions(**bound), seed=1, team=Team(rank, 3))
        for rank in range(3)
    ]
    assert len({part.batch_sampler.n_batches for part in (whole, *parts)}) == 1
    n_empty = 0
    for batch, *shares in zip(whole, *parts, strict=True):
        real = [share for share in shares if not share.energy.isnan().any()]
        n_empty += len(shares) - len(real)
        energies = torch.cat([share.energy for share in real]).tolist()
        assert sorted(energies) == sorted(batch.energy.tolist())
    assert n_empty > 0


def test_added_gradients_lie_in_memory_as_their_weights_do(monkeypatch):
    """Of a weight that is a transpose, AdamW's fused step would move others than it should."""
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda values: None)
    weight = torch.nn.Parameter(torch.zeros(3, 2).T)
    gradient = torch.tensor([[-1.0, 1.0, -1.0], [1.0, 1.0, -1.0]])
    weight.grad = torch.empty_like(weight).copy_(gradient)
    optimizer = torch.optim.AdamW([weight], 1.0, weight_decay=0.0, fused=True)
    Team(0, 2).add_gradients([weight])
    optimizer.step()
    assert torch.equal(weight.detach().sign(), -gradient)


# --- with two processes on the CPU ------------------------------------------------------


def assert_equal_runs(found, expected) -> None:
    """Weights, moments of the optimiser and averages differ by the order of sums alone."""
    for key in ("state_dict", "current_model_state"):
        one, other = (weights_of(run / "last.ckpt", key) for run in (found, expected))
        for name, value in other.items():
            torch.testing.assert_close(
                one[name], value, rtol=1e-8, atol=1e-10, equal_nan=True, msg=name
            )
    for row, other_row in zip(rows_of(found), rows_of(expected), strict=True):
        assert row == pytest.approx(other_row, rel=2e-6)  # written with six digits


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["mse", "huber"])
def test_two_processes_train_what_one_does(loss, tmp_path):
    """Batches of 3 of 4 frames: shares of two and one frames, then of one and none."""
    options = {"batch_size": 3, "max_epochs": 4, "loss": loss, "warmup_steps": 3}
    train(config(tmp_path, **options), tmp_path / "one")
    train(config(tmp_path, devices=2, accelerator="cpu", **options), tmp_path / "two")
    assert_equal_runs(tmp_path / "two", tmp_path / "one")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_two_processes_train_on_stress_and_sizes_as_one_does(tmp_path):
    data = {"path": str(crystal_file(tmp_path, 5)), "train_rows": "0:4", "validation_rows": "4:5"}
    options = {"batch_size": None, "batch_atoms": 100, "max_epochs": 3, "stress_weight": 100.0}
    options |= {"schedule": "plateau", "plateau_patience": 0, "early_stop_patience": 5}
    train(config(tmp_path, data, **options), tmp_path / "one")
    train(config(tmp_path, data, devices=2, accelerator="cpu", **options), tmp_path / "two")
    assert_equal_runs(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "soap"])
def test_a_run_of_two_processes_is_interrupted_and_resumed_bit_by_bit(optimizer, tmp_path):
    two = config_of(tmp_path, max_epochs=4, devices=2, accelerator="cpu", optimizer=optimizer)
    train(two, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(two, tmp_path / "parts", progress=interrupt_in_the_third_epoch)
    assert multiprocessing.active_children() == []
    train(two, tmp_path / "parts", resume=True)
    assert rows_of(tmp_path / "parts") == rows_of(tmp_path / "whole")
    found, expected = (weights_of(tmp_path / n / "last.ckpt") for n in ("parts", "whole"))
    assert all(torch.equal(found[k].nan_to_num(), v.nan_to_num()) for k, v in expected.items())


@pytest.mark.slow
def test_a_training_that_diverges_in_two_processes_ends_with_one_error(tmp_path):
    two = config_of(tmp_path, learning_rate=1e30, devices=2, accelerator="cpu")
    with pytest.raises(NonFiniteError, match=r"diverged in epoch 1: the training loss is"):
        train(two, tmp_path / "run")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_killed_process_ends_the_training_with_an_error_that_names_it(tmp_path):
    def kill(report) -> None:
        if (report.epoch, report.batch) == (1, 1):
            (other,) = multiprocessing.active_children()
            os.kill(other.pid, signal.SIGKILL)

    n_threads = torch.get_num_threads()
    two = config_of(tmp_path, max_epochs=400, devices=2, accelerator="cpu")
    with pytest.raises(
        ProcessError, match=r"process 2 of 2 ended \(signal 9\) before .*resume=True"
    ):
        train(two, tmp_path / "run", progress=kill)
    assert multiprocessing.active_children() == []
    assert torch.get_num_threads() == n_threads
    assert not torch.distributed.is_initialized()
    one = config_of(tmp_path, max_epochs=3)  # another number of processes may go on
    train(one, tmp_path / "run", resume=True)


@pytest.mark.slow
def test_what_another_process_cannot_read_is_raised_here(tmp_path, monkeypatch):
    """The file goes away after the first process has read it."""
    import shutil

    import eqcalc.training.run as run

    shutil.copy(ETHANOL_FRAMES, tmp_path / "frames.xyz")
    two = config_of(tmp_path, DATA | {"path": "frames.xyz"}, devices=2, accelerator="cpu")
    build = run.build_job

    def build_and_remove(*arguments, **options):
        job = build(*arguments, **options)
        checksums = {"sha256": {str(tmp_path / "frames.xyz"): ""}}
        monkeypatch.setattr(run, "data_checksums", lambda _: checksums)
        (tmp_path / "frames.xyz").unlink()
        return job

    monkeypatch.setattr(run, "build_job", build_and_remove)
    from eqcalc.errors import DataError

    with pytest.raises(DataError, match=r"data file .*frames\.xyz does not exist"):
        train(two, tmp_path / "run")
    assert multiprocessing.active_children() == []


@pytest.mark.slow
def test_a_full_disk_ends_both_processes(tmp_path, monkeypatch):
    import errno

    from lightning.pytorch import Trainer

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Trainer, "save_checkpoint", full)
    with pytest.raises(OutputError, match="No space left on device"):
        train(config_of(tmp_path, devices=2, accelerator="cpu"), tmp_path / "run")
    assert multiprocessing.active_children() == []
