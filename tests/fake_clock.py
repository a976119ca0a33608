"""A clock for tests: what they assert of times holds however busy the machine is."""

from __future__ import annotations

__all__ = ["Clock"]


class Clock:
    """Seconds that pass when a test says so, and ``tick`` seconds at every reading.

    Stands for a function such as ``time.perf_counter``, or for the module ``time``.
    """

    def __init__(self, tick: float = 0.0) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now

    perf_counter = process_time = __call__

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds
