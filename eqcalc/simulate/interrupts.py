"""Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopOnSignal", "StopRequested"]


class StopRequested(KeyboardInterrupt):
    """A run that was stopped by a signal, with its files complete.

    A KeyboardInterrupt, so that a script that runs several stops altogether.
    ``signal_number`` is SIGINT (Ctrl-C) or SIGTERM (a batch system).
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopOnSignal:
    """Note SIGINT and SIGTERM instead of dying in the middle of a step.

    Within the ``with`` block the first signal sets ``signal_number``; a second
    one acts as if this class were not there. The former handlers come back at
    the end. Outside the main thread Python delivers no signals, and nothing is
    changed.

    >>> with StopOnSignal() as stop:
    ...     stop.signal_number is None
    True
    """

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._former: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()
