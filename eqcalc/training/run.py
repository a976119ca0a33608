"""One training run: a folder with its configuration, metrics and checkpoints."""

from __future__ import annotations

import pickle
import signal
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.loggers import TensorBoardLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Sampler
from torch.utils.data import Dataset as TorchDataset

from eqcalc.data import Dataset, force_rms, read_dataset, reference_energies
from eqcalc.data.batches import LabelledGraph, collate, labelled_graphs
from eqcalc.errors import ConfigError, DataError, ModelFileError, OutputExistsError, listing
from eqcalc.potential import Potential
from eqcalc.training.config import TrainingConfig
from eqcalc.training.module import PotentialModule
from eqcalc.training.network import build_network, complete_architecture
from eqcalc.training.reports import MetricsFile, Progress
from eqcalc.training.run_folder import EVENTS, RunFolder

__all__ = [
    "TrainingData",
    "build_potential",
    "label_options",
    "read_training_data",
    "rows_of",
    "train",
]


# Warnings of Lightning that mean nothing here: the folder is meant to hold the run, the graphs
# are ready in memory, and the last one is between Lightning and torch.
_EXPECTED_WARNINGS = (
    "Checkpoint directory .* exists and is not empty",
    r"The '\w+_dataloader' does not have many workers",
    r".*isinstance\(treespec, LeafSpec\)",
)


class TrainingData(NamedTuple):
    """Training and validation frames of a configuration."""

    train: Dataset
    validation: Dataset


def read_training_data(config: TrainingConfig) -> TrainingData:
    """Read the frames of a configuration.

    Raises
    ------
    DataError : a file, key, unit or row is not what was expected.
    """
    options = config.data
    labels = label_options(config)
    path = config.resolve(options.path)
    validation = config.resolve(options.validation_path) if options.validation_path else path
    return TrainingData(
        read_dataset(path, rows=rows_of(config, options.train_rows), **labels),
        read_dataset(validation, rows=rows_of(config, options.validation_rows), **labels),
    )


def label_options(config: TrainingConfig) -> dict[str, Any]:
    """Return the keys and units of a configuration as ``read_dataset`` takes them."""
    names = (
        "energy_key",
        "forces_key",
        "stress_key",
        "positions_key",
        "numbers_key",
        "energy_unit",
        "length_unit",
    )
    return {name: getattr(config.data, name) for name in names}


def rows_of(config: TrainingConfig, rows: Optional[str]) -> Optional[str]:
    """Return rows as ``read_dataset`` takes them: a csv is relative to the file."""
    if rows is not None and rows.endswith(".csv"):
        return str(config.resolve(rows))
    return rows


def build_potential(
    config: TrainingConfig, data: TrainingData, architecture: Mapping[str, Any]
) -> Potential:
    """Build the untrained potential: seeded weights, reference energies, scale."""
    references = reference_energies(
        data.train.frames, config.data.reference_energies, data.train.isolated_atoms
    )
    network = build_network(architecture, config.seed, config.dtype)
    return Potential(network, references, scale=force_rms(data.train.frames))


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    progress: Optional[Progress] = None,
) -> Path:
    """Train and return the path of the best checkpoint.

    The folder receives ``metrics.csv``, ``best.ckpt`` (lowest validation loss,
    averaged weights) and ``last.ckpt`` (to resume from). A resumed run gives what an
    uninterrupted one would have given; where all epochs are done, nothing happens.

    Parameters
    ----------
    progress : called with a :class:`~eqcalc.training.reports.Report` after every batch

    Raises
    ------
    OutputExistsError : the folder holds a run, and neither resume nor overwrite.
    ConfigError : resume where there is no checkpoint, with overwrite, or with a
        configuration that does not continue the folder's run; rows that are both
        trained on and validated on.
    DataError : a frame lacks a label that the loss needs.
    ModelFileError : the checkpoint to resume from is damaged.
    NonFiniteError : the training diverged.
    KeyboardInterrupt : Ctrl-C; the last finished epoch can be resumed from.
    """
    run = RunFolder(folder)
    _check_folder(run, resume, overwrite)
    if resume:
        _refuse_another_run(run, config)
        if _epochs_left(run, config) == 0:
            return run.best_checkpoint
    data = read_training_data(config)
    _refuse_shared_rows(config, data)
    _refuse_missing_labels(config, data)
    architecture = complete_architecture(config, data.train)
    potential = build_potential(config, data, architecture)
    module = PotentialModule(potential, config.training, architecture)
    run.prepare(config, resume)
    train_loader = _loader(data.train, module.potential, config, shuffle=True)
    validation_loader = _loader(data.validation, module.potential, config, shuffle=False)
    on_interrupt = signal.getsignal(signal.SIGINT)
    with warnings.catch_warnings():
        for message in _EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", message=message)
        trainer = _trainer(config, folder, [MetricsFile(run.metrics, progress)])
        try:
            trainer.fit(
                module,
                train_loader,
                validation_loader,
                ckpt_path=str(run.last_checkpoint) if resume else None,
                weights_only=True,
            )
        except SystemExit as stop:
            if not trainer.interrupted:
                raise
            # Lightning ignores Ctrl-C from here on, and ends the process.
            signal.signal(signal.SIGINT, on_interrupt)
            raise KeyboardInterrupt from stop
    return run.best_checkpoint


def _check_folder(run: RunFolder, resume: bool, overwrite: bool) -> None:
    if resume and overwrite:
        raise ConfigError(
            "--resume continues a run and --overwrite replaces it; give one of them, not both."
        )
    if resume and not run.last_checkpoint.exists():
        raise ConfigError(f"there is nothing to resume: '{run.last_checkpoint}' does not exist.")
    if run.exists() and not (resume or overwrite):
        raise OutputExistsError(
            f"'{run.path}' already holds a training run; pass --resume to continue it, "
            "--overwrite to replace it, or another --output."
        )


def _refuse_another_run(run: RunFolder, config: TrainingConfig) -> None:
    begun = run.read_config()
    names = ["architecture", "data", "dtype", "seed"]
    changed = [name for name in names if getattr(begun, name) != getattr(config, name)]
    if begun.training.schedule != config.training.schedule:
        changed.append("schedule")
    elif config.training.schedule == "cosine":  # it is planned for a number of epochs
        changed += ["max_epochs"] * (begun.training.max_epochs != config.training.max_epochs)
    if changed:
        raise ConfigError(
            f"'{run.path}' cannot be resumed with another {', '.join(changed)}: use its own "
            "train.toml, or start a new run in another folder."
        )


def _epochs_left(run: RunFolder, config: TrainingConfig) -> int:
    path = run.last_checkpoint
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        n_done = int(content["epoch"]) + 1  # it holds the number of the last one, from 0
    except (RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelFileError(
            f"'{path}' is damaged or no checkpoint, so there is nothing to resume from; start "
            "the run again with --overwrite."
        ) from error
    n_wanted = config.training.max_epochs
    if n_done > n_wanted:
        raise ConfigError(f"{n_done} epochs are already done; max_epochs is {n_wanted}, raise it.")
    return n_wanted - n_done


def _refuse_shared_rows(config: TrainingConfig, data: TrainingData) -> None:
    options = config.data
    path = config.resolve(options.path)
    other = config.resolve(options.validation_path or options.path)
    if path.resolve() != other.resolve():
        return
    shared = sorted(set(data.train.rows) & set(data.validation.rows))
    if shared:
        raise ConfigError(
            f"training and validation rows of {path.name} must not overlap, found in both: "
            f"{listing(shared)}; change train_rows or validation_rows."
        )


def _refuse_missing_labels(config: TrainingConfig, data: TrainingData) -> None:
    needed = ["forces"] + ["stress"] * (config.training.stress_weight > 0)
    for dataset in data:
        for name in needed:
            missing = [k for k, f in enumerate(dataset.frames) if getattr(f, name) is None]
            if missing:
                raise DataError(
                    f"every frame needs {name}, found none in frames {listing(missing)} of "
                    f"{dataset.source}."
                    + (" Or set stress_weight = 0." if name == "stress" else "")
                )


def _trainer(config: TrainingConfig, folder: Path, callbacks: list[Callback]) -> pl.Trainer:
    averaging = WeightAveraging(
        use_buffers=False, multi_avg_fn=get_ema_multi_avg_fn(config.training.ema_decay)
    )
    checkpoint = ModelCheckpoint(
        folder,
        filename="best",
        monitor="validation_loss",
        save_last=True,
        enable_version_counter=False,
    )
    return pl.Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=config.training.max_epochs,
        callbacks=[averaging, checkpoint, *callbacks],
        logger=TensorBoardLogger(folder, name="", version=EVENTS),
        log_every_n_steps=1,  # nothing is logged within an epoch
        enable_progress_bar=False,
        enable_model_summary=False,
        inference_mode=False,  # validation needs forces, hence autograd
        num_sanity_val_steps=0,
    )


class _Shuffled(Sampler[int]):
    """An order for every epoch that depends on nothing but seed and epoch."""

    def __init__(self, n_frames: int, seed: int) -> None:
        self.n_frames, self.seed, self.epoch = n_frames, seed, 0

    def __len__(self) -> int:
        return self.n_frames

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return iter(torch.randperm(self.n_frames, generator=generator).tolist())

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; Lightning calls this."""
        self.epoch = epoch


def _loader(
    dataset: Dataset, potential: Potential, config: TrainingConfig, shuffle: bool
) -> DataLoader[LabelledGraph]:
    dtype = getattr(torch, config.dtype)
    graphs = labelled_graphs(dataset.frames, potential.cutoff, dtype, source=dataset.source)
    return DataLoader(
        cast("TorchDataset[LabelledGraph]", graphs),  # a list serves as one
        batch_size=config.training.batch_size if shuffle else 50,
        sampler=_Shuffled(len(graphs), config.seed) if shuffle else None,
        collate_fn=collate,
        generator=torch.Generator(),  # without one it draws from the global one
    )
