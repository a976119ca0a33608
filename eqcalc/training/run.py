"""One training run: a folder with its configuration, metrics and checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar, WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from eqcalc import architectures
from eqcalc.data import Dataset, force_rms, read_dataset, reference_energies
from eqcalc.data.batches import LabelledGraph, collate, labelled_graphs
from eqcalc.errors import OutputExistsError
from eqcalc.potential import Potential
from eqcalc.training.config import TrainingConfig
from eqcalc.training.module import PotentialModule

__all__ = ["TrainingData", "build_potential", "read_training_data", "train"]


class TrainingData:
    """Training and validation frames of a configuration."""

    def __init__(self, config: TrainingConfig) -> None:
        options = config.data
        keys = {
            key: getattr(options, key)
            for key in ("energy_key", "forces_key", "stress_key", "energy_unit", "length_unit")
        }
        path = config.resolve(options.path)
        self.train: Dataset = read_dataset(path, rows=self._rows(config, True), **keys)
        validation = config.resolve(options.validation_path) if options.validation_path else path
        self.validation: Dataset = read_dataset(
            validation, rows=self._rows(config, False), **keys
        )

    @staticmethod
    def _rows(config: TrainingConfig, training: bool) -> Optional[str]:
        rows = config.data.train_rows if training else config.data.validation_rows
        if rows is not None and rows.endswith(".csv"):
            return str(config.resolve(rows))
        return rows


def read_training_data(config: TrainingConfig) -> TrainingData:
    """Read the frames of a configuration.

    Raises
    ------
    DataError : a file, key, unit or row is not what was expected.
    """
    return TrainingData(config)


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
    """
    last = folder / "last.ckpt"
    if last.exists() and not resume:
        if not overwrite:
            raise OutputExistsError(
                f"{folder} already holds a training run; pass --resume to continue it, "
                "--overwrite to replace it, or another --output."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    data = read_training_data(config)
    module = PotentialModule(build_potential(config, data), config.training)
    trainer = _trainer(config, folder, callbacks or [RichProgressBar()])
    trainer.fit(
        module,
        _loader(data.train, module.potential, config, shuffle=True),
        _loader(data.validation, module.potential, config, shuffle=False),
        ckpt_path=str(last) if resume and last.exists() else None,
    )
    return folder / "best.ckpt"


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
        graphs,  # type: ignore[arg-type]  (a list is a Dataset to the loader)
        batch_size=config.training.batch_size if shuffle else 50,
        shuffle=shuffle,
        collate_fn=collate,
        generator=generator,
    )


def write_json(path: Path, content: object) -> None:
    """Write JSON whole or not at all."""
    temporary = path.with_suffix(path.suffix + ".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
