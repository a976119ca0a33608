"""What every test shares: one thread, two processes, and globals that are left as found."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from small_models import write_models

from eqcalc.native import build
from eqcalc.native.package_cache import PackageCache
from eqcalc.training import kernels

ROOT = Path(__file__).parents[1]

# How long an example takes on a machine that others use too is no reason to fail.
hypothesis.settings.register_profile(
    "eqcalc", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("eqcalc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, help="how many cases each test of tests/fuzz tries")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes, unless the command line says otherwise.

    Tests that are named on the command line run in one, where a debugger works. Not an option
    in setup.cfg, because pytest would refuse it where pytest-xdist is left out.
    """
    option = config.option
    if (
        config.pluginmanager.hasplugin("xdist")
        and not hasattr(config, "workerinput")  # this process is one of the two
        and config.args_source is not pytest.Config.ArgsSource.ARGS
        and option.numprocesses is None
        and not (option.tx or option.usepdb or option.collectonly)
        and (os.cpu_count() or 1) > 1
    ):
        option.numprocesses = 2
        if option.dist == "no":
            # Neighbouring tests share fixtures: each process has a stretch of them, and takes
            # over from the other's end only when its own are done.
            option.dist = "worksteal"


def pytest_sessionstart() -> None:
    # On a machine whose cores are shared, two threads can be ten times slower than one.
    torch.set_num_threads(1)
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # the processes that tests start
    # What is printed has neither colours nor the width of a terminal that the shell or a service
    # that runs tests asks for; before the command line is imported, which reads some of them then.
    for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "NO_COLOR", "PY_COLORS", "TERMINAL_WIDTH",
                 "TTY_COMPATIBLE", "TTY_INTERACTIVE"):  # fmt: skip
        os.environ.pop(name, None)
    os.environ["COLUMNS"] = "80"
    # A shell that starts the tests in the background lets them, and every process they
    # start, ignore Ctrl-C; what Ctrl-C does is among the things tested.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def acting_hangup() -> Iterator[None]:
    """Let SIGHUP act, here and in processes that the test starts, also below ``nohup``."""
    former = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, former)


@pytest.fixture(autouse=True)
def untouched_globals() -> Iterator[None]:
    """Fail a test that leaves another default dtype or grad mode behind.

    Seeds are put back: no test's numbers depend on the tests that ran before it.
    """
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002
    yield
    torch.set_rng_state(torch_state)
    np.random.set_state(numpy_state)  # noqa: NPY002
    dtype, grad_enabled = torch.get_default_dtype(), torch.is_grad_enabled()
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    assert dtype == torch.float32, f"the test left the default dtype at {dtype}"
    assert grad_enabled, "the test left gradients disabled"


# --- folders


@pytest.fixture(scope="session")
def session_folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return a folder that all processes of this session share, and no other session."""
    base = tmp_path_factory.getbasetemp()
    # Not by PYTEST_XDIST_WORKER: a session that a test starts has that variable too.
    folder = (base.parent if hasattr(request.config, "workerinput") else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let no test find what the user has compiled, or leave anything there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQCALC_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(scope="session")
def library_folder(session_folder: Path) -> Path:
    """Return a cache folder for the C++ library: EQCALC_TEST_LIBRARY, which outlives a session."""
    return Path(os.environ.get("EQCALC_TEST_LIBRARY", session_folder / "library"))


@pytest.fixture(scope="session", autouse=True)
def library_built_once(library_folder: Path) -> Iterator[None]:
    """Let a cache that is empty take the C++ library that another test has built: a minute each."""
    compile_sources = build._build

    def take(library: Path) -> None:
        if "CXX" in os.environ:  # a test of compilers
            compile_sources(library)
            return
        build.find_compiler()  # there may be none
        built = PackageCache(library_folder, ".so").make(build._key(), compile_sources)
        shutil.copyfile(built, library)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "_build", take)
        # Which test is the first to train is left to chance: none has it said that it builds.
        patch.setattr(kernels, "find_library", lambda: library_folder)
        yield


@pytest.fixture(scope="session")
def models(session_folder: Path) -> dict[str, Path]:
    """Return model files by name: double, single, other, short."""
    return write_models(session_folder / "models")


@pytest.fixture(scope="session")
def library_cache(session_folder: Path) -> Path:
    """Return a cache folder that holds the C++ library and nothing else, to be copied."""
    folder = session_folder / "library-alone"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQCALC_CACHE", str(folder))
        build.build_library()
    return folder


@pytest.fixture
def library_built(library_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the test a cache of its own in which the C++ library is built; return the folder."""
    folder = tmp_path / "cache"
    shutil.copytree(library_cache, folder, dirs_exist_ok=True)
    monkeypatch.setenv("EQCALC_CACHE", str(folder))
    return folder


@pytest.fixture
def whole_data() -> Path:
    """Return the folder of the whole data sets, for tests that are marked ``data``."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.fail(
            f"there is no folder {folder}: tests marked 'data' read whole data sets beside the "
            "checkout. Leave -m data out; tests/data/README.md says where the sets come from.",
            pytrace=False,
        )
    return folder
