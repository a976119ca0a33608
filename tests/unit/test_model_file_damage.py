"""Damaged and forged model files give exactly the model's numbers, or one clear error.

They are loaded in another process: a damaged archive may end it.
"""

from __future__ import annotations

import itertools
import json
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import deserialize
from test_model_file import rewrite, with_card

from eqcalc import load_model
from eqcalc.errors import ModelFileError
from eqcalc.model_file import CARD, PASSPORT, WEIGHTS, open_model_file
from eqcalc.model_file.entries import INDEX, pack, read_entries, stamp
from eqcalc.model_file.weight_records import restore_weights

# --- parts that do not belong together


def _index(said: object):
    """Say something else of the first weight."""

    def change(content: bytes) -> bytes:
        index = json.loads(content)
        return json.dumps(index | {next(iter(index)): said}).encode()

    return change


def _other_checksum(content: bytes) -> bytes:
    index = json.loads(content)
    first = next(iter(index))
    return json.dumps(index | {first: [*index[first][:3], 64 * "0"]}).encode()


def _other_record(content: bytes) -> bytes:
    """Exchange the records of two weights of one shape."""
    index = json.loads(content)
    first, other = next(
        (a, b)
        for a, b in itertools.combinations(index, 2)
        if index[a][1:3] == index[b][1:3] and index[a][0] != index[b][0]
    )
    return json.dumps(index | {first: index[other], other: index[first]}).encode()


def _json(**values: object):
    return lambda text: json.dumps(json.loads(text) | values).encode()


@pytest.mark.parametrize(
    ("entry", "change", "reason"),
    [
        ("/data/0", lambda _: b"", "has 0 bytes, where"),
        ("/data/2", lambda content: content[:-8], "bytes, where"),
        ("/data/2", lambda _: None, "the record 2 of a tensor is missing"),
        ("/data.pkl", lambda _: b"\x80\x02K\x01.", "the record 0 belongs to no tensor"),
        ("/data.pkl", lambda content: content[:-40] + b".", "does not end with one value"),
        ("/data.pkl", lambda _: b"\x80\x02cos\nsystem\n.", "names 'os system'"),
        ("/data.pkl", lambda _: b"\x80\x02r\xff\xff\xff\x7f.", "not in order|not a pickle"),
        ("/constants.pkl", lambda _: None, "lacks constants.pkl"),
        ("/version", lambda _: b"x", "version of torch's format"),
        (WEIGHTS, lambda _: None, "holds no weights"),
        (WEIGHTS, lambda content: content[:-1], "is damaged|do not belong"),
        (INDEX, lambda _: b"[", "weights are not readable"),
        (INDEX, lambda _: b"[]", "weights.index.json is no table"),
        (INDEX, _index(["data/0"]), "says nothing that is understood of"),
        (INDEX, _index(["code/x", "F32", [1], ""]), "says nothing that is understood"),
        (INDEX, _index(["data/0", "F128", [1], ""]), "says nothing that is understood"),
        (INDEX, _index(["data/0", "F32", [-1], ""]), "says nothing that is understood"),
        (
            INDEX,
            _index(["data/77", "F32", [1], ""]),
            "the record data/77 of the weight .* is missing",
        ),
        (INDEX, _index(["data/0", "F64", [10**9], ""]), "of the weight .* has .* bytes"),
        (INDEX, _other_record, "is not what the program has"),
        (INDEX, _other_checksum, "of the weight .* is not what the program has"),
        (CARD, _json(n_hops=1), r"the card says n_hops = 1, the program has 2"),
        (CARD, _json(cutoff=5.0), r"the card says cutoff = 5\.0, the program has 4\.0"),
        (CARD, _json(scale=2.0), r"the card says scale = 2\.0"),
        (
            CARD,
            _json(elements=["H"], reference_energies={"H": -13.0}),
            "program's reference energies, of H, C, O, are not the same",
        ),
    ],
)
def test_parts_that_are_damaged_or_do_not_belong_together_are_refused(
    entry, change, reason, models, tmp_path
):
    path = rewrite(models["double"], tmp_path / "m.pt", {entry: change})
    with pytest.raises(ModelFileError, match=reason):
        load_model(path, device="cpu")


def test_a_file_that_holds_every_weight_twice_is_read_as_well(models, tmp_path):
    """So were files of format version 1."""
    entries = restore_weights(read_entries(models["double"].read_bytes()))
    assert f"extra/{INDEX}" not in entries
    card = entries[f"extra/{CARD}"]
    path = tmp_path / "old.pt"
    path.write_bytes(stamp(pack(entries | {f"extra/{CARD}": _json(format_version=1)(card)})))
    assert path.stat().st_size > 1.2 * models["double"].stat().st_size
    weights = open_model_file(models["double"]).weights()
    assert deserialized(open_model_file(path).weights()) == deserialized(weights)
    entries[f"extra/{WEIGHTS}"] = entries[f"extra/{WEIGHTS}"][:-1] + b"\x01"
    path.write_bytes(stamp(pack(entries)))
    with pytest.raises(ModelFileError, match="is not what the program has"):
        load_model(path, device="cpu")


def deserialized(content: bytes) -> dict[str, object]:
    return {name: dict(stored) for name, stored in deserialize(content)}


def test_a_card_that_was_changed_without_a_new_digest_is_refused(models, tmp_path):
    entries = read_entries(models["double"].read_bytes())
    entries[f"extra/{CARD}"] = _json(description="other")(entries[f"extra/{CARD}"])
    path = tmp_path / "m.pt"
    path.write_bytes(pack(entries))
    with pytest.raises(ModelFileError, match="not those whose digest its card carries"):
        open_model_file(path)


@pytest.mark.filterwarnings("default")
def test_a_file_without_a_digest_is_loaded_and_said_to_have_none_once(models, tmp_path):
    entries = read_entries(models["single"].read_bytes())
    card = json.loads(entries[f"extra/{CARD}"])
    del card["digest"]
    entries[f"extra/{CARD}"] = json.dumps(card).encode()
    path = tmp_path / "old.pt"
    path.write_bytes(pack(entries))
    with pytest.warns(UserWarning, match=r"old\.pt' is older than the digest"):
        old = load_model(path, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_model(path, device="cpu")
    new = load_model(models["single"], device="cpu")
    for a, b in zip(old.engine._module.parameters(), new.engine._module.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"cutoff": "4"}, "cutoff: expected a finite number"),
        ({"cutoff": float("inf")}, "cutoff: expected a finite number"),
        ({"cutoff": float("nan")}, "cutoff: expected a finite number"),
        ({"cutoff": True}, "cutoff: expected a finite number"),
        ({"cutoff": 0.0}, "cutoff: expected a length above 0"),
        ({"cutoff": 1e6}, "cutoff: expected a finite number between 0 and 100"),
        ({"n_hops": 2.0}, "n_hops: expected a whole number"),
        ({"n_hops": -1}, "n_hops: expected a whole number"),
        ({"elements": "HCO"}, "elements: expected a list of symbols"),
        ({"elements": ["H", "H"]}, "elements: expected a list of symbols"),
        ({"elements": ["H", "Xx"]}, "elements: expected a list of symbols"),
        ({"elements": ["H", []]}, "elements: expected a list of symbols"),
        ({"elements": ["H"]}, "reference_energies: expected one for each"),
        ({"dtype": "float16"}, "dtype: expected float32 or float64"),
        ({"dtype": []}, "dtype: expected float32 or float64"),
        ({"scale": float("inf")}, "scale: expected a finite number"),
        ({"units": {"energy": "Hartree", "length": "Angstrom"}}, "units: expected"),
        ({"units": []}, "units: expected a table"),
        ({"config": [1]}, "config: expected a table"),
        ({"name": 3}, "name: expected a text"),
        ({"description": "\x1b[2J"}, "text: expected no control characters"),
        ({"training_data": {"by": ["\x07"]}}, "text: expected no control characters"),
        ({"versions": {"torch": 2}}, "versions of torch: expected a text"),
        ({"training_data": {"compositions": "CH4"}}, "compositions: expected a list"),
        ({"format_version": 0.5}, "format_version: expected a whole number"),
        ({"kind": "propagator", "timestep": 0}, "timestep: expected a number above 0"),
        ({"kind": "propagator", "mass": "1"}, "mass: expected a finite number"),
        ({"kind": "propagator", "charges": 1}, "charges: expected a list"),
        ({"kind": "propagator", "objects": [1]}, "objects: expected a list of names"),
    ],
)
def test_a_card_with_a_value_that_no_model_has_is_refused(values, reason, models, tmp_path):
    path = with_card(models["double"], tmp_path / "m.pt", **values)
    with pytest.raises(ModelFileError, match=rf"card\.json inside .* is not readable: {reason}"):
        open_model_file(path)


def _passport(change):
    def edit(text: bytes) -> bytes:
        content = json.loads(text)
        change(content)
        return json.dumps(content).encode()

    return {PASSPORT: edit}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.update(tolerances=None), "NoneType"),
        (lambda p: p["tolerances"]["float64"].update(forces=float("inf")), "tolerance of forces"),
        (lambda p: p["tolerances"]["float64"].update(energy=1.0), "between 0 and 0.001"),
        (lambda p: p["tolerances"]["float64"].update(relative="1"), "tolerance of relative"),
        (lambda p: p["frames"][0].update(numbers=[0] * 6), "atomic numbers of frame 0"),
        (lambda p: p["frames"][0].update(pbc=[1, 2, 3]), "pbc of frame 0"),
        (lambda p: p["frames"][0].update(pbc=[True]), "pbc of frame 0"),
        (lambda p: p["frames"][0].update(cell=[[1e9] * 3] * 3), "farther than"),
        (lambda p: p["frames"][0].update(cell=3), "cell of frame 0"),
        (lambda p: p["frames"][0].update(energy="x"), "are not numbers"),
        (lambda p: p["frames"][0]["positions"][0].__setitem__(0, float("nan")), "positions of"),
        (lambda p: p.update(frames=p["frames"] * 1000), "frames"),
    ],
)
def test_a_passport_with_a_value_that_no_model_has_is_refused(change, reason, models, tmp_path):
    path = rewrite(models["double"], tmp_path / "m.pt", _passport(change))
    with pytest.raises(ModelFileError, match=rf"passport inside .* is not readable: .*{reason}"):
        load_model(path, device="cpu")


# --- the zip


def _zip(path: Path, entries: list[tuple[str, bytes]], *, packed: bool = False) -> Path:
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that occur twice
        with zipfile.ZipFile(path, "w", method) as archive:
            for name, content in entries:
                archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("archive/extra/card.json", b"{}"), r"two entries of the name archive/extra/card\.json"),
        (("archive/../../x", b""), "an entry has the name"),
        (("/etc/x", b""), "an entry has the name"),
        (("archive\\x", b""), "an entry has the name"),
        (("archive/é", b""), "an entry has the name"),
        (("x", b""), "an entry has the name"),
        (("other/code/x.py", b""), "lie in several folders"),
    ],
)
def test_names_of_entries_that_two_readers_may_take_differently_are_refused(
    more, reason, models, tmp_path
):
    entries = read_entries(models["double"].read_bytes())
    own = [(f"archive/{name}", content) for name, content in entries.items()]
    with pytest.raises(ModelFileError, match=reason):
        open_model_file(_zip(tmp_path / "m.pt", [*own, more]))


@pytest.mark.parametrize(
    ("name", "n_bytes", "reason"),
    [
        (f"extra/{CARD}", 2**23, r"card\.json unpacks to 8 MB, at most"),
        (f"extra/{PASSPORT}", 2**26, r"passport\.json unpacks to 67 MB, at most"),
        ("data.pkl", 2**24, r"data\.pkl unpacks to 17 MB, at most"),
        ("code/__torch__/a.py", 2**22, r"a\.py unpacks to 4 MB, at most"),
        ("data/0", 2**28, "MB unpack to"),
    ],
)
def test_entries_that_unpack_to_more_than_any_models_are_refused(
    name, n_bytes, reason, models, tmp_path
):
    entries = read_entries(models["double"].read_bytes()) | {name: b" " * n_bytes}
    own = [(f"archive/{name}", content) for name, content in entries.items()]
    with pytest.raises(ModelFileError, match=reason):
        open_model_file(_zip(tmp_path / "m.pt", own, packed=True))


def test_a_program_of_many_large_entries_is_refused(models, tmp_path):
    entries = read_entries(models["double"].read_bytes())
    own = [(f"archive/{name}", content) for name, content in entries.items()]
    own += [(f"archive/code/__torch__/a{k}.py", b"x" * 2**21) for k in range(9)]
    with pytest.raises(ModelFileError, match="its program has 19 MB"):
        open_model_file(_zip(tmp_path / "m.pt", own))


def test_an_archive_that_was_packed_again_is_the_same_model(models, tmp_path):
    entries = read_entries(models["double"].read_bytes())
    own = [(f"again/{name}", content) for name, content in reversed(entries.items())]
    path = _zip(tmp_path / "m.pt", own, packed=True)
    assert load_model(path, device="cpu").card == load_model(models["double"]).card
