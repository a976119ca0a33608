"""Frames that may be selected, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from eqcalc.analysis.trajectory import trajectory_of_run
from eqcalc.errors import StructureError
from eqcalc.simulate.guard_rails import QUEUE
from eqcalc.simulate.structures import read_structures

__all__ = ["Candidate", "read_candidates"]


@dataclass(frozen=True)
class Candidate:
    """A frame of a file.

    frame : its number in the file
    step : of the run that wrote it, None where the file does not say
    """

    atoms: Atoms
    source: Path
    frame: int
    step: int | None

    def __str__(self) -> str:
        step = "" if self.step is None else f" (step {self.step})"
        return f"frame {self.frame}{step} of {self.source}"


def read_candidates(paths: Iterable[str | Path]) -> list[Candidate]:
    """Return the frames of runs' folders and of files that ASE reads, in their order.

    Of a folder: its trajectory, and the frames that the run's guards queued.

    Raises
    ------
    StructureError : a file is missing or cannot be read, a folder is none of a run, or a file is
        named twice.
    """
    found: list[Candidate] = []
    seen: dict[Path, Path] = {}
    for path in map(Path, paths):
        for file in _files_of(path):
            if file.resolve() in seen:
                raise StructureError(f"'{file}' is named twice; name each run and file once.")
            seen[file.resolve()] = file
            for k, atoms in enumerate(read_structures(file)):
                found.append(Candidate(atoms, file, k, _step_of(atoms)))
    return found


def _files_of(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    trajectory = trajectory_of_run(path)
    if trajectory is None:
        raise StructureError(
            f"'{path}' holds no trajectory of a run; expected folders of eqcalc md, or files of "
            "frames."
        )
    queue = path / QUEUE
    return [trajectory, *([queue] if queue.is_file() and queue.stat().st_size > 0 else [])]


def _step_of(atoms: Atoms) -> int | None:
    step = atoms.info.get("step")
    try:
        return None if step is None else int(step)
    except (TypeError, ValueError):
        return None
