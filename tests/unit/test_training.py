"""Training: the file, the loss, its gradients, a run, its resumption and its export."""

from __future__ import annotations

import copy
import csv
import dataclasses
import itertools
import json
import os
import random
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import trainings
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from rarely import rarely
from small_models import (
    ETHANOL_FRAMES,
    POTENTIALS,
    REFERENCE_ENERGIES,
    crystal,
    potential,
    small_options,
)
from trainings import config_of, interrupt_in_the_third_epoch, metrics_of, weights_of

import eqcalc.data.batches
from eqcalc import EqCalculator, architectures
from eqcalc.data import read_dataset
from eqcalc.data.batches import collate, labelled_graphs
from eqcalc.derivatives import VOIGT
from eqcalc.engines import load_model
from eqcalc.errors import (
    CacheError,
    ConfigError,
    DataError,
    DataWarning,
    GraphError,
    ModelFileError,
    NonFiniteError,
    OutputError,
    OutputExistsError,
    UnknownArchitectureError,
)
from eqcalc.evaluation import evaluate
from eqcalc.model_file import open_model_file
from eqcalc.model_file.seen import seen_in
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form
from eqcalc.training.averaging import decay_after
from eqcalc.training.config import DataOptions, TrainingConfig, TrainingOptions, read_config
from eqcalc.training.data import read_training_data, refuse_unfit_data
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.gradients import LossGradients
from eqcalc.training.loss import LossFunction, LossWeights, loss, residuals
from eqcalc.training.module import PotentialModule
from eqcalc.training.network import build_start
from eqcalc.training.randomness import seed_of_batch, seeded
from eqcalc.training.reports import METRICS
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder
from eqcalc.training.validation import ErrorTotals

CONTENT = {
    "name": "tiny",
    "seed": 3,
    "data": {"path": str(ETHANOL_FRAMES), "train_rows": "0:4", "validation_rows": "4:6"},
    "architecture": {
        "name": "painn",
        "embedding_dim": 8,
        "num_blocks": 1,
        "num_radial_basis": 6,
        "cut_off": 4.0,
    },
    "training": {"batch_size": 2, "max_epochs": 2, "ema_decay": 0.5, "learning_rate": 0.005},
}


def toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k} = {toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value) if not isinstance(value, float) else repr(value)


def write_config(place_of_file: Path, /, **changes: object) -> Path:
    """Write CONTENT as TOML; ``section__key=value`` changes it, None removes."""
    content = copy.deepcopy(CONTENT)
    for place, value in changes.items():
        *sections, key = place.split("__")
        target = content
        for section in sections:
            target = target[section]
        target[key] = value
        if value is None:
            del target[key]
    path = place_of_file / "train.toml"
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in content.items()))
    return path


def assert_equal_weights(found: Path, expected: Path) -> None:
    for name in ("best.ckpt", "last.ckpt"):
        for key in ("state_dict", "current_model_state"):
            weights = weights_of(found / name, key)
            for parameter, value in weights_of(expected / name, key).items():
                assert torch.equal(weights[parameter].nan_to_num(), value.nan_to_num()), parameter


# --- configuration -----------------------------------------------------------------------


def test_a_training_file_is_read_with_defaults(tmp_path):
    config = read_config(write_config(tmp_path))
    assert (config.name, config.seed, config.dtype) == ("tiny", 3, "float32")
    assert config.training == TrainingOptions(
        batch_size=2, max_epochs=2, ema_decay=0.5, learning_rate=0.005
    )
    assert config.data.reference_energies == "least_squares"
    assert config.source == tmp_path / "train.toml"
    assert config.resolve("data/x.npz") == tmp_path / "data" / "x.npz"
    assert config.resolve("/data/x.npz") == Path("/data/x.npz")


def test_the_shipped_training_files_are_valid():
    files = sorted((Path(__file__).parents[2] / "models").glob("*/train.toml"))
    assert files
    for path in files:
        assert read_config(path).name == path.parent.name


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nmae", r"unknown key 'nmae' in .*train\.toml; known: .* Did you mean 'name'\?"),
        ("license", r"unknown key 'license' .* Did you mean 'licence'\?"),
        ("folder", r"unknown key 'folder' in .*train\.toml; known: name"),
        ("data__pth", r"unknown key 'pth' in \[data\] of .* Did you mean 'path'\?"),
        ("training__batchsize", r"unknown key 'batchsize' in \[training\].* mean 'batch_size'\?"),
        (
            "architecture__embeding_dim",
            r"unknown key 'embeding_dim' in \[arch.* mean 'embedding_dim'\?",
        ),
    ],
)
def test_an_unknown_key_is_refused_with_the_closest_one(place, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(tmp_path, **{place: "x"}))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("name", r"train\.toml needs the key 'name'"),
        ("data", r"train\.toml needs the key 'data'"),
        ("data__path", r"\[data\] of .* needs the key 'path'"),
        (
            "data__validation_rows",
            "needs validation_fraction .* or validation_path; found none",
        ),
        ("architecture", "needs the key 'architecture'"),
        ("architecture__name", r"\[architecture\] needs name = one of .*painn"),
    ],
)
def test_a_missing_key_is_refused(place, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(tmp_path, **{place: None}))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("name", 5, "name in the training file must be a string, found 5"),
        ("seed", "one", "seed in the training file must be an integer, found 'one'"),
        ("seed", 1.5, "seed in the training file must be an integer"),
        ("dtype", 32, "dtype in the training file must be a string"),
        ("data", "rmd17.npz", r"\[data\] of .* must be a table, found 'rmd17\.npz'"),
        ("data", [1], r"\[data\] of .* must be a table"),
        ("data__path", 3, r"path in \[data\] must be a string or an array, found 3"),
        ("data__path", [3], r"path in \[data\] must be a string or an array of strings, found \[3"),
        ("data__path", [], r"path in \[data\] must be a string or an array of strings, found \[\]"),
        ("data__trust_data", 1, r"trust_data in \[data\] must be true or false, found 1"),
        ("data__train_rows", 950, r"train_rows in \[data\] must be a string, found 950"),
        ("data__reference_energies", 1.0, r"reference_energies .* a string or a table, found 1"),
        ("data__reference_energies", {"H": "low"}, "reference energy of H must be a number"),
        ("training", 1, r"\[training\] of .* must be a table"),
        ("training__batch_size", "five", r"batch_size in \[training\] must be an integer, .*five"),
        ("training__batch_size", 5.0, r"batch_size in \[training\] must be an integer"),
        ("training__batch_size", True, r"batch_size in \[training\] must be an integer, .*True"),
        ("training__learning_rate", "1e-3", r"learning_rate in \[training\] must be a number"),
        ("training__learning_rate", [1.0], r"learning_rate in \[training\] must be a number"),
        ("training__compile", 1, r"compile in \[training\] must be true or false, found 1"),
        ("training__schedule", False, r"schedule in \[training\] must be a string"),
        ("architecture", "painn", "architecture in the training file must be a table"),
        ("architecture__name", 7, r"name in \[architecture\] must be a string, found 7"),
        ("architecture__cut_off", "5", r"cut_off in \[architecture\] must be a number, found '5'"),
        ("architecture__embedding_dim", 8.0, r"embedding_dim in \[architecture\] .* an integer"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(place, value, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(tmp_path, **{place: value}))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("seed", -1, "seed must be an integer >= 0, found -1"),
        ("seed", 2**62 + 1, r"seed must be at most 2\*\*62, found 46116860"),
        ("dtype", "float16", "dtype must be float32 or float64, found 'float16'"),
        ("name", "", r"name must be one that folders can have, .* found ''"),
        ("name", "../mine", r"name must be one that folders can have, .* found '\.\./mine'"),
        ("name", "/mine", r"name must be one that folders can have, .* found '/mine'"),
        ("training__batch_size", 0, "batch_size must be an integer >= 1, found 0"),
        ("training__max_epochs", -3, "max_epochs must be an integer >= 1, found -3"),
        ("training__plateau_patience", -1, "plateau_patience must be an integer >= 0"),
        ("training__learning_rate", 0.0, "learning_rate must be a positive number, found 0"),
        ("training__learning_rate", float("nan"), "learning_rate must be a positive number"),
        ("training__gradient_clip", -1.0, "gradient_clip must be a positive number"),
        ("training__min_learning_rate", 0, "min_learning_rate must be a positive number"),
        ("training__weight_decay", -0.1, r"weight_decay must be >= 0, found -0\.1"),
        ("training__ema_decay", 1.0, r"ema_decay must lie in \(0, 1\), found 1\.0"),
        ("training__plateau_factor", 2.0, r"plateau_factor must lie in \(0, 1\), found 2\.0"),
        ("training__schedule", "cosin", r"one of plateau, cosine, found 'cosin'.*mean 'cosine'\?"),
        ("training__energy_weight", -1.0, r"weights must be >= 0, .* found \(-1\.0, 1\.0, 0\.0\)"),
        ("training__forces_weight", float("nan"), "weights must be >= 0, finite"),
        ("architecture__num_blocks", 0, "num_blocks must be an integer >= 1"),
        ("architecture__cut_off", -5.0, "cut_off must be a positive number"),
    ],
)
def test_a_value_out_of_range_is_refused(place, value, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(tmp_path, **{place: value}))


def test_weights_that_are_all_zero_are_refused(tmp_path):
    path = write_config(tmp_path, training__energy_weight=0.0, training__forces_weight=0.0)
    with pytest.raises(ConfigError, match="not all zero"):
        read_config(path)


def test_whole_numbers_are_numbers(tmp_path):
    path = write_config(tmp_path, training__learning_rate=1, architecture__cut_off=4)
    assert read_config(path).training.learning_rate == 1


def test_an_unknown_architecture_is_refused_with_the_closest_one(tmp_path):
    with pytest.raises(UnknownArchitectureError, match=r"'pain'; available: .*mean 'painn'\?"):
        read_config(write_config(tmp_path, architecture__name="pain"))


def test_types_are_checked_without_a_file_too():
    with pytest.raises(ConfigError, match=r"batch_size in \[training\] must be an integer"):
        TrainingOptions(batch_size="five")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="data in the training file must be a DataOptions"):
        TrainingConfig("x", {"path": "y"}, {"name": "painn"})  # type: ignore[arg-type]
    assert DataOptions("x", validation_rows="0:1", reference_energies={"H": -13}).path == "x"


EXAMPLE = Path(__file__).parents[2] / "examples" / "04_new_architecture.py"


@pytest.fixture
def own_file(tmp_path, monkeypatch) -> Path:
    """Return a training file whose architecture lies beside it, in own.py."""
    monkeypatch.setattr(architectures, "_registered", {})
    (tmp_path / "own.py").write_text(EXAMPLE.read_text())
    content = {"name": "embeddedatom", "file": "own.py", "num_densities": 8}
    return write_config(tmp_path, architecture=content)


def test_an_architecture_of_ones_own_is_trained_and_exported(own_file, tmp_path, monkeypatch):
    config = read_config(own_file)
    assert config.architecture_arguments() == {"name": "embeddedatom", "num_densities": 8}
    train(config, tmp_path / "run")
    monkeypatch.setattr(architectures, "_registered", {})  # as in another process
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    assert finished.card.architecture == "embeddedatom"
    assert finished.card.config == {"num_densities": 8, "num_radial": 12, "cutoff": 4.0}
    (tmp_path / "own.py").unlink()
    monkeypatch.setattr(architectures, "_registered", {})
    model = load_model(tmp_path / "model" / "model.pt", device="cpu")
    found = evaluate(model, read_dataset(ETHANOL_FRAMES, rows="4:6").frames)
    assert found.summary() == finished.comparison.summary()


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("file", "absent.py", r"there is no file '.*absent\.py' to take .* 'embeddedatom' from"),
        ("file", ".", r"there is no file '.*' to take the architecture 'embeddedatom' from"),
        ("file", 3, r"file in \[architecture\] must be a string, found 3"),
        ("name", "toy", r"own\.py' does not define a .* 'toy' .*; its networks: EmbeddedAtom\."),
        ("name", "mlp", r"^MLP has no atomic_energies: it is not a potential"),
        ("num_density", 8, r"unknown key 'num_density' in .* Did you mean 'num_densities'\?"),
        ("num_densities", 8.5, r"num_densities in \[architecture\] must be an integer, found 8\.5"),
        ("num_densities", 0, r"num_densities must be an integer >= 1, found 0"),
    ],
)
def test_a_wrong_architecture_of_ones_own_is_refused(place, value, message, own_file):
    architecture = {"name": "embeddedatom", "file": "own.py"} | {place: value}
    with pytest.raises(ConfigError, match=message):
        read_config(write_config(own_file.parent, architecture=architecture))


def test_an_architecture_of_ones_own_needs_its_file(own_file):
    with pytest.raises(UnknownArchitectureError, match="unknown architecture 'embeddedatom'"):
        read_config(write_config(own_file.parent, architecture__name="embeddedatom"))


@pytest.mark.parametrize("text", ["name = ", "[data", "\xff\xfe\x00"])
def test_a_file_that_is_no_toml_is_refused(text, tmp_path):
    path = tmp_path / "train.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"train\.toml is not valid TOML"):
        read_config(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no training file '.*absent\.toml'"):
        read_config(tmp_path / "absent.toml")


def test_a_folder_instead_of_a_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read the training file .* directory"):
        read_config(tmp_path)


# --- loss --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def crystal_file(tmp_path_factory) -> Path:
    return trainings.crystal_file(tmp_path_factory.mktemp("crystals"))


def batch_of(path: Path, dtype: torch.dtype = torch.float64):
    return collate(labelled_graphs(read_dataset(path).frames, 4.0, dtype))


@pytest.mark.parametrize(
    "weights", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (2.0, 3.0, 50.0)]
)
def test_the_loss_equals_its_definition(weights, crystal_file):
    student = potential(seed=1)
    energy, forces, stress = [], [], []
    for frame in read_dataset(crystal_file).frames:
        found = student.evaluate(build_graph(frame.atoms, 4.0))
        energy.append((float(found.energy) - frame.energy) / len(frame.atoms))
        forces.append(found.forces.numpy() - frame.forces)
        matrix = found.stress[0].numpy()
        stress.append(np.array([matrix[a, b] for a, b in VOIGT]) - frame.stress)
    expected = (
        weights[0] * np.mean(np.square(energy))
        + weights[1] * np.mean(np.concatenate(forces) ** 2)
        + weights[2] * np.mean(np.square(stress))
    )
    found = residuals(student, batch_of(crystal_file), with_stress=weights[2] > 0)
    assert float(loss(found, LossFunction(LossWeights(*weights))).detach()) == pytest.approx(
        expected, rel=1e-9
    )
    assert expected > 0


@pytest.mark.parametrize(
    "function",
    [
        LossFunction(LossWeights(1.0, 1.0, 0.0)),
        LossFunction(LossWeights(1.0, 1.0, 30.0)),
        LossFunction(LossWeights(1.0, 1.0, 30.0), "huber", False, LossWeights(0.5, 0.1, 0.01)),
        LossFunction(LossWeights(1.0, 1.0, 30.0), "mae"),
    ],
)
def test_parameter_gradients_equal_finite_differences_of_the_loss(function, crystal_file):
    student, batch = potential(seed=1).train(), batch_of(crystal_file)
    gradients = LossGradients(student, function, compile=False)
    gradients(batch)
    parameters = list(student.parameters())
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in parameters)
    generator = torch.Generator().manual_seed(0)
    direction = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    slope = sum(
        float((p.grad * d).sum())
        for p, d in zip(parameters, direction, strict=True)
        if p.grad is not None
    )
    values = []
    for step in (1e-5, -2e-5):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += step * d
        values.append(float(gradients(batch)))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("name", POTENTIALS)
def test_gradients_lie_in_memory_as_parameters_do(name):
    """torch's fused AdamW takes them in that order, whatever their strides say."""
    network = exact_form(architectures.build(name, **small_options(name)))
    student = Potential(network, REFERENCE_ENERGIES).train()
    frames = labelled_graphs(read_dataset(ETHANOL_FRAMES).frames[:2], student.cutoff, torch.float32)
    gradients = LossGradients(student, LossFunction(LossWeights(1.0, 1.0, 0.0)), compile=False)
    gradients(collate(frames))
    learning = [p for p in student.parameters() if p.grad is not None]
    assert len(learning) > 5
    assert all(p.grad.stride() == p.stride() for p in learning)


def test_a_gradient_that_is_a_transpose_moves_its_own_weights(tmp_path, monkeypatch):
    student = potential(seed=1).train()
    gradients = LossGradients(student, LossFunction(LossWeights(1.0, 1.0, 0.0)), compile=False)
    evaluate = gradients._evaluate
    slopes = {}

    def transposed(*arguments):
        value, *found = evaluate(*arguments)
        for parameter, gradient in zip(student.parameters(), found, strict=True):
            slopes[parameter] = gradient
        return [value, *(g if g is None or g.dim() < 2 else g.t().contiguous().t() for g in found)]

    monkeypatch.setattr(gradients, "_evaluate", transposed)
    before = {parameter: parameter.detach().clone() for parameter in student.parameters()}
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3, weight_decay=0.0, fused=True)
    gradients(collate(labelled_graphs(read_dataset(ETHANOL_FRAMES).frames[:2], 4.0)))
    optimizer.step()
    assert any(g is not None and g.dim() == 2 and min(g.shape) > 1 for g in slopes.values())
    for parameter, slope in slopes.items():
        if slope is not None:
            clear = slope.abs() > 1e-6
            moved = parameter.detach() - before[parameter]
            assert torch.equal(moved[clear].sign(), -slope[clear].sign())


def test_a_training_is_not_compiled_where_others_could_put_code(tmp_path, monkeypatch):
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path / "shared" / "cache"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with pytest.raises(CacheError, match=r"shared' can be written by others \(mode 0777\); chmod"):
        LossGradients(potential(), LossFunction(LossWeights(1.0, 1.0, 0.0)), compile=True)


@pytest.fixture
def n_threads(request) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def atom_in_a_cell() -> Atoms:
    """Return a crystal of one atom per cell, which has neighbours: its own images."""
    atoms = crystal()[:1]
    atoms.set_cell([2.6, 2.7, 2.8, 88, 91, 93])
    atoms.calc = SinglePointCalculator(
        atoms, energy=-1.0, forces=np.zeros((1, 3)), stress=np.full(6, 0.01)
    )
    return atoms


@pytest.mark.slow
@pytest.mark.usefixtures("n_threads")
@pytest.mark.parametrize(
    ("n_threads", "one_structure_first", "kind"),
    [
        (1, False, "mse"),
        rarely(2, True, "huber"),
    ],
    indirect=["n_threads"],
)
def test_compiled_gradients_equal_eager_ones(one_structure_first, kind, crystal_file, tmp_path):
    function = LossFunction(LossWeights(1.0, 1.0, 10.0), kind)
    frames = labelled_graphs(read_dataset(crystal_file).frames, 4.0)
    ase.io.write(tmp_path / "atom.xyz", atom_in_a_cell())
    atom = labelled_graphs(read_dataset(tmp_path / "atom.xyz").frames, 4.0)
    batches = [frames, frames[:2], frames[:1]]
    if one_structure_first:
        batches = [frames[:1], atom, frames[1:2], [*atom, *frames], frames[1:]]
    student = potential(seed=1).train()
    compiled = LossGradients(student, function, compile=True)
    eager = LossGradients(copy.deepcopy(student), function, compile=False)
    for batch in map(collate, batches):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's compiler has many of its own
            found = compiled(batch)
        assert float(found) == pytest.approx(float(eager(batch)), rel=1e-10)
        for (name, p), q in zip(
            student.named_parameters(), eager.potential.parameters(), strict=True
        ):
            assert (p.grad is None) == (q.grad is None), name
            if p.grad is not None:
                torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10, msg=name)


def test_every_error_of_new_and_of_old_frames_has_a_column(crystal_file):
    totals = ErrorTotals(LossFunction(LossWeights(1.0, 1.0, 1.0), "mse"), one_size=False)
    totals.add(residuals(potential(seed=1), batch_of(crystal_file), with_stress=True))
    names = {f"{role}_{name}" for role in ("validation", "replay") for name in totals.metrics()}
    assert len(names) == 8
    assert names <= set(METRICS)


# --- runs --------------------------------------------------------------------------------


def test_three_epochs_lower_the_loss_and_leave_a_whole_folder(tmp_path):
    config = read_config(write_config(tmp_path, training__max_epochs=3))
    reports = []
    best = train(config, tmp_path / "run", progress=reports.append)
    assert best == tmp_path / "run" / "best.ckpt"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "best.ckpt",
        "last.ckpt",
        "learning_curve.png",
        "manifest.json",
        "metrics.csv",
        "parity.png",
        "tensorboard",
        "train.log",
        "train.toml",
    }
    rows = metrics_of(tmp_path / "run")
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert [row["step"] for row in rows] == [2, 4, 6]
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert rows[-1]["validation_loss"] < rows[0]["validation_loss"]
    assert [(r.epoch, r.batch) for r in reports] == [
        (0, 1),
        (0, 2),
        (1, 0),
        (1, 1),
        (1, 2),
        (2, 0),
        (2, 1),
        (2, 2),
        (3, 0),
    ]
    assert (reports[-1].n_epochs, reports[-1].n_batches) == (3, 2)
    assert reports[-1].metrics["train_loss"] == pytest.approx(rows[-1]["train_loss"])
    assert reports[0].metrics == {}


def test_validation_metrics_are_those_of_the_averaged_weights(tmp_path):
    train(read_config(write_config(tmp_path)), tmp_path / "run")
    row = metrics_of(tmp_path / "run")[-1]
    averaged = load_potential(TrainingFolder(tmp_path / "run"), tmp_path / "run" / "last.ckpt")
    batch = collate(
        labelled_graphs(read_dataset(ETHANOL_FRAMES, rows="4:6").frames, 4.0, torch.float32)
    )
    found = residuals(averaged, batch, with_stress=False)
    assert row["validation_energy_mae_mev"] == pytest.approx(
        1e3 * float(found.energy.detach().abs().mean()), rel=1e-4
    )
    assert row["validation_forces_mae_mev_per_a"] == pytest.approx(
        1e3 * float(found.forces.detach().abs().mean()), rel=1e-4
    )


def test_checkpoints_hold_the_moving_average_of_the_weights(tmp_path):
    options = {"training__batch_size": 4, "training__schedule": "plateau"}
    for n_epochs in (1, 2):  # of one step each
        config = read_config(write_config(tmp_path, training__max_epochs=n_epochs, **options))
        train(config, tmp_path / f"run{n_epochs}")
    first = weights_of(tmp_path / "run1" / "last.ckpt", "current_model_state")
    second = weights_of(tmp_path / "run2" / "last.ckpt", "current_model_state")
    averaged = weights_of(tmp_path / "run2" / "last.ckpt")
    d = decay_after(1, config.training.ema_decay)
    assert d == pytest.approx(2 / 11)  # far below the decay of 0.5 that later steps have
    for name, value in averaged.items():
        expected = d * first[name] + (1 - d) * second[name]
        torch.testing.assert_close(value, expected, equal_nan=True)
    name = "potential.architecture.filters.weight"
    assert not torch.equal(first[name], second[name])


def test_a_slow_average_does_not_keep_a_short_training_at_its_start(tmp_path):
    """With a decay of 0.999 and 40 steps the average must still be near the weights."""
    options = {"training__max_epochs": 20, "training__learning_rate": 0.02}
    losses = {}
    for decay in (0.5, 0.999):
        config = read_config(write_config(tmp_path, training__ema_decay=decay, **options))
        train(config, tmp_path / f"run{decay}")
        rows = (tmp_path / f"run{decay}" / "metrics.csv").read_text().splitlines()
        column = rows[0].split(",").index("validation_loss")
        losses[decay] = [float(row.split(",")[column]) for row in rows[1:]]
    untrained = losses[0.5][0]
    assert losses[0.5][-1] < 0.8 * untrained  # something was learnt
    # With 0.999 from the start, 0.999^40 = 96 % of the average would be the first weights.
    assert losses[0.999][-1] < 0.8 * untrained


def test_the_last_checkpoint_is_that_of_the_last_epoch_though_no_better(tmp_path, monkeypatch):
    losses = itertools.count(1.0)  # worse with every epoch
    monkeypatch.setattr(
        "eqcalc.training.validation.mean_loss", lambda *_: torch.tensor(next(losses))
    )
    config = read_config(write_config(tmp_path, training__max_epochs=3))
    train(config, tmp_path / "run")
    epochs = {
        name: torch.load(tmp_path / "run" / f"{name}.ckpt", weights_only=True)["epoch"]
        for name in ("best", "last")
    }
    assert epochs == {"best": 0, "last": 2}


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
@pytest.mark.parametrize("how", ["finished", "interrupted"])
def test_a_resumed_run_equals_an_uninterrupted_one(how, schedule, tmp_path):
    options = {"training__schedule": schedule}
    if schedule == "plateau":
        options["training__plateau_patience"] = 0
    whole = read_config(write_config(tmp_path, training__max_epochs=4, **options))
    train(whole, tmp_path / "whole")
    if how == "finished" and schedule == "plateau":
        short = read_config(write_config(tmp_path, training__max_epochs=2, **options))
        train(short, tmp_path / "parts")
        write_config(tmp_path, training__max_epochs=4, **options)
    else:
        with pytest.raises(KeyboardInterrupt):
            train(whole, tmp_path / "parts", progress=interrupt_in_the_third_epoch)
    assert len(metrics_of(tmp_path / "parts")) == 2
    train(whole, tmp_path / "parts", resume=True)
    for name in ("metrics.csv", "train.toml"):
        found, expected = ((tmp_path / run / name).read_text() for run in ("parts", "whole"))
        assert found == expected
    assert_equal_weights(tmp_path / "parts", tmp_path / "whole")


def test_ctrl_c_keeps_working_after_an_interrupted_run(tmp_path):
    import signal

    before = signal.getsignal(signal.SIGINT)
    config = read_config(write_config(tmp_path, training__max_epochs=4))
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=interrupt_in_the_third_epoch)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_seed_fixes_the_run_and_leaves_the_global_one(tmp_path):
    config = read_config(write_config(tmp_path))
    torch.manual_seed(17)
    state = torch.get_rng_state()
    train(config, tmp_path / "a")
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(18)
    train(config, tmp_path / "b")
    assert metrics_of(tmp_path / "a") == metrics_of(tmp_path / "b")
    other = read_config(write_config(tmp_path, seed=4))
    train(other, tmp_path / "c")
    assert metrics_of(tmp_path / "c") != metrics_of(tmp_path / "a")


def test_a_crystal_trains_on_its_stress(crystal_file, tmp_path):
    path = write_config(
        tmp_path,
        dtype="float64",
        data__path=str(crystal_file),
        data__train_rows="0:2",
        data__validation_rows="2:3",
        training__stress_weight=100.0,
        training__max_epochs=6,
    )
    train(read_config(path), tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert np.isfinite([list(row.values()) for row in rows]).all()
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    last = load_potential(TrainingFolder(tmp_path / "run"), tmp_path / "run" / "last.ckpt")
    batch = collate(labelled_graphs(read_dataset(crystal_file, rows="2:3").frames, 4.0))
    found = residuals(last, batch, with_stress=True).stress.detach()
    assert rows[-1]["validation_stress_mae_mev_per_a3"] == pytest.approx(
        1e3 * float(found.abs().mean()), rel=1e-5
    )


def test_metrics_are_rounded_to_six_digits(tmp_path):
    train(read_config(write_config(tmp_path)), tmp_path / "run")
    with open(tmp_path / "run" / "metrics.csv") as file:
        header, *rows = csv.reader(file)
    assert header == [
        "epoch",
        "step",
        "train_loss",
        "validation_loss",
        "validation_energy_mae_mev",
        "validation_forces_mae_mev_per_a",
        "learning_rate",
    ]
    for row in rows:
        for number in row:
            assert float(number) == float(f"{float(number):.6g}")
            assert len(number) < 13


def test_a_run_begun_with_other_columns_is_resumed(tmp_path):
    train(read_config(write_config(tmp_path)), tmp_path / "run")
    file = tmp_path / "run" / "metrics.csv"
    file.write_text(file.read_text().replace("mae_mev_per_a", "mae_mev"))
    train(
        read_config(write_config(tmp_path, training__max_epochs=3)), tmp_path / "run", resume=True
    )
    with open(file) as lines:
        rows = list(csv.DictReader(lines))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert [row["validation_forces_mae_mev_per_a"] != "" for row in rows] == [False, False, True]


# The training loss shows it in the second step of an epoch, the validation loss after the first.
@pytest.mark.parametrize(("batch_size", "kind"), [(2, "training"), (4, "validation")])
def test_a_training_that_diverges_is_stopped_and_leaves_no_checkpoint(batch_size, kind, tmp_path):
    config = read_config(
        write_config(tmp_path, training__learning_rate=1e30, training__batch_size=batch_size)
    )
    with pytest.raises(
        NonFiniteError,
        match=rf"diverged in epoch 1: the {kind} loss is (nan|inf); lower learning_rate \(it is 1e",
    ):
        train(config, tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.ckpt"))


def test_an_existing_run_is_refused_and_replaced_on_demand(tmp_path):
    config = read_config(write_config(tmp_path))
    train(config, tmp_path / "run")
    before = metrics_of(tmp_path / "run")
    with pytest.raises(OutputExistsError, match=r"'.*run' already holds a training run; pass resu"):
        train(config, tmp_path / "run")
    assert metrics_of(tmp_path / "run") == before
    train(config, tmp_path / "run", overwrite=True)
    assert metrics_of(tmp_path / "run") == before


def test_replaced_run_leaves_no_configuration_of_the_older_one(tmp_path):
    """A training from Python has no file: that of another run would be taken for its own."""
    config = read_config(write_config(tmp_path))
    folder = TrainingFolder(tmp_path / "run")
    folder.prepare(config, resume=False)
    assert {"train.toml", "manifest.json"} <= {path.name for path in folder.path.iterdir()}
    own = read_config(folder.path / "train.toml", tmp_path)
    folder.prepare(own, resume=False)  # the file of the folder itself is its source
    assert folder.read_config().training == config.training
    folder.prepare(dataclasses.replace(config, source=None), resume=False)
    assert [path.name for path in folder.path.iterdir()] == []


def test_resuming_nothing_is_refused(tmp_path):
    config = read_config(write_config(tmp_path))
    with pytest.raises(ConfigError, match=r"nothing to resume: '.*last\.ckpt' does not exist"):
        train(config, tmp_path / "run", resume=True)
    assert not (tmp_path / "run").exists()


def test_resuming_what_ended_within_its_first_epoch_says_how_to_begin_anew(tmp_path):
    """Neither --resume nor a plain start would go on with the folder that it left."""
    config = read_config(write_config(tmp_path))
    TrainingFolder(tmp_path / "run").prepare(config, resume=False)
    with pytest.raises(ConfigError, match=r"ended before its first epoch was done; overwrite=True"):
        train(config, tmp_path / "run", resume=True)
    train(config, tmp_path / "run", overwrite=True)
    assert len(metrics_of(tmp_path / "run")) == config.training.max_epochs


def test_resuming_with_fewer_epochs_than_are_done_is_refused(tmp_path):
    train(read_config(write_config(tmp_path, training__max_epochs=3)), tmp_path / "run")
    before = metrics_of(tmp_path / "run")
    config = read_config(write_config(tmp_path))
    with pytest.raises(
        ConfigError, match=r"3 epochs are already done; max_epochs is 2, raise it\."
    ):
        train(config, tmp_path / "run", resume=True)
    assert metrics_of(tmp_path / "run") == before


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    config = read_config(write_config(tmp_path))
    train(config, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")}
    reports = []
    best = train(config, tmp_path / "run", resume=True, progress=reports.append)
    assert best == tmp_path / "run" / "best.ckpt"
    assert reports == []
    assert {path: path.read_bytes() for path in (tmp_path / "run").glob("*.*")} == before


def test_resuming_and_replacing_at_once_is_refused(tmp_path):
    config = read_config(write_config(tmp_path))
    with pytest.raises(ConfigError, match="give one of them, not both"):
        train(config, tmp_path / "run", resume=True, overwrite=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint\n", b"PK\x03\x04 broken"])
def test_resuming_from_a_damaged_checkpoint_is_refused(content, tmp_path):
    config = read_config(write_config(tmp_path))
    train(config, tmp_path / "run")
    (tmp_path / "run" / "last.ckpt").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"last\.ckpt' is damaged or no checkpoint"):
        train(config, tmp_path / "run", resume=True)


@pytest.mark.parametrize("by", ["rows", "path"])
def test_rows_that_are_trained_and_validated_on_are_refused(by, tmp_path):
    options = {"data__validation_rows": "3:6"}
    if by == "path":  # the same file by another name
        (tmp_path / "link.xyz").symlink_to(ETHANOL_FRAMES)
        options["data__validation_path"] = "link.xyz"
    config = read_config(write_config(tmp_path, **options))
    with pytest.raises(
        ConfigError, match=r"rows of .*\.xyz must not overlap, found in both: 3; change train_rows"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_same_rows_of_another_file_are_accepted(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index="4:6")
    ase.io.write(tmp_path / "other.xyz", frames)
    config = read_config(
        write_config(tmp_path, data__validation_path="other.xyz", data__validation_rows="0:2")
    )
    assert train(config, tmp_path / "run").exists()


def test_coincident_atoms_are_refused_with_frame_and_file(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    frames[3].positions[1] = frames[3].positions[0]
    ase.io.write(tmp_path / "bad.xyz", frames)
    config = read_config(write_config(tmp_path, data__path="bad.xyz"))
    with pytest.raises(GraphError, match=r"^frame 3 of bad\.xyz: atoms 0 and 1 coincide"):
        train(config, tmp_path / "run")


def test_an_npz_with_keys_of_its_own_is_read(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    np.savez(
        tmp_path / "own.npz",
        species=frames[0].numbers,
        xyz=[a.positions for a in frames],
        energy=[a.get_potential_energy() for a in frames],
        forces=[a.get_forces() for a in frames],
    )
    config = read_config(
        write_config(
            tmp_path,
            data__path="own.npz",
            data__numbers_key="species",
            data__positions_key="xyz",
            data__energy_key="energy",
            data__forces_key="forces",
            data__energy_unit="eV",
            data__length_unit="Angstrom",
        )
    )
    data = read_training_data(config)
    assert (data.train.rows, data.validation.rows) == ([0, 1, 2, 3], [4, 5])
    np.testing.assert_allclose(data.train.frames[2].atoms.positions, frames[2].positions)


# --- the random split


def test_a_fraction_is_drawn_at_random_by_the_seed(tmp_path):
    def rows(seed: int) -> tuple[list[int], list[int]]:
        options = {"data__validation_rows": None, "data__train_rows": None}
        config = read_config(
            write_config(tmp_path, data__validation_fraction=0.34, seed=seed, **options)
        )
        data = read_training_data(config)
        return data.train.rows, data.validation.rows

    train_rows, validation_rows = rows(0)
    assert sorted(train_rows + validation_rows) == list(range(6))
    assert len(validation_rows) == 2
    assert rows(0) == (train_rows, validation_rows)
    assert len({tuple(rows(seed)[1]) for seed in range(8)}) > 3


def test_frames_of_one_group_are_on_one_side(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    for k, atoms in enumerate(frames):
        atoms.info["config_type"] = f"run{k // 2}"
    ase.io.write(tmp_path / "grouped.xyz", frames)
    for seed in range(5):
        config = read_config(
            write_config(
                tmp_path,
                data__path=str(tmp_path / "grouped.xyz"),
                data__validation_rows=None,
                data__train_rows=None,
                data__validation_fraction=0.3,
                data__group_key="config_type",
                seed=seed,
            )
        )
        data = read_training_data(config)
        assert len(data.validation.rows) == 2
        assert {row // 2 for row in data.train.rows}.isdisjoint(
            {row // 2 for row in data.validation.rows}
        )


@pytest.mark.parametrize(
    ("changes", "error", "match"),
    [
        ({"validation_fraction": 0.2}, ConfigError, "validation_fraction draws .* not both"),
        (
            {"validation_fraction": 1.0, "validation_rows": None},
            ConfigError,
            r"validation_fraction must lie in \(0, 1\), found 1\.0",
        ),
        ({"group_key": "run"}, ConfigError, "group_key keeps frames together that"),
        (
            {
                "path": str(ETHANOL_FRAMES.with_suffix(".npz")),
                "group_key": "run",
                "validation_fraction": 0.2,
                "validation_rows": None,
            },
            ConfigError,
            "group_key='run' names an entry of a frame's info, which npz files do not have",
        ),
        ({"test_rows": "3:6"}, ConfigError, "test rows of .* found 3 that are: 3, 4, 5"),
        ({"test_rows": "0:2", "train_rows": "2:4"}, None, ""),
    ],
)
def test_a_split_that_means_nothing_is_refused(changes, error, match, tmp_path):
    path = write_config(tmp_path, **{f"data__{key}": value for key, value in changes.items()})

    def check() -> None:
        config = read_config(path)
        refuse_unfit_data(config, read_training_data(config))

    if error is None:
        check()
        return
    with pytest.raises(error, match=match):
        check()


def test_a_frame_without_its_group_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"frame 0 has no 'runs' to group by"):
        read_dataset(ETHANOL_FRAMES, group_key="runs")


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("architecture__embedding_dim", 16, "architecture"),
        ("data__train_rows", "0:3", "data"),
        ("seed", 5, "seed"),
        ("training__schedule", "plateau", "schedule"),
        ("training__max_epochs", 9, "max_epochs"),
        ("training__learning_rate", 0.001, "learning_rate"),
        ("training__forces_weight", 3.0, "forces_weight"),
        ("training__batch_size", 3, "batch_size"),
        ("training__ema_decay", 0.9, "ema_decay"),
    ],
)
def test_resuming_another_run_is_refused(place, value, named, tmp_path):
    options = {"training__schedule": "cosine"}
    train(read_config(write_config(tmp_path, **options)), tmp_path / "run")
    other = read_config(write_config(tmp_path, **(options | {place: value})))
    with pytest.raises(ConfigError, match=rf"cannot be resumed with another {named}: use its own"):
        train(other, tmp_path / "run", resume=True)


def test_an_output_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    config = read_config(write_config(tmp_path))
    with pytest.raises(OutputError, match=r"cannot use '.*run' for a training run"):
        train(config, tmp_path / "file" / "run")


def test_a_loss_on_stress_needs_stress_labels(tmp_path):
    config = read_config(write_config(tmp_path, training__stress_weight=1.0))
    with pytest.raises(
        DataError,
        match=r"needs frames that are periodic in all three .* none of .*set stress_weight = 0",
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_validation_frames_without_forces_are_refused(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":2")
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, energy=atoms.get_potential_energy())
    ase.io.write(tmp_path / "bare.xyz", frames)
    config = read_config(
        write_config(tmp_path, data__validation_path="bare.xyz", data__validation_rows=None)
    )
    with pytest.raises(DataError, match=r"every frame needs forces, .* frames 0, 1 of bare\.xyz"):
        train(config, tmp_path / "run")


def test_options_that_only_the_data_can_say_come_from_the_training_frames(tmp_path):
    architecture = {
        "name": "nequip",
        "l_max": 1,
        "num_layers": 1,
        "num_features": 4,
        "cut_off": 2.0,
    }
    config = read_config(write_config(tmp_path, architecture=architecture))
    train(config, tmp_path / "run")
    card = open_model_file(
        export_run(TrainingFolder(tmp_path / "run"), tmp_path / "tiny").path
    ).card
    distances = [
        frame.atoms.get_all_distances() for frame in read_dataset(ETHANOL_FRAMES, rows="0:4").frames
    ]
    neighbours = sum(np.sum((d > 0) & (d < 2.0)) for d in distances) / (4 * 9)
    assert card.config["elements"] == ["H", "C", "O"]
    assert card.config["avg_num_neighbors"] == pytest.approx(neighbours, rel=1e-12)


def test_options_that_the_training_file_states_are_kept(tmp_path):
    architecture = {
        "name": "nequip",
        "l_max": 0,
        "parity": True,
        "num_layers": 1,
        "num_features": 2,
        "elements": ["O", "N", "C", "H"],
        "avg_num_neighbors": 3.5,
    }
    config = read_config(write_config(tmp_path, architecture=architecture))
    assert build_start(config, read_training_data(config)).architecture == architecture


def test_a_cutoff_below_every_distance_is_refused(tmp_path):
    architecture = {"name": "egnn", "hidden_dim": 4, "num_layers": 1, "cutoff": 0.5}
    config = read_config(write_config(tmp_path, architecture=architecture))
    match = r"no atom has a neighbour within the cutoff of 0\.5 Å: the shortest distance is 0\.95"
    with pytest.raises(DataError, match=match):
        build_start(config, read_training_data(config))
    trusting = read_config(write_config(tmp_path, architecture=architecture, data__trust_data=True))
    start = build_start(trusting, read_training_data(trusting))
    assert start.architecture["avg_num_neighbors"] == 1.0
    assert "no atom has a neighbour within" in start.notes[0]


def test_atoms_without_neighbours_are_noted_with_their_frames(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    frames[2].positions[8] += 9.0
    ase.io.write(tmp_path / "far.xyz", frames)
    config = read_config(write_config(tmp_path, data__path="far.xyz", data__trust_data=True))
    match = r"1 atoms have no neighbour within the cutoff of 4 Å, in frame 2 of far\.xyz"
    with pytest.warns(DataWarning, match=match):
        train(config, tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert any("1 atoms have no neighbour" in note for note in manifest["data"]["notes"])
    assert manifest["data"]["training"] == {
        "source": "far.xyz",
        "frames": 4,
        "units": "eV, Angstrom",
    }


# --- what a run builds, draws and leaves alone ---------------------------------------------


NEQUIP = {"name": "nequip", "l_max": 0, "num_layers": 1, "num_features": 2, "cut_off": 3.0}
EGNN = {"name": "egnn", "hidden_dim": 4, "num_layers": 1, "cutoff": 3.0}
DROPOUT = {
    "name": "gvp",
    "scalar_dim": 8,
    "num_layers": 1,
    "avg_num_neighbors": 8.0,
    "drop_rate": 0.3,
}


@pytest.fixture
def built(monkeypatch) -> Counter[str]:
    """Count the graphs and the networks that are built."""
    counts: Counter[str] = Counter()

    def count(module: object, function: str) -> None:
        original = getattr(module, function)

        def counted(*arguments: object, **options: object) -> object:
            counts[function] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, function, counted)

    count(eqcalc.data.batches, "build_graph")
    count(architectures, "build")
    return counts


@pytest.mark.parametrize(
    ("architecture", "n_networks"),
    [
        (CONTENT["architecture"], 1),
        ({**NEQUIP, "avg_num_neighbors": 8.0}, 1),
        ({**NEQUIP, "elements": ["H", "C", "O"]}, 2),
        (EGNN, 2),
    ],
)
def test_a_run_builds_each_graph_once_and_one_network_or_two_to_count_neighbours(
    architecture, n_networks, built, tmp_path
):
    config = read_config(write_config(tmp_path, architecture=architecture))
    assert built == {}
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run", progress=_interrupt_in_the_second_epoch)
    assert built == {"build_graph": 6, "build": n_networks}  # 4 training, 2 validation frames
    train(config, tmp_path / "run", resume=True)
    assert built == {"build_graph": 12, "build": 2 * n_networks}
    train(config, tmp_path / "run", resume=True)  # which has nothing left to do
    assert built == {"build_graph": 12, "build": 2 * n_networks}


def _interrupt_in_the_second_epoch(report) -> None:
    if (report.epoch, report.batch) == (1, 1):
        raise KeyboardInterrupt


def test_an_export_builds_the_network_of_the_checkpoint_once(finished_run, built, tmp_path):
    export_run(TrainingFolder(finished_run), tmp_path / "tiny")
    assert built["build"] == 1


def test_what_only_building_the_network_finds_is_refused_before_the_folder_is_made(
    tmp_path, monkeypatch
):
    config = read_config(write_config(tmp_path))

    def build(name: str, **options: object) -> None:
        raise ConfigError("these options do not fit together")

    monkeypatch.setattr(architectures, "build", build)
    with pytest.raises(ConfigError, match="these options do not fit together"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cutoff_that_changes_with_the_number_of_neighbours_is_refused(tmp_path, monkeypatch):
    config = read_config(write_config(tmp_path, architecture=EGNN))
    build = architectures.build

    def build_with_its_own_cutoff(name: str, **options: float) -> torch.nn.Module:
        network = build(name, **options)
        network.cutoff = 2.0 if "avg_num_neighbors" in options else 3.0
        return network

    monkeypatch.setattr(architectures, "build", build_with_its_own_cutoff)
    with pytest.raises(
        ConfigError,
        match=r"cutoff of egnn must not depend on .*, found 3\.0 Å by default and 2\.0 Å with 6\."
        r".*; state avg_num_neighbors in \[architecture\]",
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def global_state() -> dict[str, object]:
    """Return what a process has one of, and a library must leave alone."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (name, keys.tolist(), *rest),
        "random": random.getstate(),
        "environment": dict(os.environ),
        "default dtype": torch.get_default_dtype(),
        "gradients": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
        "matmul": torch.get_float32_matmul_precision(),
        "warnings": list(warnings.filters),
    }


def seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)


@pytest.fixture(autouse=True)
def generator_of_python() -> Iterator[None]:
    """Put the state of ``random`` back; torch's and numpy's are for every test."""
    state = random.getstate()
    yield
    random.setstate(state)


@pytest.mark.parametrize("architecture", [DROPOUT, EGNN])
@pytest.mark.parametrize("with_gradients", [True, False])
def test_a_run_leaves_the_global_state_alone(architecture, with_gradients, tmp_path):
    config = read_config(write_config(tmp_path, architecture=architecture))
    seed_everything(5)
    np.random.standard_normal()  # noqa: NPY002  of the two it draws, numpy keeps one
    with torch.set_grad_enabled(with_gradients):
        before = global_state()
        train(config, tmp_path / "run")
        load_potential(TrainingFolder(tmp_path / "run"))
        after = global_state()
    for name, state in before.items():
        assert after[name] == state, name


def test_a_run_that_stops_leaves_the_global_state_alone(tmp_path):
    config = read_config(write_config(tmp_path, architecture=DROPOUT, training__learning_rate=1e30))
    before = global_state()
    with pytest.raises(NonFiniteError, match="diverged in epoch 1"):
        train(config, tmp_path / "run")
    assert global_state() == before


@pytest.mark.gpu
def test_a_run_leaves_the_generator_of_the_gpu_alone(tmp_path):
    config = read_config(write_config(tmp_path, architecture=DROPOUT))
    before = torch.cuda.get_rng_state()
    train(config, tmp_path / "run")
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.gpu
def test_loss_and_gradients_of_a_step_do_not_wait_for_the_gpu(tmp_path, monkeypatch):
    own, called = PotentialModule._set_gradients, []

    def without_waiting(self, *arguments):
        called.append(1)
        torch.cuda.set_sync_debug_mode("error")
        try:
            return own(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(PotentialModule, "_set_gradients", without_waiting)
    train(read_config(write_config(tmp_path)), tmp_path / "run")
    assert called


def test_dropout_depends_on_the_seed_of_the_training_file_alone(tmp_path):
    config = read_config(write_config(tmp_path, architecture=DROPOUT))
    seed_everything(1)
    train(config, tmp_path / "a")
    seed_everything(2)
    train(config, tmp_path / "b", progress=lambda report: torch.rand(1))
    assert_equal_weights(tmp_path / "b", tmp_path / "a")
    architecture = DROPOUT | {"drop_rate": 0.0}
    train(read_config(write_config(tmp_path, architecture=architecture)), tmp_path / "c")
    assert metrics_of(tmp_path / "c")[0] != metrics_of(tmp_path / "a")[0]  # there is dropout


def test_a_resumed_run_with_dropout_equals_an_uninterrupted_one(tmp_path):
    config = read_config(write_config(tmp_path, architecture=DROPOUT, training__max_epochs=4))
    seed_everything(1)
    train(config, tmp_path / "whole")
    seed_everything(2)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=interrupt_in_the_third_epoch)
    seed_everything(3)
    train(config, tmp_path / "parts", resume=True)
    assert_equal_weights(tmp_path / "parts", tmp_path / "whole")
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_every_run_epoch_and_batch_has_a_seed_of_its_own():
    seeds = {seed_of_batch(*key) for key in itertools.product(range(4), repeat=3)}
    assert len(seeds) == 4**3
    assert seed_of_batch(1, 2, 3) == seed_of_batch(1, 2, 3)


def draws() -> list[float]:
    """Return a number from each global generator."""
    return [float(torch.rand(())), np.random.random(), random.random()]  # noqa: NPY002


def draws_and_stops(seed: int, found: list[list[float]]) -> None:
    with seeded(seed):
        found.append(draws())
        raise KeyboardInterrupt


@pytest.mark.parametrize("seed", [0, 7, 2**40 + 7, 2**64 - 1])
def test_seeded_draws_the_same_anywhere_and_puts_the_generators_back(seed):
    found: list[list[float]] = []
    for caller in (1, 2):
        seed_everything(caller)
        before = global_state()
        with pytest.raises(KeyboardInterrupt):
            draws_and_stops(seed, found)
        assert global_state() == before
    assert found[0] == found[1]
    assert found[0][0] == float(torch.rand((), generator=torch.Generator().manual_seed(seed)))


# --- export ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(
        folder,
        data__train_rows="0:1",
        data__test_rows="1:4",
        licence="CC0-1.0",
        description="a test",
    )
    train(read_config(config), folder / "run")
    return folder / "run"


def test_export_writes_a_model_whose_card_states_its_measured_errors(finished_run, tmp_path):
    finished = export_run(TrainingFolder(finished_run), tmp_path / "tiny")
    assert {path.name for path in (tmp_path / "tiny").iterdir()} == {
        "model.pt",
        "card.md",
        "metrics.json",
        "train.toml",
    }
    card = open_model_file(tmp_path / "tiny").card
    assert card == finished.card
    test = read_dataset(ETHANOL_FRAMES, rows="1:4")
    summary = evaluate(load_model(tmp_path / "tiny", device="cpu"), test.frames).summary()
    assert card.errors == {"measured on": f"test rows 1:4 of {ETHANOL_FRAMES.name}"} | summary
    metrics = json.loads((tmp_path / "tiny" / "metrics.json").read_text())
    assert metrics == {"model": "tiny", "n_frames": 3} | card.errors
    assert (tmp_path / "tiny" / "card.md").read_text() == card.to_markdown()
    assert (tmp_path / "tiny" / "train.toml").read_text() == (
        finished_run / "train.toml"
    ).read_text()
    assert (card.name, card.licence, card.description) == ("tiny", "CC0-1.0", "a test")
    assert card.compositions == ["C2H6O"]
    assert card.training_data["training rows"] == "0:1"
    losses = np.loadtxt(finished_run / "metrics.csv", delimiter=",", skiprows=1, usecols=3)
    best = int(np.argmin(losses)) + 1
    assert card.training_data["weights"] == f"best.ckpt, after {best} epochs"
    assert card.seen == seen_in([ase.io.read(ETHANOL_FRAMES, 0)], card.cutoff)
    frames = json.loads(open_model_file(tmp_path / "tiny").passport)["frames"]
    assert len(frames) == 2  # the validation frames


def test_an_export_that_is_stopped_leaves_the_older_model_whole(
    finished_run, tmp_path, monkeypatch
):
    folder = TrainingFolder(finished_run)
    export_run(folder, tmp_path / "tiny")
    before = {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()}

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eqcalc.training.finish.evaluate", stopped)
    for target in ("tiny", "other"):
        with pytest.raises(KeyboardInterrupt):
            export_run(folder, tmp_path / target, overwrite=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()} == before
    assert not (tmp_path / "other" / "model.pt").exists()


def test_the_card_says_that_frames_were_drawn_and_that_all_were_tested(tmp_path):
    same = ETHANOL_FRAMES.with_suffix(".npz")  # what is trained on, for once
    data = {"path": str(ETHANOL_FRAMES), "validation_fraction": 0.3, "test_path": str(same)}
    train(config_of(tmp_path, data | {"trust_data": True}, max_epochs=1), tmp_path / "run")
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "tiny").card
    assert card.training_data["training rows"] == "all, but for 0.3 of them drawn for validation"
    said = f"all frames of {same.name}, of which 4 of 6 frames were trained on"
    assert card.errors["measured on"] == said


def test_the_exported_model_is_the_best_checkpoint(finished_run, tmp_path):
    export_run(TrainingFolder(finished_run), tmp_path / "tiny")
    network = load_potential(TrainingFolder(finished_run))
    atoms = read_dataset(ETHANOL_FRAMES).frames[0].atoms
    graph = build_graph(atoms, 4.0, dtype=torch.float32)
    energies, _ = load_model(tmp_path / "tiny", device="cpu")(graph)
    torch.testing.assert_close(energies, network.evaluate(graph).energies, rtol=0, atol=2e-6)


def test_without_test_rows_the_validation_frames_are_judged(tmp_path):
    train(read_config(write_config(tmp_path)), tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "tiny")
    assert finished.judged_on == f"validation frames of {ETHANOL_FRAMES.name}"
    assert finished.comparison.n_frames == 2


ISOLATED = {"H": -13.5, "C": -1030.0, "O": -2042.5}


@pytest.mark.parametrize("given", ["isolated_atoms", "least_squares", ISOLATED])
def test_a_model_trained_on_isolated_atoms_gives_their_energies_exactly(given, tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    for symbol, energy in ISOLATED.items():
        atom = Atoms(symbol, info={"config_type": "IsolatedAtom"})
        atom.calc = SinglePointCalculator(atom, energy=energy, forces=np.zeros((1, 3)))
        frames.append(atom)
    ase.io.write(tmp_path / "all.xyz", frames)
    config = read_config(
        write_config(tmp_path, data__path="all.xyz", data__reference_energies=given)
    )
    train(config, tmp_path / "run")
    trained = load_potential(TrainingFolder(tmp_path / "run"))
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "tiny")
    is_exact = given == "isolated_atoms"
    assert trained.exact_isolated_atoms is is_exact
    assert finished.card.training_data.get("isolated atoms") == ("exact" if is_exact else None)
    calculator = EqCalculator(tmp_path / "tiny")
    found = {symbol: calculator.get_potential_energy(Atoms(symbol)) for symbol in ISOLATED}
    differences = [abs(found[symbol] - energy) for symbol, energy in ISOLATED.items()]
    said = "held in training at H -13.500000, C -1030.000000, O -2042.500000 eV."
    assert any(said in sentence for sentence in finished.card.gives_up) is is_exact
    assert (max(differences) < 2e-6) is is_exact
    energies = trained.evaluate(build_graph(frames[0], 4.0, dtype=torch.float32)).energy
    assert calculator.get_potential_energy(frames[0]) == pytest.approx(float(energies), abs=2e-5)


def test_isolated_atoms_are_exact_while_a_model_is_trained(tmp_path):
    atom = Atoms("O", info={"config_type": "IsolatedAtom"})
    atom.calc = SinglePointCalculator(atom, energy=-2042.5, forces=np.zeros((1, 3)))
    pair = Atoms("O2", [[0, 0, 0], [0, 0, 1.2]])
    pair.calc = SinglePointCalculator(pair, energy=-4090.0, forces=[[0, 0, -1.0], [0, 0, 1.0]])
    ase.io.write(tmp_path / "oxygen.xyz", [atom, pair, pair])
    config = read_config(
        write_config(
            tmp_path,
            data__path="oxygen.xyz",
            data__reference_energies="isolated_atoms",
            data__train_rows="1:2",
            data__validation_rows="2:3",
        )
    )
    start = build_start(config, read_training_data(config)).potential.train()
    graph = build_graph(Atoms("O"), 4.0, dtype=torch.float32)
    assert float(start.evaluate(graph).energy.detach()) == pytest.approx(-2042.5, abs=2e-6)


def test_an_existing_model_is_refused_and_replaced_on_demand(finished_run, tmp_path):
    (tmp_path / "model.pt").write_text("precious")
    with pytest.raises(OutputExistsError, match=r"model\.pt' exists; pass overwrite=True"):
        export_run(TrainingFolder(finished_run), tmp_path)
    assert (tmp_path / "model.pt").read_text() == "precious"
    (tmp_path / "train.toml").write_text("of an older model")
    assert (
        export_run(TrainingFolder(finished_run), tmp_path, overwrite=True).path.stat().st_size > 1e4
    )
    own = (finished_run / "train.toml").read_bytes()
    assert (tmp_path / "train.toml").read_bytes() == own


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"is not a training run \(it has no readable manifest"):
        export_run(TrainingFolder(tmp_path), tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"no checkpoint\n", b"PK\x03\x04 broken"])
def test_a_checkpoint_that_is_none_is_refused(content, finished_run, tmp_path):
    (tmp_path / "other.ckpt").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"other\.ckpt' is not a checkpoint of this run"):
        load_potential(TrainingFolder(finished_run), tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    "content",
    [
        {"weights": 1},
        {"state_dict": {}},
        [1, 2],
        {"state_dict": {}, "architecture": {"name": "painn"}},
        {"state_dict": {}, "architecture": {"name": "pain"}},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(content, finished_run, tmp_path):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ModelFileError, match=r"other\.ckpt' is not a checkpoint of this run"):
        load_potential(TrainingFolder(finished_run), tmp_path / "other.ckpt")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": "schnet"}, r"of another network, schnet \(.*\), and this run's is painn"),
        ({"num_blocks": 2}, r"of another network, painn \(.*num_blocks=2.*num_blocks=1"),
    ],
)
def test_a_checkpoint_of_another_run_s_network_is_not_exported(
    options, said, finished_run, tmp_path
):
    """It holds a whole network, which would be exported under this run's name."""
    config = read_config(finished_run / "train.toml")
    architecture = {} if "name" in options else config.architecture
    other = dataclasses.replace(config, architecture={**architecture, **options})
    train(other, tmp_path / "other")
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    shutil.copy(tmp_path / "other" / "best.ckpt", run / "best.ckpt")
    with pytest.raises(ModelFileError, match=said):
        export_run(TrainingFolder(run), tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_missing_checkpoint_is_refused(finished_run, tmp_path):
    with pytest.raises(ModelFileError, match=r"there is no checkpoint '.*x\.ckpt'; has the run"):
        load_potential(TrainingFolder(finished_run), tmp_path / "x.ckpt")


def test_a_checkpoint_whose_weights_are_not_finite_is_refused(finished_run, tmp_path):
    content = torch.load(finished_run / "best.ckpt", weights_only=True)
    name = next(key for key in content["state_dict"] if key.endswith("filters.weight"))
    content["state_dict"][name][0] = torch.nan
    torch.save(content, tmp_path / "nan.ckpt")
    with pytest.raises(ModelFileError, match=r"weights in '.*nan\.ckpt' are not finite: the train"):
        load_potential(TrainingFolder(finished_run), tmp_path / "nan.ckpt")


# --- the repulsion of nuclei ---------------------------------------------------------------


def test_a_network_is_trained_with_the_repulsion_of_nuclei(tmp_path):
    config = read_config(write_config(tmp_path, training__zbl_cutoff=0.9, training__max_epochs=1))
    train(config, tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "tiny")
    assert finished.card.zbl["cutoff"] == 0.9
    near = Atoms("CO", [[0.0, 0.0, 0.0], [0.0, 0.0, 0.2]])
    near.calc = EqCalculator(tmp_path / "tiny", device="cpu", engine="torchscript")
    assert near.get_forces()[1, 2] > 100.0  # eV/Å
    assert load_potential(TrainingFolder(tmp_path / "run")).zbl is not None


def test_nuclei_of_each_pair_repel_within_their_own_radii(tmp_path):
    config = read_config(write_config(tmp_path, training__zbl_radii=1.1, training__max_epochs=1))
    train(config, tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "tiny")
    assert finished.card.zbl["elements"] == ["H", "C", "O"]
    sums = 1.1 * np.add.outer([0.31, 0.76, 0.66], [0.31, 0.76, 0.66])  # Cordero et al., 2008
    np.testing.assert_allclose(finished.card.zbl["pair_cutoffs"], sums, rtol=1e-12)
    assert "repulsion of nuclei: ZBL within 0.68 to 1.67 Å, by elements" in (
        tmp_path / "tiny" / "card.md"
    ).read_text(encoding="utf-8")
    trained = load_potential(TrainingFolder(tmp_path / "run"))
    calculator = EqCalculator(tmp_path / "tiny", device="cpu", dtype="float64")
    for symbols, length in (("OH", 0.9), ("CC", 1.2), ("CO", 0.2)):
        near = Atoms(symbols, [[0.0, 0.0, 0.0], [0.0, 0.0, length]])
        repelled = trained.zbl(build_graph(near, 4.0)).sum()
        assert float(repelled) > 0.1  # eV
        expected = trained.double().evaluate(build_graph(near, 4.0)).energy
        assert calculator.get_potential_energy(near) == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zbl_cutoff": 0.0}, "zbl_cutoff must be a positive number"),
        ({"zbl_radii": -1.0}, "zbl_radii must be a positive number"),
        ({"zbl_radii": 1.0, "zbl_cutoff": 0.8}, "zbl_cutoff is one distance for all pairs, zbl_ra"),
        ({"zbl_radii": 1.0, "start_from": "x"}, "zbl_radii does not go with start_from"),
        ({"zbl_cutoff": 2.0, "start_from": "x"}, "zbl_cutoff does not go with start_from"),
    ],
)
def test_a_repulsion_that_means_nothing_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        TrainingOptions(**options)


def test_nuclei_that_repel_beyond_the_cutoff_are_refused(tmp_path):
    config = read_config(write_config(tmp_path, training__zbl_radii=3.0))
    with pytest.raises(ConfigError, match=r"cutoff of ZBL must be at most that of PaiNN, 4 Å"):
        train(config, tmp_path / "run")
