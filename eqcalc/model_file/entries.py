"""The entries of a model archive: read once, held against limits, and put together again.

An archive is a zip. Two programs may read one zip differently (names that occur twice, names
that lead out of the folder, sizes that differ between its two tables), so nothing else reads
a model's zip: what torch gets is written here again, from the entries that were checked.

The card carries a digest of all entries. It ties card, passport, weights and program together:
a card that was changed by hand, or passport and weights of another model, are found. It is no
signature: whoever changes an archive on purpose can make a new digest.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

__all__ = [
    "CARD",
    "INDEX",
    "PASSPORT",
    "WEIGHTS",
    "digest_of",
    "pack",
    "read_entries",
    "stamp",
    "without_sources",
]

CARD, PASSPORT = "card.json", "passport.json"
WEIGHTS, INDEX = "weights.safetensors", "weights.index.json"

# Far beyond every model there is: a card has 3 kB, a passport 10 kB, a program 100 kB in all.
_LARGEST = {
    "extra/card.json": 2**22,
    "extra/passport.json": 2**25,
    "index.json": 2**22,
    "code": 2**21,
    ".pkl": 2**23,
}
_LARGEST_PROGRAM = 2**24
_MOST_ENTRIES = 100_000
# Code packs five times; numbers hardly at all. The rest is for small archives.
_LARGEST_RATIO, _ALWAYS_ALLOWED = 20, 2**24

_ALIGNMENT = 64  # of a record's bytes, as torch writes them
_NAME = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.\-]*(/[A-Za-z0-9_.][A-Za-z0-9_.\-]*)+", re.ASCII)


def read_entries(content: bytes) -> dict[str, bytes]:
    """Return the entries of an archive by their name inside its one folder.

    Raises
    ------
    ValueError : a name, size or checksum that no model archive has.
    zipfile.BadZipFile, zlib.error, EOFError, RuntimeError : it is no readable zip.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        infos = archive.infolist()
        _check_names([info.orig_filename for info in infos])
        _check_sizes(infos, len(content))
        entries = {}
        for info in infos:
            name = info.filename.split("/", 1)[1]
            try:
                read = archive.read(info)
            except (zipfile.BadZipFile, zlib.error) as error:
                if "CRC" not in str(error) and not isinstance(error, zlib.error):
                    raise
                raise ValueError(f"bad checksum in {info.filename}") from error
            if len(read) != info.file_size:
                raise ValueError(
                    f"{info.filename} has {len(read)} bytes where {info.file_size} are declared"
                )
            entries[name] = read
    return entries


def digest_of(entries: Mapping[str, bytes]) -> str:
    """Return the digest of all entries; of the card's it takes all but the digest itself.

    Raises
    ------
    ValueError : the card is no JSON object.
    """
    whole = hashlib.sha256()
    for name in sorted(entries):
        content = entries[name]
        if name == f"extra/{CARD}":
            card = {key: value for key, value in _object(content).items() if key != "digest"}
            content = json.dumps(card, sort_keys=True, separators=(",", ":")).encode()
        whole.update(f"{name}\0{hashlib.sha256(content).hexdigest()}\n".encode())
    return whole.hexdigest()


def stamp(content: bytes) -> bytes:
    """Return an archive whose card carries the digest of all entries.

    Raises
    ------
    ValueError : it has no readable card; and as :func:`read_entries`.
    """
    entries = read_entries(content)
    if f"extra/{CARD}" not in entries:
        raise ValueError(f"it has no {CARD} inside")
    card = _object(entries[f"extra/{CARD}"]) | {"digest": digest_of(entries)}
    entries[f"extra/{CARD}"] = json.dumps(card, indent=1).encode()
    return pack(entries)


def without_sources(entries: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return entries without the texts and paths of the Python files that a program came from.

    torch writes them beside each file of a program, for tracebacks. They name the folders of
    whoever exported the model; nothing that runs reads them.
    """
    return {name: content for name, content in entries.items() if not name.endswith(".debug_pkl")}


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Return entries as an archive that torch reads, stored in this order."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(f"archive/{name}")
            if name.startswith("code/"):
                info.compress_type = zipfile.ZIP_DEFLATED
            else:
                info.extra = _padding(buffer.tell() + 30 + len(info.filename))
            archive.writestr(info, content)
    return buffer.getvalue()


def _padding(start: int) -> bytes:
    """Return the extra field "FB" behind which a record begins at a multiple of 64."""
    n = -(start + 4) % _ALIGNMENT
    return b"FB" + struct.pack("<H", n) + b"Z" * n


def _check_names(names: list[str]) -> None:
    if len(names) > _MOST_ENTRIES:
        raise ValueError(f"it has {len(names)} entries, {_MOST_ENTRIES} at most are expected")
    seen: set[str] = set()
    for name in names:
        if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
            raise ValueError(f"an entry has the name {name[:80]!r}")
        if name in seen:
            raise ValueError(f"it has two entries of the name {name}")
        seen.add(name)
    folders = {name.split("/", 1)[0] for name in names}
    if len(folders) > 1:
        raise ValueError(f"its entries lie in several folders ({', '.join(sorted(folders)[:3])})")


def _check_sizes(infos: list[zipfile.ZipInfo], n_bytes: int) -> None:
    total, program = 0, 0
    for info in infos:
        name = info.filename.split("/", 1)[1]
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"{info.filename} is packed in an unknown way")
        for kind, largest in _LARGEST.items():
            if (name.startswith(kind) or name.endswith(kind)) and info.file_size > largest:
                raise ValueError(
                    f"{info.filename} unpacks to {info.file_size / 1e6:.0f} MB, at most "
                    f"{largest / 1e6:.0f} MB are expected"
                )
        total += info.file_size
        program += info.file_size * name.startswith("code/")
    if program > _LARGEST_PROGRAM:
        raise ValueError(f"its program has {program / 1e6:.0f} MB, which no model has")
    if total > _ALWAYS_ALLOWED + _LARGEST_RATIO * n_bytes:
        raise ValueError(
            f"its {n_bytes / 1e6:.1f} MB unpack to {total / 1e6:.0f} MB, which no model does"
        )


def _object(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object, found {type(content).__name__}")
    return content
