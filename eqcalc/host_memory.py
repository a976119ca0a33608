"""What the C library does with memory that torch has freed.

A network makes and frees the same large tensors at every step. glibc hands what it frees at
the end of the heap back to the system, which must clear it page by page when it is wanted
again: up to a third of a step's time.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

__all__ = ["HeapLimit", "keep_freed_memory", "release_freed_memory", "resident_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3), in glibc's malloc.h
_KEPT = 2**31 - 1  # bytes free at the end of the heap; more go back to the system
# Bytes; a larger tensor is mapped, and unmapped, by itself. The most that every glibc accepts;
# with more, holes in the heap grow over thousands of steps.
_ON_THE_HEAP = 2**25
_GROWTH, _SLACK = 1.5, 2**28  # times what a step needs, and bytes
_STATM = Path("/proc/self/statm")
_USERS_WISH = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory() -> None:
    """Let this process keep what it frees, 2 GiB at most, for its next allocations.

    Nothing happens where the user has set a threshold (the environment's
    ``MALLOC_TRIM_THRESHOLD_``, ``GLIBC_TUNABLES``), and without glibc.
    """
    if any(name in os.environ for name in _USERS_WISH) or "glibc.malloc" in os.environ.get(
        "GLIBC_TUNABLES", ""
    ):
        return
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        # Either one alone would end glibc's own adjustment of the other.
        mallopt(_MMAP_THRESHOLD, _ON_THE_HEAP)
        mallopt(_TRIM_THRESHOLD, _KEPT)


def release_freed_memory() -> None:
    """Return what this process keeps to the system."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


class HeapLimit:
    """Keep a process whose steps need different memory from growing over thousands of them.

    Tensors of other sizes at every step (batches with different numbers of edges) do not fit
    into the holes that those before have left, and the heap grows by the rest. Where the process
    has grown by half over what a step needs from an empty heap, the holes go back to the system.

    >>> limit = HeapLimit()
    >>> limit.end_step()
    False
    """

    def __init__(self) -> None:
        self._need = 0
        self._begins = True  # the next step begins with an empty heap

    def begin(self) -> None:
        """Empty the heap of what was there before the first step."""
        release_freed_memory()
        self._begins = True

    def end_step(self) -> bool:
        """Look at the process after a step; return whether memory was given back."""
        used = resident_memory()
        if used is None:
            return False
        if self._begins:
            self._need = max(self._need, used)
            self._begins = False
        if used < _GROWTH * self._need + _SLACK:
            return False
        self.begin()
        return True


def resident_memory() -> int | None:
    """Return the bytes of memory that this process holds; None where Linux does not tell."""
    try:
        n_pages = int(_STATM.read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return n_pages * os.sysconf("SC_PAGE_SIZE")


def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """Return a function of the C library, or None where it has no such thing."""
    if not sys.platform.startswith("linux"):  # Windows cannot open its own process either
        return None
    return getattr(ctypes.CDLL(None), name, None)
