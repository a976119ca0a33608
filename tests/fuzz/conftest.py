"""How many cases a test of this folder tries."""

from __future__ import annotations

import pytest

_FEW = 25


@pytest.fixture
def n_cases(request: pytest.FixtureRequest) -> int:
    """Return how many damaged copies of a file, or random structures, are tried: ``--fuzz``."""
    return request.config.getoption("--fuzz") or _FEW
