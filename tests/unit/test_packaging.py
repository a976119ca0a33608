"""What a wheel would carry, as setuptools finds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from setuptools import Distribution

from eqcalc.model_file import available_models

ROOT = Path(__file__).parents[2]
NAMED = ("LICENSE", "CMakeLists.txt", "3Dmol-LICENSE.txt")


ASSETS = (".html", ".css", ".js")


@pytest.fixture
def shipped(monkeypatch, tmp_path) -> set[str]:
    """Return the paths inside a wheel of all files that setup.cfg lets in."""
    monkeypatch.chdir(ROOT)
    distribution = Distribution({"script_name": "setup.py"})
    distribution.parse_config_files(["setup.cfg"])
    command = distribution.get_command_obj("build_py")
    command.build_lib = str(tmp_path)
    command.ensure_finalized()
    outputs = command.get_outputs(include_bytecode=False)
    return {Path(path).relative_to(tmp_path).as_posix() for path in outputs}


def test_every_module_is_shipped(shipped):
    modules = (ROOT / "eqcalc").rglob("*.py")
    found = {path.relative_to(ROOT).as_posix() for path in modules}
    found.discard("eqcalc/models/__init__.py")  # only marks the package; see there
    assert {"eqcalc/__init__.py", "eqcalc/calculator/__init__.py"} <= found
    assert found - shipped == set()


def test_every_folder_with_modules_is_a_package():
    folders = {path.parent for path in (ROOT / "eqcalc").rglob("*.py")}
    assert [folder for folder in folders if not (folder / "__init__.py").exists()] == []


def test_every_file_of_a_shipped_model_is_shipped(shipped):
    files = [path for path in (ROOT / "models").glob("*/*") if path.is_file()]
    found = {f"eqcalc/{path.relative_to(ROOT).as_posix()}" for path in files}
    assert {f"eqcalc/models/{name}/model.pt" for name in available_models()} <= found
    assert found - shipped == set()


def test_sources_of_the_library_and_the_marker_of_types_are_shipped(shipped):
    sources = [p for p in (ROOT / "eqcalc" / "native").iterdir() if p.suffix in (".cpp", ".h")]
    assert sources
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= shipped
    assert "eqcalc/py.typed" in shipped


def test_what_a_report_is_made_of_is_shipped(shipped):
    assets = ROOT / "eqcalc" / "report" / "assets"
    found = {path.relative_to(ROOT).as_posix() for path in assets.iterdir()}
    assert {path.rpartition("/")[2] for path in found} >= {"3Dmol-min.js", "3Dmol-LICENSE.txt"}
    assert found <= shipped


def test_nothing_but_the_package_is_shipped(shipped):
    assert {path.split("/")[0] for path in shipped} == {"eqcalc"}
    suffixes = {Path(p).suffix for p in shipped - {"eqcalc/py.typed"} if Path(p).name not in NAMED}
    assert suffixes <= {".py", ".cpp", ".h", ".pt", ".md", ".toml", ".json", *ASSETS}
