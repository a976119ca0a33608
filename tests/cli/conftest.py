"""Models and a working directory that many command-line tests share."""

from __future__ import annotations

import sys
from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import molecule
from fake_models import ASKED_FOR, fakes


@pytest.fixture(autouse=True)
def no_lines_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no training break a silence of a minute, as one does that builds or waits first."""
    monkeypatch.setattr("eqcalc.cli.train._LONGEST_SILENCE_S", float("inf"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with ethanol.xyz; models are stand-ins there."""
    for name, module in fakes().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(torch, "set_num_threads", lambda n: None)
    monkeypatch.chdir(tmp_path)
    ase.io.write("ethanol.xyz", molecule("CH3CH2OH"))
    ASKED_FOR.clear()
    return tmp_path
