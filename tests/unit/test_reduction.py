"""The choice of how forces are summed, where torch-scatter may be missing."""

from __future__ import annotations

import sys

import pytest

from eqcalc import EqCalculator
from eqcalc.derivatives import forces_from_sums, resolve_reduction
from eqcalc.errors import ConfigError, MissingDependencyError


def test_torch_is_the_default_and_imports_nothing_else(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    assert resolve_reduction("torch") is forces_from_sums
    assert EqCalculator(models["double"]).todict()["reduction"] == "torch"


def test_a_missing_torch_scatter_is_named_with_the_line_that_installs_it(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_scatter", None)
    message = r"needs torch-scatter.*pip install --no-build-isolation 'eqcalc\[scatter\]'"
    with pytest.raises(MissingDependencyError, match=message):
        EqCalculator(models["double"], reduction="torch-scatter")


def test_a_torch_scatter_of_another_torch_is_refused_too(monkeypatch, tmp_path):
    (tmp_path / "torch_scatter.py").write_text("raise OSError('undefined symbol: _ZN3c10')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch_scatter", raising=False)
    with pytest.raises(MissingDependencyError, match=r"undefined symbol.*builds it for this torch"):
        resolve_reduction("torch-scatter")


def test_an_unknown_reduction_is_refused(models):
    with pytest.raises(ConfigError, match=r"unknown reduction 'torch_scater'.*'torch-scatter'\?"):
        EqCalculator(models["double"], reduction="torch_scater")
