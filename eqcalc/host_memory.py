"""What the C library does with memory that torch has freed.

A network makes and frees the same large tensors at every step. glibc hands what it frees at
the end of the heap back to the system, which must clear it page by page when it is wanted
again: up to a third of a step's time.
"""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["keep_freed_memory", "release_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt(3), in glibc's malloc.h
_KEPT = 2**31 - 1  # bytes free at the end of the heap; more go back to the system
# Bytes; a larger tensor is mapped, and unmapped, by itself. The most that every glibc accepts;
# with more, holes in the heap grow over thousands of steps.
_ON_THE_HEAP = 2**25
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


def _of_glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """Return a function of the C library, or None where it has no such thing."""
    if not sys.platform.startswith("linux"):  # Windows cannot open its own process either
        return None
    return getattr(ctypes.CDLL(None), name, None)
