"""What a killed run leaves half written at the end of a file is cut off, and said."""

from __future__ import annotations

import json
import sys
import tracemalloc
import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from springs import Springs, ethanol

from eqcalc.analysis import Trajectory
from eqcalc.errors import HalfFrameWarning, OutputError, StructureError
from eqcalc.simulate import MDSettings, convert_run, read_structure, run_md
from eqcalc.simulate.half_frames import is_of_a_run
from eqcalc.simulate.structures import count_structures, read_structures
from eqcalc.simulate.thermo import read_table


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return the folder of a run of three frames."""
    settings = MDSettings(n_steps=2, log_every=1, trajectory_format="extxyz")
    return run_md(ethanol(), Springs(ethanol()), settings, tmp_path / "run").folder


def _call_running(folder: Path) -> None:
    """Let the manifest say of a run what it says where the process was killed."""
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"complete"', '"running"', 1))


def test_every_cut_within_the_last_frame_gives_the_frames_before(folder):
    path = folder / "trajectory.xyz"
    content = path.read_bytes()
    whole = read_structures(path)
    sizes = np.cumsum([len(part) for part in _frames(content)])
    for end in [*range(sizes[1] + 1, len(content), 37), len(content) - 1]:
        path.write_bytes(content[:end])
        with pytest.warns(HalfFrameWarning, match=f"{end - sizes[1]} bytes of half a frame .* 2 "):
            found = read_structures(path)
        assert len(found) == 2
        assert all(a == b for a, b in zip(found, whole, strict=False))
    _call_running(folder)
    with pytest.warns(HalfFrameWarning, match=r"killed while it wrote"):
        last = read_structure(path)
    assert last.info["step"] == 1
    assert count_structures(path) == 2
    np.testing.assert_array_equal(last.get_forces(), whole[1].get_forces())


def test_whole_trajectory_is_read_without_a_word(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(read_structures(folder / "trajectory.xyz")) == 3


def test_run_killed_within_its_first_frame_has_nothing_to_read(folder):
    path = folder / "trajectory.xyz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(StructureError, match=r"holds no whole frame.*begin again"):
        read_structure(path)


def test_missing_end_of_a_killed_run_leads_to_its_trajectory(folder):
    (folder / "final.xyz").unlink()
    with pytest.raises(StructureError, match=r"did not end; its frames are in '.*trajectory\.xyz'"):
        read_structure(folder / "final.xyz")
    with pytest.raises(StructureError, match=r"other formats that ASE reads\.$"):
        read_structure(folder / "other.xyz")


def test_half_frame_of_a_foreign_file_is_an_error(folder, tmp_path):
    foreign = tmp_path / "trajectory.xyz"
    foreign.write_bytes((folder / "trajectory.xyz").read_bytes()[:-200])
    assert not is_of_a_run(foreign)
    with pytest.raises(StructureError, match="cannot read a structure"):
        read_structure(foreign)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "something else"}))
    assert not is_of_a_run(foreign)
    (tmp_path / "manifest.json").write_text("[")
    assert not is_of_a_run(foreign)


@pytest.mark.parametrize("lost", ["count", "atom"])
def test_frame_that_is_damaged_within_a_file_is_none_that_a_kill_has_cut(lost, folder, tmp_path):
    path = folder / "trajectory.xyz"
    first, second, third = _frames(path.read_bytes())
    if lost == "count":
        second = second.replace(b"9\n", b"?\n", 1)
        place = len(first)
    else:
        second = second[: second.rfind(b"\n", 0, -1) + 1]
        place = len(first + second) + 2  # after the number of the third, taken for an atom
    path.write_bytes(first + second + third)
    new = tmp_path / "new.xyz"
    for read in (read_structure, read_structures, lambda path: convert_run(path.parent, new)):
        with pytest.raises(StructureError, match=f"is damaged at byte {place}: .* should begin"):
            read(path)
    assert not new.exists()


def test_lines_that_are_empty_at_the_end_are_no_damage(folder):
    path = folder / "trajectory.xyz"
    path.write_bytes(path.read_bytes() + b"\n \n")
    with pytest.warns(HalfFrameWarning, match="3 whole frames"):
        assert read_structure(path).info["step"] == 2


def test_whole_part_of_a_killed_run_is_not_held_in_memory(folder):
    path = folder / "trajectory.xyz"
    content = path.read_bytes()
    path.write_bytes(500 * content + content[:-10])
    tracemalloc.start()
    with pytest.warns(HalfFrameWarning, match="1502 whole frames"):
        assert read_structure(path).info["step"] == 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < path.stat().st_size / 2, most


def test_damaged_end_of_a_traj_is_left_out(tmp_path):
    settings = MDSettings(n_steps=5, log_every=1)
    path = run_md(ethanol(), Springs(ethanol()), settings, tmp_path / "run").folder
    path = path / "trajectory.traj"
    content = path.read_bytes()
    path.write_bytes(content[:-40])
    late = r"trajectory\.traj was damaged after the run in '.*' had ended: 1 damaged frames .* 5 wh"
    with pytest.warns(HalfFrameWarning, match=late):
        assert read_structure(path).info["step"] == 4
    with pytest.warns(HalfFrameWarning, match=late), Trajectory(path) as frames:
        assert len(frames) == 5
    with pytest.warns(HalfFrameWarning, match=r"damaged frames"):
        assert len(read_structures(path)) == 5
    assert count_structures(path) == 5
    assert read_structure(path, -2).info["step"] == read_structure(path, 3).info["step"] == 3
    with pytest.raises(StructureError, match=r"has 5 frames and none with the index 5: .* 4 or -1"):
        read_structure(path, 5)
    path.write_bytes(content[: len(content) // 12])
    with pytest.raises(StructureError, match="is damaged"):
        read_structure(path)


def test_half_line_of_a_table_is_left_out(folder):
    path = folder / "thermo.csv"
    whole = read_table(path)
    content = path.read_bytes()
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(start + 1, len(content)):
        path.write_bytes(content[:end])
        with pytest.warns(HalfFrameWarning, match=r"thermo\.csv' ends within a line"):
            table = read_table(path)
        for name, values in table.items():
            np.testing.assert_array_equal(values, whole[name][:-1])


def test_table_that_is_none_is_refused(tmp_path):
    with pytest.raises(OutputError, match=r"cannot read '.*gone\.csv'"):
        read_table(tmp_path / "gone.csv")
    (tmp_path / "odd.csv").write_text("a,b\n1,x\n")
    with pytest.raises(OutputError, match=r"odd\.csv' is no table of a run"):
        read_table(tmp_path / "odd.csv")


def test_command_line_goes_on_from_a_killed_run_and_says_what_it_left_out(
    folder, monkeypatch, capsys
):
    sys.path.insert(0, str(Path(__file__).parents[1] / "cli"))
    import fake_models

    for name, module in fake_models.fakes().items():
        monkeypatch.setitem(sys.modules, name, module)
    _call_running(folder)
    path = folder / "trajectory.xyz"
    path.write_bytes(path.read_bytes()[:-10])
    from eqcalc.cli import main

    with warnings.catch_warnings():
        warnings.simplefilter("default")
        with pytest.raises(SystemExit) as caught:
            main(["md", str(path), "-n", "2", "-e", "nve", "-o", str(folder.parent / "next")])
    captured = capsys.readouterr()
    assert caught.value.code in (0, None), captured.err
    assert captured.out.count("note: the run in") == 1
    assert "2 whole frames are there" in captured.out
    assert "velocities from the file" in captured.out
    first = ase.io.read(folder.parent / "next" / "trajectory.traj", 0)
    np.testing.assert_allclose(
        first.positions, ase.io.read(path, 1, format="extxyz").positions, atol=1e-7
    )


def _frames(content: bytes) -> list[bytes]:
    lines = content.splitlines(keepends=True)
    return [b"".join(lines[k : k + 11]) for k in range(0, len(lines), 11)]
