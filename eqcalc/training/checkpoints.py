"""Checkpoints that are read only where every byte of their records is what was written.

A checkpoint is a zip archive with a CRC32 of every record, which torch writes and does not check:
a flipped bit would go into the exported weights without a word.
"""

from __future__ import annotations

import pickle
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import torch

from eqcalc.errors import ModelFileError

__all__ = ["UNREADABLE", "damage", "read_checkpoint", "shown_network", "whole_epoch"]

UNREADABLE = (
    RuntimeError,
    KeyError,
    TypeError,
    ValueError,
    EOFError,
    OSError,
    pickle.UnpicklingError,
)
"""What torch raises on a file that is no checkpoint."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, on the CPU.

    Raises
    ------
    FileNotFoundError : there is none.
    ModelFileError : it is damaged or no checkpoint; the message is the reason alone.
    """
    if not path.exists():
        raise FileNotFoundError(path)
    found = damage(path)
    if found is not None:
        raise ModelFileError(found)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise ModelFileError(str(error).partition("\n")[0] or type(error).__name__) from error
    if not isinstance(content, dict):
        raise ModelFileError(f"it holds a {type(content).__name__}")
    return content


def damage(path: Path) -> Optional[str]:
    """Return what is wrong with the archive of a checkpoint, None where nothing is."""
    try:
        with zipfile.ZipFile(path) as archive:
            record = archive.testzip()
    except (zipfile.BadZipFile, zlib.error, *UNREADABLE) as error:
        return f"it is damaged or no checkpoint ({error or type(error).__name__})"
    return None if record is None else f"it is damaged (bad checksum of {record})"


def whole_epoch(path: Path) -> Optional[int]:
    """Return how many epochs a readable checkpoint has behind it; None where there is none."""
    try:
        return int(read_checkpoint(path)["epoch"]) + 1
    except (FileNotFoundError, ModelFileError, KeyError, TypeError, ValueError):
        return None


def shown_network(architecture: Mapping[str, Any]) -> str:
    """Return a network's name and options, for messages."""
    options = [f"{name}={value}" for name, value in architecture.items() if name != "name"]
    return f"{architecture.get('name', 'unknown')} ({', '.join(options)})"
