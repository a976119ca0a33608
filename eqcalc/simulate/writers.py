"""Trajectories and tables in which every frame and every line is whole.

Both survive a full disk and a killed process: what was written before is
complete and readable, and a piece that did not fit is taken back.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import ase.io
import numpy as np
from ase import Atoms
from ase.io.trajectory import TrajectoryWriter as AseTrajectoryWriter
from ase.io.trajectory import get_header_data

from eqcalc.errors import ConfigError
from eqcalc.files import AppendFile, write_whole
from eqcalc.simulate.frame_content import for_extxyz, for_traj
from eqcalc.simulate.settings import TRAJECTORY_SUFFIXES

__all__ = [
    "FrameWriter",
    "TableWriter",
    "open_trajectory",
    "require_extxyz",
    "trajectory_name",
    "write_structure",
    "write_structures",
]

_N_ITEMS = 32  # where ulm keeps the number of items, and behind it the place of their table


class FrameWriter(Protocol):
    """What a run asks of a trajectory; ``n_frames`` counts those written whole."""

    path: Path
    n_frames: int

    def write(self, frame: Atoms) -> None:
        """Add one frame, whole or not at all."""

    def extent(self) -> dict[str, int]:
        """Return what :func:`open_trajectory` needs to go on from here."""

    def require_present(self) -> None:
        """Refuse to go on where the file was removed or replaced."""

    def close(self) -> None:
        """Close the file."""


def trajectory_name(trajectory_format: str) -> str:
    """Return the file name of a trajectory in a run's folder."""
    return f"trajectory.{TRAJECTORY_SUFFIXES[trajectory_format]}"


def open_trajectory(
    path: Path, trajectory_format: str, keep: dict[str, int] | None = None
) -> FrameWriter:
    """Open a trajectory for writing: a new one, or as it was when it said ``keep`` (``extent``).

    Raises
    ------
    OutputError : the file cannot be created, or less of it is there.
    """
    writer = _TrajFile if trajectory_format == "traj" else _ExtxyzFile
    return writer(path, keep)


class TableWriter:
    """A csv file that grows by whole lines: a new one, or as it was when it had ``keep`` bytes.

    Raises
    ------
    OutputError : the file cannot be created, or a line cannot be written, or less of it is there.
    """

    def __init__(self, path: Path, columns: Sequence[str], keep: int | None = None):
        self.columns = list(columns)
        self._file = AppendFile(path, keep)
        if keep is None:
            self._file.append((",".join(columns) + "\n").encode())

    @property
    def size(self) -> int:
        """Bytes that were written."""
        return self._file.size

    def write(self, values: Sequence[float]) -> None:
        """Add one line; twelve digits keep a drift of 1e-9 in a large energy visible."""
        self._file.append((",".join(f"{value:.12g}" for value in values) + "\n").encode())

    def require_present(self) -> None:
        """Refuse to go on where the file was removed or replaced."""
        self._file.require_present()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def write_structure(path: Path, atoms: Atoms) -> None:
    """Write one structure as extxyz, replacing the file in one step.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    write_structures(path, [atoms])


def write_structures(path: Path, frames: Sequence[Atoms]) -> None:
    """Write structures as one extxyz file, replacing it in one step.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    write_whole(path, b"".join(map(_extxyz, frames)))


def require_extxyz(path: Path) -> None:
    """Refuse a name that would be read as another format.

    Raises
    ------
    ConfigError : the suffix is neither .xyz nor .extxyz.
    """
    if path.suffix.lower() not in (".xyz", ".extxyz"):
        raise ConfigError(f"'{path}' is to be an extxyz file; its name must end in .xyz.")


class _ExtxyzFile:
    def __init__(self, path: Path, keep: dict[str, int] | None = None):
        self.path = path
        self.n_frames = 0 if keep is None else keep["n_frames"]
        self._file = AppendFile(path, None if keep is None else keep["size"])

    def extent(self) -> dict[str, int]:
        return {"size": self._file.size, "n_frames": self.n_frames}

    def write(self, frame: Atoms) -> None:
        self._file.append(_extxyz(frame))
        self.n_frames += 1

    def require_present(self) -> None:
        self._file.require_present()

    def close(self) -> None:
        self._file.close()


class _TrajFile:
    """ASE's own writer over a file whose changes reach the disk in a safe order."""

    def __init__(self, path: Path, keep: dict[str, int] | None = None):
        self.path = path
        self.n_frames = 0 if keep is None else keep["n_frames"]
        self._goes_on = self.n_frames > 0
        self._stage = _UlmStage(path, keep)
        if keep is None:
            # An empty trajectory first: a process that is killed within the first
            # frame leaves a readable file with no frames.
            AseTrajectoryWriter(self._stage, mode="w").close()
            self._stage.commit()
        self._writer = AseTrajectoryWriter(self._stage, mode="a")
        self._stage.seek(0, io.SEEK_END)  # ASE has read the first frame

    def extent(self) -> dict[str, int]:
        return {**self._stage.extent(), "n_frames": self.n_frames}

    def write(self, frame: Atoms) -> None:
        frame = for_traj(frame)
        if self._goes_on:
            # The header of the first frame is that of all. As ASE has read it, its constraints
            # are not equal to those of the run, and each frame would have a header of its own.
            self._writer.header_data = get_header_data(frame)
            self._goes_on = False
        self._writer.write(frame)
        self.n_frames += 1

    def require_present(self) -> None:
        self._stage.require_present()

    def close(self) -> None:
        # Not the writer's close: after a failed frame it would write that again.
        self._stage.release()


class _UlmStage:
    """The file object that ASE's ulm format writes to.

    ulm writes arrays and JSON at the end of the file, then three integers near
    its start: where the frame begins, and the number of frames. All of it is
    held back until ulm flushes, which it does once a frame. The end goes to disk
    first and in one piece; only then the integers make the frame exist.
    """

    def __init__(self, path: Path, keep: dict[str, int] | None = None):
        self._file = AppendFile(path, None if keep is None else keep["size"])
        self._tail = bytearray()
        self._patches: list[tuple[int, bytes]] = []
        self._position = 0
        if keep is not None:  # the number of frames, and where the table of their places is
            head = np.array([keep["n_items"], keep["table"]], dtype=np.int64)
            self._file.patch(_N_ITEMS, head.tobytes())

    def extent(self) -> dict[str, int]:
        n_items, table = np.frombuffer(self._file.read(_N_ITEMS, 16), dtype=np.int64)
        return {"size": self._file.size, "n_items": int(n_items), "table": int(table)}

    def write(self, piece: bytes) -> int:
        start = self._position - self._file.size
        if start < 0:
            self._patches.append((self._position, bytes(piece)))
        else:
            self._tail[start : start + len(piece)] = piece
        self._position += len(piece)
        return len(piece)

    def flush(self) -> None:
        self.commit()

    def commit(self) -> None:
        tail, patches = bytes(self._tail), self._patches
        self._tail, self._patches = bytearray(), []
        self._file.append(tail)
        for position, piece in patches:
            self._file.patch(position, piece)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        end = self._file.size + len(self._tail)
        self._position = offset if whence == io.SEEK_SET else end + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, n_bytes: int) -> bytes:
        piece = self._file.read(self._position, n_bytes)
        self._position += len(piece)
        return piece

    def close(self) -> None:
        """Stay open: ASE closes it once after the empty trajectory."""

    def require_present(self) -> None:
        self._file.require_present()

    def release(self) -> None:
        self._file.close()


def _extxyz(atoms: Atoms) -> bytes:
    text = io.StringIO()
    ase.io.write(text, for_extxyz(atoms), format="extxyz")
    return text.getvalue().encode()
