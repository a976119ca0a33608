"""Models that many unit tests share, exported once."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_models import write_models


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return model files by name: double, single, other, short."""
    return write_models(tmp_path_factory.mktemp("models"))
