"""Find the files that a path, a pattern or a list of both names."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Union

from eqcalc.errors import ConfigError, DataError

__all__ = ["DataPath", "find_files"]

DataPath = Union[str, "os.PathLike[str]", Sequence[Union[str, "os.PathLike[str]"]]]


def find_files(path: DataPath) -> list[Path]:
    """Return the files in the order of the list, those of a pattern (``*``, ``?``) by name.

    Raises
    ------
    ConfigError : the list is empty.
    DataError : a file is not there, a pattern fits none, or a file is named twice.
    """
    named = [path] if isinstance(path, (str, os.PathLike)) else list(path)
    if not named:
        raise ConfigError("expected a data file, a pattern or a list of them, found an empty list.")
    files: list[Path] = []
    for one in named:
        files += _files_of(Path(one))
    seen: dict[Path, Path] = {}
    for file in files:
        if file.resolve() in seen:
            raise DataError(
                f"data file {file} is named twice, its frames would count twice; name it once."
            )
        seen[file.resolve()] = file
    return files


def _files_of(path: Path) -> list[Path]:
    if path.exists() or not glob.has_magic(str(path)):
        if not path.is_file():
            raise DataError(f"data file {path} does not exist or is not a file.")
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    files = [file for file in found if file.is_file()]
    if not files:
        raise DataError(f"no data file fits the pattern {path}; check folder and suffix.")
    return files
