"""What many unit tests share: models, exported once, and the C++ library, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from eqcalc.native.build import find_library, load_library
from eqcalc.native.exchange import enable_exchange
from eqcalc.tabulated.convolutions import enable_kernels


@pytest.fixture(scope="session")
def kernels(library_cache: Path) -> None:
    """Load and use the C++ library; from then on the whole process has it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQCALC_CACHE", str(library_cache))
        assert load_library()
        assert enable_kernels()


@pytest.fixture(scope="session")
def exchange(kernels: None) -> Path:
    """Enable the exchange between ranks; return the library that hosts call."""
    assert enable_exchange()
    library = find_library()
    assert library is not None
    return library


@pytest.fixture
def parent(tmp_path: Path) -> Path:
    """Return the file of a small PaiNN for H, C, N and O in double precision."""
    from fine_tunings import export_parent  # not every test needs a training

    return export_parent(tmp_path / "parent.pt")
