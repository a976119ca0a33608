"""The frames of a trajectory for the viewer in the page: few, small, and inside the cell."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from numpy.typing import NDArray

from eqcalc.analysis.times import time_of
from eqcalc.analysis.trajectory import Trajectory
from eqcalc.errors import StructureError
from eqcalc.report.wholes import BOND_TOLERANCE, Wholes

__all__ = ["MOST_ATOMS", "Scene", "draw_scene", "evenly"]

MOST_ATOMS = 50_000
"""Atoms that a browser still turns; larger structures are not drawn."""

_MOST_FRAMES = 240
_MOST_BYTES = 3_000_000  # of all frames, as text in the page
_BYTES_OF_AN_ATOM = 8  # three numbers of two bytes, in base64
_LARGEST = 32767


@dataclass(frozen=True)
class Scene:
    """What the viewer is given.

    content : of JSON; positions are integers of 16 bits in units of "unit" Å around "origin"
    shown, n_frames : frames that are shown, of how many
    """

    content: dict[str, Any]
    shown: NDArray[np.int64]
    n_frames: int


def evenly(n_frames: int, most: int) -> NDArray[np.int64]:
    """Return up to ``most`` numbers of frames from the first to the last, evenly spaced.

    >>> evenly(9, 3).tolist()
    [0, 4, 8]
    """
    n_shown = max(1, min(n_frames, most))
    return np.unique(np.linspace(0, n_frames - 1, n_shown).round().astype(np.int64))


def draw_scene(trajectory: Trajectory) -> Scene | None:
    """Return the frames that are shown, None for structures that are too large.

    Raises
    ------
    StructureError : a frame cannot be read, or holds NaN.
    GraphError : the first frame has no meaningful distances.
    """
    n_atoms = len(trajectory.first)
    if n_atoms > MOST_ATOMS:
        return None
    most = min(_MOST_FRAMES, _MOST_BYTES // (_BYTES_OF_AN_ATOM * n_atoms))
    shown = evenly(len(trajectory), most)
    wholes = Wholes(trajectory.first)
    places = np.empty((len(shown), n_atoms, 3), dtype=np.float32)
    cells = np.zeros((len(shown), 3, 3))
    times: list[float | None] = []
    for k, frame in enumerate(trajectory.frames(shown.tolist())):
        if not np.isfinite(frame.positions).all():
            raise StructureError(
                f"positions in frame {shown[k]} of '{trajectory.path}' are NaN or infinite."
            )
        places[k] = wholes.place(frame)
        cells[k] = frame.cell.array
        times.append(_time_ps(frame))
    origin, unit, numbers = _packed(places)
    elements = list(dict.fromkeys(trajectory.first.symbols))
    atomic_numbers = dict(zip(trajectory.first.symbols, trajectory.first.numbers, strict=True))
    content = {
        "elements": elements,
        "radii": [round(float(covalent_radii[atomic_numbers[e]]), 3) for e in elements],
        "kinds": [elements.index(symbol) for symbol in trajectory.first.symbols],
        "tolerance": BOND_TOLERANCE,
        "origin": origin,
        "unit": unit,
        "positions": base64.b64encode(numbers.tobytes()).decode(),
        "cells": _cells(trajectory.first, cells),
        "times": times,
        "numbers": shown.tolist(),
    }
    return Scene(content, shown, len(trajectory))


def _packed(places: NDArray[np.float32]) -> tuple[list[float], float, NDArray[Any]]:
    """Return origin (Å), unit (Å) and positions in it, as little-endian int16."""
    low = places.min(axis=(0, 1)).astype(np.float64)
    high = places.max(axis=(0, 1)).astype(np.float64)
    origin = (low + high) / 2
    unit = max(float((high - low).max()) / (2 * _LARGEST), 1e-4)
    numbers = np.rint((places - origin) / unit).astype("<i2")
    return [round(float(x), 6) for x in origin], unit, numbers


def _cells(first: Atoms, cells: NDArray[np.float64]) -> list[list[float]] | None:
    """Return the cell of each frame, or one that all have, None where no direction repeats."""
    if not first.pbc.any() or abs(np.linalg.det(cells[0])) < 1e-9:
        return None
    if np.ptp(cells, axis=0).max() < 1e-6:
        cells = cells[:1]
    return [[round(float(x), 4) for x in cell.reshape(-1)] for cell in cells]


def _time_ps(frame: Atoms) -> float | None:
    time_fs = time_of(frame)
    return None if time_fs is None else round(time_fs / 1000, 6)
