"""What happens to files: bits that flip, copies that were cut, edits that went wrong.

Every function takes a file's content and a random number generator, and returns what was done
and the content afterwards. The same seed gives the same damage.
"""

from __future__ import annotations

import contextlib
import io
import random
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from eqcalc.data.hdf5_file import HEADER_BYTES
from eqcalc.data.hdf5_file import stamp as stamp_hdf5
from eqcalc.model_file.entries import pack, read_entries, stamp

__all__ = [
    "Damage",
    "damaged_archive",
    "damaged_bytes",
    "damaged_hdf5",
    "damaged_model",
    "damaged_text",
    "series",
]

Damage = Callable[[bytes, random.Random], tuple[str, bytes]]

_MOST_BYTES = 1 << 22  # of an entry that says it is larger than the file

# What people, spreadsheets and other programs put where a number should be.
_NO_NUMBERS = (
    *("nan", "inf", "-inf", "1e400", "-1e400", "1e300", "1d0", "0x10", "1_0", "1,5", "**********"),
    *("", "-", ".", "None", "null", "true", "Xx", "H", "0", "-1", "99999999999999999999", "１"),
)
_NO_TEXT = (b"\x00", b"\xff\xfe", b"\r", b"\x0c", b"\xe2\x80\xa8", b"\t", b'"', b"'", b"=", b"#")
_TOKEN = re.compile(rb"\S+")


def series(
    content: bytes, damages: tuple[Damage, ...], seed: int, n: int
) -> Iterator[tuple[str, bytes]]:
    """Yield ``n`` times what was done, and the file to which it was done."""
    rng = random.Random(seed)
    for k in range(n):
        what, after = rng.choice(damages)(content, rng)
        yield f"{k} {what}", after


def damaged_bytes(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file as disks, networks and interrupted copies do."""
    kind = rng.choice(("flip", "cut", "zeros", "repeat", "splice", "insert", "bytes", "swap"))
    start = rng.randrange(len(content))
    length = min(1 << rng.randrange(13), len(content) - start)
    piece = content[start : start + length]
    rest = content[start + length :]
    if kind == "flip":
        changed = bytearray(content)
        changed[start] ^= 1 << rng.randrange(8)
        return f"{kind} at {start}", bytes(changed)
    if kind == "cut":
        return f"{kind} at {start}", content[:start]
    if kind == "zeros":
        return f"{kind} at {start}", content[:start] + bytes(length) + rest
    if kind == "repeat":
        return f"{kind} at {start}", content[:start] + piece * rng.choice((2, 3, 50)) + rest
    if kind == "splice":
        return f"{kind} {length} out at {start}", content[:start] + rest
    if kind == "insert":
        return f"{kind} at {start}", content[:start] + rng.randbytes(length) + content[start:]
    if kind == "swap":
        other = rng.randrange(len(content))
        return f"{kind} ends at {other}", content[other:] + content[:other]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 3, 20))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return kind, bytes(changed)


def damaged_text(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a text as editors, scripts and spreadsheets do: lines and words."""
    lines = content.split(b"\n")
    kind = rng.choice(("word", "word", "number", "drop", "twice", "lines", "blank", "odd", "join"))
    at = rng.randrange(len(lines))
    tokens = list(_TOKEN.finditer(lines[at]))
    if kind in ("word", "number", "drop", "twice") and tokens:
        token = rng.choice(tokens)
        before, word, after = (
            lines[at][: token.start()],
            token.group(),
            lines[at][token.end() :],
        )
        if kind == "word":
            new = rng.choice(_NO_NUMBERS).encode()
        elif kind == "number":
            new = str(rng.choice((0, -1, 2, 1000000000, 10**12, 1e-300, 1e15))).encode()
        elif kind == "drop":
            new = b""
        else:
            new = word + b" " + word
        lines[at] = before + new + after
        return f"{kind} {word[:20]!r} -> {new[:40]!r} in line {at + 1}", b"\n".join(lines)
    if kind == "lines":
        other = rng.randrange(len(lines))
        lines[at], lines[other] = lines[other], lines[at]
        return f"lines {at + 1} and {other + 1} swapped", b"\n".join(lines)
    if kind == "blank":
        lines.insert(at, rng.choice((b"", b"   ", b"\t")))
        return f"blank line {at + 1}", b"\n".join(lines)
    if kind == "odd":
        place = rng.randrange(len(content) + 1)
        odd = rng.choice(_NO_TEXT)
        return f"{odd!r} at {place}", content[:place] + odd + content[place:]
    if kind == "join" and at + 1 < len(lines):
        lines[at : at + 2] = [lines[at] + b" " + lines[at + 1]]
        return f"lines {at + 1} and {at + 2} joined", b"\n".join(lines)
    del lines[at]
    return f"line {at + 1} left out", b"\n".join(lines)


def damaged_archive(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage entries of a zip archive whose checksums are right afterwards, as a program does."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    name = rng.choice(sorted(entries))
    kind = rng.choice(("drop", "rename", "bytes", "bytes", "copy"))
    what = f"{kind} {name}"
    if kind == "drop":
        del entries[name]
    elif kind == "rename":
        entries[rng.choice(("x", name.upper(), f"../{name}", ""))] = entries.pop(name)
    elif kind == "copy":
        other = rng.choice(sorted(entries))
        entries[name] = entries[other]
        what = f"{kind} {other} to {name}"
    elif kind == "bytes" and entries[name]:
        done, entries[name] = damaged_bytes(entries[name], rng)
        what = f"{name}: {done}"
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for entry, data in entries.items():
            archive.writestr(entry or "empty", data[:_MOST_BYTES])
    return what, output.getvalue()


def damaged_model(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a model file, now and then as a forger would, who knows the digest."""
    kind = rng.choice(("file", "drop", "short", "empty", "bytes", "copy", "swap"))
    if kind == "file":
        return damaged_bytes(content, rng)
    entries = read_entries(content)
    names = sorted(entries)
    loaded = [name for name in names if not name.endswith("debug_pkl")]
    name = rng.choice(loaded)
    what, changed = entries[name], dict(entries)
    if kind == "drop":
        del changed[name]
    elif kind == "short":
        changed[name] = what[: rng.randrange(len(what) + 1)]
    elif kind == "empty":
        changed[name] = b""
    elif kind == "bytes" and what:
        _, changed[name] = damaged_bytes(what, rng)
    elif kind == "copy":
        changed[rng.choice(names)] = what
    else:
        other = rng.choice(loaded)
        changed[name], changed[other] = entries[other], what
    packed = pack(changed)
    if rng.random() < 0.7:
        with contextlib.suppress(ValueError):
            packed = stamp(packed)
    return f"{kind} {name}", packed


def damaged_hdf5(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Damage a file of frames behind its header, and mostly give it the checksum that fits."""
    what, inner = damaged_bytes(content[HEADER_BYTES:], rng)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.h5"
        path.write_bytes(content[:HEADER_BYTES] + inner)
        if rng.random() < 0.7:
            stamp_hdf5(path)
        return what, path.read_bytes()
