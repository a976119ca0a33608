"""Targets of thermostat and barostat that change during a run."""

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from rarely import rarely
from springs import Springs, ethanol

from eqcalc.simulate import MDRun, MDSettings, StopRequested, resume_md, run_md
from eqcalc.simulate.ramp import targets_at
from eqcalc.simulate.settings import BAROSTATS
from eqcalc.simulate.thermo import read_table

THERMOSTATS = ["nvt-langevin", "nvt-nhc", *BAROSTATS]


def start_of(ensemble: str) -> tuple[Atoms, EMT | Springs]:
    if ensemble in BAROSTATS:
        return bulk("Cu", cubic=True), EMT()
    return ethanol(), Springs(ethanol())


def ramped(ensemble: str, **changes) -> MDSettings:
    pressures = {"to_pressure_gpa": 5.0} if ensemble in BAROSTATS else {}
    words = {"n_steps": 20, "log_every": 5, "to_temperature_K": 500.0, "barostat_time_fs": 100.0}
    return MDSettings(ensemble, **{**words, **pressures, **changes})


def files_of(folder: Path) -> dict[str, bytes]:
    names = ("thermo.csv", "trajectory.traj", "final.xyz")
    return {name: (folder / name).read_bytes() for name in names}


def test_targets_are_linear_meet_both_ends_and_stay():
    settings = MDSettings(
        "npt", 300.0, n_steps=9, to_temperature_K=0.1, pressure_gpa=-1.0, to_pressure_gpa=2.0,
        ramp_steps=7,
    )  # fmt: skip
    assert targets_at(settings, 0) == {"temperature_K": 300.0, "pressure_gpa": -1.0}
    assert targets_at(settings, 7) == {"temperature_K": 0.1, "pressure_gpa": 2.0}
    assert targets_at(settings, 9) == targets_at(settings, 7)
    kelvin = [targets_at(settings, k)["temperature_K"] for k in range(8)]
    steps = [later - now for now, later in pairwise(kelvin)]
    assert steps == pytest.approx([(0.1 - 300) / 7] * 7)
    assert targets_at(MDSettings(), 3) == {}
    assert ramped("nvt-nhc").ramp_steps == 20


@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_log_has_the_targets_of_a_ramp(ensemble, tmp_path):
    result = run_md(*start_of(ensemble), ramped(ensemble), tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    assert table["target_temperature_K"] == pytest.approx([300, 350, 400, 450, 500])
    if ensemble in BAROSTATS:
        assert table["target_pressure_gpa"] == pytest.approx([0, 1.25, 2.5, 3.75, 5])
        assert list(table)[-2:] == ["target_temperature_K", "target_pressure_gpa"]
    else:
        assert list(table)[-1] == "target_temperature_K"


@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_ramp_to_where_it_begins_changes_no_bit(ensemble, tmp_path):
    level = ramped(ensemble, to_temperature_K=300.0, to_pressure_gpa=None)
    run_md(*start_of(ensemble), level, tmp_path / "level")
    plain = dataclasses.replace(level, to_temperature_K=None, ramp_steps=None)
    run_md(*start_of(ensemble), plain, tmp_path / "plain")
    for name in ("trajectory.traj", "final.xyz"):
        assert (tmp_path / "level" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_integrator_at_the_end_of_a_ramp_is_one_built_for_its_end(ensemble, tmp_path):
    atoms, calculator = start_of(ensemble)
    run = MDRun(atoms, calculator, ramped(ensemble))
    run.run(tmp_path / "run")
    pressure = 5.0 if ensemble in BAROSTATS else 0.0
    end = MDSettings(
        ensemble, temperature_K=500.0, pressure_gpa=pressure, barostat_time_fs=100.0, n_steps=20
    )
    other = MDRun(atoms, calculator, end).dynamics
    if ensemble == "nvt-langevin":
        assert run.dynamics.temp == pytest.approx(other.temp, rel=1e-14)
        assert np.allclose(run.dynamics.c3, other.c3, rtol=1e-12)
        return
    assert run.dynamics._thermostat._kT == pytest.approx(units.kB * 500, rel=1e-14)
    assert pytest.approx(other._thermostat._Q, rel=1e-14) == run.dynamics._thermostat._Q
    if ensemble in BAROSTATS:
        assert pytest.approx(other._barostat.W, rel=1e-14) == run.dynamics._barostat.W
        assert pytest.approx(other._barostat._R, rel=1e-14) == run.dynamics._barostat._R
        assert run.dynamics._barostat._kT == pytest.approx(units.kB * 500, rel=1e-14)
        assert run.dynamics._pressure_au == pytest.approx(5 * units.GPa, rel=1e-14)


def cell_velocity(run: MDRun) -> np.ndarray:
    dynamics = run.dynamics
    if not hasattr(dynamics, "_barostat"):
        return np.zeros(1)
    momentum = dynamics._p_eps if hasattr(dynamics, "_p_eps") else dynamics._p_g
    assert np.abs(momentum).max() > 0
    return np.ravel(momentum / dynamics._barostat.W)


@pytest.mark.parametrize("ensemble", ["nvt-nhc", *BAROSTATS])
def test_velocities_of_a_chain_stay_when_its_mass_changes(ensemble):
    run = MDRun(*start_of(ensemble), ramped(ensemble, n_steps=10, to_temperature_K=900.0))
    for _ in run.dynamics.irun(5):
        pass
    chain = run.dynamics._thermostat
    before = chain._p_eta / chain._Q
    cell = cell_velocity(run)
    assert np.abs(before).min() > 0
    run._ramp.at(8)
    assert chain._p_eta / chain._Q == pytest.approx(before, rel=1e-14)
    assert chain._kT == pytest.approx(units.kB * 780, rel=1e-14)
    assert cell_velocity(run) == pytest.approx(cell, rel=1e-14)


@pytest.mark.parametrize("ensemble", [rarely("nvt-langevin"), "nvt-nhc"])
def test_temperature_follows_the_target(ensemble, tmp_path):
    settings = MDSettings(
        ensemble, 100.0, 1.5, 6000, 2, friction_per_fs=0.05, thermostat_time_fs=20.0, log_every=2,
        to_temperature_K=900.0, ramp_steps=4000,
    )  # fmt: skip
    result = run_md(ethanol(), Springs(ethanol()), settings, tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    step, kelvin = table["step"], table["temperature_K"]
    for first, last in ((0, 1000), (1000, 2000), (2000, 3000), (3000, 4000), (4500, 6000)):
        part = (step >= first) & (step < last)
        goal = table["target_temperature_K"][part].mean()
        assert kelvin[part].mean() == pytest.approx(goal, rel=0.25), first
    assert table["target_temperature_K"][-1] == 900.0


def test_volume_follows_the_target_of_a_pressure_ramp(tmp_path):
    settings = MDSettings(
        "npt", 100.0, 2.0, 400, log_every=5, barostat_time_fs=100.0, thermostat_time_fs=50.0,
        to_pressure_gpa=20.0, ramp_steps=200,
    )  # fmt: skip
    result = run_md(bulk("Cu", cubic=True) * 2, EMT(), settings, tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    assert table["pressure_gpa"][-20:].mean() == pytest.approx(20.0, abs=1.5)
    assert table["volume_A3"][-20:].mean() < 0.93 * table["volume_A3"][0]


# --- going on --------------------------------------------------------------------------------


def stop_at(step: int):
    def show(now) -> None:
        if now.thermo.step == step:
            raise BrokenPipeError

    return show


@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_run_with_a_ramp_goes_on_bit_for_bit(ensemble, tmp_path):
    settings = ramped(ensemble, n_steps=40)
    run_md(*start_of(ensemble), settings, tmp_path / "whole")
    with pytest.raises(StopRequested):
        run_md(*start_of(ensemble), settings, tmp_path / "parts", progress=stop_at(15))
    resume_md(tmp_path / "parts", start_of(ensemble)[1])
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("ensemble", THERMOSTATS)
def test_longer_run_keeps_its_ramp_and_stays_at_its_end(ensemble, tmp_path):
    run_md(*start_of(ensemble), ramped(ensemble), tmp_path / "parts")
    result = resume_md(tmp_path / "parts", start_of(ensemble)[1], n_steps=40)
    table = read_table(result.folder / "thermo.csv")
    assert table["target_temperature_K"][-5:].tolist() == [500.0] * 5
    whole = ramped(ensemble, n_steps=40, ramp_steps=20)
    run_md(*start_of(ensemble), whole, tmp_path / "whole")
    assert files_of(tmp_path / "parts") == files_of(tmp_path / "whole")
