"""Models that tests of hosts share, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import export_small


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the file of a small PaiNN for H, C and O in double precision."""
    return export_small(tmp_path_factory.mktemp("models") / "double.pt")
