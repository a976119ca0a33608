"""The relaxation of positions before the first step of a run."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from ase import Atoms
from ase.optimize import LBFGS

from eqcalc.errors import NonFiniteError

__all__ = ["minimize_positions"]


def minimize_positions(atoms: Atoms, *, fmax: float, max_steps: int) -> dict[str, Any]:
    """Relax positions in place; constraints hold, the cell stays.

    Not to converge is no error: what a start needs is that no bond is far from its place.

    Parameters
    ----------
    atoms : with a calculator
    fmax : eV/Å below which all forces end it
    max_steps : of ASE's LBFGS

    Returns
    -------
    what a manifest holds: converged, steps, energy_before_eV, energy_after_eV,
    fmax_eV_per_A (the largest force left), wall_s

    Raises
    ------
    NonFiniteError : energy or forces are NaN or infinite at one of its steps.
    """
    start = time.perf_counter()
    optimizer = LBFGS(atoms, logfile=None)  # type: ignore[arg-type]  # no log
    before = largest = float("nan")
    for _ in optimizer.irun(fmax=fmax, steps=max_steps):
        forces = atoms.get_forces()
        energy = float(atoms.get_potential_energy())
        if not (np.isfinite(forces).all() and np.isfinite(energy)):
            raise NonFiniteError(
                f"the minimization before the run stopped after {optimizer.nsteps} steps: energy "
                "or forces are NaN or infinite; check the structure for atoms that overlap, and "
                "that the model was trained on such systems."
            )
        largest = float(np.sqrt((forces**2).sum(axis=1).max()))
        before = energy if optimizer.nsteps == 0 else before
    return {
        "converged": largest < fmax,
        "steps": optimizer.nsteps,
        "energy_before_eV": before,
        "energy_after_eV": energy,
        "fmax_eV_per_A": largest,
        "wall_s": time.perf_counter() - start,
    }
