"""The examples in the docstrings give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import eqcalc

MODULES = [
    module.name
    for module in pkgutil.walk_packages(eqcalc.__path__, "eqcalc.")
    if not module.name.startswith("eqcalc.models")
]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_hold(name):
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0


def test_some_docstring_examples_were_found():
    attempted = [doctest.testmod(importlib.import_module(name)).attempted for name in MODULES]
    assert sum(attempted) >= 10
