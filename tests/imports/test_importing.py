"""From a file of another package to a model file: origin, refusals, the command line."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.lj import LennardJones
from torch import nn

from eqcalc import EqCalculator
from eqcalc.cli import main
from eqcalc.errors import (
    ConfigError,
    DataWarning,
    MissingDependencyError,
    ModelFileError,
    OutputExistsError,
    UnsupportedElementError,
)
from eqcalc.export import rebuild_potential
from eqcalc.importers import check_import, import_model, read_foreign, sevennet
from eqcalc.importers import schnetpack as importer
from eqcalc.importers.checking import Difference
from eqcalc.importers.conversion import find_importer
from eqcalc.model_file import open_model_file, read_card
from eqcalc.model_file.card import ModelCard
from eqcalc.model_file.seen import seen_in

FOLDER = Path(__file__).parents[1] / "data" / "imports" / "schnetpack"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())["models"]
SOURCE = FOLDER / "painn_gaussian.model"
UNITS = {"energy_unit": "eV", "length_unit": "Angstrom"}


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported") / "mine"
    return import_model(
        SOURCE,
        folder,
        **UNITS,
        licence="MIT",
        level_of_theory="PBE",
        training_data={"compositions": ["C2H6O"]},
    )


def test_card_of_an_import_has_what_its_training_data_held_where_they_are_at_hand(
    imported, tmp_path
):
    assert imported.card.seen == {}
    page = imported.card.to_markdown()
    assert "seen in training: distances and numbers of neighbours are not recorded" in page
    frames = [molecule("CH3CH2OH"), molecule("H2O")]
    known = import_model(SOURCE, tmp_path / "mine", **UNITS, trained_on=frames)
    assert known.card.seen == seen_in(frames, known.card.cutoff)
    assert set(known.card.seen["neighbours"]) == {"H", "C", "O"}


@pytest.mark.parametrize("unit", ["nm", "Bohr"])
def test_a_unit_that_the_cutoff_speaks_against_is_named(unit, tmp_path):
    """The network's cutoff is 4.2 Å."""
    units = {"energy_unit": "eV", "length_unit": unit}
    if unit == "nm":
        with pytest.raises(ConfigError, match=r"in nm its cutoff is 42 Å, where .* length_unit"):
            import_model(SOURCE, tmp_path / "mine", **units)
        assert not (tmp_path / "mine").exists()
    else:
        with pytest.warns(DataWarning, match=r"in Bohr its cutoff is 2\.22 Å, where most"):
            import_model(SOURCE, tmp_path / "mine", **units)


def test_elements_may_be_atomic_numbers(tmp_path):
    known = import_model(SOURCE, tmp_path / "mine", **UNITS, elements=["1", "6", 8])
    assert known.card.elements == ["H", "C", "O"]
    with pytest.raises(ConfigError, match=r"'119' is no element's symbol or atomic number"):
        import_model(SOURCE, tmp_path / "other", **UNITS, elements=["119"])


@pytest.mark.parametrize("kind", list(EXPECTED))
def test_an_imported_file_gives_the_numbers_of_the_package(kind, tmp_path):
    model = import_model(FOLDER / f"{kind}.model", tmp_path / "mine", **UNITS)
    calculator = EqCalculator(model.path, device="cpu", dtype="float64", engine="torchscript")
    for record in EXPECTED[kind].values():
        atoms = Atoms(
            record["symbols"], record["positions"], cell=record["cell"], pbc=record["pbc"]
        )
        atoms.calc = calculator
        assert abs(atoms.get_potential_energy() - record["energy"]) < 1e-8 * len(atoms)
        np.testing.assert_allclose(atoms.get_forces(), record["forces"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("kind", ["painn_bessel", "schnet_gaussian"])
def test_an_imported_file_is_rebuilt_for_compilation(kind, tmp_path):
    model = import_model(FOLDER / f"{kind}.model", tmp_path / "mine.pt", **UNITS)
    rebuilt = rebuild_potential(open_model_file(model.path))  # replays the passport
    assert rebuilt.architecture.vanishing_derivatives == 1


def test_the_card_says_where_the_weights_came_from(imported):
    card = read_card(imported.path)
    assert card.origin == {
        "package": "schnetpack",
        "version": "2.1.1",
        "file": "painn_gaussian.model",
        "sha256": read_foreign(SOURCE).sha256,
        "licence": "MIT",
        "level of theory": "PBE",
    }
    assert (card.name, card.licence) == ("mine", "MIT")
    assert card.compositions == ["C2H6O"]
    assert any("forces jump" in sentence for sentence in card.gives_up)
    assert any("a kink" in sentence for sentence in card.gives_up)
    page = imported.path.with_name("card.md").read_text()
    assert "## Origin" in page
    assert f"sha256: {card.origin['sha256']}" in page


def test_an_origin_that_is_no_text_is_refused(imported):
    text = imported.card.to_json().replace('"version": "2.1.1"', '"version": 2.1')
    with pytest.raises(ValueError, match=r"origin of version: expected a text"):
        ModelCard.from_json(text)


def test_cards_from_before_origins_are_read(imported):
    content = json.loads(imported.card.to_json())
    del content["origin"]
    assert ModelCard.from_json(json.dumps(content)).origin == {}


def test_elements_can_be_restricted(tmp_path):
    model = import_model(SOURCE, tmp_path / "m.pt", **UNITS, elements=["O", 1])
    assert model.card.elements == ["H", "O"]
    with pytest.raises(ConfigError, match=r"elements must name at least one element"):
        import_model(SOURCE, tmp_path / "n.pt", **UNITS, elements=[])


def test_an_import_draws_none_of_the_callers_random_numbers(tmp_path):
    state = torch.get_rng_state()
    import_model(SOURCE, tmp_path / "mine", **UNITS)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "context",
    [lambda: torch.autocast("cpu", dtype=torch.bfloat16), lambda: torch.device("meta")],
    ids=["autocast", "default device"],
)
def test_an_import_needs_nothing_of_the_caller(context, imported, tmp_path):
    with context():
        again = import_model(SOURCE, tmp_path / "mine", **UNITS)
    expected = rebuild_potential(open_model_file(imported.path)).state_dict()
    found = rebuild_potential(open_model_file(again.path)).state_dict()
    torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0, equal_nan=True)


def test_without_an_output_the_model_goes_into_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = import_model(SOURCE, **UNITS)
    assert model.path == Path("models/painn_gaussian/model.pt")
    assert model.card.name == "painn_gaussian"


# --- an imported file whose source changed


def test_an_existing_model_of_the_same_source_is_kept_and_named(imported):
    with pytest.raises(OutputExistsError, match=r"imported from this very file, painn_gaussian"):
        import_model(SOURCE, imported.path.parent, **UNITS)


def test_an_existing_model_of_another_source_is_kept_and_told_apart(imported, tmp_path):
    other = FOLDER / "painn_bessel.model"
    digest = read_foreign(other).sha256
    with pytest.raises(OutputExistsError, match=rf"another file, .*while this one has {digest}"):
        import_model(other, imported.path.parent, **UNITS)
    copy = tmp_path / "mine.pt"
    shutil.copy(imported.path, copy)
    model = import_model(other, copy, **UNITS, overwrite=True)
    assert "imported from another file, painn_gaussian.model" in model.replaced
    assert read_card(copy).origin["sha256"] == digest


def test_an_existing_model_that_was_not_imported_or_is_none_is_kept(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"something else")
    with pytest.raises(OutputExistsError, match=r"exists \(it cannot be read: .*overwrite=True"):
        import_model(SOURCE, path, **UNITS)
    shutil.copy(Path(__file__).parents[2] / "models" / "painn-ethanol" / "model.pt", path)
    with pytest.raises(OutputExistsError, match=r"it was not imported from another package"):
        import_model(SOURCE, path, **UNITS)


@pytest.mark.parametrize("name", ["card.md", "metrics.json"])
def test_files_of_the_user_stay_where_no_model_was(name, tmp_path):
    (tmp_path / name).write_text("my notes")
    with pytest.raises(OutputExistsError, match=rf"{name}"):
        import_model(SOURCE, tmp_path, **UNITS)
    assert (tmp_path / name).read_text() == "my notes"
    assert not (tmp_path / "model.pt").exists()


def test_frames_that_the_network_was_not_trained_on_are_refused(tmp_path):
    frames = [molecule("H2O"), Atoms("LiF", [[0, 0, 0], [0, 0, 1.6]])]
    with pytest.raises(UnsupportedElementError, match=r"does not know Li, F \(frame 1 of what"):
        import_model(SOURCE, tmp_path / "mine", **UNITS, trained_on=frames)
    assert not (tmp_path / "mine").exists()


def test_a_modality_that_schnetpack_does_not_have_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="schnetpack have no modalities: 'PBE' cannot be chosen"):
        import_model(SOURCE, tmp_path / "mine", **UNITS, modality="PBE")


def test_a_card_that_could_not_be_read_again_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"card cannot hold .*expected no control characters"):
        import_model(SOURCE, tmp_path / "mine", **UNITS, licence="MIT\r\nmine")
    with pytest.raises(ConfigError, match=r"card cannot hold .*not JSON compliant"):
        import_model(SOURCE, tmp_path / "mine", **UNITS, training_data={"n": math.nan})
    assert not (tmp_path / "mine").exists()


def test_a_network_under_two_names_is_no_committee(imported, tmp_path):
    other = import_model(SOURCE, tmp_path / "other", **UNITS, name="another", licence="BSD")
    with pytest.raises(ConfigError, match=r"is the same as .* whatever their cards call them"):
        EqCalculator([imported.path, other.path], device="cpu")


# --- what no importer knows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.optim.Adam([nn.Parameter(torch.ones(1))]).state_dict(), r"an optimizer only"),
        (nn.Linear(2, 2), r"it holds a torch.nn.modules.linear.Linear, which eqcalc does not"),
        (nn.Linear(2, 2).state_dict(), r"it holds tensors only \(a state_dict\)"),
        ({"state_dict": {}, "architecture": {}}, r"eqcalc's own training.* eqcalc export RUN MOD"),
        ({"epoch": 3, "loss": 0.1}, r"a dictionary with epoch, loss, which is no checkpoint"),
        ({}, r"a dictionary with nothing"),
        ([1, 2], r"it holds a list, which is no model"),
    ],
)
def test_files_that_no_importer_knows_are_refused_by_what_they_hold(content, message, tmp_path):
    path = tmp_path / "file.pth"
    torch.save(content, path)
    with pytest.raises(ModelFileError, match=message) as caught:
        import_model(path, tmp_path / "out", **UNITS)
    assert "Known: SevenNet checkpoint" in str(caught.value)
    assert "schnetpack model" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_each_kind_is_found_by_its_content_alone(tmp_path):
    for source, expected in (
        (SOURCE, importer),
        (FOLDER / "painn_gaussian.ckpt", importer),
        (Path(__file__).parent / "sevennet" / "xplor.pth", sevennet),
    ):
        copy = tmp_path / "no_suffix"
        shutil.copy(source, copy)
        assert find_importer(read_foreign(copy)) is expected


def test_weights_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    def spoiled(*arguments: Any) -> Any:
        found = original(*arguments)
        with torch.no_grad():
            found.potential.architecture.readout.out.bias.fill_(torch.nan)
        return found

    original = importer.read
    monkeypatch.setattr(importer, "read", spoiled)
    with pytest.raises(ModelFileError, match=r"that become 'readout.out.bias' are not finite"):
        import_model(SOURCE, tmp_path / "out", **UNITS)


# --- beside the original


def test_a_check_shows_the_largest_differences(imported, monkeypatch):
    class Shifted(EqCalculator):
        def calculate(self, *arguments: Any, **options: Any) -> None:
            super().calculate(*arguments, **options)
            self.results["energy"] += 0.5
            self.results["forces"] = self.results["forces"] + 0.25

    own = EqCalculator(imported.path, device="cpu", dtype="float64", engine="torchscript")
    other = Shifted(imported.path, device="cpu", dtype="float64", engine="torchscript")
    monkeypatch.setattr(importer, "original", lambda file, choices: other)
    water = Atoms("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    (found,) = check_import(imported, own, {"water": water})
    assert (found.structure, found.n_atoms) == ("water", 3)
    assert found.energy == pytest.approx(0.5 / 3)
    assert found.forces == pytest.approx(0.25)
    assert found.largest_force > 0.0


def test_a_check_needs_the_original_package(imported, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "schnetpack", None)
    monkeypatch.setitem(__import__("sys").modules, "schnetpack.interfaces", None)
    with pytest.raises(MissingDependencyError, match=r"the original needs schnetpack, which is"):
        check_import(imported, EqCalculator(imported.path), {})


def test_a_kind_without_a_comparison_says_so(imported, monkeypatch):
    monkeypatch.delattr(importer, "original")
    with pytest.raises(ConfigError, match=r"no comparison with the original of a schnetpack mod"):
        check_import(imported, EqCalculator(imported.path), {})


def _cli(*words: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(word) for word in words])
    return int(left.value.code or 0)


def test_the_verb_takes_frames_of_the_training(tmp_path, capsys):
    molecule("CH3CH2OH").write(tmp_path / "data.xyz")
    words = ["import", SOURCE, "-o", tmp_path / "mine", "--energy-unit", "Hartree"]
    words += ["--length-unit", "Bohr", "--trained-on", tmp_path / "data.xyz"]
    assert _cli(*words) == 0
    assert "5 pairs of elements; closest H-" in capsys.readouterr().out
    assert read_card(tmp_path / "mine" / "model.pt").seen["neighbours"].keys() == {"H", "C", "O"}


def test_the_verb_notes_frames_of_the_training_that_are_not_in_angstrom(tmp_path, capsys):
    atoms = molecule("CH3CH2OH")
    atoms.positions /= units.Bohr
    atoms.write(tmp_path / "data.xyz")
    words = ["import", SOURCE, "-o", tmp_path / "mine", "--energy-unit", "Hartree"]
    words += ["--length-unit", "Bohr", "--trained-on", tmp_path / "data.xyz"]
    assert _cli(*words) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "note: data.xyz: nearest neighbours are" in shown
    assert "as where positions are in Bohr" in shown


def test_the_verb_imports_and_sums_up(tmp_path, capsys):
    words = ["import", SOURCE, "-o", tmp_path / "mine", "--energy-unit", "Hartree"]
    assert _cli(*words, "--length-unit", "Bohr", "--elements", "H,C") == 0
    shown = capsys.readouterr().out
    for text in (
        "mine: schnetpack model",
        "painn, PaiNN trained with schnetpack",
        "H, C",
        "sha256 ",
        "states no licence of its weights",
        "level of theory",
        "forces jump",
        f"written: {tmp_path / 'mine' / 'model.pt'}",
    ):
        assert text in shown
    assert _cli("info", tmp_path / "mine") == 0
    assert "Origin" in capsys.readouterr().out


def test_info_tells_whether_the_source_is_still_the_same(imported, tmp_path, capsys):
    assert _cli("info", imported.path, "--source", SOURCE) == 0
    assert "is the file that the model was imported from" in capsys.readouterr().out
    assert _cli("info", imported.path, "--source", FOLDER / "painn_bessel.model") == 1
    assert "is not the file that the model was imported from" in capsys.readouterr().out
    assert _cli("info", "painn-ethanol", "--source", SOURCE) == 1
    assert "was not imported from another package" in capsys.readouterr().out
    for source, code in ((SOURCE, 0), (FOLDER / "painn_bessel.model", 1)):
        capsys.readouterr()
        assert _cli("info", imported.path, "--source", source, "--json") == code
        assert json.loads(capsys.readouterr().out)["is_source"] is (code == 0)
    assert _cli("info", imported.path, "--source", tmp_path / "none") == 2
    assert "cannot read" in capsys.readouterr().err


def test_the_verb_names_the_options_that_are_missing(tmp_path, capsys):
    assert _cli("import", SOURCE, "-o", tmp_path / "mine") == 2
    shown = capsys.readouterr().err
    assert "--energy-unit (eV" in shown
    assert "--length-unit (Angstrom" in shown


def test_the_verb_says_where_the_original_is_not_installed(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "schnetpack", None)
    units = ["--energy-unit", "eV", "--length-unit", "Angstrom"]
    assert _cli("import", SOURCE, "-o", tmp_path / "mine", *units, "--check") == 2
    assert "model.pt' is written, but not compared with the original: " in capsys.readouterr().err
    assert (tmp_path / "mine" / "model.pt").exists()


def test_the_verb_prints_the_differences_of_a_check(tmp_path, capsys, monkeypatch):
    def same(file: Any, choices: Any) -> EqCalculator:
        return EqCalculator(tmp_path / "mine", device="cpu", dtype="float64")

    monkeypatch.setattr(importer, "original", same)
    units = ["--energy-unit", "eV", "--length-unit", "Angstrom"]
    assert _cli("import", SOURCE, "-o", tmp_path / "mine", *units, "--check") == 0
    shown = capsys.readouterr().out
    assert "largest differences from the original package:" in shown
    assert "eV/atom, forces " in shown


def test_a_check_that_finds_another_network_fails(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importer, "original", lambda file, choices: LennardJones())
    units = ["--energy-unit", "eV", "--length-unit", "Angstrom"]
    assert _cli("import", SOURCE, "-o", tmp_path / "mine", *units, "--check") == 1
    assert "differs from the original by more than rounding" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("energy", "forces", "is_small"),
    [(1e-5, 1e-4, True), (1e-3, 0.0, False), (0.0, 1e-2, False), (0.0, math.nan, False)],
)
def test_what_is_small_beside_the_original(energy, forces, is_small):
    assert Difference("water", 3, energy, forces, largest_force=2.0).is_small is is_small


def test_importers_are_modules_of_the_agreed_shape():
    from eqcalc.importers.conversion import IMPORTERS

    for name in IMPORTERS:
        module: ModuleType = __import__(f"eqcalc.importers.{name}", fromlist=["KIND"])
        assert isinstance(module.KIND, str)
        assert all(callable(getattr(module, n)) for n in ("recognises", "read", "original"))


def test_what_has_to_be_chosen_is_said_with_the_file(tmp_path):
    path = Path(__file__).parent / "sevennet" / "modal.pth"
    with pytest.raises(ConfigError, match=r"modal.pth' was not imported: .*choose a modality"):
        import_model(path, tmp_path / "model")
