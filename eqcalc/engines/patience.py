"""One warning to whoever computes for long by the slowest engine, with a faster one a command away.

A script of one's own prints nothing about engines, and a network that is not compiled may take
twenty times as long.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from eqcalc.errors import PerformanceWarning

__all__ = ["Patience"]

_LIMIT_S = 60.0  # about what compiling takes


class Patience:
    """Add up the time of calls, and warn once when it is longer than compiling takes.

    Parameters
    ----------
    model : its name
    why : what the faster engine says of itself, with the command
    """

    def __init__(self, model: str, why: str) -> None:
        self.model, self.why = model, why
        self._left_s = _LIMIT_S

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Count the time of a ``with`` block that runs the model."""
        begun = time.perf_counter()
        yield
        if self._left_s > 0.0:
            self._left_s -= time.perf_counter() - begun
            if self._left_s <= 0.0:
                warnings.warn(
                    f"'{self.model}' has computed for a minute by its slowest engine, torchscript: "
                    f"{self.why}",
                    PerformanceWarning,
                    stacklevel=2,
                )
