"""How long a run still takes, by the time that its last steps took."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

__all__ = ["Pace"]

_SPACING_S = 1.0  # between two marks that are kept
_N_MARKS = 60  # so that the pace is that of the last minute, or of as many reports
_ENOUGH_S = 5.0  # before which a pace is mostly that of warming up


class Pace:
    """The pace of a run: steps are marked as they are done.

    Parameters
    ----------
    n_steps : where the run ends
    clock : returns seconds

    >>> clock = iter([0.0, 60.0, 120.0]).__next__
    >>> pace = Pace(1000, clock)
    >>> for step in (0, 100, 200):
    ...     pace.mark(step)
    >>> pace.left_s
    480.0
    """

    def __init__(self, n_steps: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._n_steps, self._clock = n_steps, clock
        self._marks: deque[tuple[int, float]] = deque(maxlen=_N_MARKS)
        self._last: tuple[int, float] | None = None

    def mark(self, step: int) -> None:
        """Note that a step is done now."""
        self._last = (step, self._clock())
        if not self._marks or self._last[1] - self._marks[-1][1] >= _SPACING_S:
            self._marks.append(self._last)

    @property
    def step_s(self) -> float | None:
        """Seconds that a step takes; None before enough of them are done to tell."""
        if self._last is None:
            return None
        (first, start), (step, now) = self._marks[0], self._last
        enough = now - start >= _ENOUGH_S or 10 * (step - first) >= self._n_steps
        return (now - start) / (step - first) if enough and step > first else None

    @property
    def left_s(self) -> float | None:
        """Seconds until the end; None before enough steps are done to tell."""
        if self._last is None or self.step_s is None:
            return None
        return self.step_s * (self._n_steps - self._last[0])
