"""Runs that break: the step, the last good frame, and the structure rescued."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ase import Atoms
from ase.md.md import MolecularDynamics
from ase.optimize.optimize import Optimizer

from eqcalc.errors import (
    EqcalcError,
    GraphError,
    NonFiniteError,
    OutputError,
)
from eqcalc.simulate.writers import FrameWriter, write_structure

__all__ = ["ADVICE_MD", "ADVICE_RELAX", "rescuing", "telling_where"]

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


@contextmanager
def rescuing(
    path: Path, last_frame: Callable[[], Atoms | None], is_in_place: Callable[[], bool]
) -> Iterator[None]:
    """Write the last whole structure where a run ends before it could write its end.

    It goes to its own place; where that takes nothing more (a full disk) or is gone, beside
    the run's folder, else into the working directory, else into the system's folder for
    temporary files, never over a file that is there.

    Parameters
    ----------
    path : where a run that ends well writes its last structure
    last_frame : returns it; None before the first
    is_in_place : tells whether the folder still is the run's

    Raises
    ------
    OutputError : in place of an OutputError, and it says where the structure is.
    """
    try:
        yield
    except OutputError as error:
        place = _write_somewhere(path, last_frame(), is_in_place())
        if place is None:
            raise
        reason = str(error).rstrip(".")
        raise type(error)(f"{reason}. The last structure is in '{place}'.") from error
    except EqcalcError:
        raise  # of the structure or the model; the frames until then are in the trajectory
    except BaseException:  # whatever ends the run: a second signal, a caller's callback
        _write_somewhere(path, last_frame(), is_in_place())
        raise


def _write_somewhere(path: Path, frame: Atoms | None, in_place: bool) -> Path | None:
    if frame is None:
        return None
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
