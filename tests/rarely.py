"""Parameters of tests that are tried before a release alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import pytest

__all__ = ["rarely", "rarely_but"]


def rarely(*values: Any) -> Any:
    """Return a parameter whose kind the test's other ones show, at the cost of many seconds."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)


def rarely_but(often: Collection[Any], cases: Iterable[Any]) -> list[Any]:
    """Return all cases, tuples or single values, which are tried rarely but for some."""
    cases = list(cases)
    assert all(case in cases for case in often)
    return [
        case if case in often else rarely(*(case if isinstance(case, tuple) else (case,)))
        for case in cases
    ]
