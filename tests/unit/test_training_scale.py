"""The unit in which a network speaks, where the forces do not say it."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from trainings import config_of, metrics_of

from eqcalc.data import force_rms, read_dataset, reference_energies
from eqcalc.engines import load_model
from eqcalc.errors import ConfigError, DataError, DataWarning
from eqcalc.evaluation import evaluate
from eqcalc.training.config import TrainingConfig
from eqcalc.training.data import read_training_data
from eqcalc.training.finish import export_run
from eqcalc.training.loss_options import LossOptions
from eqcalc.training.network import build_start
from eqcalc.training.run import train
from eqcalc.training.scale import scale_of
from eqcalc.training.training_folder import TrainingFolder

pytestmark = pytest.mark.filterwarnings("ignore:.*forces are zero:eqcalc.errors.DataWarning")


def perfect(volume: float, noise: float = 0.0) -> Atoms:
    """Return a perfect crystal of so many of its own volumes; forces are zero but for a noise."""
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * volume ** (1 / 3), scale_atoms=True)
    atoms.calc = EMT()
    forces = noise * np.random.default_rng(int(1000 * volume)).normal(size=(4, 3))
    labels = {"energy": atoms.get_potential_energy(), "stress": atoms.get_stress()}
    atoms.calc = SinglePointCalculator(atoms, forces=forces, **labels)
    return atoms


def write(folder: Path, frames: list[Atoms], **options: object) -> TrainingConfig:
    ase.io.write(folder / "crystals.xyz", frames)
    data = {"path": "crystals.xyz", "validation_fraction": 0.3}
    return config_of(folder, data, stress_weight=1.0, **options)


@pytest.mark.parametrize("noise", [0.0, 1e-6])
def test_crystals_without_forces_are_learned_from_their_energies(noise, tmp_path):
    frames = [perfect(v, noise) for v in np.linspace(0.85, 1.15, 9)]
    config = write(tmp_path, frames, max_epochs=10)
    data = read_training_data(config)
    energies = [frame.energy / 4 for frame in data.train.frames]
    match = r"crystals\.xyz are zero or noise .*: the scale of the network is the spread of energ"
    with pytest.warns(DataWarning, match=match):
        train(config, tmp_path / "run")
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model").card
    assert card.scale == pytest.approx(np.std(energies), rel=1e-6)
    losses = [row["train_loss"] for row in metrics_of(tmp_path / "run")]
    assert losses[-1] < 0.95 * losses[0], losses
    found = evaluate(load_model(tmp_path / "model", device="cpu"), data.train.frames)
    assert np.ptp(found.energy.predicted) > 1e-3  # eV: no constant


def test_forces_that_are_small_beside_all_else_are_the_scale_where_nothing_else_is_weighed(
    tmp_path,
):
    frames = read_dataset(
        write(tmp_path, [perfect(v, 1e-4) for v in (0.9, 1.0, 1.1)]).resolve("crystals.xyz")
    )
    references = reference_energies(frames.frames, "least_squares")
    forces = force_rms(frames.frames)
    assert scale_of(frames, references, LossOptions(energy_weight=0.0)) == (forces, "")
    assert scale_of(frames, references, LossOptions()).value > 0.01
    virials = scale_of(frames, references, LossOptions(energy_weight=0.0, stress_weight=1.0))
    assert "RMS of virials" in virials.note
    per_atom = [frame.stress * frame.atoms.get_volume() / 4 for frame in frames.frames]
    assert virials.value == pytest.approx(np.sqrt(np.mean(np.square(per_atom))))


def test_frames_that_say_nothing_are_refused(tmp_path):
    write(tmp_path, [perfect(1.0)] * 4)
    match = (
        r"zero or noise, and nothing else .*, spread of energies .*there is nothing to learn\. Add"
    )
    with pytest.raises(DataError, match=match):
        scale_of(read_dataset(tmp_path / "crystals.xyz"), {29: 0.0}, LossOptions())


def test_a_network_without_an_element_of_the_frames_is_refused(tmp_path):
    config = config_of(tmp_path)
    elements = {"name": "nequip", "elements": ["C", "H"], "l_max": 1, "n_channels": 8}
    object.__setattr__(config, "architecture", elements)
    match = r"elements in \[architecture\] lacks O of the training frames \(frames 0, 1, 2, 3 of "
    with pytest.raises(ConfigError, match=match):
        build_start(config, read_training_data(config))
    object.__setattr__(config, "architecture", elements | {"elements": ["C", "H", "N", "O"]})
    start = build_start(config, read_training_data(config))
    assert start.architecture["elements"] == ["C", "H", "N", "O"]
