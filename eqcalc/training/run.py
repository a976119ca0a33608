"""One training run: a folder with its configuration, metrics and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, Optional, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from eqcalc import architectures
from eqcalc.data import Dataset, force_rms, read_dataset, reference_energies
from eqcalc.data.batches import LabelledGraph, collate, labelled_graphs
from eqcalc.errors import ConfigError, OutputExistsError
from eqcalc.potential import Potential
from eqcalc.training.config import TrainingConfig
from eqcalc.training.module import PotentialModule
from eqcalc.training.run_folder import RunFolder

__all__ = [
    "TrainingData",
    "build_potential",
    "label_options",
    "read_training_data",
    "rows_of",
    "train",
]


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
    names = ("energy_key", "forces_key", "stress_key", "energy_unit", "length_unit")
    return {name: getattr(config.data, name) for name in names}


def rows_of(config: TrainingConfig, rows: Optional[str]) -> Optional[str]:
    """Return rows as ``read_dataset`` takes them: a csv is relative to the file."""
    if rows is not None and rows.endswith(".csv"):
        return str(config.resolve(rows))
    return rows


def build_potential(config: TrainingConfig, data: TrainingData) -> Potential:
    """Build the untrained potential: seeded weights, reference energies, scale."""
    dtype = getattr(torch, config.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = architectures.build(**config.architecture_arguments()).to(dtype)
    references = reference_energies(
        data.train.frames, config.data.reference_energies, data.train.isolated_atoms
    )
    return Potential(network, references, scale=force_rms(data.train.frames))


def train(
    config: TrainingConfig,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    callbacks: Optional[list[Callback]] = None,
) -> Path:
    """Train and return the path of the best checkpoint.

    The folder receives ``metrics.csv``, ``best.ckpt`` (lowest validation loss,
    averaged weights) and ``last.ckpt`` (to resume from).

    Raises
    ------
    OutputExistsError : the folder holds a run, and neither resume nor overwrite.
    ConfigError : resume where there is no checkpoint.
    """
    _check_folder(folder, resume, overwrite)
    data = read_training_data(config)
    module = PotentialModule(build_potential(config, data), config.training)
    run = RunFolder(folder)
    run.prepare(config, resume)
    last = run.last_checkpoint
    trainer = _trainer(config, folder, callbacks or [RichProgressBar()])
    trainer.fit(
        module,
        _loader(data.train, module.potential, config, shuffle=True),
        _loader(data.validation, module.potential, config, shuffle=False),
        ckpt_path=str(last) if resume else None,
        weights_only=True,
    )
    return run.best_checkpoint


def _check_folder(folder: Path, resume: bool, overwrite: bool) -> None:
    last = RunFolder(folder).last_checkpoint
    if resume and not last.exists():
        raise ConfigError(f"there is nothing to resume: '{last}' does not exist.")
    if RunFolder(folder).exists() and not (resume or overwrite):
        raise OutputExistsError(
            f"'{folder}' already holds a training run; pass --resume to continue it, "
            "--overwrite to replace it, or another --output."
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
        logger=CSVLogger(folder, name="", version="", flush_logs_every_n_steps=100),
        enable_model_summary=False,
        inference_mode=False,  # validation needs forces, hence autograd
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )


def _loader(
    dataset: Dataset, potential: Potential, config: TrainingConfig, shuffle: bool
) -> DataLoader[LabelledGraph]:
    dtype = getattr(torch, config.dtype)
    graphs = labelled_graphs(dataset.frames, potential.cutoff, dtype)
    generator = torch.Generator().manual_seed(config.seed)
    return DataLoader(
        cast("TorchDataset[LabelledGraph]", graphs),  # a list serves as one
        batch_size=config.training.batch_size if shuffle else 50,
        shuffle=shuffle,
        collate_fn=collate,
        generator=generator,
    )
