"""Ctrl-C, a batch system's end, a closed terminal and a time limit wait for the end of a step."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

from eqcalc.errors import ConfigError

__all__ = ["StopOnSignal", "StopRequested"]


_Report = TypeVar("_Report")

# SIGHUP and SIGPIPE are not on every system.
_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
_CLOSED_PIPE = int(getattr(signal, "SIGPIPE", 13))
_TIME_IS_OVER = int(getattr(signal, "SIGALRM", 14))


class StopRequested(KeyboardInterrupt):
    """A run that was stopped by a signal, with its files complete.

    A KeyboardInterrupt, so that a script that runs several stops altogether.
    ``signal_number`` is SIGINT (Ctrl-C), SIGTERM (a batch system), SIGHUP (a terminal that
    was closed), SIGPIPE (nobody reads the progress any more) or SIGALRM (a time limit).
    """

    def __init__(self, message: str, signal_number: int):
        super().__init__(message)
        self.signal_number = signal_number


class StopOnSignal:
    """Note SIGINT, SIGTERM and SIGHUP instead of dying in the middle of a step.

    Within the ``with`` block the first signal sets ``signal_number``; a second one raises
    :class:`StopRequested` where the process is, and later ones do nothing. The former handlers
    come back at the end. A signal that the process ignores (``nohup``) stays ignored. Outside
    the main thread Python delivers no signals, and nothing is changed.

    Parameters
    ----------
    max_hours : after which :meth:`is_due`, as if a signal had come; counted from now
    used_s : seconds of them that have passed already

    Raises
    ------
    ConfigError : that is no time.

    >>> with StopOnSignal() as stop:
    ...     stop.is_due()
    False
    """

    def __init__(self, max_hours: float | None = None, *, used_s: float = 0.0) -> None:
        if max_hours is not None and not (math.isfinite(max_hours) and max_hours > 0):
            raise ConfigError(f"the hours of a run must be a number above 0, not {max_hours!r}.")
        self._end = math.inf
        if max_hours is not None:
            self._end = time.monotonic() + 3600.0 * max_hours - used_s
        self.signal_number: int | None = None
        self._has_acted = False
        self._former: dict[int, Any] = {}

    def is_due(self) -> bool:
        """Tell whether a signal has come, or the time is over."""
        if self.signal_number is None and time.monotonic() >= self._end:
            self.signal_number = _TIME_IS_OVER
        return self.signal_number is not None

    @property
    def limit_s(self) -> float | None:
        """Seconds until the time is over; None without a limit."""
        return None if math.isinf(self._end) else max(0.0, self._end - time.monotonic())

    def tell(self, progress: Callable[[_Report], None] | None, report: _Report) -> None:
        """Report progress; a display that nobody reads any more asks to stop, like a signal."""
        if progress is None:
            return
        try:
            progress(report)
        except BrokenPipeError:
            self.signal_number = _CLOSED_PIPE

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._former[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._has_acted:
            return  # what ends the run now is already on its way
        if self.signal_number is not None:
            self._has_acted = True
            raise StopRequested("stopped by a second signal, before the step's end", number)
        self.signal_number = number
