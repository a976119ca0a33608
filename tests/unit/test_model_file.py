"""Model files: found, checked and read, or refused with the reason."""

from __future__ import annotations

import contextlib
import json
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import eqcalc
from eqcalc.engines import load_model
from eqcalc.errors import EqcalcError, ModelFileError, NameWarning, UnknownModelError
from eqcalc.model_file import (
    CARD,
    FORMAT_VERSION,
    PASSPORT,
    ModelCard,
    archive,
    available_models,
    entries,
    find_model,
    open_model_file,
    open_potential,
    read_card,
)
from eqcalc.model_file.card import PropagatorCard
from eqcalc.model_file.entries import stamp

Change = Callable[[bytes], "bytes | None"]


def rewrite(source: Path, target: Path, changes: dict[str, Change]) -> Path:
    """Copy an archive; entries whose name ends with a key are changed, or dropped for None.

    The copy's card has a new digest, as if the change had been made on purpose, where the card
    is one.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            content: bytes | None = old.read(info)
            for ending, change in changes.items():
                if info.filename.endswith(ending):
                    content = change(content)
            if content is not None:
                new.writestr(info.filename, content)
    with contextlib.suppress(ValueError):
        target.write_bytes(stamp(target.read_bytes()))
    return target


def with_card(source: Path, target: Path, **values: object) -> Path:
    """Copy a model with other values on its card; ``None`` removes a key."""

    def change(text: bytes) -> bytes:
        card = json.loads(text) | values
        return json.dumps({k: v for k, v in card.items() if v is not None}).encode()

    return rewrite(source, target, {CARD: change})


@pytest.fixture
def shipped(models, tmp_path, monkeypatch) -> Path:
    """Make a folder of two shipped models, in place of the package's own."""
    for name in ("painn-ethanol", "nequip-water"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.pt").write_bytes(models["double"].read_bytes())
    (tmp_path / "unfinished").mkdir()
    found = {path.parent.name: path for path in tmp_path.glob("*/model.pt")}
    monkeypatch.setattr(archive, "_shipped", lambda: found)
    return tmp_path


# --- finding -----------------------------------------------------------------------------


def test_a_model_is_found_by_path_folder_and_shipped_name(shipped):
    path = shipped / "painn-ethanol" / "model.pt"
    assert find_model(path) == path
    assert find_model(str(path)) == path
    assert find_model(path.parent) == path
    assert find_model("painn-ethanol") == path


def test_a_folder_named_as_a_shipped_model_does_not_hide_it(shipped, models, tmp_path, monkeypatch):
    place = tmp_path / "work"
    (place / "painn-ethanol").mkdir(parents=True)
    own = place / "painn-ethanol" / "model.pt"
    own.write_bytes(models["other"].read_bytes())
    monkeypatch.chdir(place)
    assert find_model("painn-ethanol") == shipped / "painn-ethanol" / "model.pt"
    assert find_model("./painn-ethanol/model.pt").resolve() == own
    assert find_model(place / "painn-ethanol") == own
    said = r"'painn-ethanol' is the shipped model .*, not 'painn-ethanol.model.pt' here; .* '\./p"
    with pytest.warns(NameWarning, match=said):
        assert open_model_file("painn-ethanol").path == shipped / "painn-ethanol" / "model.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_model_file("./painn-ethanol").path.resolve() == own
        monkeypatch.chdir(shipped)  # where name and folder are one model
        assert open_model_file("painn-ethanol").path == shipped / "painn-ethanol" / "model.pt"


def test_available_models_are_the_shipped_names_in_order(shipped):
    assert available_models() == ["nequip-water", "painn-ethanol"]


def test_every_shipped_model_can_be_found_and_opened():
    assert eqcalc.available_models() == available_models()
    for name in available_models():
        assert open_model_file(name).card.name == name


def test_a_home_folder_is_expanded(models, monkeypatch):
    monkeypatch.setenv("HOME", str(models["double"].parent))
    assert find_model("~/double.pt") == models["double"]


def test_an_unknown_name_is_refused_with_the_closest_one(shipped):
    with pytest.raises(
        UnknownModelError,
        match=r"unknown model: 'pain-ethanol'\. Shipped models: .* Did you mean 'painn-ethanol'\?",
    ):
        find_model("pain-ethanol")


def test_a_missing_path_is_refused_as_a_path(tmp_path):
    with pytest.raises(UnknownModelError, match=r"no such model file: '.*absent\.pt'") as caught:
        find_model(tmp_path / "absent.pt")
    assert isinstance(caught.value, (FileNotFoundError, RuntimeError))
    assert "Errno" not in str(caught.value)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UnknownModelError, match=r"there is no model\.pt in the folder: '"):
        find_model(tmp_path)


@pytest.mark.parametrize("name", ["x" * 5000, "~nobody-has-this-name/model.pt"])
def test_a_name_that_the_system_refuses_is_refused(name):
    with pytest.raises(ModelFileError, match="cannot look for the model"):
        find_model(name)


# --- opening -----------------------------------------------------------------------------


def test_an_opened_model_has_card_passport_and_checksum(models):
    import hashlib

    file = open_model_file(models["double"])
    assert file.path == models["double"]
    assert file.sha256 == hashlib.sha256(models["double"].read_bytes()).hexdigest()
    assert (file.card.elements, file.card.dtype) == (["H", "C", "O"], "float64")
    assert json.loads(file.passport)["frames"]
    assert read_card(models["double"]) == file.card


def test_an_opened_model_is_found_again_from_another_folder(models, tmp_path, monkeypatch):
    shutil.copy(models["double"], tmp_path / "model.pt")
    monkeypatch.chdir(tmp_path)
    file = open_model_file("model.pt")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert file.weights() == open_model_file(models["double"]).weights()


def test_a_pickle_is_refused_unread(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"weights": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(
        ModelFileError, match=r"'.*old\.pt' is a Python pickle.*never loads.* import'"
    ):
        open_model_file(path)


def test_a_zipped_pickle_is_refused_unread(tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"weights": torch.ones(2)}, path)
    with pytest.raises(ModelFileError, match=r"weights\.pt' is an archive but not .* import'"):
        open_model_file(path)


def test_a_foreign_torchscript_archive_is_refused(tmp_path):
    path = tmp_path / "foreign.pt"

    class Twice(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * x

    torch.jit.save(torch.jit.script(Twice()), path)
    with pytest.raises(ModelFileError, match=f"not a model of eqcalc: it has no {CARD}"):
        open_model_file(path)


def test_a_text_file_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_text("this is no model\n")
    with pytest.raises(ModelFileError, match=r"model\.pt' is not a model file .* another file"):
        open_model_file(path)


def test_an_empty_file_is_refused(tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"model\.pt' is empty; copy or export it again"):
        open_model_file(path)


@pytest.mark.parametrize("fraction", [1e-4, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(fraction, models, tmp_path):
    whole = models["double"].read_bytes()
    path = tmp_path / "model.pt"
    path.write_bytes(whole[: int(fraction * len(whole))])
    with pytest.raises(ModelFileError, match=r"model\.pt' is truncated or damaged"):
        open_model_file(path)


def middle_of(path: Path, ending: str) -> int:
    """Return where in the file the content of an entry has its middle."""
    with zipfile.ZipFile(path) as archive:
        info = next(i for i in archive.infolist() if i.filename.endswith(ending))
    header = path.read_bytes()[info.header_offset : info.header_offset + 30]
    n_name, n_extra = struct.unpack("<HH", header[26:30])
    return info.header_offset + 30 + n_name + n_extra + info.compress_size // 2


@pytest.mark.parametrize("entry", ["data/2", "weights.safetensors"])
def test_a_flipped_bit_is_refused_with_the_place(entry, models, tmp_path):
    content = bytearray(models["double"].read_bytes())
    content[middle_of(models["double"], entry)] ^= 4
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=rf"is damaged \(bad checksum in .*{entry}\)"):
        open_model_file(path)


@pytest.mark.parametrize("entry", [CARD, PASSPORT, "nn/scatter.py"])
@pytest.mark.parametrize("bit", range(8))
def test_a_flipped_bit_in_compressed_text_is_refused(bit, entry, models, tmp_path):
    content = bytearray(models["double"].read_bytes())
    content[middle_of(models["double"], entry)] ^= 1 << bit
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.pt' is (truncated or )?damaged"):
        open_model_file(path)


def test_no_flipped_bit_of_the_archives_bookkeeping_escapes_as_another_error(models, tmp_path):
    whole = models["double"].read_bytes()
    expected = open_model_file(models["double"]).card
    with zipfile.ZipFile(models["double"]) as archive:
        places = list(range(archive.start_dir, len(whole), 23))
        places += [info.header_offset + k for info in archive.infolist()[::6] for k in range(40)]
    path, n_refused = tmp_path / "model.pt", 0
    for place in places:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            assert open_model_file(path).card == expected
        except EqcalcError:
            n_refused += 1
    assert n_refused > len(places) / 3


def test_an_unreadable_file_is_refused_with_the_systems_reason(models, monkeypatch):
    def deny(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(entries.zipfile, "ZipFile", deny)
    with pytest.raises(ModelFileError, match=r"cannot read the model file '.*': .*Permission"):
        open_model_file(models["double"])


def test_a_newer_format_is_refused(models, tmp_path):
    path = with_card(models["double"], tmp_path / "new.pt", format_version=FORMAT_VERSION + 1)
    with pytest.raises(
        ModelFileError,
        match=rf"format version {FORMAT_VERSION + 1}; this eqcalc reads up to "
        rf"{FORMAT_VERSION}\. Upgrade",
    ):
        open_model_file(path)


@pytest.mark.parametrize("missing", ["format_version", "elements", "cutoff", "reference_energies"])
def test_a_card_that_lacks_a_key_is_refused(missing, models, tmp_path):
    path = with_card(models["double"], tmp_path / "model.pt", **{missing: None})
    with pytest.raises(ModelFileError, match=f"card.json inside '.*' is not readable: .*{missing}"):
        open_model_file(path)


@pytest.mark.parametrize("text", [b"", b"{", b"[1, 2]", b"\xff\xfe", b'{"format_version": "x"}'])
def test_a_card_that_is_no_card_is_refused(text, models, tmp_path):
    path = rewrite(models["double"], tmp_path / "model.pt", {CARD: lambda _: text})
    with pytest.raises(ModelFileError, match=r"the card\.json inside .* is not readable"):
        open_model_file(path)


def test_a_passport_that_is_no_text_is_refused(models, tmp_path):
    path = rewrite(models["double"], tmp_path / "model.pt", {PASSPORT: lambda _: b"\xff\xfe"})
    with pytest.raises(ModelFileError, match=r"the passport\.json inside .* is not readable"):
        open_model_file(path)


@pytest.mark.parametrize("entry", [CARD, PASSPORT])
def test_an_archive_without_card_or_passport_is_refused(entry, models, tmp_path):
    path = rewrite(models["double"], tmp_path / "model.pt", {entry: lambda _: None})
    with pytest.raises(ModelFileError, match="not a model of eqcalc"):
        open_model_file(path)


def test_an_unknown_kind_of_model_is_refused(models, tmp_path):
    path = with_card(models["double"], tmp_path / "model.pt", kind="charge model")
    with pytest.raises(
        ModelFileError,
        match=r"model\.pt' is a model of kind 'charge model'; this eqcalc knows "
        r"potential, propagator\. Upgrade",
    ):
        open_model_file(path)


def test_a_card_that_does_not_say_its_kind_is_a_potentials(models, tmp_path):
    path = with_card(models["double"], tmp_path / "model.pt", kind=None)
    assert open_potential(path).card == open_model_file(models["double"]).card
    assert open_potential(path).card.kind == "potential"


def test_a_propagator_is_opened_with_its_card_and_refused_as_a_potential(models, tmp_path):
    path = with_card(models["double"], tmp_path / "a.pt", kind="propagator", timestep=0.5)
    card = open_model_file(path).card
    assert isinstance(card, PropagatorCard)
    assert (card.timestep, read_card(path)) == (0.5, card)
    with pytest.raises(ModelFileError, match=r"a\.pt' is a learned dynamics \(painn\), not a pot"):
        open_potential(path)


def test_unknown_keys_of_a_later_card_are_passed_over(models, tmp_path):
    path = with_card(models["double"], tmp_path / "model.pt", charge_model="none", mood=[1])
    assert open_model_file(path).card == open_model_file(models["double"]).card
    assert load_model(path).card.elements == ["H", "C", "O"]


# --- card --------------------------------------------------------------------------------


CARD_VALUES = {
    "name": "test",
    "architecture": "painn",
    "config": {"num_blocks": 2, "cut_off": 4.0},
    "elements": ["H", "O"],
    "cutoff": 4.0,
    "n_hops": 2,
    "dtype": "float32",
    "reference_energies": {"H": -13.6, "O": -2041.98},
    "scale": 1.25,
}


def test_a_card_survives_its_json():
    card = ModelCard(
        **CARD_VALUES,
        training_data={"compositions": ["H2O"]},
        errors={"forces_mae_mev": 1.5},
        description="water ≈ H₂O",
        licence="CC0-1.0",
        versions={"torch": "2.6"},
    )
    assert ModelCard.from_json(card.to_json()) == card


def test_a_card_names_its_compositions():
    assert ModelCard(**CARD_VALUES).compositions == []
    card = ModelCard(**CARD_VALUES, training_data={"compositions": ["H2O", "C2H6O"]})
    assert card.compositions == ["H2O", "C2H6O"]


def test_a_card_reads_as_markdown():
    card = ModelCard(
        **CARD_VALUES,
        description="A test.",
        training_data={"frames": 950, "compositions": ["H2O"]},
        errors={"forces_mae_mev_per_a": 12.3456},
        versions={"eqcalc": "0.1.0", "torch": "2.6"},
    )
    text = card.to_markdown()
    for part in (
        "# test\n\nA test.\n\n",
        "**painn**: num_blocks = 2, cut_off = 4.0",
        "- elements: H, O\n",
        "- cutoff: 4 Å, 2 message-passing steps (interaction range 8 Å)",
        "- precision: float32",
        "eV/Å³ (tension positive)",
        "H -13.600000, O -2041.980000 eV",
        "- licence: not stated",
        "- written by: eqcalc 0.1.0, torch 2.6",
        "## Training data\n\n- frames: 950\n- compositions: H2O",
        "- forces MAE (meV/Å): 12.35",
    ):
        assert part in text
    bare = ModelCard(**CARD_VALUES | {"config": {}}).to_markdown()
    assert "## " not in bare
    assert "**painn**\n" in bare
