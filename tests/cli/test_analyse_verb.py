"""The verb analyse, as a user types it."""

from __future__ import annotations

import json

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from command_line import run

from eqcalc.simulate import MDSettings, RelaxSettings, run_md, run_relax


@pytest.fixture(scope="module")
def copper(tmp_path_factory):
    """The folder of a run whose cell changes."""
    settings = MDSettings(
        ensemble="npt", timestep_fs=4.0, n_steps=200, log_every=4, barostat_time_fs=100.0
    )
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    return run_md(atoms, EMT(), settings, tmp_path_factory.mktemp("run") / "cu").folder


def test_folder_of_a_run_is_analysed_without_options(copper, capsys):
    assert run("analyse", copper) == 0
    out = capsys.readouterr().out
    assert "frames      51, every 16 fs" in out
    assert "g(r) Cu–Cu  highest at 2.5" in out
    assert "D Cu" in out
    assert "vibrations" in out
    assert "note: the cell changes, and displacements are sums of shortest steps" in out
    names = {path.name for path in (copper / "analysis").iterdir()}
    assert names == {
        *("rdf.csv", "msd.csv", "vacf.csv", "spectrum.csv", "density.csv"),
        *("analysis.png", "analysis.json"),
    }


def test_options_reach_the_analysis(copper, tmp_path, capsys):
    words = ("--rdf", "--msd", "--skip", 10, "--every", 2, "--r-max", 3.0, "--bins", 30)
    fit = ("--fit", "0.1:0.2", "--elements", "Cu", "--remove-drift")
    assert run("analyse", copper, *words, *fit, "-o", tmp_path / "out", "--json", "-q") == 0
    content = json.loads(capsys.readouterr().out)
    assert content["n_frames"] == 21
    assert content["interval_fs"] == 32.0
    assert content["settings"]["r_max"] == 3.0
    assert content["settings"]["remove_drift"] is True
    assert content["fit_ps"] == pytest.approx([0.096, 0.192])
    table = np.genfromtxt(tmp_path / "out" / "rdf.csv", delimiter=",", names=True)
    assert table["r_A"][-1] == pytest.approx(2.95)
    assert sorted(p.suffix for p in (tmp_path / "out").iterdir()) == [
        ".csv",
        ".csv",
        ".json",
        ".png",
    ]


def test_density_and_vibrations_of_some_elements_are_said_to_be_theirs(tmp_path, capsys):
    rng = np.random.default_rng(0)
    frames = [
        Atoms("OH2", 4.0 * rng.random((3, 3)), momenta=rng.normal(size=(3, 3)), cell=[4, 4, 4])
        for _ in range(12)
    ]
    ase.io.write(tmp_path / "f.traj", frames)
    words = (tmp_path / "f.traj", "--density", "--vacf", "--interval-fs", 1, "-o", tmp_path / "out")
    assert run("analyse", *words) == 0
    assert "alone" not in capsys.readouterr().out
    assert run("analyse", *words, "--elements", "H") == 0
    out = capsys.readouterr().out
    mass = 2 * 1.008 / 4.0**3 * 1.66053907
    assert f"density     mean {mass:.4g} g/cm³ over the cell, of H alone" in out
    assert "cm⁻¹ (± 2780), of H alone" in out


def test_a_spectrum_without_a_maximum_says_so(tmp_path, capsys):
    drifting = Atoms("Ar2", [[0, 0, 0], [4, 0, 0]], momenta=[[1, 2, 3], [2, 1, 0]])
    ase.io.write(tmp_path / "f.traj", [drifting] * 12)
    words = ("--vacf", "--interval-fs", 10, "-o", tmp_path / "out")
    assert run("analyse", tmp_path / "f.traj", *words) == 0
    assert "vibrations  no maximum above 0\n" in capsys.readouterr().out


def test_file_without_times_needs_the_interval_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    frames = [Atoms("Ar4", rng.random((4, 3)) * 9, cell=[9, 9, 9], pbc=True) for _ in range(20)]
    ase.io.write("gas.xyz", frames)
    assert run("analyse", "gas.xyz", "--msd") == 2
    error = capsys.readouterr().err
    assert "the time between two frames of the file in fs as --interval-fs" in error
    assert run("analyse", "gas.xyz", "--msd", "--interval-fs", 2) == 0
    assert "20, every 2 fs" in capsys.readouterr().out
    assert (tmp_path / "gas-analysis" / "msd.csv").exists()
    assert run("analyse", "gas.xyz") == 0
    assert "no msd: the frames do not say their time" in capsys.readouterr().out


def test_an_analysis_of_another_trajectory_is_not_replaced(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        frames = [Atoms("Ar4", rng.random((4, 3)) * 9, cell=[9] * 3, pbc=True) for _ in range(9)]
        (tmp_path / name).mkdir()
        ase.io.write(f"{name}/gas.xyz", frames)
    assert run("analyse", "a/gas.xyz", "--rdf") == 0
    first = (tmp_path / "gas-analysis" / "rdf.csv").read_bytes()
    assert run("analyse", "b/gas.xyz", "--rdf") == 2
    error = capsys.readouterr().err
    assert "'gas-analysis/rdf.csv'" in error
    assert "pass --overwrite" in error
    assert (tmp_path / "gas-analysis" / "rdf.csv").read_bytes() == first
    assert run("analyse", "a/gas.xyz", "--rdf", "--density") == 0  # its own may grow
    assert run("analyse", "b/gas.xyz", "--rdf", "--overwrite") == 0
    assert (tmp_path / "gas-analysis" / "rdf.csv").read_bytes() != first
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "density.csv").write_text("mine")
    assert run("analyse", "a/gas.xyz", "--rdf", "-o", "mine") == 2
    assert (tmp_path / "mine" / "density.csv").read_text() == "mine"


def test_diffusion_of_a_molecule_alone_is_doubted(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(0, 0.1, (200, 1, 3)), axis=0) + molecule("H2O").positions
    ase.io.write("water.xyz", [Atoms("OH2", positions) for positions in walk])
    assert run("analyse", "water.xyz", "--msd", "--interval-fs", 2) == 0
    assert "note: no direction is periodic" in capsys.readouterr().out


def test_steps_of_a_relaxation_are_no_ensemble(tmp_path, capsys):
    atoms = bulk("Cu", cubic=True) * (2, 2, 2)
    atoms.rattle(0.1, seed=1)
    folder = run_relax(atoms, EMT(), RelaxSettings(max_steps=5), tmp_path / "cu").folder
    assert run("analyse", folder, "--rdf") == 0
    assert "note: these are the steps of a relaxation" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--fit", "2"), "--fit takes two times in ps, as in 2:10, not '2'"),
        (("--elements", "Au"), "there is no Au to look at; the frames have Cu"),
        (("--bins", "0"), "--bins must be 1 or more"),
        (("--r-max", "-2"), "--r-max must be a distance above 0 Å"),
        (("--axis", "z", "--density"), "the axis of a profile is one of a, b, c, not 'z'"),
        (("--skip", "51"), "51 frames are skipped"),
        (("--interval-fs", "4", "--msd"), "--interval-fs 4 is said, but the file has a frame"),
    ],
)
def test_wrong_options_are_errors_that_name_them(copper, capsys, words, message):
    assert run("analyse", copper, *words) == 2
    assert message in capsys.readouterr().err


def test_missing_trajectory_is_an_error(tmp_path, capsys):
    assert run("analyse", tmp_path / "nothing.traj") == 2
    assert "no trajectory" in capsys.readouterr().err


def test_output_that_is_a_file_is_an_error(copper, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert run("analyse", copper, "--rdf", "-o", tmp_path / "file") == 2
    assert "for an analysis" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
