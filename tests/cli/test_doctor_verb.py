"""eqcalc doctor as a user types it, in sound and in broken environments."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def doctor(
    *words: str, path: Path | None = None, **environment: str
) -> subprocess.CompletedProcess:
    """Run the verb in a process whose import path begins with a folder."""
    paths = [str(folder) for folder in (path, ROOT) if folder is not None]
    return subprocess.run(
        [sys.executable, "-m", "eqcalc", "doctor", *words],
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": os.pathsep.join(paths), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_sound_installation_ends_with_0_and_a_table(tmp_path):
    done = doctor(EQCALC_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok    energies and forces  ethanol: -42")
    assert max(map(len, lines)) <= 80
    for topic in ("python", "torch", "cpu", "cuda", "threads", "compiler", "cache", "inductor"):
        assert any(line[6:].startswith(topic) for line in lines), topic
    assert re.search(r"-> [a-z0-9-]+: not compiled", done.stdout)
    assert lines[-1] == "energies and forces can be computed"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("module", "line", "words"),
    [
        ("torch", "raise OSError('libc10.so: cannot open')", "OSError: libc10.so: cannot open"),
        ("ase", "import os; os.abort()", "the process was killed by SIGABRT"),
    ],
)
def test_broken_package_ends_with_1_and_is_named(tmp_path, module, line, words):
    (tmp_path / f"{module}.py").write_text(line + "\n")
    done = doctor("--json", path=tmp_path)
    assert done.returncode == 1, done.stderr
    content = json.loads(done.stdout)
    assert content["can_compute"] is False
    first = content["remarks"][0]
    assert first["state"] == "BROKEN"
    assert first["found"] == f"{module} cannot be imported: {words}"
    assert first["advice"].startswith(f"install {module} again")
    assert "Traceback" not in done.stderr


def test_unusable_compiler_and_cache_are_noted_and_energies_computed(tmp_path):
    (tmp_path / "file").write_text("")
    done = doctor("--json", CXX="/nowhere/g++", EQCALC_CACHE=str(tmp_path / "file" / "cache"))
    assert done.returncode == 0, done.stderr
    remarks = {remark["topic"]: remark for remark in json.loads(done.stdout)["remarks"]}
    assert "cannot run the C++ compiler '/nowhere/g++'" in remarks["compiler"]["found"]
    assert "set EQCALC_CACHE" in remarks["cache"]["advice"]
    assert remarks["energies and forces"]["state"] == "ok"


def test_doctor_takes_no_words():
    done = doctor("everything")
    assert done.returncode == 2
    assert "everything" in done.stderr
