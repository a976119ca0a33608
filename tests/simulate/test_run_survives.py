"""Whatever ends a run, its files hold whole frames and whole lines."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import ase.io
import pytest
from ase.build import molecule
from ase.io.trajectory import Trajectory

from eqcalc.errors import GraphError, HalfFrameWarning, NonFiniteError, OutputError
from eqcalc.files import AppendFile, write_whole
from eqcalc.simulate import MDRun, MDSettings, StopRequested, run_md
from eqcalc.simulate.failures import telling_where
from eqcalc.simulate.interrupts import StopOnSignal
from eqcalc.simulate.structures import read_structures
from eqcalc.simulate.thermo import read_table
from eqcalc.simulate.writers import open_trajectory

HERE = Path(__file__).parent
NAMES = {"traj": "trajectory.traj", "extxyz": "trajectory.xyz"}
FORMATS = pytest.mark.parametrize("fmt", list(NAMES))


def start_victim(folder: Path, fmt: str, n_steps: int, max_bytes: int = 0) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}"}
    command = [sys.executable, str(HERE / "victim.py"), folder, fmt, n_steps, max_bytes]
    return subprocess.Popen(
        list(map(str, command)),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_bytes(path: Path, n_bytes: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 600  # so that nothing hangs for ever
    while not (path.exists() and path.stat().st_size > n_bytes):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"{path} did not grow"
        time.sleep(0.01)


def check_files(folder: Path, fmt: str, *, killed: bool = False) -> int:
    """Assert that every frame and line is whole, and return the number of frames.

    The kernel may end the last write of a killed process at a page; then it is left out.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if killed else "error", HalfFrameWarning)
        frames = read_structures(folder / NAMES[fmt])
    table = read_table(folder / "thermo.csv")
    # a frame is written before its line
    assert len(frames) - len(table["step"]) in (0, 1)
    assert [f.info["step"] for f in frames] == list(range(len(frames)))
    for frame, energy in zip(frames, table["potential_energy_eV"], strict=False):
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        assert frame.get_forces().shape == frame.get_momenta().shape == (9, 3)
    return len(frames)


@FORMATS
def test_killed_run_leaves_whole_frames(tmp_path, fmt):
    process = start_victim(tmp_path, fmt, 100_000)
    wait_for_bytes(tmp_path / NAMES[fmt], 60_000, process)
    process.kill()
    process.communicate()
    assert check_files(tmp_path, fmt, killed=True) > 20
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "running"


@FORMATS
def test_full_disk_stops_the_run_with_whole_frames(tmp_path, fmt):
    process = start_victim(tmp_path, fmt, 500, max_bytes=40_000)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 2, err
    assert f"cannot write to '{tmp_path / NAMES[fmt]}': File too large" in out
    assert "everything written before is complete" in out
    assert check_files(tmp_path, fmt) > 10
    assert (tmp_path / NAMES[fmt]).stat().st_size < 40_000
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert "File too large" in manifest["error"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_completes_all_files_and_stops_a_script(tmp_path, number):
    process = start_victim(tmp_path, "traj", 100_000)
    wait_for_bytes(tmp_path / "trajectory.traj", 30_000, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=600)
    assert process.returncode != 0
    assert "of 100000; everything up to there is in" in err
    n_frames = check_files(tmp_path, "traj")
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest["status"] == "interrupted"
    assert manifest["steps_done"] == n_frames - 1
    assert ase.io.read(tmp_path / "final.xyz").info["step"] == n_frames - 1
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_first_signal_is_noted_and_the_second_acts():
    with StopOnSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_stop_request_names_the_step(tmp_path):
    from springs import Springs, ethanol

    def interrupt(now) -> None:
        if now.thermo.step == 10:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(
        StopRequested, match=r"step 11 of 100; .*eqcalc md --resume .* goes on"
    ) as caught:
        run_md(
            ethanol(),
            Springs(ethanol()),
            MDSettings(n_steps=100),
            tmp_path / "run",
            progress=interrupt,
        )
    assert caught.value.signal_number == signal.SIGINT
    frames = ase.io.read(tmp_path / "run" / "trajectory.traj", ":")
    assert [f.info["step"] for f in frames] == [0, 10, 11]


def test_run_outside_the_main_thread_works(tmp_path):
    from springs import Springs, ethanol

    def work() -> None:
        run_md(ethanol(), Springs(ethanol()), MDSettings(n_steps=2), tmp_path / "run")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "complete"


def test_traj_is_what_ase_writes_and_appends_to(tmp_path):
    frames = [molecule("H2O"), molecule("CH4"), molecule("CH4")]
    for number, frame in enumerate(frames * 20):
        frame = frame.copy()
        frame.rattle(0.01, seed=number)
        frames.append(frame)
    writer = open_trajectory(tmp_path / "a.traj", "traj")
    with Trajectory(tmp_path / "a.traj") as empty:
        assert len(empty) == 0
    for frame in frames:
        writer.write(frame)
    writer.close()
    with Trajectory(tmp_path / "a.traj", "a") as more:
        more.write(molecule("N2"))
    read = ase.io.read(tmp_path / "a.traj", ":")
    assert len(read) == len(frames) + 1
    assert all(a == b for a, b in zip(read, [*frames, molecule("N2")], strict=True))


class FullFile:
    """A file on a disk that takes no more than ``room`` bytes."""

    def __init__(self, inner, room: int):
        self.inner, self.room = inner, room

    def write(self, piece) -> int:
        if self.room == 0:
            raise OSError(28, "No space left on device")
        taken = self.inner.write(bytes(piece[: self.room]))
        self.room -= taken
        return taken

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_piece_that_does_not_fit_is_taken_back(tmp_path):
    file = AppendFile(tmp_path / "a.csv")
    file.append(b"whole\n")
    file._file = FullFile(file._file, room=3)
    with pytest.raises(OutputError, match=r"cannot write to '.*a\.csv': No space left"):
        file.append(b"half of it\n")
    file.close()
    assert (tmp_path / "a.csv").read_bytes() == b"whole\n"


def test_header_of_a_trajectory_that_cannot_be_written_is_reported(tmp_path):
    file = AppendFile(tmp_path / "a.traj")
    file.append(b"12345678")
    file._file = FullFile(file._file, room=0)
    with pytest.raises(OutputError, match=r"cannot write to '.*a\.traj': No space left"):
        file.patch(0, b"1")
    file.close()


def test_file_that_cannot_be_created_is_named(tmp_path):
    with pytest.raises(OutputError, match=r"cannot create '.*nowhere.a\.csv': No such file"):
        AppendFile(tmp_path / "nowhere" / "a.csv")


def test_write_whole_keeps_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "plot.png"
    write_whole(path, b"old")
    (tmp_path / "plot.png.part").mkdir()  # nothing can be written there
    with pytest.raises(OutputError, match=r"cannot write '.*plot\.png'"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"


@FORMATS
def test_trajectory_counts_only_whole_frames(tmp_path, fmt):
    writer = open_trajectory(tmp_path / NAMES[fmt], fmt)
    assert writer.n_frames == 0
    writer.write(molecule("H2O"))
    assert writer.n_frames == 1
    disk = writer._file if fmt == "extxyz" else writer._stage._file
    disk._file = FullFile(disk._file, room=3)
    with pytest.raises(OutputError, match="No space left"):
        writer.write(molecule("H2O"))
    assert writer.n_frames == 1
    writer.close()


def test_no_good_frame_is_claimed_where_none_was_written(tmp_path):
    from springs import Springs, ethanol

    run = MDRun(ethanol(), Springs(ethanol()), MDSettings())
    writer = open_trajectory(tmp_path / "a.traj", "traj")
    with pytest.raises(GraphError, match=r"^no energy\.$"), telling_where(run.dynamics, writer):
        raise GraphError("no energy.")
    writer.write(ethanol())
    expected = r"after step 0: no energy\. The last good frame is in .*a\.traj\. Start"
    with pytest.raises(NonFiniteError, match=expected), telling_where(run.dynamics, writer):
        raise GraphError("no energy.")
    writer.close()
