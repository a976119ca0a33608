"""What hosts say where their package is missing."""

from __future__ import annotations

import sys

import pytest
from small_models import water

from eqcalc.errors import MissingDependencyError
from eqcalc.hosts.openmm import from_atoms
from eqcalc.hosts.torchsim import TorchSimModel


def test_torch_sim_that_is_missing_is_said_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'eqcalc\[torchsim\]'"):
        TorchSimModel("painn-ethanol")


def test_openmm_that_is_missing_is_said_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmm", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'eqcalc\[openmm\]'"):
        from_atoms(water())
