"""Trajectories for other programs, without the programs."""

import errno
import json
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from springs import Springs, ethanol

from eqcalc.cli import main
from eqcalc.errors import (
    ConfigError,
    HalfFrameWarning,
    MissingDependencyError,
    OutputError,
    OutputExistsError,
    StructureError,
)
from eqcalc.simulate import MDSettings, RelaxSettings, convert_run, run_md, run_relax
from eqcalc.simulate.conversion import Conversion
from eqcalc.simulate.velocities import has_velocities


@pytest.fixture(params=["traj", "extxyz"])
def run(tmp_path, request) -> Path:
    """The folder of a run of 13 steps: frames of 0, 5, 10 and 13."""
    settings = MDSettings(
        "nve", timestep_fs=2.0, n_steps=13, log_every=5, trajectory_format=request.param
    )
    atoms = bulk("Cu", cubic=True)
    return run_md(atoms, EMT(), settings, tmp_path / "run").folder


def frames_of(folder: Path):
    (path,) = folder.glob("trajectory.*")
    return ase.io.read(path, ":")


def test_extended_xyz_has_velocities_in_angstrom_per_fs_and_times(run, tmp_path):
    done = convert_run(run, tmp_path / "out.xyz")
    assert (done.n_frames, done.n_atoms, done.last_fs, done.n_left_out) == (4, 4, 26.0, 0)
    written = ase.io.read(tmp_path / "out.xyz", ":")
    for name in ("Time", "time_fs"):  # as other programs have it, and with its unit
        assert [frame.info[name] for frame in written] == [0.0, 10.0, 20.0, 26.0]
    assert [frame.info["Step"] for frame in written] == [0, 5, 10, 13]
    for frame, source in zip(written, frames_of(run), strict=True):
        expected = source.get_momenta() / source.get_masses()[:, None] * units.fs
        assert frame.arrays["velo"] == pytest.approx(expected, abs=1e-8)
        assert not frame.has("momenta")
        assert frame.positions == pytest.approx(source.positions, abs=1e-8)
        assert frame.get_forces() == pytest.approx(source.get_forces(), abs=1e-8)
        assert frame.get_potential_energy() == pytest.approx(source.get_potential_energy())
        assert np.allclose(frame.cell, source.cell)
    moved = (written[1].positions - written[0].positions) / 10.0
    mean = (written[1].arrays["velo"] + written[0].arrays["velo"]) / 2
    assert moved == pytest.approx(mean, abs=0.25 * np.abs(mean).max())
    with pytest.raises(ConfigError, match="a column 'velo' of velocities, whose unit is not known"):
        has_velocities(written[0])


def test_every_second_frame_is_taken(run, tmp_path):
    done = convert_run(run, tmp_path / "out.xyz", every=2)
    written = ase.io.read(tmp_path / "out.xyz", ":")
    assert [frame.info["Step"] for frame in written] == [0, 10]
    assert done.n_frames == 2


def test_half_frame_of_a_killed_run_is_left_out(run, tmp_path):
    (path,) = run.glob("trajectory.*")
    content = path.read_bytes()
    if path.suffix == ".xyz":
        path.write_bytes(content[:-20])
    else:
        place = content.rfind(b"momenta.")
        path.write_bytes(content[:place] + b"\0" * (len(content) - place))
    with pytest.warns(HalfFrameWarning, match="are left out of traj"):
        done = convert_run(run, tmp_path / "out.xyz")
    assert done.n_frames == 3
    assert len(ase.io.read(tmp_path / "out.xyz", ":")) == 3


@pytest.mark.parametrize("damage", ["frame", "end"])
def test_trajectory_that_is_damaged_is_refused_in_words(damage, run, tmp_path):
    (path,) = run.glob("trajectory.*")
    content = path.read_bytes()
    if damage == "end" and path.suffix == ".traj":  # in its first frame: none is whole
        path.write_bytes(content[: len(content) // 10])
    elif path.suffix == ".traj":
        place = content.find(b"momenta.", content.find(b"momenta.") + 1)
        path.write_bytes(content[:place] + b"\0" * 200 + content[place + 200 :])
    else:
        place = content.find(b"\nCu", content.find(b"Lattice", 500))
        path.write_bytes(content[:place] + b"\nC? " + content[place + 4 :])
    with pytest.raises(StructureError, match=r"trajectory\.\w+' (is damaged|cannot be read): "):
        convert_run(run, tmp_path / "out.xyz")
    assert not (tmp_path / "out.xyz").exists()


def test_verb_says_what_was_written(run, tmp_path, capsys):
    target = tmp_path / "out.xyz"
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(run), "-o", str(target)])
    assert caught.value.code in (0, None)
    out = capsys.readouterr().out
    assert "  frames  4 of 4 atoms, up to 0.026 ps\n" in out
    assert f"  file    {target}\n" in out
    with pytest.raises(SystemExit) as caught:
        main(["convert", str(run), "-o", str(target)])
    assert caught.value.code == 2
    assert "exists; pass --overwrite to replace it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["out.foo", "out", "out.traj"])
def test_unknown_suffix_is_named(run, name):
    with pytest.raises(ConfigError, match=r"no suffix of a known format; known: \.xtc, \.trr, \.d"):
        convert_run(run, name)


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_number_of_frames_that_is_none_is_refused(run, every):
    with pytest.raises(ConfigError, match=r"every must be an integer >= 1, found"):
        convert_run(run, "out.xyz", every=every)


def test_file_that_is_there_is_kept(run, tmp_path):
    (tmp_path / "out.xyz").write_text("mine")
    with pytest.raises(OutputExistsError, match="exists; pass overwrite=True"):
        convert_run(run, tmp_path / "out.xyz")
    assert (tmp_path / "out.xyz").read_text() == "mine"
    convert_run(run, tmp_path / "out.xyz", overwrite=True)
    assert len(ase.io.read(tmp_path / "out.xyz", ":")) == 4


@pytest.mark.parametrize("name", ["trajectory.xyz", "final.xyz"])
def test_a_run_s_own_file_is_never_written(run, name, tmp_path):
    """Whether it is there or not: the run would take it for its own, and go on in it."""
    before = {path: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(ConfigError, match=rf"{name}' would be a file of the run in"):
        convert_run(run, run / name, overwrite=True)
    assert {path: path.read_bytes() for path in run.iterdir()} == before
    assert convert_run(run, run / "mine.xyz").n_frames == 4
    assert convert_run(run, tmp_path / name).n_frames == 4


def test_verb_says_how_many_frames_are_left_out(monkeypatch, capsys, tmp_path):
    done = Conversion(tmp_path / "out.dcd", 8, 4, 35.0, 3)
    monkeypatch.setattr("eqcalc.simulate.conversion.convert_run", lambda *_, **__: done)
    with pytest.raises(SystemExit):
        main(["convert", str(tmp_path), "-o", str(tmp_path / "out.dcd")])
    assert "note: 3 of 11 frames are left out: .dcd has one spacing" in capsys.readouterr().out


def test_folder_without_a_run_is_refused(run, tmp_path):
    with pytest.raises(StructureError, match=r"there is no run in '.*nowhere'; expected a folder"):
        convert_run(tmp_path / "nowhere", tmp_path / "out.xyz")
    (run / "manifest.json").write_text(json.dumps({"kind": "other"}))
    with pytest.raises(StructureError, match="there is no run in"):
        convert_run(run, tmp_path / "out.xyz")


def test_relaxation_has_no_times(tmp_path):
    start = ethanol()
    start.rattle(0.05, seed=1)
    result = run_relax(start, Springs(ethanol()), RelaxSettings(max_steps=3), tmp_path / "run")
    with pytest.raises(StructureError, match="is a relaxation, whose frames have no times; read '"):
        convert_run(result.folder, tmp_path / "out.xyz")


def test_run_without_a_frame_is_refused(run, tmp_path):
    (path,) = run.glob("trajectory.*")
    if path.suffix == ".traj":
        from ase.io.trajectory import TrajectoryWriter

        TrajectoryWriter(path, mode="w").close()
        with pytest.raises(StructureError, match="holds no frame yet"):
            convert_run(run, tmp_path / "out.xyz")
    else:
        path.write_text("4\n")
        with pytest.raises(StructureError, match="holds no whole frame"):
            convert_run(run, tmp_path / "out.xyz")


def test_file_that_cannot_be_written_leaves_nothing(run, tmp_path, monkeypatch):
    with pytest.raises(
        OutputError, match=r"cannot write '.*out\.xyz': there is no folder '.*nowhere'"
    ):
        convert_run(run, tmp_path / "nowhere" / "out.xyz")

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("eqcalc.files.os.replace", full)
    with pytest.raises(OutputError, match=r"cannot write '.*out\.xyz': No space left on device"):
        convert_run(run, tmp_path / "out.xyz")
    assert list(tmp_path.glob("*out*")) == list(tmp_path.glob(".*out*")) == []


def test_mdanalysis_that_is_missing_is_said_with_its_extra(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "MDAnalysis", None)
    with pytest.raises(MissingDependencyError, match=r"\.xtc file needs .*'eqcalc\[mdanalysis\]'"):
        convert_run(run, tmp_path / "out.xtc")
