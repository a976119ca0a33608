"""Small trainings: their files, data and results, for the tests of what a training can do."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES, crystal, potential

from eqcalc.derivatives import VOIGT
from eqcalc.neighbours import build_graph
from eqcalc.training.config import TrainingConfig, read_config
from eqcalc.training.overrides import to_toml
from eqcalc.training.run import train

DATA = {"path": str(ETHANOL_FRAMES), "train_rows": "0:4", "validation_rows": "4:6"}
NETWORK = {"name": "painn", "n_channels": 8, "n_layers": 1, "n_radial_basis": 6, "cutoff": 4.0}
COMMENTED_FILE = f"""# of the laboratory
name = "tiny"
[data]
path = "{ETHANOL_FRAMES}"
train_rows = "0:4"
validation_rows = "4:6"
[architecture]
name = "painn"
n_channels = 8
n_layers = 1
[training]
max_epochs = 3
"""
"""A training file as a user writes it."""

TRAINING = {"batch_size": 2, "max_epochs": 2, "learning_rate": 0.005}


def config_of(folder: Path, data: dict[str, Any] | None = None, **options: Any) -> TrainingConfig:
    """Write and read a training file; ``options`` are keys of ``[training]``, None leaves out."""
    training = {k: v for k, v in (TRAINING | options).items() if v is not None}
    content = {
        "name": "tiny",
        "seed": 3,
        "data": DATA if data is None else data,
        "architecture": NETWORK,
        "training": training,
    }
    path = folder / "train.toml"
    path.write_text(to_toml(content))
    return read_config(path)


def metrics_of(run: Path) -> list[dict[str, float]]:
    """Return the rows of metrics.csv."""
    with open(run / "metrics.csv") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]


def crystals(n_frames: int = 3) -> list[Atoms]:
    """Return crystals of two sizes, labelled by another potential, with stress."""
    teacher, frames = potential(seed=9), []
    for seed in range(n_frames):
        atoms = crystal() if seed != 1 else crystal().repeat((1, 1, 2))
        atoms.rattle(0.08, seed=seed)
        found = teacher.evaluate(build_graph(atoms, 4.0))
        stress = found.stress[0].numpy()
        atoms.calc = SinglePointCalculator(
            atoms,
            energy=float(found.energy),
            forces=found.forces.numpy(),
            stress=np.array([stress[a, b] for a, b in VOIGT]),
        )
        frames.append(atoms)
    return frames


def crystal_file(folder: Path, n_frames: int = 3) -> Path:
    """Write such crystals to a file."""
    path = folder / "crystals.xyz"
    ase.io.write(path, crystals(n_frames))
    return path


def interrupt_in_the_third_epoch(report: Any) -> None:
    """Press Ctrl-C after the first batch of the third epoch."""
    if (report.epoch, report.batch) == (2, 1):
        raise KeyboardInterrupt


def assert_resumes_exactly(config: TrainingConfig, folder: Path) -> None:
    """Interrupt a training in its third epoch, go on, and compare with an uninterrupted one.

    One that has been made already lies in the folder "whole".
    """
    if not (folder / "whole").exists():
        train(config, folder / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, folder / "parts", progress=interrupt_in_the_third_epoch)
    train(config, folder / "parts", resume=True)
    assert rows_of(folder / "parts") == rows_of(folder / "whole")
    for key in ("state_dict", "current_model_state"):
        found, expected = (weights_of(folder / n / "last.ckpt", key) for n in ("parts", "whole"))
        assert all(torch.equal(found[k].nan_to_num(), v.nan_to_num()) for k, v in expected.items())


def weights_of(checkpoint: Path, key: str = "state_dict") -> dict[str, torch.Tensor]:
    """Return the weights in a checkpoint."""
    return torch.load(checkpoint, weights_only=True)[key]


def rows_of(run: Path) -> list[dict[str, float]]:
    """Return the rows of a run's metrics.csv."""
    lines = (run / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    return [dict(zip(names, map(float, line.split(",")), strict=True)) for line in lines[1:]]
