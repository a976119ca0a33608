"""Frames of a trajectory, read one at a time, from a run's folder or any file with several frames.

A run's own files are known to the byte: frames are found without reading them, and half a
frame that a killed run left is left out. Other formats go through ASE, as a whole.
"""

from __future__ import annotations

import io
import mmap
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory as AseTrajectory
from numpy.typing import NDArray

from eqcalc.errors import StructureError
from eqcalc.extxyz import entries_of_comment, fault_in_extxyz
from eqcalc.simulate.frame_content import restore_origin
from eqcalc.simulate.half_frames import DAMAGED, is_of_a_run, warn_left_out
from eqcalc.simulate.settings import TRAJECTORY_SUFFIXES
from eqcalc.simulate.structures import read_structures, refuse_other_atoms

__all__ = ["Trajectory", "trajectory_of_run"]

_PIECE = 1 << 24  # bytes of a text file that are looked through at a time
_TRIED = 10  # frames from the end of a .traj, before it is called damaged

# How i-PI and CP2K number their frames, in words that ASE does not look at.
_STEP = re.compile(r"\bStep:\s+(\d+)\s+Bead:|^\s*i\s*=\s*(\d+),\s*time\s*=")


def trajectory_of_run(folder: Path) -> Path | None:
    """Return the trajectory in the folder of a run, None where there is none."""
    for suffix in TRAJECTORY_SUFFIXES.values():
        path = folder / f"trajectory.{suffix}"
        if path.is_file():
            return path
    return None


class Trajectory:
    """The frames of one file: its length at once, each frame when it is asked for.

    Every frame has the atoms of the first, in its order, and the same periodic directions.

    Parameters
    ----------
    path : a file of frames (traj, extxyz, or what else ASE reads), or the folder of a run

    Attributes
    ----------
    path (of the file), is_of_a_run (written by eqcalc: atoms are never put back into the cell)

    Raises
    ------
    StructureError : there is no such file, no frame in it, or it cannot be read; later, a frame
        that is damaged, or has other atoms than the first.
    """

    def __init__(self, path: str | Path):
        path = Path(path)
        if path.is_dir():
            path = _in_folder(path)
        if not path.is_file():
            raise StructureError(
                f"no trajectory '{path}'; expected a file of frames (traj, extxyz, ...) or the "
                "folder of a run."
            )
        if path.stat().st_size == 0:
            raise StructureError(f"the trajectory '{path}' is empty.")
        self.path = path
        self.is_of_a_run = is_of_a_run(path)
        if path.suffix == ".traj":
            self._source: _Traj | _Extxyz | list[Atoms] = _Traj(path, self.is_of_a_run)
        elif path.suffix in (".xyz", ".extxyz"):
            self._source = _Extxyz(path, self.is_of_a_run)
        else:
            self._source = read_structures(path)
        try:
            self.first = self._first_frame()
        except StructureError:
            self.close()
            raise

    def _first_frame(self) -> Atoms:
        if len(self._source) == 0:
            raise StructureError(f"'{self.path}' holds no frame yet.")
        first = self._source[0]
        restore_origin(first)
        if len(first) == 0:
            raise StructureError(f"the frames of '{self.path}' have no atoms.")
        refuse_other_atoms(first, self.path)
        return first

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        if not isinstance(self._source, list):
            self._source.close()

    def __enter__(self) -> Trajectory:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Atoms:
        frame = self._source[index]
        restore_origin(frame)
        numbers = self.first.numbers
        if len(frame) != len(numbers) or not np.array_equal(frame.numbers, numbers):
            raise StructureError(
                f"frame {index} of '{self.path}' has the atoms {frame.symbols.formula:metal} "
                f"where frame 0 has {self.first.symbols.formula:metal}, or has them in another "
                "order; what is averaged over frames needs the same atoms in each."
            )
        if not np.array_equal(frame.pbc, self.first.pbc):
            raise StructureError(
                f"frame {index} of '{self.path}' is periodic along {frame.pbc.tolist()} where "
                f"frame 0 is along {self.first.pbc.tolist()}; averages need the same in each."
            )
        return frame

    def frames(self, indices: Iterable[int]) -> Iterator[Atoms]:
        """Yield the frames of these numbers; one at a time is in memory."""
        for index in indices:
            yield self[index]


def _in_folder(folder: Path) -> Path:
    found = trajectory_of_run(folder)
    if found is None:
        names = ", ".join(f"trajectory.{suffix}" for suffix in TRAJECTORY_SUFFIXES.values())
        raise StructureError(
            f"'{folder}' holds no trajectory ({names}); expected the folder of a run, or the file "
            "itself."
        )
    return found


class _Traj:
    """ASE's own format, which knows where its frames are."""

    def __init__(self, path: Path, of_a_run: bool):
        self._path = path
        try:
            self._file = AseTrajectory(path)
            self._n_frames = len(self._file)
        except (*DAMAGED, AttributeError) as error:
            raise StructureError(
                f"'{path}' is no trajectory of ASE's: {str(error).rstrip('.')}."
            ) from error
        n_whole = self._count_whole()
        if n_whole < self._n_frames and of_a_run:
            warn_left_out(path, n_whole, f"{self._n_frames - n_whole} damaged frames")
            self._n_frames = n_whole

    def _count_whole(self) -> int:
        """Return how many frames there are before damaged ones at the end."""
        for n_whole in range(self._n_frames, max(self._n_frames - _TRIED, 0), -1):
            try:
                self._file[n_whole - 1]
            except DAMAGED:
                continue
            return n_whole
        return self._n_frames  # reading says what is wrong

    def close(self) -> None:
        self._file.close()

    def __len__(self) -> int:
        return self._n_frames

    def __getitem__(self, index: int) -> Atoms:
        try:
            return self._file[index]
        except DAMAGED as error:
            raise StructureError(
                f"frame {index} of '{self._path}' cannot be read: {type(error).__name__}: {error}."
            ) from error


class _Extxyz:
    """A text file whose frames have all the same number of lines."""

    def __init__(self, path: Path, of_a_run: bool):
        self._path = path
        with open(path, "rb") as file:
            self._content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        head = self._content[: self._content.find(b"\n") + 1]
        if not head.strip().isdigit():
            raise StructureError(
                f"'{path}' is no extxyz file: its first line is to be the number of atoms, and is "
                f"{head[:40].decode(errors='replace').strip()!r}."
            )
        self._head = head.strip()
        end = len(self._content)
        if not of_a_run:  # others end their files as they like
            while end > 0 and self._content[end - 1 : end].isspace():
                end -= 1
        starts = _starts_of_lines(self._content, end, int(self._head) + 2, of_a_run)
        self._starts = starts
        if end > starts[-1]:
            if not of_a_run:
                raise StructureError(
                    f"'{path}' ends within frame {len(starts) - 1}, or its frames have different "
                    f"numbers of atoms (the first has {int(self._head)})."
                )
            # Else a frame before lost something: no kill does that, and its reading says so.
            if self._begins_frame(starts[-1]):
                warn_left_out(path, len(starts) - 1, f"{end - starts[-1]} bytes of half a frame")
        fault = None if of_a_run else fault_in_extxyz(path)
        if fault is not None:
            raise StructureError(f"cannot read '{path}': {fault}.")

    def _begins_frame(self, start: int) -> bool:
        """Whether the number of atoms stands there, or as much of it as was written."""
        end = self._content.find(b"\n", start)
        if end < 0:
            return self._head.startswith(self._content[start:].strip())
        return self._content[start:end].strip() == self._head

    def close(self) -> None:
        self._content.close()

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, index: int) -> Atoms:
        start, end = self._starts[index], self._starts[index + 1]
        text = self._content[start:end]
        if text[: text.find(b"\n")].strip() != self._head:
            found = text[: text.find(b"\n")].decode(errors="replace").strip()
            raise StructureError(
                f"frame {index} of '{self._path}' begins with {found[:40]!r} where the number of "
                f"atoms of the first frame, {int(self._head)}, should stand; what is averaged "
                "over frames needs the same atoms in each."
            )
        try:
            (frame,) = ase.io.read(
                io.StringIO(text.decode()),
                index=":",
                format="extxyz",
                properties_parser=entries_of_comment,
            )
        except Exception as error:  # ASE's reader raises what it likes
            raise StructureError(
                f"frame {index} of '{self._path}' cannot be read: {type(error).__name__}: {error}."
            ) from error
        step = _STEP.search(text.split(b"\n", 2)[1].decode())
        if step is not None:
            frame.info.setdefault("timestep", int(step[1] or step[2]))
        return frame


def _starts_of_lines(
    content: mmap.mmap, end: int, every: int, ends_count: bool
) -> NDArray[np.int64]:
    """Return where every so many lines begin, and where the last whole such piece ends.

    Parameters
    ----------
    ends_count : a last line without its end is half a line, not a whole one
    """
    starts = [np.zeros(1, dtype=np.int64)]
    n_lines = 0
    for position in range(0, end, _PIECE):
        piece = np.frombuffer(content[position : min(position + _PIECE, end)], dtype=np.uint8)
        ends = np.flatnonzero(piece == ord("\n")) + position + 1  # where lines begin
        starts.append(ends[(np.arange(1, len(ends) + 1) + n_lines) % every == 0])
        n_lines += len(ends)
    if not ends_count and (n_lines + 1) % every == 0:
        starts.append(np.array([end], dtype=np.int64))
    return np.concatenate(starts)
