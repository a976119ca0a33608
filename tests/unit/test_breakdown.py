"""Errors by element, by kind of frame and of the worst frames add up to those of the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_models import crystal, ethanol

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.engines import load_model
from eqcalc.evaluation import breakdown, by_element, by_kind, evaluate, worst_frames

SILICON = Path(__file__).parents[2] / "examples" / "data" / "silicon_mlearn_test.xyz.gz"


@pytest.fixture(scope="module")
def frames() -> list[LabelledFrame]:
    """Return frames with and without forces, of two kinds and of none."""
    generator = np.random.default_rng(0)
    made = []
    for k, kind in enumerate(["gas", "gas", "solid", None, "solid"]):
        atoms = crystal() if kind == "solid" else ethanol()
        atoms.rattle(0.05, seed=k)
        forces = None if k == 1 else generator.normal(size=(len(atoms), 3))
        info = {} if kind is None else {"config_type": kind}
        made.append(LabelledFrame(atoms, -5000.0 + k, forces, info=info))
    return made


@pytest.fixture(scope="module")
def model(models):
    return load_model(models["double"], device="cpu")


def test_errors_of_elements_are_those_of_their_atoms(frames, model):
    found = by_element(evaluate(model, frames), frames)
    assert list(found) == ["H", "C", "O"]
    for element, errors in found.items():
        differences = []
        for frame in frames:
            if frame.forces is not None:
                predicted = evaluate(model, [frame]).forces.predicted.reshape(-1, 3)
                differences.append((predicted - frame.forces)[frame.atoms.symbols == element])
        expected = np.concatenate(differences)
        assert errors.mae == pytest.approx(np.abs(expected).mean(), rel=1e-9)
        assert errors.rmse == pytest.approx(np.sqrt(np.square(expected).mean()), rel=1e-9)


def test_errors_of_kinds_are_those_of_their_frames_alone(frames, model):
    found = by_kind(evaluate(model, frames), frames)
    assert {(kind.name, kind.n_frames) for kind in found} == {("gas", 2), ("solid", 2), ("none", 1)}
    maes = [kind.energy_per_atom.mae for kind in found]
    assert maes == sorted(maes, reverse=True)
    for kind in found:
        own = [f for f in frames if f.info.get("config_type", "none") == kind.name]
        alone = evaluate(model, own)
        assert kind.energy_per_atom.mae == pytest.approx(alone.energy_per_atom.errors.mae)
        assert kind.forces.rmse == pytest.approx(alone.forces.errors.rmse)
    assert by_kind(evaluate(model, frames[:2]), frames[:2]) == []


def test_the_worst_frame_is_named_with_its_atom(frames, model):
    spoiled = frames[3].forces.copy()
    spoiled[2] += [3.0, 4.0, 0.0]
    changed = [*frames[:3], LabelledFrame(frames[3].atoms, frames[3].energy, spoiled), frames[4]]
    worst = worst_frames(evaluate(model, changed), changed, most=2)
    assert (worst[0].frame, worst[0].atom, worst[0].element) == ("frame 3", 2, "O")
    assert worst[0].force_error > worst[1].force_error
    difference = evaluate(model, changed[3:4]).forces.predicted.reshape(-1, 3)[2] - spoiled[2]
    assert worst[0].force_error == pytest.approx(np.linalg.norm(difference))


def test_without_forces_only_energies_are_broken_down(frames, model):
    bare = [LabelledFrame(f.atoms, f.energy, info=f.info) for f in frames]
    found = breakdown(evaluate(model, bare), bare)
    assert set(found) == {"by_config_type"}
    assert "forces" not in found["by_config_type"]["gas"]


def test_kinds_of_a_real_set_are_in_the_content_of_a_file():
    data = read_dataset(SILICON)
    found = breakdown(
        evaluate(load_model("nequip-silicon", device="cpu"), data.frames), data.frames
    )
    kinds = found["by_config_type"]
    assert sum(kind["n_frames"] for kind in kinds.values()) == len(data.frames)
    assert {"Surface", "Vacancy", "Elastic"} < set(kinds)
    assert kinds["Elastic"]["forces"]["mae_mev_per_a"] < kinds["Surface"]["forces"]["mae_mev_per_a"]
    assert "silicon_mlearn_test" in found["largest_force_errors"][0]["frame"]
