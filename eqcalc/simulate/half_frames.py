"""Trajectories of a killed run: what of their last frame is missing is found, and left out.

A run writes a frame in one piece, but a kill, a crash of the machine or a file system may still
leave a part of it. Only files of a run's own folder are treated so: there the format is known
to the byte, while elsewhere a file that ends early is a damaged file.
"""

from __future__ import annotations

import io
import json
import mmap
import warnings
from pathlib import Path

from ase import Atoms
from ase.io.trajectory import Trajectory

from eqcalc.errors import HalfFrameWarning, StructureError

__all__ = ["is_of_a_run", "kind_of_run", "read_whole_frames", "run_in", "whole_part"]

_KINDS = ("md", "relax")
_NAMES = ("trajectory.xyz", "trajectory.traj")
_TRIED = 10  # frames from the end of a .traj, before it is called damaged


def is_of_a_run(path: Path) -> bool:
    """Tell whether a file is the trajectory of a run, by its name and the manifest beside it."""
    return kind_of_run(path) is not None


def kind_of_run(path: Path) -> str | None:
    """Return which kind of run a file is the trajectory of, "md" or "relax"; None of none."""
    return run_in(path.parent) if path.name in _NAMES else None


def run_in(folder: Path) -> str | None:
    """Return which kind of run a folder holds, "md" or "relax"; None of none."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = manifest.get("kind") if isinstance(manifest, dict) else None
    return kind if kind in _KINDS else None


def whole_part(path: Path) -> io.StringIO | None:
    """Return the whole frames of a run's extxyz trajectory, None where all of it is whole.

    Raises
    ------
    StructureError : not even the first frame is whole.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = n_frames = 0
        while (following := _end_of_frame(content, end)) is not None:
            end, n_frames = following, n_frames + 1
        n_lost = len(content) - end
        whole = content[:end].decode() if n_lost > 0 else ""
    if n_lost == 0:
        return None
    if n_frames == 0:
        raise StructureError(
            f"'{path}' holds no whole frame: its run was killed within the first; begin again "
            "from the structure that it began with."
        )
    _warn(path, n_frames, f"{n_lost} bytes of half a frame")
    return io.StringIO(whole)


def read_whole_frames(path: Path) -> list[Atoms]:
    """Return the readable frames of a run's .traj whose last ones are damaged.

    Raises
    ------
    StructureError : more than its last frames are.
    """
    frames: list[Atoms] = []
    try:
        with Trajectory(path) as trajectory:
            n_frames = len(trajectory)
            for index in range(n_frames):
                frames.append(trajectory[index])
    except (OSError, ValueError, KeyError, TypeError, EOFError, IndexError) as error:
        if not frames or n_frames - len(frames) > _TRIED:
            raise StructureError(f"'{path}' is damaged: {error}.") from error
        _warn(path, len(frames), f"{n_frames - len(frames)} damaged frames")
    return frames


def _end_of_frame(content: mmap.mmap, start: int) -> int | None:
    """Return where the frame that begins at ``start`` ends; None where it is not whole."""
    position = content.find(b"\n", start)
    count = content[start:position].strip()
    if position < 0 or not count.isdigit():
        return None
    for _ in range(int(count) + 1):  # the comment line and the atoms
        position = content.find(b"\n", position + 1)
        if position < 0:
            return None
    return position + 1


def _warn(path: Path, n_frames: int, what: str) -> None:
    warnings.warn(
        f"the run in '{path.parent}' was killed while it wrote: {what} are left out of "
        f"{path.name}, {n_frames} whole frames are there.",
        HalfFrameWarning,
        stacklevel=3,
    )
