"""Which rows of which files a model was trained on, as its card keeps them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from eqcalc.data import Dataset, LabelledFrame
from eqcalc.errors import listing

__all__ = ["TRAINED_ROWS", "Trained", "rows_by_file", "trained_among"]

TRAINED_ROWS = "rows trained on"
"""The entry of a card's ``training_data`` that :func:`rows_by_file` makes."""

_RANGE = re.compile(r"(\d{1,15})(?::(\d{1,15}))?")
_N_SHOWN = 5


class Trained(NamedTuple):
    """Frames of a data set that a model was trained on.

    frames : those of the data set
    rows : all that it was trained on of these files, in words
    """

    frames: list[LabelledFrame]
    rows: str


def rows_by_file(frames: Iterable[LabelledFrame]) -> dict[str, str]:
    """Return the frames' numbers in their files, such as ``{"train.xyz": "0:950, 960"}``.

    Files have their names, and those of one name as many folders before it as tell them apart
    (``1/OUTCAR``, ``2/OUTCAR``): where they lay says nothing on another machine.
    """
    rows: dict[str, list[int]] = {}
    for frame in frames:
        if frame.origin is not None:
            rows.setdefault(os.path.abspath(frame.origin.path), []).append(frame.origin.row)
    return {name: _ranges(rows[path]) for path, name in _short_names(list(rows)).items()}


def _short_names(paths: Sequence[str]) -> dict[str, str]:
    """Return the shortest ends of paths that no other one of them has."""
    every = {path: Path(path).parts for path in paths}
    names = {}
    for path, parts in every.items():
        others = [other for other in every.values() if other != parts]
        n = next(n for n in range(1, len(parts) + 1) if _is_alone(parts[-n:], others))
        names[path] = PurePosixPath(*parts[-n:]).as_posix()
    return names


def _is_alone(tail: tuple[str, ...], others: Sequence[tuple[str, ...]]) -> bool:
    return not any(other[-len(tail) :] == tail for other in others)


def trained_among(told: Mapping[str, Any], dataset: Dataset) -> Trained:
    """Return those frames of a data set that a card says were trained on, or that its parents were.

    Files are told apart by their names alone, as the card keeps no more; those with fewer frames
    than were trained on are others.

    Parameters
    ----------
    told : the card's ``training_data``: what :func:`rows_by_file` has made, under names that end
        with :data:`TRAINED_ROWS`; anything else names no frames
    """
    found = [_among(kept, dataset) for name, kept in told.items() if name.endswith(TRAINED_ROWS)]
    once = {id(frame): frame for each in found for frame in each.frames}
    return Trained([*once.values()], "; ".join(each.rows for each in found if each.frames))


def _among(kept: Any, dataset: Dataset) -> Trained:
    names = {name: _parsed(text) for name, text in kept.items()} if _is_table(kept) else {}
    files = {frame.origin.path for frame in dataset.frames if frame.origin is not None}
    known = {path: name for path in files for name in names if _is_file_of(path, name)}
    longest = (max((stop for _, stop in names[name]), default=0) for name in known.values())
    if sum(longest) > dataset.n_rows:
        return Trained([], "")
    frames = [
        frame
        for frame in dataset.frames
        if frame.origin is not None
        and frame.origin.path in known
        and any(a <= frame.origin.row < b for a, b in names[known[frame.origin.path]])
    ]
    said = [
        f"{listing(kept[name].split(', '), _N_SHOWN)} of {name}"
        for name in sorted({*known.values()})
    ]
    return Trained(frames, listing(said, _N_SHOWN))


def _ranges(rows: Sequence[int]) -> str:
    """Return "0:4, 6" of 0, 1, 2, 3 and 6."""
    spans: list[list[int]] = []
    for row in sorted(rows):
        if spans and row <= spans[-1][1]:
            spans[-1][1] = row + 1
        else:
            spans.append([row, row + 1])
    return ", ".join(f"{a}:{b}" if b > a + 1 else f"{a}" for a, b in spans)


def _parsed(text: str) -> list[tuple[int, int]]:
    found = [_RANGE.fullmatch(part) for part in text.split(", ")]
    return [(int(m[1]), int(m[2] or int(m[1]) + 1)) for m in found if m is not None]


def _is_table(kept: Any) -> bool:
    return isinstance(kept, Mapping) and all(isinstance(text, str) for text in kept.values())


def _is_file_of(path: Path, name: str) -> bool:
    parts = PurePosixPath(name).parts
    return Path(os.path.abspath(path)).parts[-len(parts) :] == parts
