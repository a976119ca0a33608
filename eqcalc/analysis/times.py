"""The time between two frames: what the file says, or what the user does, never a guess."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms

from eqcalc.errors import ConfigError, StructureError

__all__ = ["even_frames", "require_time", "time_of"]

_SAME = 1e-3  # relative difference of two intervals that are taken for one


def time_of(frame: Atoms) -> float | None:
    """Return the time of a frame in fs as eqcalc's runs write it, None where it has none."""
    time = frame.info.get("time_fs")
    if not isinstance(time, (int, float, np.integer, np.floating)) or not np.isfinite(time):
        return None
    return float(time)


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


def even_frames(times: Sequence[float | None], interval_fs: float | None) -> tuple[float, int]:
    """Return the time between frames in fs, and how many of them are that far apart.

    The last frame of a run that ended between two of its regular ones is left out.

    Parameters
    ----------
    times : of the frames, in fs
    interval_fs : what the user says, where the file says nothing

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
        return interval_fs, len(times)
    steps = np.diff(known)
    if len(steps) == 0:
        return interval_fs or 0.0, len(times)
    own = float(steps[0])
    if own <= 0:
        raise StructureError(f"the times of the frames do not grow: {known[0]:g}, {known[1]:g} fs.")
    if interval_fs is not None and abs(own - interval_fs) > _SAME * own:
        raise ConfigError(
            f"interval_fs={interval_fs:g} is said, but the file has a frame every {own:g} fs; "
            "leave it out."
        )
    odd = np.flatnonzero(np.abs(steps - own) > _SAME * own)
    if len(odd) > 0 and odd[0] < len(steps) - 1:
        k = int(odd[0])
        raise StructureError(
            f"the frames are not evenly spaced: {own:g} fs at first, but from {known[k]:g} to "
            f"{known[k + 1]:g} fs; what depends on time needs even ones: choose a stretch of them."
        )
    return own, len(times) - len(odd)
