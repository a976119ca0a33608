"""Which rows of which files a model was trained on, as its card keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from eqcalc.data import LabelledFrame

__all__ = ["TRAINED_ROWS", "rows_by_file"]

TRAINED_ROWS = "rows trained on"
"""The entry of a card's ``training_data`` that :func:`rows_by_file` makes."""


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


def _ranges(rows: Sequence[int]) -> str:
    """Return "0:4, 6" of 0, 1, 2, 3 and 6."""
    spans: list[list[int]] = []
    for row in sorted(rows):
        if spans and row <= spans[-1][1]:
            spans[-1][1] = row + 1
        else:
            spans.append([row, row + 1])
    return ", ".join(f"{a}:{b}" if b > a + 1 else f"{a}" for a, b in spans)
