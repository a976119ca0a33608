"""Choose rows of a data set: a slice, a list, or a file of indices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Union

import numpy as np
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, DataError, listing

__all__ = ["Rows", "is_row_file", "parse_rows"]

Rows = Union[str, Path, Sequence[int], NDArray[np.integer], None]

_FORMS = (
    "accepted are a slice 'start:stop' or 'start:stop:step' of numbers >= 0, a .csv or .txt file "
    "with one row number a line and, in Python, a list or range of integers, or None for all rows."
)
_SLICE = re.compile(r"\s*(\d*)\s*:\s*(\d*)\s*(?::\s*(\d*)\s*)?")


def parse_rows(rows: Rows, n: int, source: str = "") -> list[int]:
    """Return the row numbers, counted from 0, that ``rows`` selects out of ``n``.

    Unlike Python's slices, a stop beyond the end is refused: a split that is
    larger than the file must not shrink in silence.

    Parameters
    ----------
    rows : "950:1000", a csv with one integer a line, a list or range, or None
    n : number of rows there are
    source : the file's name, for messages

    Raises
    ------
    ConfigError : ``rows`` has none of the accepted forms.
    DataError : it selects nothing, a row twice, or a row that is not there, or
        its file is missing or holds something else than integers.

    >>> parse_rows("2:8:3", 10)
    [2, 5]
    """
    where = f" in {source}" if source else ""
    if rows is None:
        chosen: Sequence[int] = range(n)
    elif isinstance(rows, (str, Path)):
        chosen = _from_text(str(rows), n)
    else:
        chosen = _from_integers(rows)
    if len(chosen) == 0:
        raise DataError(f"rows {_shown(rows)} selects nothing out of {n} rows{where}; {_FORMS}")
    outside = [row for row in chosen if not 0 <= row < n]
    if outside:
        raise DataError(
            f"rows {_shown(rows)} must lie in 0..{n - 1} (there are {n} rows{where}), "
            f"found {listing(outside)}."
        )
    unique, counts = np.unique(np.asarray(chosen), return_counts=True)
    if len(unique) < len(chosen):
        raise DataError(
            f"rows {_shown(rows)} must name each row once{where}, "
            f"found more than once: {listing(unique[counts > 1].tolist())}."
        )
    return list(chosen)


def is_row_file(rows: str) -> bool:
    """Tell whether rows are those that a file lists.

    >>> is_row_file("train.CSV"), is_row_file("0:950")
    (True, False)
    """
    return Path(rows).suffix.lower() in (".csv", ".txt")


def _from_text(text: str, n: int) -> Sequence[int]:
    match = _SLICE.fullmatch(text)
    if match is not None:
        start, stop, step = match.groups()
        if step and int(step) == 0:
            raise ConfigError(f"rows '{text}' has step 0; {_FORMS}")
        # The stop stays unclipped here so that the caller can refuse it.
        return range(int(start or 0), int(stop) if stop else n, int(step or 1))
    if is_row_file(text):
        return _from_file(Path(text))
    raise ConfigError(f"rows '{text}' is not understood; {_FORMS}")


def _from_file(path: Path) -> list[int]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the row numbers in {path}: {error}.") from error
    chosen = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if not re.fullmatch(r"\s*\d+\s*", line):
            raise DataError(
                f"{path}, line {number}: expected one row number >= 0, found '{line[:40]}'."
            )
        chosen.append(int(line))
    return chosen


def _from_integers(rows: Sequence[int] | NDArray[np.integer]) -> Sequence[int]:
    if isinstance(rows, range):
        return rows
    if not isinstance(rows, (list, tuple, np.ndarray)):
        raise ConfigError(f"rows of type {type(rows).__name__} is not understood; {_FORMS}")
    values = list(rows)
    # bool is an int in Python, but a mask is not a list of row numbers.
    wrong = [v for v in values if not isinstance(v, (int, np.integer)) or isinstance(v, bool)]
    if wrong:
        raise ConfigError(f"rows must be integers, found {listing(wrong)}; {_FORMS}")
    return [int(value) for value in values]


def _shown(rows: object) -> str:
    text = str(rows) if isinstance(rows, (str, Path, range)) else type(rows).__name__
    return f"'{text}'"
