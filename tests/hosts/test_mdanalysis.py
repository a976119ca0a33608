"""What MDAnalysis reads of a converted trajectory is what the run has."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from eqcalc.cli import main
from eqcalc.errors import ConfigError, OutputError
from eqcalc.simulate import MDSettings, convert_run, run_md

pytestmark = pytest.mark.hosts


def triclinic() -> Atoms:
    """Return copper whose cell's first vector does not lie along x."""
    return bulk("Cu") * (3, 2, 2)


def run_of(atoms: Atoms, folder: Path, **changes) -> Path:
    words = {"timestep_fs": 2.0, "n_steps": 20, "log_every": 5, "barostat_time_fs": 100.0}
    settings = MDSettings(**{"ensemble": "npt-flexible", **words, **changes})
    return run_md(atoms, EMT(), settings, folder).folder


def read(folder: Path, path: Path):
    """Return a Universe of the run's elements and a converted trajectory."""
    import MDAnalysis

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of masses and what else it guesses
        return MDAnalysis.Universe(str(folder / "final.xyz"), str(path))


def distances(atoms: Atoms) -> np.ndarray:
    return np.asarray(atoms.get_all_distances(mic=True))


@pytest.mark.parametrize(
    ("suffix", "accuracy"), [(".trr", 1e-5), (".xtc", 0.01), (".dcd", 1e-5), (".DCD", 1e-5)]
)
def test_positions_cell_times_and_velocities_are_those_of_the_run(suffix, accuracy, tmp_path):
    folder = run_of(triclinic(), tmp_path / "run")
    done = convert_run(folder, tmp_path / f"out{suffix}")
    assert (done.n_frames, done.n_left_out, done.last_fs) == (5, 0, 40.0)
    source = ase.io.read(folder / "trajectory.traj", ":")
    universe = read(folder, tmp_path / f"out{suffix}")
    assert list(universe.atoms.elements) == source[0].get_chemical_symbols()
    assert len(universe.trajectory) == 5
    for number, frame in enumerate(source):
        found = universe.trajectory[number]
        assert found.time == pytest.approx(frame.info["time_fs"] / 1000, abs=1e-6)
        assert found.dimensions == pytest.approx(frame.cell.cellpar(), abs=1e-3)
        # Cell and positions belong together: distances across its faces, by its own cell.
        again = Atoms(frame.numbers, found.positions, cell=found.triclinic_dimensions, pbc=True)
        assert distances(again) == pytest.approx(distances(frame), abs=3 * accuracy)
        assert found.has_velocities == (suffix == ".trr")
        if suffix == ".trr":
            speed = np.linalg.norm(frame.get_velocities(), axis=1) * units.fs * 1000
            assert np.linalg.norm(found.velocities, axis=1) == pytest.approx(speed, rel=1e-5)


def test_turned_velocities_go_with_the_turned_positions(tmp_path):
    folder = run_of(triclinic(), tmp_path / "run", n_steps=2, log_every=1, ensemble="nve")
    convert_run(folder, tmp_path / "out.trr")
    universe = read(folder, tmp_path / "out.trr")
    first, middle, last = (universe.trajectory[k].copy() for k in range(3))
    moved = (last.positions - first.positions) / (last.time - first.time)
    largest = float(np.abs(middle.velocities).max())
    assert moved == pytest.approx(middle.velocities, abs=0.03 * largest)


def test_molecule_has_no_cell(tmp_path):
    folder = run_of(molecule("N2"), tmp_path / "run", ensemble="nve", timestep_fs=0.5)
    convert_run(folder, tmp_path / "out.xtc")
    found = read(folder, tmp_path / "out.xtc").trajectory[1]
    source = ase.io.read(folder / "trajectory.traj", 1)
    assert found.positions == pytest.approx(source.positions, abs=0.01)
    assert found.dimensions is None or not np.any(found.dimensions)


def test_frame_between_two_is_left_out_of_a_file_with_one_spacing(tmp_path, capsys):
    folder = run_of(triclinic(), tmp_path / "run", n_steps=13)
    for suffix, n_frames in ((".dcd", 3), (".xtc", 4)):
        done = convert_run(folder, tmp_path / f"out{suffix}")
        assert (done.n_frames, done.n_left_out) == (n_frames, 4 - n_frames)
    assert read(folder, tmp_path / "out.xtc").trajectory[-1].time == pytest.approx(0.026)
    assert read(folder, tmp_path / "out.dcd").trajectory[-1].time == pytest.approx(0.020)
    with pytest.raises(SystemExit):
        main(["convert", str(folder), "-o", str(tmp_path / "other.dcd")])
    out = capsys.readouterr().out
    assert "frames are left out: .dcd has one spacing of frames" in out
    assert f"in Python: MDAnalysis.Universe('{folder / 'final.xyz'}'" in out


def test_every_frame_of_some_has_its_time(tmp_path):
    folder = run_of(triclinic(), tmp_path / "run", n_steps=20, log_every=2)
    convert_run(folder, tmp_path / "out.dcd", every=5)
    times = [step.time for step in read(folder, tmp_path / "out.dcd").trajectory]
    assert times == pytest.approx([0.0, 0.020, 0.040], abs=1e-6)


def test_left_handed_cell_is_refused_and_leaves_nothing(tmp_path):
    atoms = Atoms("Ar", cell=np.diag([5.0, 5.0, -5.0]), pbc=True)
    settings = MDSettings("nve", n_steps=2)
    folder = run_md(atoms, LennardJones(), settings, tmp_path / "run").folder
    with pytest.raises(ConfigError, match="the cell is left-handed, and lengths and angles would"):
        convert_run(folder, tmp_path / "out.trr")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    convert_run(folder, tmp_path / "out.xyz")


def test_folder_that_is_not_there_is_said(tmp_path):
    folder = run_of(triclinic(), tmp_path / "run", n_steps=2)
    with pytest.raises(OutputError, match=r"out\.xtc': there is no folder '.*nowhere'"):
        convert_run(folder, tmp_path / "nowhere" / "out.xtc")
