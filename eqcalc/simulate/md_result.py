"""What a run of molecular dynamics tells while it goes on, and at its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.simulate.cell_state import CellChange
from eqcalc.simulate.thermo import Thermo

__all__ = ["SHORTEST_DRIFT_PS", "MDProgress", "MDResult", "energy_drift"]

SHORTEST_DRIFT_PS = 1.0
"""A slope through less than this is the first swing of the vibrations."""


@dataclass(frozen=True)
class MDProgress:
    """What a progress display is told at every logged step.

    ``left_s`` is the time that the steps left will take at the present pace, None before
    there is one; ``limit_s`` the time until ``max_hours`` are over, None without; ``step_s``
    the time of a step at the present pace; ``said`` what guards found and did since the step
    before, a sentence each.
    """

    thermo: Thermo
    n_steps: int
    ns_per_day: float
    left_s: float | None = None
    limit_s: float | None = None
    step_s: float | None = None
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class MDResult:
    """A finished run.

    ``mean_temperature_K`` is over the second half. ``drift_mev_per_atom_ps`` is
    the slope of a straight line through the total energy, None except for "nve";
    over less than a picosecond it says little. ``n_frames`` counts the rows of
    ``thermo.csv``, of which there is one a frame. ``cell_change`` is None at constant cell,
    ``mean_pressure_gpa``, over the second half, where no pressure is defined, and
    ``minimization`` (what that before the first step did) where there was none. ``time_fs`` is
    the time of the last step, ``guards`` what the manifest says of them, and ``spread``
    what :func:`~eqcalc.simulate.thermo.spread_summary` says of a committee. Where ``is_ramped`` a
    target of thermostat or barostat changes in the second half, and its means are of no state.
    """

    folder: Path
    atoms: Atoms
    n_steps: int
    n_frames: int
    wall_s: float
    time_fs: float
    ns_per_day: float
    ms_per_step: float
    mean_temperature_K: float
    drift_mev_per_atom_ps: float | None
    cell_change: CellChange | None = None
    mean_pressure_gpa: float | None = None
    minimization: dict[str, Any] | None = None
    spread: dict[str, float] | None = None
    guards: dict[str, Any] = field(default_factory=dict)
    is_ramped: bool = False


def energy_drift(table: Mapping[str, NDArray[np.float64]], n_atoms: int) -> float | None:
    """Return the slope of the total energy in meV/(atom ps); None of fewer than two rows."""
    time_ps = table["time_fs"] / 1000
    if len(time_ps) < 2:
        return None
    energy_mev = 1000 * table["total_energy_eV"] / n_atoms
    return float(np.polyfit(time_ps, energy_mev - energy_mev[0], deg=1)[0])
