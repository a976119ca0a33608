"""Old frames in a fine-tuning."""

from __future__ import annotations

import json
import re

import ase.io
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from fine_tunings import (
    DATA,
    REFERENCES,
    SHIFT,
    config_of,
    data_text,
    export_parent,
    labelled_molecules,
    small_potential,
    start_of,
)
from small_models import ETHANOL_FRAMES

from eqcalc.errors import DataError, DataWarning
from eqcalc.training.batch_options import BatchOptions
from eqcalc.training.finish import export_run
from eqcalc.training.loaders import training_batches
from eqcalc.training.replay import read_replay
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder


def test_old_frames_are_trained_on_and_reported_apart(parent, tmp_path):
    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", 0.0))
    text = (
        '[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3\nfraction = 0.5\ntrust_data = true'
    )
    train(config_of(tmp_path, text), tmp_path / "run")
    lines = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    names = lines[0].split(",")
    for name in ("replay_loss", "replay_energy_per_atom_mae_mev", "replay_forces_mae_mev_per_a"):
        assert name in names
    assert [int(line.split(",")[1]) for line in lines[1:]] == [4, 8]  # 4 new and 4 old frames
    without = config_of(tmp_path)
    train(without, tmp_path / "plain")
    assert "replay_loss" not in (tmp_path / "plain" / "metrics.csv").read_text()


def displaced(n_frames: int) -> list[Atoms]:
    """Return frames of ethanol that are none of the new ones."""
    frames = []
    for k, atoms in enumerate(ase.io.read(ETHANOL_FRAMES, index=f":{n_frames}")):
        results = dict(atoms.calc.results)
        atoms.positions[0, 0] += 0.01
        atoms.calc = SinglePointCalculator(atoms, **results)
        atoms.info["copy"] = k
        frames.append(atoms)
    return frames


def aside_of(config) -> list[int]:
    return [frame.origin.row for frame in read_replay(config).validation.frames]


def test_copies_of_replayed_frames_are_not_set_aside(parent, tmp_path):
    """The error on a frame that is trained on does not say what is forgotten."""
    ase.io.write(tmp_path / "old.xyz", 2 * displaced(4))
    text = '[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3'
    config = config_of(tmp_path, text)
    rows = aside_of(config)
    shared = [row for row in rows if (row + 4) % 8 not in rows]
    assert shared
    named = ", ".join(map(str, shared))
    match = (
        rf"{len(shared)} of {len(rows)} set-aside frames \(frames {named} of old\.xyz\) are struct"
    )
    with pytest.raises(
        DataError, match=match + r".* replayed from old\.xyz too; .* trust_data = true"
    ):
        train(config, tmp_path / "run")
    with pytest.warns(DataWarning, match=match):
        train(config_of(tmp_path, text + "\ntrust_data = true", max_epochs="1"), tmp_path / "run")
    notes = json.loads((tmp_path / "run" / "manifest.json").read_text())["data"]["notes"]
    assert any("set-aside frames" in note for note in notes)


def test_new_training_frames_are_not_set_aside(parent, tmp_path):
    frames = displaced(6)
    text = '[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3'
    ase.io.write(tmp_path / "old.xyz", frames)
    row = aside_of(config_of(tmp_path, text))[0]
    train(config_of(tmp_path, text, max_epochs="1"), tmp_path / "run")
    frames[row] = ase.io.read(ETHANOL_FRAMES, index=0)  # one of the new training frames
    ase.io.write(tmp_path / "old.xyz", frames)
    match = rf"1 of 2 set-aside frames \(frames {row} of old\.xyz\) are .* trained on from ethanol"
    with pytest.raises(DataError, match=match):
        train(config_of(tmp_path, text), tmp_path / "other")


def test_old_energies_follow_the_reference_energies(parent, tmp_path):
    """Labels that the file reproduces stay so, whatever the new level of theory."""
    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", 0.0))
    labelled_molecules(tmp_path / "new.xyz", small_potential(), SHIFT)
    text = data_text(tmp_path / "new.xyz", trust_data=True)
    text += '\n[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3\ntrust_data = true'
    start = start_of(config_of(tmp_path, text))
    graphs = [*start.replayed, *start.replay_validation]
    assert len(graphs) == 6
    for item in graphs:
        found = start.potential.eval().evaluate(item.graph)
        assert float(found.energy) == pytest.approx(float(item.energy), abs=1e-4)


@pytest.mark.parametrize(("level", "n_notes"), [(0.0, 0), (0.7, 1)])
def test_old_frames_of_another_level_than_the_model_s_are_said(level, n_notes, parent, tmp_path):
    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", level))
    labelled_molecules(tmp_path / "new.xyz", small_potential(), SHIFT)
    text = data_text(tmp_path / "new.xyz", trust_data=True)
    text += '\n[replay]\npath = "old.xyz"\nvalidation_fraction = 0.3\ntrust_data = true'
    start = start_of(config_of(tmp_path, text))
    shown = rf"MAE of the file on 2 old frames set aside: energy {1e3 * level:.2f} meV/atom, forces"
    assert re.match(shown, start.said[-1])
    notes = [note for note in start.notes if "another level of theory" in note]
    assert len(notes) == n_notes
    assert all("old.xyz are 0.7 eV/atom off those of 'parent'" in note for note in notes)


def test_elements_of_old_frames_stay(tmp_path):
    export_parent(tmp_path / "parent.pt", small_potential("nequip", elements=list(REFERENCES)))
    text = f'[replay]\npath = "{DATA / "3bpa_frames.xyz"}"\ntrust_data = true'
    config = config_of(tmp_path, text)
    assert start_of(config).architecture["elements"] == ["H", "C", "N", "O"]
    train(config, tmp_path / "run")
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model").card
    assert card.elements == ["H", "C", "N", "O"]
    assert card.training_data["replayed frames"] == "3 of 3bpa_frames.xyz"
    of_3bpa = ase.io.read(DATA / "3bpa_frames.xyz")
    assert of_3bpa.get_chemical_formula(mode="hill") in card.compositions  # it was trained on it
    assert {"H", "C", "N", "O"} == set(card.training_data["elements"])
    assert "C-N" in card.seen["distances"]
    rows = card.training_data["rows trained on"]
    assert rows[ETHANOL_FRAMES.name] == "0:4"
    assert set(rows) == {ETHANOL_FRAMES.name, "3bpa_frames.xyz"}


def test_every_new_frame_and_a_fraction_of_old_ones_come_in_an_epoch(parent, tmp_path):
    start = start_of(config_of(tmp_path))
    new, old = start.train, [*start.train[:3], *start.validation]
    batches = training_batches(new, BatchOptions(batch_size=3), 7, replayed=old, fraction=0.4)
    epochs = []
    for epoch in (0, 1, 0):
        order_of_epoch = batches.batch_sampler.sampler
        order_of_epoch.set_epoch(epoch)
        order = list(order_of_epoch)
        assert sorted(k for k in order if k < 4) == [0, 1, 2, 3]
        drawn = [k for k in order if k >= 4]
        assert len(set(drawn)) == len(drawn) == 3  # 3 of 7 is 0.43, 2 of 6 is 0.33
        epochs.append(order)
    assert epochs[0] == epochs[2] != epochs[1]
    assert sum(batch.energy.shape[0] for batch in batches) == 7
    few = training_batches(new, BatchOptions(batch_size=3), 7, replayed=old[:1], fraction=0.6)
    assert sorted(few.batch_sampler.sampler) == [0, 1, 2, 3, *[4] * 6]
