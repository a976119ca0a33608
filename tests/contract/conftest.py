"""Every potential of the registry, eager and exported, in both precisions; compiled if slow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from made_once import made_once
from small import POTENTIALS, small_potential

from eqcalc.concessions import declared
from eqcalc.engines import load_model
from eqcalc.export import export_model
from eqcalc.testing.geometries import ELEMENTS
from eqcalc.testing.laws import ANY_PRECISION, FLOAT64, NETWORK, law_name
from eqcalc.testing.subjects import Subject, exported_subject, potential_subject

# A compilation takes up to a minute. In float32 some of them have tables and kernels. Most of the
# exhaustive ones are compiled by tests of ranks that exchange features, too.
OFTEN = {("painn", "float64"), *((name, "float32") for name in ("dimenetpp", "nequip", "painn"))}
COMPILED = [(name, "compiled", "float32") for name in POTENTIALS]
COMPILED += [(name, "compiled", "float64") for name in ("painn", "schnet")]


@pytest.fixture(scope="session")
def model_files(session_folder: Path) -> Callable[[str], Path]:
    """Return a function name -> path of the exported float32 potential."""

    def path(name: str) -> Path:
        def export(file: Path) -> None:
            export_model(small_potential(name), file, elements=ELEMENTS)

        return made_once(session_folder / "contract-models" / f"{name}.pt", export)

    return path


@pytest.fixture(scope="session")
def package_cache(session_folder: Path) -> Iterator[None]:
    """Keep what is compiled in a folder of this session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQCALC_CACHE", str(session_folder / "contract"))
        yield


@pytest.fixture(scope="session")
def subjects(model_files, package_cache) -> Callable[[str, str, str], Subject]:
    """Return a function (name, form, dtype) -> Subject."""

    @cache
    def subject(name: str, form: str, dtype: str) -> Subject:
        label = f"{name}, {form}, {dtype}"
        potential = small_potential(name)
        if form == "eager":
            return potential_subject(
                potential.double() if dtype == "float64" else potential, label, elements=ELEMENTS
            )
        engine = "inductor" if form == "compiled" else "auto"
        model = load_model(model_files(name), device="cpu", dtype=dtype, engine=engine)
        assert form == "exported" or model.engine.name == "inductor", model.engine_report()
        concessions = declared(potential.architecture)
        return exported_subject(model, label, concessions=concessions)

    return subject


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give every test that asks for them all architectures, and every law all its subjects."""
    if "compiled_name" in metafunc.fixturenames:
        metafunc.parametrize(
            "compiled_name",
            [pytest.param(name, marks=_mark(name, "compiled", "float32")) for name in POTENTIALS],
        )
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", POTENTIALS)
    if {"subject", "law"} <= set(metafunc.fixturenames):
        forms = [
            (form, dtype) for form in ("eager", "exported") for dtype in ("float64", "float32")
        ]
        cases = [(name, *form) for name in POTENTIALS for form in forms]
        parameters = [
            pytest.param(
                case,
                law,
                id="-".join([*case, law_name(law)]),
                marks=_mark(*case) if case in COMPILED else (),
            )
            for case in cases + COMPILED
            for law in _laws_of(*case[1:])
        ]
        metafunc.parametrize(("subject", "law"), parameters, indirect=["subject"])


def _mark(name: str, form: str, dtype: str) -> pytest.MarkDecorator:
    return pytest.mark.slow if (name, dtype) in OFTEN else pytest.mark.exhaustive


def _laws_of(form: str, dtype: str) -> list[Callable[[Subject], None]]:
    laws = [*ANY_PRECISION, *(FLOAT64 if dtype == "float64" else ())]
    return [*laws, *(NETWORK if (form, dtype) == ("eager", "float64") else ())]


@pytest.fixture
def subject(request: pytest.FixtureRequest, subjects) -> Subject:
    """One architecture in one form and precision."""
    return subjects(*request.param)
