"""The command line as a user types it, in the process of the test."""

from __future__ import annotations

import pytest

from eqcalc.cli import main


def run(*words: object) -> int:
    """Return the exit code of ``eqcalc WORDS``."""
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in words])
    return int(caught.value.code or 0)
