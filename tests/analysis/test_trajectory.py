"""Frames read one at a time, of every kind of file and with every kind of damage."""

from __future__ import annotations

import gzip

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.calculators.emt import EMT

from eqcalc.analysis import Trajectory
from eqcalc.errors import HalfFrameWarning, StructureError
from eqcalc.simulate import MDSettings, run_md


def frames(n: int = 7, n_atoms: int = 3) -> list[Atoms]:
    rng = np.random.default_rng(0)
    return [
        Atoms(f"Ar{n_atoms}", rng.normal(size=(n_atoms, 3)), info={"time_fs": 2.0 * k})
        for k in range(n)
    ]


@pytest.fixture(scope="module", params=["traj", "extxyz"])
def folder(request, tmp_path_factory):
    """The folder of a run in each format."""
    settings = MDSettings(n_steps=40, log_every=4, trajectory_format=request.param)
    target = tmp_path_factory.mktemp("run") / request.param
    return run_md(molecule("CH3CH2OH"), EMT(), settings, target).folder


def test_frames_of_a_run_are_those_that_ase_reads(folder):
    with Trajectory(folder) as trajectory:
        expected = ase.io.read(trajectory.path, ":")
        assert trajectory.is_of_a_run
        assert len(trajectory) == len(expected) == 11
        for k in (10, 0, 4):
            np.testing.assert_array_equal(trajectory[k].positions, expected[k].positions)
            np.testing.assert_array_equal(trajectory[k].get_momenta(), expected[k].get_momenta())
            assert trajectory[k].info["time_fs"] == expected[k].info["time_fs"]


@pytest.mark.parametrize("name", ["f.xyz", "f.extxyz", "f.traj", "f.pdb", "f.xyz.gz"])
def test_foreign_files_are_read(tmp_path, name):
    expected = frames()
    if name.endswith(".gz"):
        ase.io.write(tmp_path / "f.xyz", expected)
        (tmp_path / name).write_bytes(gzip.compress((tmp_path / "f.xyz").read_bytes()))
    else:
        ase.io.write(tmp_path / name, expected)
    with Trajectory(tmp_path / name) as trajectory:
        assert not trajectory.is_of_a_run
        assert len(trajectory) == 7
        np.testing.assert_allclose(trajectory[6].positions, expected[6].positions, atol=1e-3)


@pytest.mark.parametrize("end", ["", "\n", "\n\n  \n"])
def test_foreign_text_may_end_as_it_likes(tmp_path, end):
    ase.io.write(tmp_path / "f.xyz", frames())
    text = (tmp_path / "f.xyz").read_text().rstrip()
    (tmp_path / "f.xyz").write_text(text + end)
    with Trajectory(tmp_path / "f.xyz") as trajectory:
        assert len(trajectory) == 7
        np.testing.assert_allclose(trajectory[6].positions, frames()[6].positions, atol=1e-7)


def test_text_is_looked_through_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr("eqcalc.analysis.trajectory._PIECE", 37)
    ase.io.write(tmp_path / "f.xyz", frames())
    with Trajectory(tmp_path / "f.xyz") as trajectory:
        assert len(trajectory) == 7
        for k, expected in enumerate(frames()):
            np.testing.assert_allclose(trajectory[k].positions, expected.positions, atol=1e-7)


def test_half_a_frame_of_a_killed_run_is_left_out(folder, tmp_path):
    import shutil

    run = shutil.copytree(folder, tmp_path / "run")
    path = next(p for p in run.iterdir() if p.stem == "trajectory")
    content = path.read_bytes()
    if path.suffix == ".traj":
        broken = bytearray(content)
        broken[-600:] = b"\x00" * 600
        path.write_bytes(bytes(broken))
    else:
        path.write_bytes(content[:-30])
    with pytest.warns(HalfFrameWarning, match="10 whole frames are there"):
        trajectory = Trajectory(run)
    with trajectory:
        assert len(trajectory) == 10
        assert len(trajectory[9]) == 9


def test_run_that_was_killed_within_the_number_of_atoms_is_said_to_be(tmp_path):
    (tmp_path / "manifest.json").write_text('{"kind": "md"}')
    path = tmp_path / "trajectory.xyz"
    ase.io.write(path, frames(n_atoms=12), format="extxyz")
    path.write_text(path.read_text() + "1")
    with (
        pytest.warns(HalfFrameWarning, match="1 bytes of half a frame are left out"),
        Trajectory(tmp_path) as trajectory,
    ):
        assert len(trajectory) == 7


def test_run_whose_trajectory_lost_a_line_is_not_said_to_be_killed(tmp_path):
    (tmp_path / "manifest.json").write_text('{"kind": "md"}')
    path = tmp_path / "trajectory.xyz"
    ase.io.write(path, frames(n_atoms=12), format="extxyz")
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:20] + lines[21:]))
    with (
        Trajectory(tmp_path) as trajectory,  # a warning would be an error here
        pytest.raises(StructureError, match=r"frame 1 of .* cannot be read"),
    ):
        list(trajectory.frames(range(len(trajectory))))


def test_foreign_file_that_ends_within_a_frame_is_refused(tmp_path):
    ase.io.write(tmp_path / "f.xyz", frames())
    text = (tmp_path / "f.xyz").read_text()
    (tmp_path / "f.xyz").write_text("\n".join(text.splitlines()[:-1]) + "\n")
    with pytest.raises(StructureError, match="ends within frame 6, or its frames have different"):
        Trajectory(tmp_path / "f.xyz")


@pytest.mark.parametrize("suffix", ["xyz", "traj"])
def test_frames_with_other_numbers_of_atoms_are_refused(tmp_path, suffix):
    path = tmp_path / f"f.{suffix}"
    ase.io.write(path, [*frames(3), *frames(3, n_atoms=8)])
    with pytest.raises(StructureError, match=r"ends within|in each|different"):  # noqa: SIM117
        with Trajectory(path) as trajectory:
            list(trajectory.frames(range(len(trajectory))))


def test_frames_whose_atoms_change_their_order_are_refused(tmp_path):
    one = Atoms("HO", [[0, 0, 0], [1, 0, 0]])
    ase.io.write(tmp_path / "f.traj", [one, one[[1, 0]]])
    with (
        Trajectory(tmp_path / "f.traj") as trajectory,
        pytest.raises(StructureError, match=r"frame 1 of .* or has them in another order"),
    ):
        trajectory[1]


def test_missing_empty_and_foreign_files_are_refused(tmp_path):
    with pytest.raises(StructureError, match=r"no trajectory '.*nowhere.traj'; expected a file"):
        Trajectory(tmp_path / "nowhere.traj")
    with pytest.raises(StructureError, match=r"holds no trajectory \(trajectory.traj, "):
        Trajectory(tmp_path)
    (tmp_path / "empty.xyz").write_text("")
    with pytest.raises(StructureError, match="is empty"):
        Trajectory(tmp_path / "empty.xyz")
    (tmp_path / "words.xyz").write_text("hello\nworld\n")
    with pytest.raises(StructureError, match="is to be the number of atoms, and is 'hello'"):
        Trajectory(tmp_path / "words.xyz")
    (tmp_path / "words.traj").write_text("hello\nworld\n")
    with pytest.raises(StructureError, match="is no trajectory of ASE's"):
        Trajectory(tmp_path / "words.traj")
    ase.io.write(tmp_path / "zero.traj", Atoms())
    with pytest.raises(StructureError, match="have no atoms"):
        Trajectory(tmp_path / "zero.traj")


def test_frame_with_a_damaged_line_is_named(tmp_path):
    ase.io.write(tmp_path / "f.xyz", frames())
    lines = (tmp_path / "f.xyz").read_text().splitlines()
    lines[12] = "Ar 1.0 oops 3.0"
    (tmp_path / "f.xyz").write_text("\n".join(lines) + "\n")
    with (
        Trajectory(tmp_path / "f.xyz") as trajectory,
        pytest.raises(StructureError, match=r"frame 2 of '.*' cannot be read"),
    ):
        trajectory[2]


def test_run_without_a_frame_is_refused(tmp_path):
    from ase.io.trajectory import TrajectoryWriter

    TrajectoryWriter(tmp_path / "trajectory.traj", mode="w").close()
    with pytest.raises(StructureError, match="holds no frame yet"):
        Trajectory(tmp_path)
