"""Every potential of the registry, eager and exported, in both precisions; compiled if slow."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import geometries
import pytest
import torch
from small import POTENTIALS, small_potential
from subjects import Subject, exported_subject, potential_subject

from eqcalc.engines import load_model
from eqcalc.export import export_model


@pytest.fixture(scope="session")
def model_files(tmp_path_factory: pytest.TempPathFactory):
    """Return a function name -> path of the exported float32 potential."""
    folder = tmp_path_factory.mktemp("models")

    @cache
    def path(name: str) -> Path:
        file = folder / f"{name}.pt"
        export_model(small_potential(name), file, elements=geometries.ELEMENTS)
        return file

    return path


@pytest.fixture(scope="session")
def package_cache(tmp_path_factory: pytest.TempPathFactory):
    """Keep what is compiled in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQCALC_CACHE", str(tmp_path_factory.mktemp("packages")))
        yield


@pytest.fixture(scope="session")
def subjects(model_files, package_cache):
    """Return a function (name, form, dtype) -> Subject."""

    @cache
    def subject(name: str, form: str, dtype: str) -> Subject:
        label = f"{name}, {form}, {dtype}"
        if form == "compiled":
            model = load_model(model_files(name), device="cpu", dtype=dtype, engine="inductor")
            assert model.engine.name == "inductor", model.engine_report()
            return exported_subject(model, label)
        if form == "exported":
            model = load_model(model_files(name), device="cpu", dtype=dtype)
            return exported_subject(model, label)
        potential = small_potential(name)
        return potential_subject(potential.double() if dtype == "float64" else potential, label)

    return subject


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for them all architectures, forms and precisions."""
    forms, dtypes = ("eager", "exported"), ("float64", "float32")
    # A compilation takes up to a minute. In float32 some of them have tables and kernels.
    compiled = [(n, "compiled", "float32") for n in POTENTIALS]
    compiled_exact = [(n, "compiled", "float64") for n in ("painn", "schnet")]
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", POTENTIALS)
    if "subject" in metafunc.fixturenames:
        cases = [(n, f, d) for n in POTENTIALS for f in forms for d in dtypes]
        _parametrize(metafunc, "subject", cases, compiled + compiled_exact)
    if "exact_subject" in metafunc.fixturenames:
        cases = [(n, f, "float64") for n in POTENTIALS for f in forms]
        _parametrize(metafunc, "exact_subject", cases, compiled_exact)


def _parametrize(
    metafunc: pytest.Metafunc,
    fixture: str,
    cases: list[tuple[str, str, str]],
    slow: list[tuple[str, str, str]],
) -> None:
    parameters = [pytest.param(case, id="-".join(case)) for case in cases]
    parameters += [pytest.param(c, id="-".join(c), marks=pytest.mark.slow) for c in slow]
    metafunc.parametrize(fixture, parameters, indirect=True)


@pytest.fixture
def subject(request: pytest.FixtureRequest, subjects) -> Subject:
    """One architecture in one form and precision."""
    return subjects(*request.param)


@pytest.fixture
def exact_subject(request: pytest.FixtureRequest, subjects) -> Subject:
    """One architecture in one form, float64."""
    return subjects(*request.param)


@pytest.fixture
def potential(name: str):
    """The eager potential of an architecture in float64."""
    with torch.random.fork_rng():
        return small_potential(name).double()
