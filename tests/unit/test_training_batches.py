"""Batches of so many frames, or of as many as a bound on atoms or edges lets in."""

from __future__ import annotations

import ase.io
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES
from trainings import assert_resumes_exactly, config_of, rows_of

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.data.batches import collate, labelled_graphs
from eqcalc.errors import ConfigError, DataError
from eqcalc.training.batch_options import BatchOptions
from eqcalc.training.finish import load_potential
from eqcalc.training.loaders import FilledBatches, training_batches, validation_batches
from eqcalc.training.loss import LossFunction, LossWeights, loss, residuals
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder
from eqcalc.training.training_options import TrainingOptions

SIZES = (2, 9, 4, 7, 3, 9, 2, 5, 8, 6)


def mixed_file(folder) -> str:
    """Write pieces of ethanol of several sizes."""
    frames, whole = [], read_dataset(ETHANOL_FRAMES).frames
    for number, size in enumerate(SIZES):
        frame = whole[number % len(whole)]
        atoms = Atoms(frame.atoms.numbers[:size], frame.atoms.positions[:size])
        atoms.rattle(0.02, seed=number)
        forces = frame.forces[:size] * 0.1
        energy = -13.0 * size - 500.0 * sum(atoms.numbers == 6) + 0.01 * number
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        frames.append(atoms)
    ase.io.write(folder / "mixed.xyz", frames)
    return str(folder / "mixed.xyz")


def mixed_data(folder, **more: str) -> dict[str, object]:
    rows = {"train_rows": "0:7", "validation_rows": "7:10"}
    return {"path": mixed_file(folder), **rows, "trust_data": True, **more}


@pytest.fixture
def graphs(tmp_path):
    return labelled_graphs(read_dataset(mixed_file(tmp_path), trust_data=True).frames, 4.0)


def test_batches_are_filled_in_order_up_to_the_bound():
    batches = FilledBatches(range(10), SIZES, 12)
    assert list(batches) == [[0, 1], [2, 3], [4, 5], [6, 7], [8], [9]]
    assert batches.n_batches == 6
    assert list(FilledBatches([3, 1, 0], SIZES, 18)) == [[3, 1, 0]]
    assert list(FilledBatches([], SIZES, 18)) == []
    assert list(FilledBatches([1, 0, 2], SIZES, 5)) == [[1], [0], [2]]  # alone, if larger


def test_validation_takes_no_more_large_frames_at_once_than_a_step_and_many_small_ones():
    """Fifty large frames need many times the memory of a step that sees one."""
    crystal = bulk("Cu", cubic=True) * (3, 3, 4)  # 6,048 edges
    energies = [-3.0 - k for k in range(7)]
    frames = [LabelledFrame(crystal, energy) for energy in energies]
    large = labelled_graphs(frames, 5.0)
    for size, expected in ((1, [1] * 7), (3, [3, 3, 1])):
        batches = list(validation_batches(large, BatchOptions(batch_size=size)))
        assert [len(batch.energy) for batch in batches] == expected
        assert torch.cat([batch.energy for batch in batches]).tolist() == energies
    small = labelled_graphs(read_dataset(ETHANOL_FRAMES).frames, 5.0)
    assert len(list(validation_batches(small, BatchOptions(batch_size=1)))) == 1


@pytest.mark.parametrize("bound", ["batch_atoms", "batch_edges"])
def test_an_epoch_has_every_frame_once_in_an_order_of_its_own(bound, graphs):
    size = {
        "batch_atoms": lambda batch: len(batch.forces),
        "batch_edges": lambda batch: batch.graph.edge_index.shape[1],
    }[bound]
    loader = training_batches(graphs, BatchOptions(**{bound: 90}), seed=3)
    seen = []
    for epoch in range(3):
        loader.batch_sampler.sampler.set_epoch(epoch)
        batches = list(loader)
        assert len(batches) == loader.batch_sampler.n_batches
        assert all(size(batch) <= 90 for batch in batches)
        seen.append(torch.cat([batch.energy for batch in batches]).tolist())
    energies = sorted(float(graph.energy) for graph in graphs)
    assert [sorted(each) for each in seen] == [energies] * 3
    assert seen[0] != seen[1] != seen[2]
    again = training_batches(graphs, BatchOptions(**{bound: 90}), seed=3)
    again.batch_sampler.sampler.set_epoch(2)
    assert torch.cat([batch.energy for batch in again]).tolist() == seen[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_atoms": 0}, "batch_atoms must be an integer >= 1, found 0"),
        ({"batch_edges": -5}, "batch_edges must be an integer >= 1, found -5"),
        ({"batch_size": 5, "batch_atoms": 9}, "one bound, found batch_size and batch_atoms; leave"),
        ({"batch_atoms": 5, "batch_edges": 9}, "one bound, found batch_atoms and batch_edges"),
    ],
)
def test_wrong_bounds_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**options)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (
            {"batch_atoms": 8},
            r"frame 1 of .*mixed\.xyz.* has 9 atoms, .*\(batch_atoms = 8\); so have "
            r"2 of 7 frames\. Set batch_atoms = 9 or more",
        ),
        ({"batch_edges": 20}, r"frame \d of .*mixed\.xyz.* has \d+ edges, .*\(batch_edges = 20\)"),
    ],
)
def test_a_frame_that_no_batch_has_room_for_is_refused_by_name(option, message, tmp_path):
    config = config_of(tmp_path, mixed_data(tmp_path), batch_size=None, **option)
    with pytest.raises(DataError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", [{"batch_atoms": 10}, {"batch_edges": 100}])
def test_a_resumed_run_of_filled_batches_equals_an_uninterrupted_one(option, tmp_path):
    options = {"batch_size": None, "max_epochs": 4, **option}
    config = config_of(tmp_path, mixed_data(tmp_path), **options)
    reports = []
    train(config, tmp_path / "whole", progress=reports.append)
    counts = {r.epoch: r.n_batches for r in reports if r.batch > 0}
    last = {r.epoch: r.batch for r in reports if r.batch > 0}
    assert last == counts  # all batches of an epoch are trained on, however many it has
    if "batch_atoms" in option:
        assert len(set(counts.values())) > 1
    assert_resumes_exactly(config, tmp_path)


def test_validation_errors_are_means_over_all_frames_whatever_their_batches(tmp_path):
    """Batches of 10 atoms hold a frame each, of 5, 8 and 6 atoms: no mean of means."""
    config = config_of(
        tmp_path, mixed_data(tmp_path), batch_size=None, batch_atoms=10, max_epochs=1
    )
    train(config, tmp_path / "run")
    row = rows_of(tmp_path / "run")[-1]
    last = load_potential(TrainingFolder(tmp_path / "run"), tmp_path / "run" / "last.ckpt")
    frames = read_dataset(tmp_path / "mixed.xyz", rows="7:10", trust_data=True).frames
    batch = collate(labelled_graphs(frames, 4.0, torch.float32))
    found = residuals(last, batch, with_stress=False)
    expected = {
        "validation_loss": float(loss(found, LossFunction(LossWeights(1.0, 1.0, 0.0))).detach()),
        "validation_energy_per_atom_mae_mev": 1e3
        * float(found.energy_per_atom.detach().abs().mean()),
        "validation_forces_mae_mev_per_a": 1e3 * float(found.forces.detach().abs().mean()),
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=2e-5)
