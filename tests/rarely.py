"""Parameters of tests that are tried before a release alone."""

from __future__ import annotations

from typing import Any

import pytest

__all__ = ["rarely"]


def rarely(*values: Any) -> Any:
    """Return a parameter whose kind the test's other ones show, at the cost of many seconds."""
    return pytest.param(*values, marks=pytest.mark.exhaustive)
