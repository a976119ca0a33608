"""A run whose output is removed, or that is stopped by whatever means, loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import ase.io
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from springs import Springs, ethanol

from eqcalc.errors import OutputError, OutputLostError
from eqcalc.files import AppendFile
from eqcalc.simulate import (
    MDSettings,
    RelaxSettings,
    StopRequested,
    failures,
    manifest,
    run_md,
    run_relax,
    writers,
)
from eqcalc.simulate.interrupts import StopOnSignal
from eqcalc.simulate.manifest import RunManifest
from eqcalc.simulate.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
SETTINGS = MDSettings(n_steps=6, log_every=1, trajectory_format="extxyz")
FORMATS = pytest.mark.parametrize("fmt", ["traj", "extxyz"])
POSIX = pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="signals of POSIX")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> Path:
    """Run in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def md_that_does(action, at: int = 3, fmt: str = "extxyz", folder: str = "a/run") -> None:
    """Run dynamics and call ``action`` once the step ``at`` is written."""

    def show(now) -> None:
        if now.thermo.step == at:
            action()

    settings = MDSettings(n_steps=6, log_every=1, trajectory_format=fmt)
    run_md(ethanol(), Springs(ethanol()), settings, folder, progress=show)


def status(folder: str = "a/run") -> dict:
    return json.loads(Path(folder, "manifest.json").read_text())


# --- removed ----------------------------------------------------------------------------


@FORMATS
@pytest.mark.parametrize(("at", "last"), [(0, 0), (3, 4), (6, 6)])
def test_removed_folder_ends_the_run_with_the_structure_beside_it(fmt, at, last):
    expected = r"was removed or replaced .*last structure is in '.*a.run-final\.xyz'\.$"
    with pytest.raises(OutputLostError, match=expected):
        md_that_does(lambda: shutil.rmtree("a/run"), at, fmt)
    assert not Path("a/run").exists()
    assert ase.io.read("a/run-final.xyz").info["step"] == last


@pytest.mark.parametrize("name", ["trajectory.xyz", "thermo.csv"])
@pytest.mark.parametrize("at", [2, 6])
def test_removed_file_ends_the_run_as_failed(name, at):
    with pytest.raises(OutputLostError, match=rf"{name}' was removed or replaced"):
        md_that_does(lambda: Path("a/run", name).unlink(), at)
    assert status()["status"] == "failed"
    assert "was removed or replaced" in status()["error"]
    assert ase.io.read("a/run/final.xyz").info["step"] == min(at + 1, 6)


def test_removed_manifest_is_noticed_at_the_end():
    with pytest.raises(OutputLostError, match=r"manifest\.json"):
        md_that_does(lambda: Path("a/run/manifest.json").unlink())
    assert status()["status"] == "failed"


def test_moved_and_replaced_files_are_not_the_run_s():
    def replace() -> None:
        Path("a/run/trajectory.xyz").rename("a/old.xyz")
        Path("a/run/trajectory.xyz").write_text("another's")

    with pytest.raises(OutputLostError, match=r"trajectory\.xyz' was removed or replaced"):
        md_that_does(replace)
    assert Path("a/run/trajectory.xyz").read_text() == "another's"
    assert len(ase.io.read("a/old.xyz", ":")) == 4


def test_folder_taken_by_another_run_stays_that_run_s():
    def another_run() -> None:
        run_md(ethanol(), Springs(ethanol()), SETTINGS, "a/run", overwrite=True)

    with pytest.raises(OutputLostError, match=r"last structure is in '.*run-final\.xyz'"):
        md_that_does(another_run)
    assert status()["status"] == "complete"
    assert ase.io.read("a/run/final.xyz").info["step"] == 6


def test_rescued_structure_never_replaces_a_file():
    Path("a").mkdir()
    Path("a/run-final.xyz").write_text("mine")
    with pytest.raises(OutputLostError, match=r"last structure is in '.*a.run-2-final\.xyz'"):
        md_that_does(lambda: shutil.rmtree("a/run"))
    assert Path("a/run-final.xyz").read_text() == "mine"


def test_removed_folder_of_a_relaxation_is_noticed():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)

    def remove(now) -> None:
        if now.step == 1:
            shutil.rmtree("a/run")

    with pytest.raises(OutputLostError, match=r"in '.*a.run-relaxed\.xyz'"):
        run_relax(atoms, EMT(), RelaxSettings(max_steps=4, fmax=1e-9), "a/run", progress=remove)
    assert ase.io.read("a/run-relaxed.xyz").info["step"] == 2


def test_file_that_is_gone_takes_no_piece():
    file = AppendFile(Path("a.csv"))
    file.append(b"1\n")
    Path("a.csv").unlink()
    with pytest.raises(OutputLostError, match=r"'a\.csv' was removed or replaced"):
        file.append(b"2\n")
    file.close()


def test_missing_files_of_a_run_are_named():
    folder = RunFolder("a/run")
    folder.claim()
    (folder / "here").write_text("")
    with pytest.raises(OutputLostError, match=r"^gone of 'a.run' was removed"):
        folder.require_files("here", "gone")


# --- full disk --------------------------------------------------------------------------


@FORMATS
def test_full_disk_rescues_the_structure_and_leaves_no_half_files(fmt, monkeypatch):
    def fill() -> None:
        patch.setattr(AppendFile, "_write_at", full)
        patch.setattr(writers, "write_whole", full_here)

    def full(self, position, piece) -> None:
        raise OSError(28, "No space left on device")

    def full_here(path, content) -> None:
        if path.parent.name == "run":
            raise OutputError(f"cannot write '{path}': No space left on device")
        path.write_bytes(content)

    expected = r"cannot write to 'a.run.trajectory.*No space left.*last structure is in '.*a.run-f"
    with monkeypatch.context() as patch, pytest.raises(OutputError, match=expected):
        md_that_does(fill, fmt=fmt)
    assert status()["status"] == "failed"
    assert not list(Path("a/run").glob("*.part"))
    frames = ase.io.read(f"a/run/trajectory.{'traj' if fmt == 'traj' else 'xyz'}", ":")
    assert [frame.info["step"] for frame in frames] == [0, 1, 2, 3]
    assert Path("a/run/thermo.csv").read_text().count("\n") == 5


def test_status_is_true_on_a_disk_that_takes_no_new_file(monkeypatch):
    def full(path, content) -> None:
        raise OutputError(f"cannot write '{path}': No space left on device")

    handle = RunManifest(Path("manifest.json"), {"kind": "md"})
    handle.__enter__()
    monkeypatch.setattr(manifest, "write_whole", full)
    size = Path("manifest.json").stat().st_size
    handle.__exit__(OutputError, OutputError("x" * 5000), None)
    assert Path("manifest.json").stat().st_size == size  # a longer one would not fit
    found = status(".")
    assert found["status"] == "failed"
    assert found["error"].startswith("OutputError: xxx")
    assert found["kind"] == "md"


def test_without_any_place_the_first_reason_is_told(monkeypatch):
    monkeypatch.setattr(failures, "_can_write", lambda path, frame: False)
    with pytest.raises(OutputLostError, match=r"was removed or replaced [^.]*$"):
        md_that_does(lambda: shutil.rmtree("a/run"))


@pytest.mark.parametrize("name", ["thermo.csv", "trajectory.xyz"])
def test_a_file_that_somebody_cuts_during_the_run_is_an_error(name):
    with pytest.raises(OutputLostError, match=rf"{name}' was removed or replaced"):
        md_that_does(lambda: os.truncate(f"a/run/{name}", 10))
    assert status()["status"] == "failed"


# --- signals, pipes, whatever else ------------------------------------------------------


@pytest.mark.usefixtures("acting_hangup")
@POSIX
@pytest.mark.parametrize("name", ["SIGHUP", "SIGTERM", "SIGINT"])
def test_signal_ends_the_run_with_all_files(name):
    number = getattr(signal, name)
    with pytest.raises(StopRequested, match="stopped at step 4 of 6") as caught:
        md_that_does(lambda: signal.raise_signal(number))
    assert caught.value.signal_number == number
    assert status()["status"] == "interrupted"
    assert ase.io.read("a/run/final.xyz").info["step"] == 4


@POSIX
def test_second_signal_ends_at_once_and_the_status_is_true():
    def press_twice() -> None:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StopRequested, match="second signal"):
        md_that_does(press_twice)
    assert status()["status"] == "interrupted"
    assert ase.io.read("a/run/final.xyz").info["step"] == 3


@pytest.mark.usefixtures("acting_hangup")
@POSIX
def test_third_signal_does_not_disturb_the_end():
    with StopOnSignal() as stop:
        signal.raise_signal(signal.SIGHUP)
        with pytest.raises(StopRequested, match="second signal"):
            signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
    assert stop.signal_number == signal.SIGHUP


@POSIX
def test_signal_that_is_ignored_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with StopOnSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert stop.signal_number is None
    finally:
        signal.signal(signal.SIGHUP, former)


@POSIX
def test_signal_while_the_end_is_written_is_no_running_status(monkeypatch):
    handle = RunManifest(Path("manifest.json"), {})
    write = handle._write
    pressed = []

    def interrupted() -> None:
        if not pressed:
            pressed.append(1)
            raise StopRequested("now", 15)
        write()

    with pytest.raises(StopRequested, match="now"), handle:
        monkeypatch.setattr(handle, "_write", interrupted)
    assert status(".")["status"] == "interrupted"


def test_display_that_nobody_reads_stops_the_run():
    def lost() -> None:
        raise BrokenPipeError(32, "Broken pipe")

    with pytest.raises(StopRequested, match="stopped at step 4 of 6") as caught:
        md_that_does(lost)
    assert caught.value.signal_number == 13
    assert status()["status"] == "interrupted"


def test_callback_that_fails_leaves_the_last_structure():
    def fail() -> None:
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        md_that_does(fail)
    assert status()["status"] == "failed"
    assert ase.io.read("a/run/final.xyz").info["step"] == 3


@pytest.mark.usefixtures("acting_hangup")
@POSIX
@pytest.mark.parametrize("ended_by", ["pipe", "hangup"])
def test_closed_terminal_of_the_command_line_ends_the_run_in_order(ended_by):
    atoms = ethanol()
    atoms.rattle(0.2, seed=0)
    ase.io.write("rattled.xyz", atoms)
    words = "relax rattled.xyz --fmax 1e-300 -n 2000000 --optimizer fire -o run"
    command = [sys.executable, str(ROOT / "tests/cli/fake_models.py"), *words.split()]
    with subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        for line in iter(process.stdout.readline, b""):
            if line.startswith(b"step"):  # the run has begun
                break
        process.stdout.close()
        if ended_by == "hangup":
            process.send_signal(signal.SIGHUP)
        err = process.stderr.read()
        code = process.wait(timeout=600)
    # Either may be noticed first where both happen.
    assert code in ({128 + 13} if ended_by == "pipe" else {128 + 13, 128 + 1}), err
    assert err == b""
    assert status("run")["status"] == "interrupted"
    assert ase.io.read("run/relaxed.xyz").info["step"] == status("run")["steps_done"]
