"""Files that one process of a test session makes, and all of them read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

__all__ = ["made_once"]


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return a file of the session's shared folder, made where there is none.

    Packages are kept by the bytes of their model, which no two exports share: what is compiled
    once for all processes starts from a file that they share.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):
        if not path.exists():
            make(path)
    return path
