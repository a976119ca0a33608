"""What other packages write is read as plain data, and nothing of it is ever run."""

from __future__ import annotations

import builtins
import collections
import io
import os
import pickle
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from eqcalc.errors import ModelFileError, UnknownModelError
from eqcalc.importers import Inert, read_foreign, state_of
from eqcalc.importers.foreign_file import sha256_of


def saved(tmp_path: Path, content: Any, **options: Any) -> Path:
    path = tmp_path / "file with (blanks).pth"
    torch.save(content, path, **options)
    return path


def archive(tmp_path: Path, members: dict[str, bytes], name: str = "made.pth") -> Path:
    """Write a zip as torch.save does, with any content."""
    path = tmp_path / name
    with zipfile.ZipFile(path, "w") as file:
        for member, content in members.items():
            file.writestr(f"made/{member}", content)
    return path


def pickled(tmp_path: Path, content: bytes, records: dict[str, bytes] | None = None) -> Path:
    members = {f"data/{key}": record for key, record in (records or {}).items()}
    return archive(tmp_path, {"data.pkl": content, **members})


# --- what is read


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_data_tensors_and_arrays_come_back(protocol, tmp_path):
    content = {
        "config": {
            "numbers": np.arange(6.0).reshape(2, 3),
            "columns": np.asfortranarray(np.arange(6, dtype=np.int32).reshape(2, 3)),
            "names": np.array(["silu", "tanh"]),
            "number": np.float64(3.5),
            "flag": np.bool_(True),
            "set": {1, 2},
            "frozen": frozenset("a"),
            "bytes": b"xyz" * 3,
            "nothing": b"",
            "long": 10**40,
            ("a", 1): None,
        },
        "weights": collections.OrderedDict(a=torch.arange(6).reshape(2, 3).t()),
        "counts": collections.defaultdict(int, {"H": 2}),
        "size": torch.Size([2, 3]),
        "parameter": nn.Parameter(torch.tensor([1.5], dtype=torch.float64)),
        "flags": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(2.0),
    }
    found = read_foreign(saved(tmp_path, content, pickle_protocol=protocol)).content
    config = found["config"]
    np.testing.assert_array_equal(config["numbers"], content["config"]["numbers"])
    np.testing.assert_array_equal(config["columns"], content["config"]["columns"])
    assert config["names"].tolist() == ["silu", "tanh"]
    for key in ("number", "flag", "set", "frozen", "bytes", "nothing", "long", ("a", 1)):
        assert config[key] == content["config"][key]
    assert list(found["weights"]) == ["a"]
    assert torch.equal(found["weights"]["a"], content["weights"]["a"])
    assert found["counts"] == {"H": 2}
    assert found["size"] == (2, 3)
    for key in ("parameter", "flags", "empty", "scalar"):
        assert torch.equal(found[key], content[key].detach())
        assert found[key].dtype == content[key].dtype


def test_modules_become_inert_with_their_tensors_by_name(tmp_path):
    network = nn.Sequential(nn.Linear(3, 2), nn.SiLU(), nn.BatchNorm1d(2))
    found = read_foreign(saved(tmp_path, network)).content
    assert isinstance(found, Inert)
    assert found.class_path == "torch.nn.modules.container.Sequential"
    assert found.name == "Sequential"
    assert found.attribute("1").name == "SiLU"
    assert found.attribute("0").attribute("in_features") == 3
    assert found.attribute("none", 7) == 7
    state = state_of(found)
    assert set(state) == set(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert torch.equal(state[name], tensor)


def test_the_same_object_stays_the_same(tmp_path):
    block = nn.Linear(2, 2)
    found = read_foreign(saved(tmp_path, nn.ModuleList([block, block]))).content
    assert found.attribute("0") is found.attribute("1")


def test_other_members_and_the_digest_are_kept(tmp_path):
    path = archive(tmp_path, {"data.pkl": pickle.dumps([1], 2), "config.yaml": b"r_max: 5"})
    file = read_foreign(path)
    assert file.content == [1]
    assert file.members == {"config.yaml": b"r_max: 5"}
    assert file.sha256 == sha256_of(path)
    assert len(file.sha256) == 64
    assert not file.is_package


@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_packages_give_their_pickles_by_name_and_their_code_as_text(tmp_path):
    from torch.package import PackageExporter

    path = tmp_path / "model.zip"
    with PackageExporter(path) as exporter:
        exporter.extern("**")
        exporter.save_pickle("model", "model.pkl", {"w": torch.arange(3.0)})
        exporter.save_text("model", "config.yaml", "r_max: 5")
        exporter.save_source_string("evil", "raise SystemExit('this was run')")
    file = read_foreign(path)
    assert file.is_package
    assert torch.equal(file.content["model/model.pkl"]["w"], torch.arange(3.0))
    assert file.members["model/config.yaml"] == b"r_max: 5"
    assert b"this was run" in file.members["evil.py"]


# --- what would run code


class _Runs:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _nested(depth: int, value: Any) -> Any:
    for _ in range(depth):
        value = {"in": [value, (value,)]}
    return value


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_of_a_pickle_never_runs(protocol, tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    command = f"touch {victim}"
    attacks = [
        _Runs(os.system, command),
        _Runs(eval, f"open({str(victim)!r}, 'w')"),
        _Runs(exec, f"open({str(victim)!r}, 'w')"),
        _Runs(builtins.open, str(victim), "w"),
        _Runs(subprocess.getoutput, command),
        _Runs(getattr, _Runs(__import__, "os"), "system"),
        _Runs(map, os.system, [command]),
    ]
    path = saved(tmp_path, _nested(5, attacks), pickle_protocol=protocol)
    imported: list[str] = []
    monkeypatch.setattr(builtins, "__import__", _noting(imported))
    content = read_foreign(path).content
    monkeypatch.undo()
    assert not victim.exists()
    assert [name for name in imported if name in ("subprocess", "posix", "nt")] == []
    for _ in range(5):
        content = content["in"][0]
    assert [item.class_path for item in content[:3]] == [
        f"{os.system.__module__}.system",
        "builtins.eval",
        "builtins.exec",
    ]
    assert content[0].args == (command,)


def _noting(names: list[str]) -> Callable[..., Any]:
    original = builtins.__import__

    def noting(name: str, *arguments: Any, **keywords: Any) -> Any:
        names.append(name)
        return original(name, *arguments, **keywords)

    return noting


def test_calls_of_what_a_call_returned_stay_inert(tmp_path):
    # getattr(__import__("os"), "system")("touch victim"), opcode by opcode
    content = (
        b"\x80\x02c__builtin__\ngetattr\nc__builtin__\n__import__\nX\x02\x00\x00\x00os\x85R"
        b"X\x06\x00\x00\x00system\x86RX\x0c\x00\x00\x00touch victim\x85R."
    )
    found = read_foreign(pickled(tmp_path, content)).content
    assert isinstance(found, Inert)
    assert found.args == ("touch victim",)
    assert not Path("victim").exists()


def test_filling_a_dict_as_an_object_changes_nothing(tmp_path):
    content = b"\x80\x02}X\x0a\x00\x00\x00__module__X\x01\x00\x00\x00xsb."
    with pytest.raises(ModelFileError, match=r"was not imported"):
        read_foreign(pickled(tmp_path, content))
    # {} BUILD {"__class__": 1}: attributes of a dict are left out
    content = b"\x80\x02}}X\x09\x00\x00\x00__class__K\x01sb."
    assert read_foreign(pickled(tmp_path, content)).content == {}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x80\x02K\x01}b.", r"it fills a int as if it were an object"),
        (b"\x80\x02ca\nb\n)R}b}b.", r"an object of it is filled twice"),
        (b"\x80\x02K\x01)R.", r"it calls something that is neither a class nor a function"),
        (b"\x80\x02]]a", r"was not imported"),
        (b"\x80\x02(K\x01", r"was not imported"),
        (b"\x80\x02K\x01K\x02.", r"does not end with one value"),
        (b"\x80\x02h\x07.", r"not a pickle as torch writes it"),
        (b"\x80\x02}]K\x01s.", r"not a pickle as torch writes it"),
        (b"\x80\x02K\x01K\x01a.", r"appends to something else than a list"),
        (b"\x80\x04\x8f(K\x01\x90K\x01(K\x01\x90.", r"adds items to something else than a set"),
        (b"\x80\x04K\x01K\x02\x93.", r"names a class by something else than text"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00rot\x86R.", r"bytes of it"),
        (b"\x80\x02c__builtin__\nbytes\nK\x07\x85R.", r"bytes of it are not written"),
        (b"\x80\x02cnumpy\ndtype\nX\x01\x00\x00\x00O\x85R.", r"items of the kind 'O', not numbers"),
        (b"\x80\x02ccopy_reg\n_reconstructor\nK\x01\x85R.", r"an object of something else than a"),
        (b"I1\n.", r"has the opcode INT, which torch does not write"),
        (b"(i__builtin__\neval\n.", r"has the opcode INST, which torch does not write"),
        (b"\x82\x01.", r"has the opcode EXT1, which torch does not write"),
        (b"\xff", r"was not imported"),
        (b"", r"was not imported"),
    ],
)
def test_pickles_that_are_none_of_torch_are_refused(content, message, tmp_path):
    with pytest.raises(ModelFileError, match=message):
        read_foreign(pickled(tmp_path, content))


def test_recursion_of_objects_ends(tmp_path):
    content: list[Any] = [1]
    content.append(content)
    found = read_foreign(saved(tmp_path, content)).content
    assert found[1] is found


def test_modules_that_contain_each_other_are_refused():
    module = Inert("a.B")
    module.state = {"_modules": {"self": module}}
    with pytest.raises(ValueError, match=r"nested too deeply, or contain each other"):
        state_of(module)


def test_modules_that_share_too_many_modules_are_refused():
    module = Inert("a.B", state={"_modules": {}})
    for _ in range(40):  # 2**40 paths through 40 objects
        module = Inert("a.B", state={"_modules": {"a": module, "b": module}})
    with pytest.raises(ValueError, match=r"nested too deeply, or contain each other"):
        state_of(module)


# --- tensors that are none


def tensor(
    size: Any,
    stride: Any,
    *,
    offset: Any = 0,
    numel: Any = 4,
    kind: str = "FloatStorage",
    key: str = "0",
) -> bytes:
    """Return the pickle of a tensor, declared as torch does."""

    class Storage:
        pass

    class Pickler(pickle._Pickler):  # type: ignore[name-defined]
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", _Named("torch", kind), key, "cpu", numel) if obj is storage else None

    storage = Storage()
    buffer = io.BytesIO()
    arguments = (storage, offset, size, stride, False, {})
    Pickler(buffer, 2).dump(_Call("torch._utils", "_rebuild_tensor_v2", arguments))
    return buffer.getvalue()


class _Named:
    """Pickled as the name of a class."""

    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


class _Call:
    def __init__(self, module: str, name: str, arguments: tuple[Any, ...]) -> None:
        self.named, self.arguments = _Named(module, name), arguments


def _save_named(pickler: Any, obj: _Named) -> None:
    pickler.write(b"c" + f"{obj.module}\n{obj.name}\n".encode())


def _save_call(pickler: Any, obj: _Call) -> None:
    pickler.save(obj.named)
    pickler.save(obj.arguments)
    pickler.write(b"R")


pickle._Pickler.dispatch[_Named] = _save_named  # type: ignore[attr-defined]
pickle._Pickler.dispatch[_Call] = _save_call  # type: ignore[attr-defined]

RECORD = np.arange(4, dtype=np.float32).tobytes()


def test_views_of_a_record_are_read(tmp_path):
    path = pickled(tmp_path, tensor((2, 2), (1, 2)), {"0": RECORD})
    assert read_foreign(path).content.tolist() == [[0.0, 2.0], [1.0, 3.0]]
    path = pickled(tmp_path, tensor((3,), (0,), offset=2), {"0": RECORD})
    assert read_foreign(path).content.tolist() == [2.0, 2.0, 2.0]  # expanded


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tensor((5,), (1,)), r"does not lie within its record 0 of 4 numbers"),
        (tensor((2**62, 2**62), (1, 1)), r"does not lie within its record"),
        (tensor((2**40,), (0,)), r"would be far larger than the file"),
        (tensor((1024, 1025), (0, 0)), r"would be far larger than the file"),
        (tensor((1,) * 65, (1,) * 65), r"would be far larger than the file"),
        (tensor((2,), (4,)), r"does not lie within its record"),
        (tensor((1,), (1,), offset=4), r"does not lie within its record"),
        (tensor((0,), (1,), offset=5), r"does not lie within its record"),
        (tensor((-1,), (1,)), r"a size of a tensor is -1"),
        (tensor((2,), (-1,), offset=2), r"a size of a tensor is -1"),
        (tensor((1,), (1,), offset=-1), r"a size of a tensor is -1"),
        (tensor((1.0,), (1,)), r"a size of a tensor is 1.0"),
        (tensor((True,), (1,)), r"a size of a tensor is True"),
        (tensor((2, 2), (1,)), r"shape and strides of a tensor differ in length"),
        (tensor((1,), (1,), numel=-4), r"a size of a tensor is -4"),
        (tensor((1,), (1,), numel=2**40), r"record 0 of a tensor has 16 bytes, where"),
        (tensor((1,), (1,), key="1"), r"the record 1 of a tensor is missing"),
        (tensor((1,), (1,), key="../0"), r"the record ../0 of a tensor is missing"),
        (tensor((1,), (1,), kind="DoubleStorage"), r"has 16 bytes, where 32 are declared"),
        (tensor((1,), (1,), kind="HalfStorage"), r"numbers of the kind Half, which are rounded"),
        (tensor((1,), (1,), kind="BFloat16Storage"), r"of the kind BFloat16"),
        (tensor((1,), (1,), kind="QInt8Storage"), r"of the kind QInt8"),
    ],
)
def test_tensors_that_do_not_lie_in_their_record_are_refused(content, message, tmp_path):
    with pytest.raises(ModelFileError, match=message):
        read_foreign(pickled(tmp_path, content, {"0": RECORD}))


def test_a_record_that_is_declared_twice_differently_is_refused(tmp_path):
    first, second = tensor((1,), (1,)), tensor((1,), (1,), kind="IntStorage")
    both = first[:-1] + second[2:-1] + b"\x86."
    with pytest.raises(ModelFileError, match=r"record 0 is declared twice, and differently"):
        read_foreign(pickled(tmp_path, both, {"0": RECORD}))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_refused_by_the_name_of_the_tensor(dtype, tmp_path):
    path = saved(tmp_path, {"model_state_dict": {"a": torch.ones(2), "b": torch.ones(2).to(dtype)}})
    with pytest.raises(ModelFileError, match=r"'model_state_dict.b' holds numbers of the kind"):
        read_foreign(path)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_tensors_are_refused_by_name(tmp_path):
    packed = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    with pytest.raises(ModelFileError, match=r"'w' holds numbers of the kind QInt8"):
        read_foreign(saved(tmp_path, {"w": packed}))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ((1, (3,), "f8", False, b"1234"), r"an array of shape \(3,\) has 4 bytes where 24"),
        ((1, (-1,), "f8", False, b"12345678"), r"a size of a tensor is -1"),
        ((1, (2**62,), "f8", False, b""), r"has 0 bytes where"),
    ],
)
def test_arrays_of_another_size_are_refused(state, message, tmp_path):
    _, shape, dtype, _, content = state
    call = _Call("numpy", "dtype", (dtype, False, True))
    made = _Call("numpy._core.numeric", "_frombuffer", (content, call, shape, "C"))
    buffer = io.BytesIO()
    pickle._Pickler(buffer, 3).dump(made)  # type: ignore[attr-defined]
    with pytest.raises(ModelFileError, match=message):
        read_foreign(pickled(tmp_path, buffer.getvalue()))


def test_arrays_in_the_other_order_of_bytes_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match=r"array of it is not in this machine's order"):
        read_foreign(saved(tmp_path, {"a": np.arange(3, dtype=">f8")}, pickle_protocol=2))


# --- files that are something else


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(UnknownModelError, match=r"there is no file '.*none.pth' to import"):
        read_foreign(tmp_path / "none.pth")
    with pytest.raises(ModelFileError, match=r"is a folder, where a file was expected"):
        read_foreign(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"is empty; copy it again"),
        (pickle.dumps({"a": 1}), r"is a bare Python pickle, or what torch.save wrote before"),
        (b'\x10\0\0\0\0\0\0\0{"w": {}}      ', r"is a safetensors file: it has tensors, but not"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"it is no zip\); was another file meant"),
        (b"PK\x03\x04" + bytes(100), r"is truncated or damaged"),
    ],
)
def test_files_of_other_formats_are_refused_by_name(content, message, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        read_foreign(path)


def test_legacy_files_of_torch_are_refused(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)}, _use_new_zipfile_serialization=False)
    with pytest.raises(ModelFileError, match=r"what torch.save wrote before torch 1.6"):
        read_foreign(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_truncated_files_are_refused(share, tmp_path):
    path = saved(tmp_path, {"w": torch.ones(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelFileError, match=r"is truncated or damaged"):
        read_foreign(path)


def test_flipped_bits_are_found(tmp_path):
    path = saved(tmp_path, {"w": torch.full((1000,), 3.0)})
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(3.0).tobytes() * 8) + 40] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"is truncated or damaged \(Bad CRC-32"):
        read_foreign(path)


def test_torchscript_is_refused_with_what_to_give_instead(tmp_path):
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "deployed.pt")
    with pytest.raises(ModelFileError, match=r"TorchScript program, .* Give the checkpoint"):
        read_foreign(tmp_path / "deployed.pt")


@pytest.mark.parametrize(
    ("members", "name", "message"),
    [
        ({"extra/card.json": b"{}"}, "model.pt", r"is a model of eqcalc already"),
        (
            {"archive_format": b"pt2"},
            "model.pt2",
            r"compiled package \(.pt2\).*Give the",
        ),
        ({"data/aotinductor/model/a.so": b""}, "m.zip", r"is a compiled package"),
        ({"word/document.xml": b""}, "letter.docx", r"is a zip, but not one that torch.save"),
        ({"data.pkl": b"N.", "byteorder": b"big"}, "a.pth", r"other order of bytes"),
    ],
)
def test_archives_of_other_kinds_are_refused_by_name(members, name, message, tmp_path):
    with pytest.raises(ModelFileError, match=message) as refused:
        read_foreign(archive(tmp_path, members, name))
    assert "damaged" not in str(refused.value)


def test_zip_bombs_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("made/data.pkl", b"N.")
        file.writestr("made/data/0", bytes(2**25))
    with pytest.raises(ModelFileError, match=r"unpack to 34 MB, which no model does"):
        read_foreign(path)


def test_pickles_that_are_far_too_large_are_refused(tmp_path):
    path = tmp_path / "bomb.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("made/data.pkl", bytes(2**26 + 1))
    with pytest.raises(ModelFileError, match=r"data.pkl has 67 MB beside its tensors"):
        read_foreign(path)


def test_two_entries_of_one_name_are_refused(tmp_path):
    path = tmp_path / "twice.pth"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("made/data.pkl", b"N.")
        file.writestr("other/data.pkl", b"K\x01.")
    with pytest.raises(ModelFileError, match=r"two entries of the name 'data.pkl'"):
        read_foreign(path)
