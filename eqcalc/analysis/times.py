"""The time between two frames: what the file says, or what the user does, never a guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eqcalc.errors import ConfigError, StructureError

__all__ = ["even_frames", "require_time", "step_of", "time_of"]

_SAME = 1e-3  # relative difference of two intervals that are taken for one
_NUMBERS = (int, float, np.integer, np.floating)
# Of LAMMPS's dumps, as ASE names what text and extxyz say; the first also of i-PI and CP2K.
_STEPS = ("timestep", "Timestep")


def time_of(frame: Atoms) -> float | None:
    """Return the time of a frame in fs as eqcalc's runs write it, None where it has none."""
    time = frame.info.get("time_fs")
    if not isinstance(time, _NUMBERS) or not np.isfinite(time):
        return None
    return float(time)


def step_of(frame: Atoms) -> float | None:
    """Return the number of the step that a dump of another program says; None where it has none."""
    found = (frame.info.get(name) for name in _STEPS)
    return next((float(step) for step in found if isinstance(step, _NUMBERS)), None)


def require_time(first: Atoms, interval_fs: float | None) -> None:
    """Refuse what depends on time where nobody says it, before all frames are read.

    Raises
    ------
    StructureError : the frames have no time, and no interval is given.
    """
    if interval_fs is None and time_of(first) is None:
        raise StructureError(
            "the frames do not say their time (time_fs, as eqcalc writes it); give the time "
            "between two frames of the file in fs as interval_fs, which is not the time step of "
            "the dynamics."
        )


def even_frames(
    times: Sequence[float | None],
    interval_fs: float | None,
    steps: Sequence[float | None] = (),
) -> tuple[float, int]:
    """Return the time between frames in fs, and how many of them are that far apart.

    The last frame of a run that ended between two of its regular ones is left out.

    Parameters
    ----------
    times : of the frames, in fs
    interval_fs : what the user says, where the file says nothing
    steps : of the frames, by number, where the file says so much

    Raises
    ------
    ConfigError : the interval is no time, or the file says another one.
    StructureError : some frames have no time, times do not grow, or frames are not evenly spaced.
    """
    if interval_fs is not None and not (np.isfinite(interval_fs) and interval_fs > 0):
        raise ConfigError(f"interval_fs must be a time above 0 fs, not {interval_fs:g}.")
    known = [time for time in times if time is not None]
    if len(known) < len(times):
        if interval_fs is None:
            raise StructureError(
                f"{len(times) - len(known)} of {len(times)} frames do not say their time; give "
                "the time between two frames in fs as interval_fs."
            )
        numbered = [step for step in steps if step is not None]
        if len(numbered) < len(times) or len({*numbered}) < 2:  # the same in all: no count
            return interval_fs, len(times)
        return interval_fs, _n_even(numbered, "steps")
    if len(known) < 2:
        return interval_fs or 0.0, len(times)
    n_even = _n_even(known, "fs")
    own = known[1] - known[0]
    if interval_fs is not None and abs(own - interval_fs) > _SAME * own:
        raise ConfigError(
            f"interval_fs={interval_fs:g} is said, but the file has a frame every {own:g} fs; "
            "leave it out."
        )
    return own, n_even


def _n_even(places: Sequence[float], unit: str) -> int:
    """Return how many frames are as far apart as the first two: all, or all but the last."""
    steps = np.diff(places)
    own = steps[0]
    if own <= 0:
        raise StructureError(
            f"the times of the frames do not grow: {places[0]:g}, {places[1]:g} {unit}."
        )
    odd = np.flatnonzero(np.abs(steps - own) > _SAME * own)
    if len(odd) > 0 and odd[0] < len(steps) - 1:
        k = int(odd[0])
        raise StructureError(
            f"the frames are not evenly spaced: {own:g} {unit} at first, but from {places[k]:g} to "
            f"{places[k + 1]:g} {unit}; what depends on time needs even ones: skip what is "
            "before, or write a stretch of them into a file of its own (ase convert -n 0:500)."
        )
    return len(places) - len(odd)
