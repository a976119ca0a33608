"""What is offered by name is all there, and what is there is offered."""

from __future__ import annotations

import importlib
import inspect

import pytest

from eqcalc import EqCalculator, errors, load_model
from eqcalc.engines import ENGINES


def test_every_exception_and_warning_is_listed():
    own = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value)
        and issubclass(value, (Exception, Warning))
        and value.__module__ == errors.__name__
    }
    assert own <= set(errors.__all__)


@pytest.mark.parametrize("documented", [EqCalculator, load_model])
def test_every_engine_is_in_the_docstring(documented):
    text = inspect.getdoc(documented)
    assert [name for name in ENGINES if f'"{name}"' not in text] == []


@pytest.mark.parametrize("package", ["eqcalc.training", "eqcalc.dynamics"])
def test_names_that_are_imported_late_are_all_there(package):
    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        module.nothing  # noqa: B018
