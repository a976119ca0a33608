"""Trajectories of a killed run: what of their last frame is missing is found, and left out.

A run writes a frame in one piece, but a kill, a crash of the machine or a file system may still
leave a part of it. Only files of a run's own folder are treated so: there the format is known
to the byte, while elsewhere a file that ends early is a damaged file.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from ase.io.trajectory import TrajectoryReader

from eqcalc.errors import HalfFrameWarning, StructureError
from eqcalc.simulate.manifest import read_manifest

__all__ = [
    "DAMAGED",
    "is_of_a_run",
    "kind_of_run",
    "open_traj",
    "run_in",
    "warn_left_out",
    "whole_part",
]

# What ASE's readers raise for a frame that is damaged.
DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, IndexError)

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
    kind = read_manifest(folder / "manifest.json").get("kind")
    return kind if kind in _KINDS else None


def whole_part(path: Path) -> TextIO | None:
    """Return a file of the whole frames of a run's extxyz trajectory, None where it is whole.

    Raises
    ------
    StructureError : not even the first frame is whole, or one is damaged that is not the last.
    """
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = n_frames = 0
        while (following := _end_of_frame(content, end)) is not None:
            end, n_frames = following, n_frames + 1
        n_lost = len(content) - end
        if n_lost > 0 and n_frames > 0:
            _refuse_other_line(path, content, end, n_frames)
    if n_lost == 0:
        return None
    if n_frames == 0:
        raise StructureError(
            f"'{path}' holds no whole frame: its run was killed within the first; begin again "
            "from the structure that it began with."
        )
    warn_left_out(path, n_frames, f"{n_lost} bytes of half a frame")
    return io.TextIOWrapper(io.BufferedReader(_Beginning(path, end)), encoding="utf-8")


def _refuse_other_line(path: Path, content: mmap.mmap, start: int, n_frames: int) -> None:
    """Refuse what no kill leaves: a whole line that is no number of atoms where a frame begins."""
    position = content.find(b"\n", start)
    line = content[start:position].strip()
    if position >= 0 and not line.isdigit() and content[start:].strip():
        raise StructureError(
            f"'{path}' is damaged at byte {start}: frame {n_frames} should begin there with the "
            f"number of its atoms, and {line[:40].decode(errors='replace')!r} is found; it or "
            "the frame before lost something. Take a part of the file that is whole."
        )


class _Beginning(io.RawIOBase):
    """The first bytes of a file, which may be large: none is read before it is asked for."""

    def __init__(self, path: Path, size: int):
        super().__init__()
        self._file, self._size = open(path, "rb", buffering=0), size  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        if whence == io.SEEK_END:
            return self._file.seek(self._size + offset)
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        n_left = max(self._size - self._file.tell(), 0)
        return self._file.readinto(memoryview(buffer)[:n_left])

    def close(self) -> None:
        self._file.close()
        super().close()


@contextlib.contextmanager
def open_traj(path: Path) -> Iterator[tuple[TrajectoryReader, int]]:
    """Open a run's .traj; give it, and how many frames there are before damaged ones at its end.

    Raises
    ------
    StructureError : it cannot be opened, or none of its last frames can be read.
    """
    with open(path, "rb") as file:  # which ASE would leave open where it is damaged
        try:
            trajectory = TrajectoryReader(file)
            n_frames, n_whole = len(trajectory), _count_whole(trajectory)
        except (*DAMAGED, AttributeError) as error:
            raise StructureError(f"'{path}' is damaged: {error}.") from error
        if n_whole < n_frames:
            warn_left_out(path, n_whole, f"{n_frames - n_whole} damaged frames")
        yield trajectory, n_whole


def _count_whole(trajectory: TrajectoryReader) -> int:
    n_frames = len(trajectory)
    for n_whole in range(n_frames, max(n_frames - _TRIED, 0), -1):
        with contextlib.suppress(*DAMAGED):
            trajectory[n_whole - 1]
            return n_whole
    if n_frames > 0:
        trajectory[n_frames - 1]  # raises what is wrong with it
    return 0


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


def warn_left_out(path: Path, n_whole: int, what: str) -> None:
    """Say what of a run's trajectory is not read, and why it may be so.

    Parameters
    ----------
    n_whole : frames before it
    what : such as "40 bytes of half a frame"
    """
    if read_manifest(path.parent / "manifest.json").get("status") == "complete":
        why = f"{path.name} was damaged after the run in '{path.parent}' had ended"
    else:
        why = f"the run in '{path.parent}' was killed while it wrote, or still writes"
    warnings.warn(
        f"{why}: {what} are left out of {path.name}, {n_whole} whole frames are there.",
        HalfFrameWarning,
        stacklevel=4,
    )
