"""Errors of a broken run, with the step and the last good frame."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ase.md.md import MolecularDynamics
from ase.optimize.optimize import Optimizer

from eqcalc.errors import GraphError, NonFiniteError

__all__ = ["telling_where"]


@contextmanager
def telling_where(
    dynamics: MolecularDynamics | Optimizer, trajectory: Path | None = None
) -> Iterator[None]:
    """Say at which step the structure or the model broke, and what to do.

    Parameters
    ----------
    dynamics : ASE's integrator or optimizer; its ``nsteps`` counts the whole steps
    trajectory : file that holds the frames so far, or None before the first

    Raises
    ------
    NonFiniteError : in place of any NonFiniteError or GraphError of the block.
    """
    try:
        yield
    except (GraphError, NonFiniteError) as error:
        kept = f" The last good frame is in {trajectory}." if trajectory else ""
        if dynamics.nsteps == 0:
            advice = "Check the structure, and that the model was trained on such systems."
        else:
            advice = (
                "Start from a structure relaxed with this model, or (dynamics) take a shorter "
                "timestep; the model may also be far from what it was trained on."
            )
        reason = str(error).rstrip(".")
        raise NonFiniteError(
            f"stopped after step {dynamics.nsteps}: {reason}.{kept} {advice}"
        ) from error
