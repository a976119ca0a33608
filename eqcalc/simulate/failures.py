"""The last structure of a run, and runs that break: at which step, and what is rescued."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import Optimizer

from eqcalc.errors import (
    EqcalcError,
    GraphError,
    GuardError,
    NonFiniteError,
    OutputError,
    StructureError,
)
from eqcalc.simulate.frame_content import restore_constraints, restore_origin
from eqcalc.simulate.manifest import RunManifest
from eqcalc.simulate.thermo import read_table
from eqcalc.simulate.writers import FrameWriter, write_structure

__all__ = [
    "ADVICE_MD",
    "ADVICE_RELAX",
    "keep_last_structure",
    "rescuing",
    "telling_where",
    "trusted_frame",
]

ADVICE_MD = (
    "Start from a structure relaxed with this model, or take a shorter timestep; the model may "
    "also be far from what it was trained on."
)
ADVICE_RELAX = (
    "Start from a structure in which no atoms overlap; the model may also be far from what it "
    "was trained on."
)


@contextmanager
def telling_where(
    dynamics: MolecularDynamics | Optimizer, trajectory: FrameWriter
) -> Iterator[None]:
    """Say at which step the structure or the model broke, and what to do.

    An error before the first frame passes as it is: nothing ran, and no frame is good.

    Parameters
    ----------
    dynamics : ASE's integrator or optimizer; its ``nsteps`` counts the whole steps
    trajectory : holds the frames so far, the structure of step 0 first

    Raises
    ------
    NonFiniteError : in place of any NonFiniteError or GraphError after the first frame.
    """
    try:
        yield
    except (GraphError, NonFiniteError) as error:
        if trajectory.n_frames == 0:
            raise
        advice = ADVICE_RELAX if isinstance(dynamics, Optimizer) else ADVICE_MD
        reason = str(error).rstrip(".")
        raise NonFiniteError(
            f"stopped after step {dynamics.nsteps}: {reason}. The last good frame is in "
            f"{trajectory.path}. {advice}"
        ) from error


def keep_last_structure(path: Path, frame: Atoms, manifest: RunManifest) -> None:
    """Write the last structure of a run that ends well; its manifest says of which step it is.

    Raises
    ------
    OutputError : one of the files cannot be written.
    """
    write_structure(path, frame)
    manifest.update(last_structure=_entry(path.name, frame))


@contextmanager
def rescuing(
    path: Path, last_frame: Callable[[], Atoms | None], manifest: RunManifest
) -> Iterator[None]:
    """Write the last structure that can be trusted where a run ends before it could itself.

    It goes to its own place; where that takes nothing more (a full disk) or is gone, beside
    the run's folder, else into the working directory, else into the system's folder for
    temporary files, never over a file that is there. The manifest says where, and of which step
    it is.

    Parameters
    ----------
    path : where a run that ends well writes its last structure
    last_frame : returns it; None where there is none
    manifest : of the run

    Raises
    ------
    OutputError, GuardError, NonFiniteError : in place of one of the same class, and it says
        where the structure is.
    """
    try:
        yield
    except EqcalcError as error:
        rescued = _rescue(path, last_frame, manifest)
        if rescued is None:
            raise
        frame, place = rescued
        reason = str(error).rstrip(".")
        if isinstance(error, OutputError):
            raise type(error)(f"{reason}. The last structure is in '{place}'.") from error
        if isinstance(error, (GuardError, NonFiniteError)):
            raise type(error)(
                f"{reason}. The last structure that can be trusted, of step "
                f"{frame.info['step']}, is in '{place}'."
            ) from error
        raise
    except BaseException:  # whatever ends the run: a second signal, a caller's callback
        _rescue(path, last_frame, manifest)
        raise


def trusted_frame(
    last: Atoms | None, until: int | None, trajectory: Path, table: Path
) -> Atoms | None:
    """Return the last frame of a run up to a step; None where there is none.

    Parameters
    ----------
    last : the last frame that was written, None where it is not at hand
    until : the step; None where all can be trusted
    table : of the run, with a row for every frame of the trajectory

    Raises
    ------
    StructureError : it cannot be read.
    """
    if last is not None and (until is None or last.info["step"] <= until):
        return last
    try:
        steps = read_table(table)["step"]
        n_frames = len(steps) if until is None else int(np.searchsorted(steps, until, "right"))
        if n_frames == 0:
            return None
        frame = next(ase.io.iread(trajectory, index=n_frames - 1))
    except Exception as error:  # a run that breaks may leave anything; ASE raises what it likes
        raise StructureError(f"cannot read a frame of '{trajectory}': {error}.") from error
    restore_constraints(frame)
    restore_origin(frame)
    return frame


def _rescue(
    path: Path, last_frame: Callable[[], Atoms | None], manifest: RunManifest
) -> tuple[Atoms, Path] | None:
    """Write the last frame; return it and where it is, None where there is none or no place."""
    frame = None
    with contextlib.suppress(StructureError):  # the user needs the first reason
        frame = last_frame()
    if frame is None:
        return None
    place = _write_somewhere(path, frame, manifest.is_in_place())
    if place is None:
        return None
    manifest.update(last_structure=_entry(path.name if place == path else str(place), frame))
    return frame, place


def _entry(file: str, frame: Atoms) -> dict[str, Any]:
    """Return what a manifest says of a run's last structure: its file, and of which step it is."""
    return {"file": file, "step": int(frame.info["step"])}


def _write_somewhere(path: Path, frame: Atoms, in_place: bool) -> Path | None:
    if in_place and _can_write(path, frame):
        return path
    name = f"{path.absolute().parent.name}-{path.name}"
    for folder in (path.absolute().parent.parent, Path.cwd(), Path(tempfile.gettempdir())):
        place = folder / name
        number = 1
        while place.exists():
            number += 1
            place = folder / f"{path.absolute().parent.name}-{number}-{path.name}"
        if _can_write(place, frame):
            return place
    return None


def _can_write(path: Path, frame: Atoms) -> bool:
    try:
        write_structure(path, frame)
    except OutputError:
        return False
    return True
