"""How many threads a model call uses on a CPU: one rule, for everything that calls a model.

Work is split where there is enough of it. A model call takes one thread per hundred atoms, and at
most as many as torch has: ``OMP_NUM_THREADS`` and ``torch.set_num_threads`` set that limit. Who
wants another number asks for it (``threads=`` of :class:`eqcalc.EqCalculator` and
:func:`eqcalc.load_model`, ``--threads`` on the command line); that one is exact.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Optional

import torch

from eqcalc.errors import ConfigError

__all__ = ["ATOMS_PER_THREAD", "UsingThreads", "check_threads", "threads_for", "using_threads"]

# Of one call. Two threads that do not have a core each wait for one another dozens of times per
# call: too few atoms per thread cost far more than too many.
ATOMS_PER_THREAD = 100

_forked: list[bool] = []


def threads_for(n_atoms: int, asked: Optional[int] = None) -> int:
    """Return the number of threads of a model call.

    Parameters
    ----------
    n_atoms : in the call; of all structures that are evaluated together
    asked : the number that the user asked for, or None
    """
    most = torch.get_num_threads()
    if asked is None:
        return min(most, max(1, n_atoms // ATOMS_PER_THREAD))
    # The threads of its parent are not in a forked process, and it would wait for them.
    return min(asked, most) if _forked else asked


def check_threads(threads: Optional[int]) -> None:
    """Refuse a number of threads that means nothing.

    Raises
    ------
    ConfigError : no whole number, or below 1.
    """
    is_number = isinstance(threads, int) and not isinstance(threads, bool)
    if threads is not None and not (is_number and threads >= 1):
        raise ConfigError(
            f"threads must be a whole number of at least 1, or None (one per {ATOMS_PER_THREAD} "
            f"atoms), found {threads!r}."
        )


class UsingThreads(AbstractContextManager[None]):
    """Let torch use so many threads within a ``with`` block, in the thread that runs it.

    It costs a microsecond. Threads that begin their first work meanwhile may find the lower
    number; it changes no result beyond rounding.
    """

    def __init__(self, n_threads: int) -> None:
        self._wanted = n_threads

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._before != self._wanted:
            torch.set_num_threads(self._wanted)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._before != self._wanted:
            torch.set_num_threads(self._before)


def using_threads(
    device: torch.device, n_atoms: int, asked: Optional[int] = None
) -> AbstractContextManager[None]:
    """Let torch use the threads of a call, within a ``with`` block; nothing on a GPU."""
    if device.type != "cpu":
        return nullcontext()
    return UsingThreads(threads_for(n_atoms, asked))


def _after_fork() -> None:
    """Let a forked process use one thread: those of its parent are not there, and it would wait."""
    _forked.append(True)
    torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
