"""How often each file is damaged."""

from __future__ import annotations

import pytest

_FEW = 25


@pytest.fixture
def n_mutations(request: pytest.FixtureRequest) -> int:
    """Return how often a file is damaged: ``--mutations``."""
    return request.config.getoption("--mutations") or _FEW
