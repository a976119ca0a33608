"""Files of other packages, read as tensors and plain data. Nothing in them is ever run.

``torch.save`` writes a zip with one pickle and a record per tensor; ``torch.package`` one with
several pickles, Python code (which stays text) and the records of all of them. The pickles go
through :mod:`eqcalc.importers.inert`.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from eqcalc.errors import ModelFileError, UnknownModelError
from eqcalc.files import ZIP_DAMAGE
from eqcalc.importers.inert import read_inert

__all__ = ["ForeignFile", "read_foreign", "sha256_of"]

_MOST_MEMBERS = 200_000
# Weights hardly pack at all, code five times; the rest is for small files.
_LARGEST_RATIO, _ALWAYS_ALLOWED = 20, 2**24
_LARGEST_PICKLE = 2**26
_RECORD = re.compile(r"data/(?P<saved>\d+)|\.data/(?P<packaged>\d+)\.storage", re.ASCII)


@dataclass(frozen=True)
class ForeignFile:
    """What a file of another package holds.

    path : of the file
    sha256 : of its bytes
    content : of a torch.save file what was saved; of a package its pickles by their names, such
        as "model/model.pkl". Dicts, lists, numbers, tensors and arrays;
        :class:`eqcalc.importers.inert.Inert` for anything else
    members : bytes of the other files inside, by their names without the outer folder
    is_package : torch.package wrote it
    """

    path: Path
    sha256: str
    content: Any
    members: Mapping[str, bytes]
    is_package: bool = False


def read_foreign(path: str | os.PathLike[str]) -> ForeignFile:
    """Read a file that ``torch.save`` or ``torch.package`` wrote, without running any of it.

    Raises
    ------
    UnknownModelError : there is no such file.
    ModelFileError : it is a folder, of another format, damaged, or larger inside than any model.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise ModelFileError(
            f"'{path}' is a folder, where a file was expected: name the checkpoint or package in "
            "it."
        )
    try:
        with open(path, "rb") as file:
            start = file.read(512)
            _require_zip(path, start)
            file.seek(0)
            sha256 = _digest(file)
            file.seek(0)
            return _read_zip(path, file, sha256)
    except FileNotFoundError as error:
        raise UnknownModelError(f"there is no file '{path}' to import.") from error
    except OSError as error:
        raise ModelFileError(f"cannot read '{path}': {error.strerror or error}.") from error


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes.

    Raises
    ------
    ModelFileError : it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _digest(file)
    except OSError as error:
        raise ModelFileError(f"cannot read '{path}': {error.strerror or error}.") from error


def _digest(file: BinaryIO) -> str:
    whole = hashlib.sha256()
    while piece := file.read(2**20):
        whole.update(piece)
    return whole.hexdigest()


def _require_zip(path: Path, start: bytes) -> None:
    if start[:4] == b"PK\x03\x04":
        return
    if not start:
        raise ModelFileError(f"'{path}' is empty; copy it again.")
    if start[:1] == b"\x80":
        raise ModelFileError(
            f"'{path}' is a bare Python pickle, or what torch.save wrote before torch 1.6; it is "
            "not read. Load it in the package that it came from and save it with torch.save of "
            "torch 1.6 or later."
        )
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 2**27:
        raise ModelFileError(
            f"'{path}' is a safetensors file: it has tensors, but not the options of the network "
            "that they belong to. Give the checkpoint that the package wrote."
        )
    raise ModelFileError(
        f"'{path}' is no file that torch.save or torch.package wrote (it is no zip); was another "
        "file meant?"
    )


def _read_zip(path: Path, file: BinaryIO, sha256: str) -> ForeignFile:
    try:
        with zipfile.ZipFile(file) as archive:
            infos = _members(archive.infolist(), os.fstat(file.fileno()).st_size)
            _require_importable(path, infos)
            return _read_members(path, archive, infos, sha256)
    except ModelFileError:  # one of ZIP_DAMAGE, and says what it is itself
        raise
    except ZIP_DAMAGE as error:
        raise ModelFileError(
            f"'{path}' is truncated or damaged ({error}); copy it again."
        ) from error
    except ValueError as error:
        raise ModelFileError(f"'{path}' was not imported: {error}.") from error


def _members(infos: list[zipfile.ZipInfo], n_bytes: int) -> dict[str, zipfile.ZipInfo]:
    """Return the entries of a zip by their names without the outer folder.

    Raises
    ------
    ValueError : names or sizes that no archive of torch has.
    """
    if len(infos) > _MOST_MEMBERS:
        raise ValueError(f"it has {len(infos)} entries, {_MOST_MEMBERS} at most are expected")
    found: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name = info.filename.partition("/")[2]
        if not name or name.endswith("/"):
            continue
        if name in found:
            raise ValueError(f"it has two entries of the name {name[:80]!r}")
        found[name] = info
        if name.endswith(".pkl") and info.file_size > _LARGEST_PICKLE:
            raise ValueError(
                f"{name[:80]} has {info.file_size / 1e6:.0f} MB beside its tensors, at most "
                f"{_LARGEST_PICKLE / 1e6:.0f} MB are expected"
            )
    total = sum(info.file_size for info in infos)
    if total > _ALWAYS_ALLOWED + _LARGEST_RATIO * n_bytes:
        raise ValueError(
            f"its {n_bytes / 1e6:.1f} MB unpack to {total / 1e6:.0f} MB, which no model does"
        )
    return found


def _require_importable(path: Path, names: Mapping[str, Any]) -> None:
    """Refuse archives that are something else, each by name."""
    if "extra/card.json" in names:
        raise ModelFileError(
            f"'{path}' is a model of eqcalc already; run it, or read its card with eqcalc info."
        )
    compiled = (
        "aotinductor" in name or name.endswith((".so", ".cubin", "exported_program.json"))
        for name in names
    )
    if path.suffix == ".pt2" or any(compiled):
        raise ModelFileError(
            f"'{path}' is a compiled package (.pt2): its weights cannot be read back by name. Give "
            "the checkpoint (.ckpt, .pth) or the package (.nequip.zip) that it was compiled from."
        )
    if "constants.pkl" in names or any(name.startswith("code/") for name in names):
        raise ModelFileError(
            f"'{path}' is a TorchScript program, such as a deployed model: what its tensors mean "
            "stands only in its code. Give the checkpoint (.ckpt, .pth, best_model) that it was "
            "made from."
        )
    if "data.pkl" not in names and not any(name.startswith(".data/") for name in names):
        raise ModelFileError(
            f"'{path}' is a zip, but not one that torch.save or torch.package wrote (no data.pkl "
            "and no .data inside); was another file meant?"
        )


def _read_members(
    path: Path, archive: zipfile.ZipFile, infos: Mapping[str, zipfile.ZipInfo], sha256: str
) -> ForeignFile:
    records = {
        match["saved"] or match["packaged"]: name
        for name in infos
        if (match := _RECORD.fullmatch(name))
    }
    others = {name: _read(archive, infos[name]) for name in infos if not _RECORD.fullmatch(name)}
    if others.get("byteorder", b"little") != b"little":
        raise ValueError("it was written on a machine with the other order of bytes")

    def record(key: str) -> bytes:
        if key not in records:
            raise ValueError(f"the record {key} of a tensor is missing")
        return _read(archive, infos[records[key]])

    is_package = "data.pkl" not in infos
    pickles = [name for name in others if name.endswith(".pkl")] if is_package else ["data.pkl"]
    contents = {name: read_inert(others.pop(name), record) for name in pickles}
    content = contents if is_package else contents["data.pkl"]
    return ForeignFile(path, sha256, content, others, is_package)


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    content = archive.read(info)
    if len(content) != info.file_size:
        raise ValueError(
            f"{info.filename} has {len(content)} bytes where {info.file_size} are declared"
        )
    return content
