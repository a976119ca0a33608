"""Errors of a broken run, with the step and the last good frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ase.md.md import MolecularDynamics
from ase.optimize.optimize import Optimizer

from eqcalc.errors import GraphError, NonFiniteError
from eqcalc.simulate.writers import FrameWriter

__all__ = ["telling_where"]

_ADVICE_MD = (
    "Start from a structure relaxed with this model, or take a shorter timestep; the model may "
    "also be far from what it was trained on."
)
_ADVICE_RELAX = (
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
        advice = _ADVICE_RELAX if isinstance(dynamics, Optimizer) else _ADVICE_MD
        reason = str(error).rstrip(".")
        raise NonFiniteError(
            f"stopped after step {dynamics.nsteps}: {reason}. The last good frame is in "
            f"{trajectory.path}. {advice}"
        ) from error
