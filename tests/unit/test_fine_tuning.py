"""Fine-tuning: what is refused, and runs from the parent to the card."""

from __future__ import annotations

import json
import re
import shutil

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from fine_tunings import (
    PAIRS,
    REFERENCES,
    config_of,
    data_text,
    export_parent,
    labelled_molecules,
    pairs_potential,
    small_potential,
    start_of,
)
from small_models import ETHANOL_FRAMES
from trainings import interrupt_in_the_third_epoch, weights_of

from eqcalc import architectures
from eqcalc.data import read_dataset
from eqcalc.engines import load_model
from eqcalc.errors import (
    ConfigError,
    DataError,
    ModelFileError,
    UnknownModelError,
    UnsupportedElementError,
)
from eqcalc.evaluation import evaluate
from eqcalc.export import rebuild_potential
from eqcalc.model_file import open_model_file, read_card
from eqcalc.neighbours import build_graph
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

# --- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[architecture]\nname = "nequip"', "says name = 'nequip', but 'parent' is of painn"),
        (
            "[architecture]\nembedding_dim = 32\ncut_off = 3.5",
            r"contradicts 'parent', .*: embedding_dim = 32 \(it has 16\); cut_off = 3\.5 \(it has "
            r"4\.0\)\. .* leave these options out, or the whole section",
        ),
        ("[architecture]\nn_channels = 32", r"start_from names: n_channels = 32 \(it has 16\)"),
        ("[architecture]\nembeding_dim = 16", "unknown key 'embeding_dim' in .* 'embedding_dim'"),
        ('[architecture]\ncut_off = "4"', r"cut_off in \[architecture\] must be a number"),
        ('[architecture]\nfile = "own.py"', r"file in \[architecture\] needs the name of its"),
        ('[architecture]\nelements = ["H"]', "unknown key 'elements'"),
    ],
)
def test_options_that_contradict_the_file_are_refused_by_name(text, message, parent, tmp_path):
    with pytest.raises(ConfigError, match=message):
        start_of(config_of(tmp_path, text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[architecture]\nname = "painn"',
        '[architecture]\nname = "PaiNN"\nn_channels = 16\ncut_off = 4',
        "[architecture]\nembedding_dim = 16",
    ],
)
def test_options_of_the_file_may_be_repeated_or_left_out(text, parent, tmp_path):
    start = start_of(config_of(tmp_path, text))
    assert start.architecture == {"name": "painn", **read_card(parent).config}


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (
            "painn-ethanl",
            UnknownModelError,
            r"start_from = 'painn-ethanl' is no model: neither a shipped one \(.*painn-ethanol.*\) "
            r"nor a file '.*/painn-ethanl'\. Did you mean 'painn-ethanol'\?",
        ),
        ("absent.pt", UnknownModelError, r"nor a file '.*/absent\.pt'"),
        (".", UnknownModelError, r"there is no model\.pt in the folder"),
        ("gmn-nbody", ModelFileError, "is a learned dynamics"),
        ("train.toml", ModelFileError, r"train\.toml' is not a model"),
    ],
)
def test_what_is_no_model_is_refused(source, error, message, tmp_path):
    with pytest.raises(error, match=message):
        start_of(config_of(tmp_path, start_from=f'"{source}"'))


def test_a_model_is_found_beside_the_training_file(parent, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert start_of(config_of(tmp_path)).parent["path"] == str(parent)


def test_a_model_of_the_working_directory_is_not_taken_for_one_beside_the_file(
    parent, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    shutil.move(parent, tmp_path / "here" / "parent.pt")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UnknownModelError, match=r"nor a file '.*/there/parent\.pt'"):
        start_of(config_of(tmp_path / "there"))


def test_a_checkpoint_is_refused_as_what_it_is(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    with pytest.raises(
        ModelFileError, match=r"best\.ckpt' is an archive but not a model .* Export"
    ):
        start_of(config_of(tmp_path, start_from='"run/best.ckpt"'))


def test_a_damaged_parent_is_refused(parent, tmp_path):
    content = bytearray(parent.read_bytes())
    content[len(content) // 2] ^= 255
    parent.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"parent\.pt"):
        start_of(config_of(tmp_path))


@pytest.mark.parametrize("role", ["training", "validation", "test", "replayed"])
def test_an_element_that_the_file_does_not_know_is_refused(role, parent, tmp_path):
    frames = [ase.io.read(ETHANOL_FRAMES, index=k) for k in range(6)]
    argon = frames[0].copy() + Atoms("Ar", [[4.0, 4.0, 4.0]])
    argon.calc = SinglePointCalculator(
        argon, energy=frames[0].get_potential_energy(), forces=0.1 * np.ones((10, 3))
    )
    ase.io.write(tmp_path / "a.xyz", [*frames, *[argon] * 8])
    keys = {"train_rows": "0:4", "validation_rows": "4:6", "trust_data": True}
    if role in ("training", "validation"):
        keys["train_rows"] = "0:4" if role == "validation" else "6:8"
        keys["validation_rows"] = "8:9" if role == "validation" else "4:6"
    text = data_text(tmp_path / "a.xyz", **keys)
    if role == "test":
        text += '\ntest_rows = "10:11"'
    if role == "replayed":
        text += f'\n[replay]\npath = "{tmp_path / "a.xyz"}"\nrows = "6:10"\ntrust_data = true'
    message = (
        rf"'parent', which start_from names, does not know Ar of the {role} frames \(frames .* of "
        r"a\.xyz\); it knows H, C, N, O\. Leave these frames out, or train without start_from"
    )
    with pytest.raises(UnsupportedElementError, match=message):
        start_of(config_of(tmp_path, text))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('freeze = ["embedding"]', r"freeze keeps parameters of the model that start_from names"),
        ("freeze = [3]", r"freeze in \[training\] must be an array of strings, found \[3\]"),
        ('freeze = "embedding"', r"freeze in \[training\] must be an array, found 'embedding'"),
        ("start_from = 3", r"start_from in \[training\] must be a string, found 3"),
    ],
)
def test_wrong_options_of_fine_tuning_are_refused(line, message, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        'name = "x"\n[data]\npath = "x.xyz"\nvalidation_fraction = 0.1\n'
        f'[training]\n{line}\n[architecture]\nname = "painn"\n'
    )
    with pytest.raises(ConfigError, match=message):
        read_config(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'reference_energies = "kept"',
            'reference_energies = "kept" is for a training that starts from a model; name it with '
            "start_from",
        ),
        ('reference_energies = "shifted"', '"shifted" is for a training that starts from a model'),
        ('[replay]\npath = "old.xyz"', r"\[replay\] is for a training that starts from a model"),
    ],
)
def test_what_needs_a_model_to_start_from_is_refused_without(text, message, tmp_path):
    path = tmp_path / "train.toml"
    path.write_text(
        f'name = "x"\n[architecture]\nname = "painn"\n[data]\npath = "x.xyz"\n'
        f"validation_fraction = 0.1\n{text}\n"
    )
    with pytest.raises(ConfigError, match=message):
        read_config(path)


def test_an_unknown_method_for_reference_energies_is_refused(tmp_path):
    text = data_text(ETHANOL_FRAMES, reference_energies="shiftd")
    message = "unknown method 'shiftd' .*; known: kept, shifted, least_squares, .*'shifted'"
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, text)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("fraction = 1.0", r"fraction in \[replay\] must lie in \(0, 1\), found 1\.0"),
        ("validation_fraction = 0.0", r"validation_fraction in \[replay\] must lie in \(0, 1\)"),
        ('fraction = "half"', r"fraction in \[replay\] must be a number, found 'half'"),
        ("share = 0.2", r"unknown key 'share' in \[replay\]"),
        ("path = []", r"path in \[replay\] must be a string or an array of strings, found \[\]"),
    ],
)
def test_wrong_options_of_replay_are_refused(lines, message, tmp_path):
    path = "" if "path" in lines else f'path = "{ETHANOL_FRAMES}"\n'
    with pytest.raises(ConfigError, match=message):
        config_of(tmp_path, f"[replay]\n{path}{lines}")


def test_one_old_frame_is_refused(parent, tmp_path):
    text = f'[replay]\npath = "{ETHANOL_FRAMES}"\nrows = "0:1"'
    with pytest.raises(DataError, match=r"\[replay\] needs at least two frames, .* found 1 in"):
        train(config_of(tmp_path, text), tmp_path / "run")


def test_validation_frames_that_are_all_replayed_are_refused(parent, tmp_path):
    text = f'[replay]\npath = "{ETHANOL_FRAMES}"\nvalidation_fraction = 0.01'
    text = data_text(ETHANOL_FRAMES, validation_rows="4:5") + "\n" + text
    match = r"1 of 1 validation frames \(frames 4 of .*\) are structures that are replayed"
    with pytest.raises(DataError, match=match):
        train(config_of(tmp_path, text), tmp_path / "run")


def test_old_energies_far_from_all_others_are_refused(parent, tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    frames[1].calc = SinglePointCalculator(
        frames[1], energy=frames[1].get_potential_energy() + 3000.0, forces=frames[1].get_forces()
    )
    ase.io.write(tmp_path / "old.xyz", frames)
    text = '[replay]\npath = "old.xyz"'
    with pytest.raises(DataError, match=r"old\.xyz: energies far from all others .* in frame 1 of"):
        train(config_of(tmp_path, text), tmp_path / "run")


# --- runs -------------------------------------------------------------------------------


def test_the_learning_rate_is_lower_by_default(tmp_path):
    assert config_of(tmp_path).training.learning_rate == 1e-4
    assert config_of(tmp_path, learning_rate="0.01").training.learning_rate == 0.01


@pytest.mark.parametrize("schedule", ["plateau", "cosine"])
def test_a_resumed_fine_tuning_equals_an_uninterrupted_one(schedule, parent, tmp_path):
    labelled_molecules(tmp_path / "old.xyz", small_potential(), dict.fromkeys("HCO", 0.0))
    text = '[replay]\npath = "old.xyz"\ntrust_data = true'
    options = {"max_epochs": "4", "schedule": f'"{schedule}"', "freeze": '["embedding"]'}
    config = config_of(tmp_path, text, **options)
    train(config, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts", progress=interrupt_in_the_third_epoch)
    (tmp_path / "parent.pt").unlink()  # the run has what it needs
    train(config, tmp_path / "parts", resume=True)
    found, expected = (TrainingFolder(tmp_path / name) for name in ("parts", "whole"))
    assert found.metrics.read_text() == expected.metrics.read_text()
    assert found.read_parent() == expected.read_parent()
    for name in ("best.ckpt", "last.ckpt"):
        for key in ("state_dict", "current_model_state"):
            for parameter, value in weights_of(expected.path / name, key).items():
                other = weights_of(found.path / name, key)[parameter]
                assert torch.equal(value.nan_to_num(), other.nan_to_num()), parameter


def test_starting_from_another_file_on_resume_is_refused(parent, tmp_path):
    config = config_of(tmp_path, max_epochs="1")
    train(config, tmp_path / "run")
    shutil.copy(parent, tmp_path / "other.pt")
    other = config_of(tmp_path, max_epochs="2", start_from='"other.pt"')
    with pytest.raises(ConfigError, match="cannot be resumed with another start_from"):
        train(other, tmp_path / "run", resume=True)
    frozen = config_of(tmp_path, max_epochs="2", freeze='["embedding"]')
    with pytest.raises(ConfigError, match="cannot be resumed with another freeze"):
        train(frozen, tmp_path / "run", resume=True)
    export_parent(parent, small_potential("schnet"), overwrite=True)
    message = r"'.*parent\.pt', which start_from names, is another model now \(its sha256 was"
    with pytest.raises(ConfigError, match=message):
        train(config_of(tmp_path, max_epochs="2"), tmp_path / "run", resume=True)


def test_a_run_whose_manifest_lost_its_parent_is_refused(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    del manifest["start_from"]
    (tmp_path / "run" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match="does not say which model its training started from"):
        train(config_of(tmp_path), tmp_path / "run", resume=True)


def test_a_run_without_its_first_model_is_not_exported(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    (tmp_path / "run" / "start.pt").unlink()
    message = r"start\.pt', the model that the run started from, is gone; put it back, or start"
    with pytest.raises(ModelFileError, match=message):
        export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    with pytest.raises(ModelFileError, match=message):
        train(config_of(tmp_path), tmp_path / "run", resume=True)


def test_the_card_names_the_parent_and_has_its_errors_beside(parent, tmp_path):
    config = config_of(tmp_path, freeze='["embedding"]')
    train(config, tmp_path / "run")
    parent_card, sha256 = read_card(parent), open_model_file(parent).sha256
    parent.unlink()
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    card = read_card(finished.path)
    told = card.training_data
    assert card.licence == "MIT"
    assert told["fine-tuned from"] == "parent"
    assert told["parent's sha256"] == sha256
    assert told["parent's digest"] == parent_card.digest
    assert told["parent's licence"] == "MIT"
    assert told["parent's description"] == "PBE, many molecules"
    assert told["reference energies by"] == "shifted"
    assert told["frozen"] == ["embedding"]
    assert re.fullmatch(r"\d+ of \d+", told["frozen parameters"])
    frames = read_dataset(ETHANOL_FRAMES, rows="4:6").frames
    begun = evaluate(load_model(tmp_path / "run" / "start.pt", device="cpu"), frames)
    tuned = evaluate(load_model(finished.path, device="cpu"), frames)
    for name, value in begun.summary().items():
        assert card.errors[f"before_{name}"] == pytest.approx(value, abs=2e-3)
        assert card.errors[name] == pytest.approx(tuned.summary()[name], abs=2e-3)
    manifest = TrainingFolder(tmp_path / "run").read_parent()
    assert manifest["validation errors before training"] == pytest.approx(begun.summary(), abs=2e-3)
    page = (tmp_path / "model" / "card.md").read_text()
    assert "- fine-tuned from: parent" in page
    assert "- before forces MAE (meV/Å): " in page


def test_a_fine_tuned_model_is_fine_tuned_again(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "first")
    export_run(TrainingFolder(tmp_path / "first"), tmp_path / "model")
    config = config_of(tmp_path, 'licence = "CC0-1.0"', start_from='"model"', max_epochs="1")
    train(config, tmp_path / "second")
    card = export_run(TrainingFolder(tmp_path / "second"), tmp_path / "again").card
    assert card.licence == "CC0-1.0"
    assert config.text.count("CC0-1.0") == 1
    assert card.training_data["fine-tuned from"] == "tuned"
    assert card.training_data["parent's fine-tuned from"] == "parent"
    assert card.training_data["parent's parent's licence"] == "MIT"
    rows = {ETHANOL_FRAMES.name: "0:4"}
    assert card.training_data["rows trained on"] == rows
    assert card.training_data["parent's rows trained on"] == rows


def test_frames_that_the_parent_was_trained_on_are_said_to_judge_nothing(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "first")
    export_run(TrainingFolder(tmp_path / "first"), tmp_path / "model")
    rows = {"train_rows": "4:5", "validation_rows": "5:6", "test_rows": "1:4"}
    config = config_of(
        tmp_path, data_text(ETHANOL_FRAMES, **rows), start_from='"model"', max_epochs="1"
    )
    notes = start_of(config).notes
    assert any(
        "'tuned', which start_from names, or a model before it was trained on 3 of 3 test frames "
        f"(frames 1, 2, 3 of {ETHANOL_FRAMES.name});" in note
        for note in notes
    )
    train(config, tmp_path / "second")
    finished = export_run(TrainingFolder(tmp_path / "second"), tmp_path / "again")
    said = ", of which its parents were trained on 3 of 3 frames"
    assert finished.judged_on.endswith(said)
    assert finished.card.errors["measured on"] == finished.judged_on


def test_a_licence_that_is_given_later_is_the_card_s(parent, tmp_path):
    train(config_of(tmp_path, max_epochs="1"), tmp_path / "run")
    config = config_of(tmp_path, 'licence = "CC-BY-4.0"', max_epochs="2")
    train(config, tmp_path / "run", resume=True)
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model").card
    assert card.licence == "CC-BY-4.0"


def test_the_trained_potential_is_loaded_with_the_constants_of_the_file(parent, tmp_path):
    config = config_of(tmp_path, max_epochs="1")
    train(config, tmp_path / "run")
    found = load_potential(TrainingFolder(tmp_path / "run"))
    whole = rebuild_potential(open_model_file(parent))
    expected = dict(whole.named_buffers())
    for name, buffer in found.named_buffers():
        if name != "reference_energies":
            assert torch.equal(buffer, expected[name]), name


def test_the_repulsion_of_nuclei_stays(tmp_path):
    network = small_potential().architecture
    whole = Potential(network, REFERENCES, scale=1.5, zbl=ZBL(2.0)).eval()
    export_parent(tmp_path / "parent.pt", whole)
    config = config_of(tmp_path, max_epochs="1")
    train(config, tmp_path / "run")
    card = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model").card
    assert card.zbl == read_card(tmp_path / "parent.pt").zbl
    graph = build_graph(Atoms("OH", [[0, 0, 0], [0, 0, 0.2]]), 4.0)
    found = load_potential(TrainingFolder(tmp_path / "run"))
    repulsion = float(ZBL(2.0)(graph).sum())
    assert repulsion > 100.0
    for potential in (start_of(config).potential.eval(), found):
        with_zbl = float(potential.evaluate(graph).energy)
        potential.zbl = None
        assert with_zbl - float(potential.evaluate(graph).energy) == pytest.approx(repulsion)


def test_a_training_in_another_precision_keeps_the_weights(parent, tmp_path):
    start = start_of(config_of(tmp_path, 'dtype = "float32"'))
    expected = dict(small_potential().named_parameters())
    for name, parameter in start.potential.named_parameters():
        assert torch.equal(parameter, expected[name].float())
    train(config_of(tmp_path, 'dtype = "float32"', max_epochs="1"), tmp_path / "run")
    finished = export_run(TrainingFolder(tmp_path / "run"), tmp_path / "model")
    assert finished.card.dtype == "float32"


def test_a_training_that_made_nothing_better_says_so(parent, tmp_path):
    messages = {}
    for rate in ("0.9", "1e-3"):
        reports = []
        config = config_of(tmp_path, learning_rate=rate)
        train(config, tmp_path / rate, progress=reports.append)
        messages[rate] = [report.message for report in reports if report.event == "end"]
    assert len(messages["0.9"]) == 1
    assert messages["0.9"][0].startswith("no epoch was better on the validation frames than the")
    assert messages["1e-3"] == []


def test_what_the_training_starts_from_is_said_before_it_begins(parent, tmp_path):
    reports = []
    train(config_of(tmp_path), tmp_path / "run", progress=reports.append)
    said = [report.message for report in reports if report.event == "start"]
    assert [report.event for report in reports[: len(said)]] == ["start"] * len(said)
    patterns = [
        r"starting from parent: painn, \d+ parameters, for H, C, O of its 4 elements",
        r'reference energies: shifted by H .* eV, fitted to 4 training frames; "kept" would',
        r"before training, MAE on 2 validation frames: energy [\d.]+ meV, [\d.]+ meV/atom "
        r"\([\d.]+ with the file's reference energies\), forces [\d.]+ meV/Å",
    ]
    for line, pattern in zip(said, patterns, strict=True):
        assert re.match(pattern, line)


def test_a_model_whose_program_is_unknown_needs_trust(tmp_path, monkeypatch):
    source = PAIRS.format(declaration="", n_rows="1", index="0", factor="1.0")
    source = source.replace(
        "return zeros", "zeros = zeros + 0.0 * torch.rand(1)\n        return zeros"
    )
    monkeypatch.setattr(architectures, "_registered", {})
    (tmp_path / "pairs.py").write_text(source)
    architectures.register_file(tmp_path / "pairs.py", "pairs")
    potential = Potential(architectures.build("pairs").double(), REFERENCES).eval()
    with pytest.warns(UserWarning, match="has to be loaded with trust=True"):
        export_parent(tmp_path / "parent.pt", potential)
    text = f'[architecture]\nname = "pairs"\nfile = "pairs.py"\nelements = {list(REFERENCES)}'
    config = config_of(tmp_path, text)
    with pytest.raises(ModelFileError, match=r"trust=True \(on the command line --trust\)"):
        train(config, tmp_path / "run")
    with pytest.warns(UserWarning, match="has to be loaded with trust=True"):
        train(config, tmp_path / "run", trust=True)


def test_a_network_of_ones_own_has_to_be_named(tmp_path, monkeypatch):
    potential = pairs_potential(tmp_path, monkeypatch)
    export_parent(tmp_path / "parent.pt", potential)
    monkeypatch.setattr(architectures, "_registered", {})
    with pytest.raises(ModelFileError, match=r"unknown architecture 'pairs'.*file in \[architectu"):
        start_of(config_of(tmp_path))


@pytest.mark.slow
@pytest.mark.data
def test_twenty_frames_of_another_level_make_more_of_a_model_than_of_random_weights(
    whole_data, tmp_path
):
    """MD17's labels of ethanol, in place of rMD17's: 5.2 eV and 0.18 eV/Å from them."""
    source = whole_data / "rmd17/npz_data/rmd17_ethanol.npz"
    rows = {"train_rows": "1000:1020", "validation_rows": "1020:1030", "test_rows": "1030:1130"}
    data = data_text(source, energy_key="old_energies", forces_key="old_forces", **rows)
    options = {"batch_size": "5", "max_epochs": "150", "schedule": '"cosine"'}
    changes = {"start_from": '"painn-ethanol"', "learning_rate": "5e-4"}
    config = config_of(tmp_path, data, **changes, **options)
    train(config, tmp_path / "tuned")
    tuned = export_run(TrainingFolder(tmp_path / "tuned"), tmp_path / "tuned" / "model")

    network = read_card("painn-ethanol").config
    architecture = "\n".join(f"{key} = {json.dumps(value)}" for key, value in network.items())
    text = f'{data}\n[architecture]\nname = "painn"\n{architecture}'
    path = config_of(tmp_path, text, learning_rate="2e-3", **options).source
    path.write_text(path.read_text().replace('start_from = "parent.pt"\n', ""))
    train(read_config(path), tmp_path / "scratch")  # as many steps of the same network
    scratch = export_run(TrainingFolder(tmp_path / "scratch"), tmp_path / "scratch" / "model")

    found, begun, other = (
        {q.name: 1e3 * q.errors.mae for q in comparison.quantities}
        for comparison in (tuned.comparison, tuned.before, scratch.comparison)
    )
    assert found["forces"] < 0.6 * min(begun["forces"], other["forces"])
    assert found["energy"] < 0.6 * min(begun["energy"], other["energy"])
