"""The verbs info, evaluate, train and export on real files."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from dataclasses import asdict, fields
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from command_line import run
from small_models import ETHANOL_FRAMES, POTENTIALS, ethanol, row_of_ethanol, small_options

import eqcalc.cli.train
from eqcalc import architectures
from eqcalc.architectures import available, config_class, is_potential, published
from eqcalc.cli import data_options
from eqcalc.data import read_dataset
from eqcalc.engines import load_model
from eqcalc.errors import MissingDependencyError, import_extra
from eqcalc.evaluation import evaluate
from eqcalc.export import rebuild_potential
from eqcalc.model_file import open_model_file
from eqcalc.units import ENERGY_UNITS, LENGTH_UNITS

TRAINING_FILE = f"""
name = "tiny"
licence = "CC0-1.0"
[data]
path = "{ETHANOL_FRAMES}"
train_rows = "0:4"
validation_rows = "4:6"
[architecture]
name = "painn"
embedding_dim = 8
num_blocks = 1
num_radial_basis = 6
cut_off = 4.0
[training]
batch_size = 2
max_epochs = 2
"""

EXAMPLE = Path(__file__).parents[2] / "examples" / "04_new_architecture.py"

TINY = {
    "embedding_dim": 8,
    "hidden_dim": 8,
    "num_features": 8,
    "scalar_dim": 8,
    "l_max": 1,
    "num_blocks": 1,
    "num_interaction_blocks": 1,
    "num_layers": 1,
    "num_spherical_basis": 3,
    "num_layers_after_skip": 1,
    "num_output_linear_layers": 1,
    "elements": ["H", "C", "O"],
}
"""Options of those architectures that have them, smaller than the small ones."""


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Return a working directory with train.toml."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.toml").write_text(TRAINING_FILE)
    return tmp_path


# --- info --------------------------------------------------------------------------------


def test_info_shows_the_card_and_the_checksum(models, capsys):
    assert run("info", models["double"]) == 0
    out = capsys.readouterr().out
    for part in ("double", "painn", "H, C, O", "4 Å", "float64", "eV", "not stated"):
        assert part in out
    assert open_model_file(models["double"]).sha256 in out
    assert str(models["double"]) in out


def test_info_as_json_is_the_card(models, capsys):
    assert run("info", models["double"], "--json") == 0
    card = json.loads(capsys.readouterr().out)
    assert card == json.loads(open_model_file(models["double"]).card.to_json())


def test_info_without_a_model_lists_the_shipped_ones(capsys):
    assert run("info") == 0
    out = capsys.readouterr().out
    assert out.startswith("Shipped models:")
    from eqcalc import available_models

    for name in available_models():
        assert f"  {name}: " in out
    for name in available():
        assert f"  {name} " in out


@pytest.mark.parametrize("name", available())
def test_info_shows_every_option_of_an_architecture(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    assert run("info", name.upper()) == 0
    out = capsys.readouterr().out
    assert re.match(r"\w+(\+\+)?: .*\nSource: .*\n", out)
    assert ":`" not in out
    defaults, paper = asdict(config_class(name)()), asdict(published(name))
    for option, default in defaults.items():
        shown = [
            re.escape(str(value).lower() if isinstance(value, bool) else str(value))
            for value in (default, paper[option])
        ]
        assert re.search(rf"^{option} +{shown[0]} +{shown[1]}( |$)", out, re.M), option
    assert run("info", name, "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["is_potential"] is is_potential(name)
    assert {k: v["default"] for k, v in content["options"].items()} == defaults
    assert {k: v["published"] for k, v in content["options"].items()} == paper
    assert all(v["meaning"] for v in content["options"].values())


def test_info_prefers_a_model_file_to_an_architecture(models, folder, capsys):
    (folder / "painn").mkdir()
    assert run("info", "painn") == 0
    assert capsys.readouterr().out.startswith("PaiNN: the polarizable")
    (folder / "painn" / "model.pt").write_bytes(models["double"].read_bytes())
    assert run("info", "painn") == 0
    assert "sha256" in capsys.readouterr().out


def test_info_suggests_an_architecture(capsys):
    assert run("info", "nequipp") == 2
    assert "Architectures: dimenet, " in (err := capsys.readouterr().err)
    assert err.endswith("Did you mean 'nequip'?\n")
    assert run("info", "models/nequip.pt") == 2
    assert "Architectures" not in capsys.readouterr().err


def test_info_shows_the_card_of_a_propagator(capsys):
    assert run("info", "gmn-nbody") == 0
    out = capsys.readouterr().out
    for part in ("learned dynamics", "eqcalc.dynamics.Propagator", "timestep: 0.2", "no box"):
        assert part in out
    assert "eV" not in out
    assert run("info", "gmn-nbody", "--json") == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "propagator"


@pytest.mark.parametrize("words", ["md {} -n 2 -m", "relax {} -m"])
def test_md_and_relax_refuse_a_propagator(folder, capsys, words):
    assert run(*words.format(ETHANOL_FRAMES).split(), "gmn-nbody") == 2
    captured = capsys.readouterr()
    assert "is a learned dynamics (gmn), not a potential" in captured.err
    assert "Run it with eqcalc.dynamics.Propagator." in captured.err
    assert "note:" not in captured.out
    assert [path.name for path in folder.iterdir()] == ["train.toml"]


@pytest.mark.parametrize("words", ["md row.xyz -n 4 -e nve", "relax row.xyz -n 4"])
def test_md_and_relax_in_blocks_go_where_the_whole_goes(words, models, folder, capsys):
    ase.io.write("row.xyz", row_of_ethanol())
    words = [*words.split(), "-m", models["double"], "--device", "cpu", "-o"]
    code = run(*words, "whole")
    assert run(*words, "blocks", "--max-edges", 400) == code
    whole, blocks = ase.io.read("whole/trajectory.traj"), ase.io.read("blocks/trajectory.traj")
    np.testing.assert_allclose(blocks.positions, whole.positions, atol=1e-9)
    np.testing.assert_allclose(blocks.get_forces(), whole.get_forces(), atol=1e-9)
    for name, max_edges in (("whole", None), ("blocks", 400)):
        manifest = json.loads((folder / name / "manifest.json").read_text())
        assert manifest["calculator"]["max_edges"] == max_edges
    assert run(*words, "few", "--max-edges", 20) == 2
    assert "error: --max-edges 20 is too few: the energy of one H atom" in capsys.readouterr().err
    assert not (folder / "few").exists()


@pytest.mark.parametrize("number", ["0", "-5", "many", "2.5"])
@pytest.mark.parametrize("words", ["md {data}", "relax {data}", "evaluate painn-ethanol {data}"])
def test_a_largest_call_that_is_no_number_of_edges_is_refused(words, number, folder, capsys):
    assert run(*words.format(data=ETHANOL_FRAMES).split(), "--max-edges", number) == 2
    assert "Invalid value for '--max-edges'" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["train.toml"]


def test_evaluate_without_frames_says_that_they_are_missing(folder, capsys):
    assert run("evaluate") == 2
    assert "and found neither" in " ".join(capsys.readouterr().err.split())
    assert run("evaluate", "painn-ethanol") == 2
    shown = " ".join(capsys.readouterr().err.split())
    assert "takes a model and a file of frames with labels, and found only 'painn-eth" in shown


def test_evaluate_refuses_a_propagator(folder, capsys):
    assert run("evaluate", "gmn-nbody", ETHANOL_FRAMES) == 2
    assert "is a learned dynamics (gmn), not a potential" in capsys.readouterr().err


def test_info_of_an_unknown_model_ends_with_2_and_the_reason(capsys):
    assert run("info", "no-such-model") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: unknown model: 'no-such-model'. Shipped models: ")
    assert captured.out == ""


def test_info_of_a_damaged_file_ends_with_2_and_the_reason(folder, capsys):
    (folder / "model.pt").write_bytes(b"PK\x03\x04 and nothing else")
    assert run("info", "model.pt") == 2
    assert "'model.pt' is truncated or damaged" in capsys.readouterr().err


# --- evaluate ----------------------------------------------------------------------------


def test_evaluate_prints_a_table_and_writes_numbers_and_a_plot(models, folder, capsys):
    words = ("evaluate", models["double"], ETHANOL_FRAMES, "--rows", "0:4", "-o", "out")
    assert run(*words, "--device", "cpu") == 0
    out = capsys.readouterr().out
    frames = read_dataset(ETHANOL_FRAMES, rows="0:4").frames
    expected = evaluate(load_model(models["double"], device="cpu"), frames)
    assert f"double on {ETHANOL_FRAMES.name}, 4 frames" in out
    for quantity in expected.quantities:
        title = quantity.name.replace("_", " ")
        row = re.search(rf"^{title} +(\S+) +(\S+) +(\S+) *$", out, re.M)
        assert row is not None, quantity.name
        errors = quantity.errors
        assert row.groups() == (
            f"{1e3 * errors.mae:.2f}",
            f"{1e3 * errors.rmse:.2f}",
            f"m{quantity.unit}",
        )
    content = json.loads((folder / "out" / "errors.json").read_text())
    assert content["n_frames"] == 4
    assert {key: content[key] for key in expected.summary()} == expected.summary()
    assert (folder / "out" / "parity.png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_writes_nothing_unless_told(models, folder, capsys):
    before = sorted(folder.iterdir())
    assert run("evaluate", models["double"], ETHANOL_FRAMES, "--rows", "0:1") == 0
    assert "forces" in capsys.readouterr().out
    assert sorted(folder.iterdir()) == before


def test_evaluate_refuses_to_replace_outputs_unless_told(models, folder, capsys):
    (folder / "out").mkdir()
    (folder / "out" / "errors.json").write_text("precious")
    words = ("evaluate", models["double"], ETHANOL_FRAMES, "--rows", "0:2", "-o", "out")
    assert run(*words) == 2
    assert "errors.json' exists; pass --overwrite" in capsys.readouterr().err
    assert (folder / "out" / "errors.json").read_text() == "precious"
    assert run(*words, "--overwrite") == 0
    assert json.loads((folder / "out" / "errors.json").read_text())["n_frames"] == 2


def test_evaluate_refuses_a_folder_that_cannot_be_made(models, folder, capsys):
    (folder / "file").write_text("")
    words = ("evaluate", models["double"], ETHANOL_FRAMES, "--rows", "0:1", "-o", "file/out")
    assert run(*words) == 2
    assert "cannot create 'file/out'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--rows", "0:99"), "must lie in 0..5"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--dtype", "float16"), "unknown dtype 'float16'"),
        (("--engine", "magic"), "unknown engine 'magic'"),
        (("--energy-key", "nergy"), "nergy"),
        (("--energy-unit", "parsec"), "parsec"),
    ],
)
def test_evaluate_explains_a_wrong_option(words, reason, models, folder, capsys):
    assert run("evaluate", models["double"], ETHANOL_FRAMES, *words) == 2
    assert reason in capsys.readouterr().err


def test_evaluate_reads_an_npz_with_keys_of_its_own(models, folder, capsys):
    frames = ase.io.read(ETHANOL_FRAMES, index=":2")
    np.savez(
        "own.npz",
        species=frames[0].numbers,
        xyz=[atoms.positions for atoms in frames],
        e=[atoms.get_potential_energy() for atoms in frames],
    )
    words = ("evaluate", models["double"], "own.npz", "--energy-key", "e", "--energy-unit", "eV")
    assert run(*words, "--length-unit", "Angstrom") == 2
    assert "--numbers-key and --positions-key" in capsys.readouterr().err
    words = (*words, "--length-unit", "Angstrom", "--numbers-key", "species")
    assert run(*words, "--positions-key", "xyz") == 0
    assert "own.npz, 2 frames" in capsys.readouterr().out


def test_the_help_of_evaluate_says_that_it_takes_both(capsys):
    # Its usage has them in brackets: it says itself what is missing.
    assert run("evaluate", "--help") == 0
    assert capsys.readouterr().out.count("Required: ") == 2


def test_the_help_of_evaluate_lists_every_unit():
    for table, text in (
        (ENERGY_UNITS, data_options._ENERGY_UNITS),
        (LENGTH_UNITS, data_options._LENGTH_UNITS),
    ):
        assert all(unit in text for unit in table)


def test_evaluate_takes_threads(models, folder, capsys):
    before = torch.get_num_threads()
    words = ("evaluate", models["double"], ETHANOL_FRAMES, "--rows", "0:1", "--threads", "2")
    try:
        assert run(*words) == 0
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_evaluate_in_blocks_prints_the_same_table(models, folder, capsys):
    frames = [ethanol(), row_of_ethanol()]
    for atoms in frames:
        atoms.info["energy"] = -468.0 * len(atoms)
        atoms.arrays["forces"] = np.zeros((len(atoms), 3))
    ase.io.write("row.xyz", frames)
    words = ("evaluate", models["double"], "row.xyz", "--device", "cpu")
    tables = []
    for limit in ((), ("--max-edges", 400)):
        assert run(*words, *limit) == 0
        _, _, table = capsys.readouterr().out.partition("double on row.xyz, 2 frames\n")
        tables.append(table)
    assert "forces" in tables[0]
    assert tables[1] == tables[0]
    assert run(*words, "--max-edges", 80) == 2
    message = "error: frame 1 of row.xyz: --max-edges 80 is too few: the energy of one H atom"
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("offset", [0.0, 3.0])
def test_evaluate_says_that_energies_have_another_zero(folder, offset, capsys):
    frames = ase.io.read(ETHANOL_FRAMES, ":")
    for atoms in frames:
        atoms.calc.results["energy"] += offset * len(atoms)
    ase.io.write("moved.xyz", frames)
    assert run("evaluate", "painn-ethanol", "moved.xyz", "--trust-data") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert ("is a constant, -3" in shown) is (offset > 0)


def test_evaluate_notes_what_the_model_was_not_trained_on(folder, capsys):
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], info={"energy": -2070.0})
    ase.io.write("water.xyz", [atoms, atoms])
    assert run("evaluate", "painn-ethanol", "water.xyz") == 0
    note = "note: painn-ethanol was trained on C2H6O; the data hold H2O.\n"
    assert note in capsys.readouterr().out
    held_out = Path(__file__).parents[2] / "examples" / "data" / "ethanol_rmd17_test.npz"
    assert run("evaluate", "painn-ethanol", held_out, "--rows", "0:1") == 0
    assert "note" not in capsys.readouterr().out
    # The first rows of rMD17, under another name.
    assert run("evaluate", "painn-ethanol", ETHANOL_FRAMES) == 0
    assert "painn-ethanol was trained on 6 of these 6 frames" in capsys.readouterr().out


def test_evaluate_names_file_and_frame_of_coincident_atoms(models, folder, capsys):
    atoms = Atoms("H2", [[0, 0, 0], [0.7, 0, 0]], info={"energy": -30.0})
    ase.io.write("bad.xyz", [atoms, Atoms("H2", info={"energy": -30.0})])
    assert run("evaluate", models["double"], "bad.xyz") == 2
    assert "error: frame 1 of bad.xyz: atoms 0 and 1 coincide" in capsys.readouterr().err


def test_evaluate_names_a_missing_data_file(models, folder, capsys):
    assert run("evaluate", models["double"], "absent.npz") == 2
    assert "data file absent.npz does not exist" in capsys.readouterr().err


# --- train and export --------------------------------------------------------------------


def test_train_then_export_gives_a_model_that_evaluate_confirms(folder, capsys):
    assert run("train", "train.toml") == 0
    out = capsys.readouterr().out
    assert "next: eqcalc export runs/tiny models/tiny" in out
    assert run("export", "runs/tiny", "models/tiny") == 0
    out = capsys.readouterr().out
    assert f"tiny, validation frames of {ETHANOL_FRAMES.name}" in out
    assert "written: models/tiny/model.pt" in out
    table = re.findall(r"^(?:energy|forces).*m\S+ *$", out, re.M)
    words = ("evaluate", "models/tiny", ETHANOL_FRAMES, "--rows", "4:6", "--device", "cpu")
    assert run(*words, "-o", "errors") == 0
    out = capsys.readouterr().out
    assert re.findall(r"^(?:energy|forces).*m\S+ *$", out, re.M) == table
    assert len(table) == 3
    measured = json.loads((folder / "errors" / "errors.json").read_text())
    on_card = open_model_file("models/tiny").card.errors
    for key, value in on_card.items():
        if key != "measured on":
            assert measured[key] == pytest.approx(value, rel=1e-5), key
    assert run("export", "runs/tiny", "models/tiny") == 2
    assert "pass --overwrite to replace it" in capsys.readouterr().err
    assert run("export", "runs/tiny", "models/tiny", "--overwrite") == 0
    Path("mine").mkdir()
    Path("mine/card.md").write_text("a card of my own")
    assert run("export", "runs/tiny", "mine") == 2
    assert "card.md' exists; pass --overwrite" in capsys.readouterr().err
    assert [path.name for path in Path("mine").iterdir()] == ["card.md"]
    Path("mine/card.md").rename("mine/train.toml")
    assert "stays as it is" not in capsys.readouterr().out
    assert run("export", "runs/tiny", "mine") == 0
    expected = "mine/train.toml was there and stays as it is; what the model was trained by is runs"
    assert expected in " ".join(capsys.readouterr().out.split())
    assert Path("mine/train.toml").read_text() == "a card of my own"


FINE_TUNING_FILE = f"""
name = "tuned"
[data]
path = "{ETHANOL_FRAMES}"
train_rows = "0:4"
validation_rows = "4:6"
[training]
start_from = "painn-ethanol"
freeze = ["embedding"]
batch_size = 2
max_epochs = 1
"""


def test_fine_tuning_says_what_it_starts_from_and_export_what_it_brought(folder, capsys):
    (folder / "tune.toml").write_text(FINE_TUNING_FILE)
    assert run("train", "tune.toml") == 0
    lines = capsys.readouterr().out.splitlines()
    for line, begin in zip(
        lines,
        (
            "starting from painn-ethanol: painn, 150465 parameters, for H, C, O",
            "reference energies: shifted by H ",
            "frozen: 7616 of 150465 parameters, in embedding.weight",
            "before training, MAE on 2 validation frames: energy ",
            "epoch 1/1  MAE: E ",
        ),
        strict=False,
    ):
        assert line.startswith(begin)
    assert run("export", "runs/tuned", "models/tuned") == 0
    out = capsys.readouterr().out
    assert re.search(r"^quantity +MAE +RMSE +MAE before +RMSE before +unit *$", out, re.M)
    assert len(re.findall(r"^(?:energy|forces).*( +\d+\.\d\d){4} +m\S+ *$", out, re.M)) == 3
    assert run("evaluate", "models/tuned", ETHANOL_FRAMES, "--rows", "4:6") == 0
    assert run("info", "models/tuned") == 0
    out = capsys.readouterr().out
    assert "fine-tuned from: painn-ethanol" in out
    assert "parent's licence: CC0-1.0" in out
    assert run("train", "tune.toml", "--resume") == 0
    assert "nothing left to do: all 1 epochs are done." in capsys.readouterr().out


def test_quiet_fine_tuning_is_quiet(folder, capsys):
    (folder / "tune.toml").write_text(FINE_TUNING_FILE)
    assert run("train", "tune.toml", "--quiet") == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("painn-ethanl", "start_from = 'painn-ethanl' is no model: neither a shipped one"),
        ("gmn-nbody", "is a learned dynamics (gmn), not a potential"),
        ("train.toml", "train.toml"),
    ],
)
def test_fine_tuning_explains_a_wrong_model(source, message, folder, capsys):
    (folder / "tune.toml").write_text(FINE_TUNING_FILE.replace("painn-ethanol", source))
    assert run("train", "tune.toml") == 2
    assert message in capsys.readouterr().err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize("name", POTENTIALS)
def test_every_potential_trains_exports_and_evaluates(name, folder):
    options = small_options(name) | TINY
    known = {field.name for field in fields(config_class(name))}
    lines = [f"{k} = {json.dumps(v)}" for k, v in options.items() if k in known]
    start, end = TRAINING_FILE.index("[architecture]"), TRAINING_FILE.index("[training]")
    (folder / "train.toml").write_text(
        "\n".join([TRAINING_FILE[:start], "[architecture]", f'name = "{name}"', *lines, ""])
        + TRAINING_FILE[end:]
    )
    assert run("train", "train.toml") == 0
    with open("runs/tiny/metrics.csv") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == 2
    assert losses[1] < losses[0]
    assert run("export", "runs/tiny", "models/tiny") == 0
    assert run("evaluate", "models/tiny", ETHANOL_FRAMES, "--rows", "4:6", "-o", "out") == 0
    card = open_model_file("models/tiny").card
    assert (card.architecture, card.cutoff) == (name, 4.0)
    measured = json.loads((folder / "out" / "errors.json").read_text())
    key = "forces_mae_mev_per_a"
    assert measured[key] == pytest.approx(card.errors[key], rel=1e-5)


@pytest.fixture
def own_network(folder, monkeypatch) -> Path:
    """Return the file of a network of one's own, which train.toml names."""
    monkeypatch.setattr(architectures, "_registered", {})
    path = folder / "my_network.py"
    path.write_bytes(EXAMPLE.read_bytes())
    start, end = TRAINING_FILE.index("[architecture]"), TRAINING_FILE.index("[training]")
    own = '[architecture]\nname = "embeddedatom"\nfile = "my_network.py"\n'
    (folder / "train.toml").write_text(TRAINING_FILE[:start] + own + TRAINING_FILE[end:])
    return path


def test_a_network_file_that_changed_after_training_is_refused(own_network, capsys):
    assert run("train", "train.toml", "-o", "run") == 0
    assert run("export", "run", "before") == 0
    trained = own_network.read_bytes()
    assert Path("run/network.py").read_bytes() == trained
    own_network.write_bytes(trained + b"# another word\n")
    message = f"'{own_network.name}' has changed since the training in 'run' began"
    for words in (("export", "run", "after"), ("train", "train.toml", "-o", "run", "--resume")):
        assert run(*words) == 2
        assert message in capsys.readouterr().err.replace(f"{own_network.parent}/", "")
    own_network.write_bytes(Path("run/network.py").read_bytes())
    assert run("export", "run", "after") == 0


@pytest.fixture
def exported_own(own_network, library_built, monkeypatch) -> Path:
    """Return the file of a network of one's own that "model" needs, known by no name."""
    assert run("train", "train.toml", "-o", "run") == 0
    assert run("export", "run", "model") == 0
    monkeypatch.setattr(architectures, "_registered", {})
    return own_network


def test_compile_takes_the_file_of_a_network_of_ones_own(exported_own, capsys, monkeypatch):
    def compile_quickly(file, path, *target) -> None:
        rebuild_potential(file)  # refuses networks that it does not know
        path.write_bytes(b"no package")

    monkeypatch.setattr("eqcalc.compiling.compile_model", compile_quickly)
    assert run("compile", "model") == 2
    assert "unknown architecture 'embeddedatom'" in capsys.readouterr().err
    assert run("compile", "model", "--file", "absent.py") == 2
    assert "there is no file" in capsys.readouterr().err
    assert run("compile", "model", "--file", exported_own.name) == 0
    assert capsys.readouterr().out.startswith("compiled in")


@pytest.mark.slow
def test_a_network_of_ones_own_runs_compiled(exported_own, capsys):
    assert run("compile", "model", "--file", exported_own.name) == 0
    assert "inductor on cpu in float32, passport reproduced" in capsys.readouterr().out


def test_evaluate_notes_frames_that_were_trained_on(folder, capsys):
    assert run("train", "train.toml") == 0
    assert run("export", "runs/tiny", "models/tiny") == 0
    capsys.readouterr()
    assert run("evaluate", "models/tiny", ETHANOL_FRAMES, "--rows", "2:6") == 0
    assert (
        f"note: tiny was trained on 2 of these 4 frames (rows 2:4 of {ETHANOL_FRAMES.name}); their "
        "errors say little about others.\n"
    ) in capsys.readouterr().out
    assert run("evaluate", "models/tiny", ETHANOL_FRAMES, "--rows", "4:6") == 0
    assert "note" not in capsys.readouterr().out


def test_evaluate_knows_frames_again_in_any_file(folder, capsys):
    """Renamed, in another order, converted; another file of the same name is not taken for it."""
    assert run("train", "train.toml") == 0
    assert run("export", "runs/tiny", "models/tiny") == 0
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    ase.io.write("other.xyz", [frames[k] for k in (5, 1, 4, 0)])
    ase.io.write("other.traj", ase.io.read("other.xyz", index=":"))
    ase.io.write(ETHANOL_FRAMES.name, frames[4:])
    for data, said in (("other.xyz", "1, 3"), ("other.traj", "1, 3")):
        capsys.readouterr()
        assert run("evaluate", "models/tiny", data) == 0
        assert rows_named(capsys.readouterr().out) == (2, 4, f"{said} of {data}")
    assert run("evaluate", "models/tiny", ETHANOL_FRAMES.name) == 0
    assert "note" not in capsys.readouterr().out


def rows_named(out: str) -> tuple[int, int, str]:
    """Return what the note of frames that were trained on says."""
    said = re.search(r"note: tiny was trained on (\d+) of these (\d+) frames \(rows (.*)\);", out)
    assert said is not None, out
    return int(said[1]), int(said[2]), said[3]


def test_evaluate_notes_frames_that_a_split_left_to_train_on(folder, capsys):
    rows = 'train_rows = "0:4"\nvalidation_rows = "4:6"'
    (folder / "train.toml").write_text(TRAINING_FILE.replace(rows, "validation_fraction = 0.4"))
    assert run("train", "train.toml") == 0
    assert run("export", "runs/tiny", "models/tiny") == 0
    kept = open_model_file(folder / "models" / "tiny").card.training_data["rows trained on"]
    capsys.readouterr()
    assert run("evaluate", "models/tiny", ETHANOL_FRAMES) == 0
    n_trained, n_frames, said = rows_named(capsys.readouterr().out)
    assert (n_trained, n_frames) == (4, 6)
    assert said == f"{kept[ETHANOL_FRAMES.name]} of {ETHANOL_FRAMES.name}"
    assert (
        f"rows trained on: {ETHANOL_FRAMES.name} {kept[ETHANOL_FRAMES.name]}"
        in (folder / "models" / "tiny" / "card.md").read_text()
    )


def test_evaluate_notes_frames_of_one_of_several_files_that_were_trained_on(folder, capsys):
    """Files of one name are told apart by their folders."""
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    for k in range(3):
        (folder / f"{k}").mkdir()
        ase.io.write(folder / f"{k}" / "out.xyz", frames[2 * k : 2 * k + 2])
    rows = 'train_rows = "0:4"\nvalidation_rows = "4:6"'
    text = TRAINING_FILE.replace(rows, 'train_rows = "0:3"\nvalidation_rows = "4:6"')
    (folder / "train.toml").write_text(text.replace(str(ETHANOL_FRAMES), "*/out.xyz"))
    assert run("train", "train.toml") == 0
    assert run("export", "runs/tiny", "models/tiny") == 0
    capsys.readouterr()
    for data, expected in (
        ("0/out.xyz", (2, 2, "0:2 of out.xyz")),
        ("1/out.xyz", (1, 2, "0 of out.xyz")),
        ("*/out.xyz", (3, 6, "0:2 of 0/out.xyz, 0 of 1/out.xyz")),
    ):
        assert run("evaluate", "models/tiny", data) == 0
        assert rows_named(capsys.readouterr().out) == expected
    assert run("evaluate", "models/tiny", "2/out.xyz") == 0
    assert "note" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("about", "origin", "is_said"),
    [
        ({"training frames": 4}, {}, True),  # of an older version
        ({}, {"package": "schnetpack 2.1.1"}, True),
        ({}, {}, False),  # nothing says that it was trained
    ],
)
def test_evaluate_says_of_a_card_without_its_frames_that_nothing_is_known(
    about, origin, is_said, folder, capsys
):
    from small_models import potential

    from eqcalc.export import export_model

    export_model(
        potential(),
        "old.pt",
        elements=["H", "C", "O"],
        name="tiny",
        training_data={**about, "compositions": ["C2H6O"]},
        origin=origin,
    )
    assert run("evaluate", "old.pt", ETHANOL_FRAMES, "--rows", "2:6") == 0
    said = (
        "note: the card of tiny does not keep the frames that it was trained on; whether these are "
        "among them is not known.\n"
    )
    assert (said in capsys.readouterr().out) is is_said


def test_train_says_when_there_is_nothing_left_to_resume(folder, capsys):
    assert run("train", "train.toml", "-o", "run") == 0
    assert "nothing left" not in capsys.readouterr().out
    assert run("train", "train.toml", "-o", "run", "--resume") == 0
    assert capsys.readouterr().out.startswith("nothing left to do: all 2 epochs are done.\n")
    (folder / "train.toml").write_text(TRAINING_FILE.replace("max_epochs = 2", "max_epochs = 1"))
    assert run("train", "train.toml", "-o", "run", "--resume") == 2
    assert "2 epochs are already done; max_epochs is 1, raise it." in capsys.readouterr().err
    assert run("train", "train.toml", "-o", "run", "--resume", "--overwrite") == 2
    assert "give one of them, not both" in capsys.readouterr().err


def test_train_explains_a_divergence(folder, capsys):
    (folder / "train.toml").write_text(TRAINING_FILE + "learning_rate = 1e9\n")
    assert run("train", "train.toml") == 2
    assert "diverged in epoch 1" in capsys.readouterr().err
    assert run("export", "runs/tiny", "models/tiny") == 2
    assert "there is no checkpoint" in capsys.readouterr().err


def test_train_refuses_a_run_that_is_there_then_resumes_or_replaces_it(folder, capsys):
    assert run("train", "train.toml", "-o", "run") == 0
    capsys.readouterr()
    assert run("train", "train.toml", "-o", "run") == 2
    assert "'run' already holds a training run" in capsys.readouterr().err
    (folder / "train.toml").write_text(TRAINING_FILE.replace("max_epochs = 2", "max_epochs = 3"))
    assert run("train", "train.toml", "-o", "run", "--resume") == 0
    out = capsys.readouterr().out
    assert "epoch 3/3" in out
    assert "epoch 2/3" not in out
    assert run("train", "train.toml", "-o", "run", "--overwrite") == 0
    assert "epoch 1/3" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("max_epochs = 2", 'max_epochs = "two"', "max_epochs in [training] must be an integer"),
        ("max_epochs", "max_epoch", "Did you mean 'max_epochs'?"),
        ('"painn"', '"paiin"', "Did you mean 'painn'?"),
        ("[data]", "[data", "train.toml is not valid TOML"),
        (str(ETHANOL_FRAMES), "absent.xyz", "absent.xyz does not exist"),
    ],
)
def test_train_explains_a_wrong_training_file(old, new, reason, folder, capsys):
    (folder / "train.toml").write_text(TRAINING_FILE.replace(old, new))
    assert run("train", "train.toml") == 2
    assert reason in capsys.readouterr().err
    assert not (folder / "runs" / "tiny" / "last.ckpt").exists()


def test_train_names_a_missing_training_file(folder, capsys):
    assert run("train", "absent.toml") == 2
    assert "there is no training file 'absent.toml'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("missing", "words", "line"),
    [
        ("lightning", "train train.toml", "training needs lightning, which is not installed; run"),
        ("tensorboard", "train train.toml", "training needs tensorboard, which is not installed"),
        ("matplotlib", "md x.xyz -m painn-ethanol", "the plot of a run needs matplotlib, which is"),
        ("matplotlib", "relax x.xyz -m painn-ethanol", "the plot of a run needs matplotlib, whi"),
        ("matplotlib", "evaluate painn-ethanol {data} -o out", "the parity plot of --output needs"),
        ("matplotlib", "bench painn-ethanol cu4 --sizes 1,2 --plot a.png", "--plot needs matplot"),
    ],
)
def test_missing_package_of_an_extra_is_one_line(missing, words, line, folder):
    ase.io.write("x.xyz", ethanol())
    done = _without([missing], words.format(data=ETHANOL_FRAMES).split())
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {line}")
    extra = "plot" if missing == "matplotlib" else "train"
    assert done.stderr.endswith(f"run pip install 'eqcalc[{extra}]'.\n")
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob("x-*"))


def test_export_and_evaluate_need_no_extra(folder):
    assert run("train", "train.toml", "-o", "run") == 0
    without = ["lightning", "tensorboard", "matplotlib", "h5py", "torch_scatter"]
    for words in (["export", "run", "model"], ["evaluate", "model", str(ETHANOL_FRAMES)]):
        done = _without(without, words)
        assert (done.returncode, done.stderr) == (0, ""), words


def _without(packages: list[str], words: list[str]) -> subprocess.CompletedProcess:
    """Run the command line where packages are not installed."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({packages}))\n"
        f"from eqcalc.cli import main; main({words})"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_package_that_fails_at_its_import_says_why(tmp_path, monkeypatch):
    (tmp_path / "brokenpackage.py").write_text("import not_there_at_all")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        MissingDependencyError,
        match=r"^it needs brokenpackage, which cannot be imported \(No module named 'not_there",
    ):
        import_extra("brokenpackage", "train", "it")


def test_export_of_a_folder_that_is_no_run_is_explained(folder, capsys):
    assert run("export", "train.toml", "model") == 2
    assert "'train.toml' is not a training run" in capsys.readouterr().err


def test_a_training_stopped_by_ctrl_c_ends_with_130_and_can_be_resumed(folder, capsys, monkeypatch):
    show = eqcalc.cli.train._EpochProgress.show

    def press_ctrl_c(self, report):
        show(self, report)
        if (report.epoch, report.batch) == (1, 1):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(eqcalc.cli.train._EpochProgress, "show", press_ctrl_c)
        assert run("train", "train.toml", "-o", "run") == 130
    out = capsys.readouterr().out
    assert "epoch 1/2" in out
    assert "stopped in epoch 2; what is finished is in run, and --resume goes on" in out
    assert run("train", "train.toml", "-o", "run", "--resume") == 0
    assert "epoch 2/2" in capsys.readouterr().out


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")
@pytest.mark.usefixtures("acting_hangup")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_training_stopped_by_a_signal_ends_like_one_stopped_by_ctrl_c(
    name, folder, capsys, monkeypatch
):
    show = eqcalc.cli.train._EpochProgress.show

    def send(self, report):
        show(self, report)
        if (report.epoch, report.batch) == (1, 1):
            signal.raise_signal(getattr(signal, name))

    former = signal.getsignal(getattr(signal, name))
    monkeypatch.setattr(eqcalc.cli.train._EpochProgress, "show", send)
    assert run("train", "train.toml", "-o", "run") == 128 + getattr(signal, name)
    assert "--resume goes on from there" in capsys.readouterr().out
    assert signal.getsignal(getattr(signal, name)) is former


@pytest.mark.usefixtures("library_built")  # a first training says that it builds it
def test_the_output_of_train_holds_nothing_but_its_own_lines(folder):
    code = "import eqcalc.cli.train\n"
    code += "eqcalc.cli.train._LONGEST_SILENCE_S = 1e9\neqcalc.cli.main()"
    command = [sys.executable, "-c", code, "train", "train.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder)
    assert done.stderr == ""
    epoch = r"epoch {}/2  MAE: E \d+\.\d meV  F \d+\.\d meV/Å  [\d.]+ (s|min)/epoch{}\n"
    assert re.fullmatch(
        epoch.format(1, r"  [\d.]+ (s|min) left")
        + epoch.format(2, "")
        + r"best checkpoint: runs/tiny/best\.ckpt\nnext: eqcalc export runs/tiny models/tiny\n",
        done.stdout,
    ), done.stdout
