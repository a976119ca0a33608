"""What a law compares, kept where somebody wants to see it: a law that holds says nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

__all__ = ["Measurement", "keep", "measurements"]


class Measurement(NamedTuple):
    """One comparison of a law: ``found`` must not exceed ``allowed``.

    case : which structure and quantity; found, allowed : in ``unit``
    """

    case: str
    found: float
    allowed: float
    unit: str


_kept: ContextVar[list[Measurement] | None] = ContextVar("_kept", default=None)


@contextmanager
def measurements() -> Iterator[list[Measurement]]:
    """Collect what laws compare within the block, up to the first comparison that fails.

    >>> with measurements() as found:
    ...     keep("two energies", 1e-12, 1e-9, "eV")
    >>> found[0].found
    1e-12
    """
    found: list[Measurement] = []
    token = _kept.set(found)
    try:
        yield found
    finally:
        _kept.reset(token)


def keep(case: str, found: float, allowed: float, unit: str) -> None:
    """Keep a comparison, if anybody collects them."""
    kept = _kept.get()
    if kept is not None:
        kept.append(Measurement(case, found, allowed, unit))
