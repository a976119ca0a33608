"""Self-audits of runs: what is right passes, and what is wrong stops the run, whatever it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from small_models import crystal, potential
from springs import Springs
from springs import ethanol as springy

from eqcalc import EqCalculator
from eqcalc.errors import GuardError, ModelFileError
from eqcalc.export import export_model
from eqcalc.simulate import GuardSettings, MDRun, MDSettings, run_md
from eqcalc.simulate.self_audit import AUDIT_COLUMNS, SelfAudit
from eqcalc.simulate.thermo import read_table

ETHANOL = Path(__file__).parents[2] / "examples" / "ethanol.xyz"
AUDITED = replace(GuardSettings.off(), audit_every=20)


@pytest.fixture
def ethanol() -> Atoms:
    return ase.io.read(ETHANOL)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.pt"
    export_model(potential(seed=1, scale=0.1).float(), path, elements=["H", "C", "O"])
    return path


def painn(kind: type[EqCalculator] = EqCalculator, **options) -> EqCalculator:
    return kind("painn-ethanol", engine="torchscript", **options)


def failed(atoms, calculator, folder, settings=None) -> str:
    """Run until an audit fails; return why."""
    settings = settings or MDSettings("nve", n_steps=100, guards=AUDITED)
    with pytest.raises(GuardError, match=r"self-audit of step \d+ failed: .*audit.csv.*report it"):
        run_md(atoms, calculator, settings, folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    table = read_table(folder / "audit.csv")
    assert list(table) == list(AUDIT_COLUMNS)
    assert table["passed"][-1] == 0.0
    last = ase.io.read(folder / "queued.extxyz")
    assert (last.info["guard"], last.info["step"]) == ("audit", table["step"][-1])
    # Nothing that goes on from here starts from a step that was found wrong.
    assert not (folder / "checkpoint").exists() or table["step"][-1] % 20 == 0
    return str(manifest["guards"]["alarms"][-1]["reason"])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_audits_of_a_right_run_pass_and_are_written(dtype, ethanol, tmp_path):
    settings = MDSettings("nve", temperature_K=600.0, n_steps=100, guards=AUDITED)
    result = run_md(ethanol, painn(dtype=dtype), settings, tmp_path)
    table = read_table(tmp_path / "audit.csv")
    assert table["step"].tolist() == [20, 40, 60, 80, 100]
    assert table["passed"].tolist() == [1.0] * 5
    assert result.guards["audits_passed"] == 5
    assert table["force_error_eV_per_A"].max() < (1e-3 if dtype == "float32" else 1e-9)
    assert table["slope_error_eV_per_A"].max() < (1e-3 if dtype == "float32" else 1e-5)
    assert table["net_force_eV_per_A"].max() < 1e-9
    assert table["net_torque_eV"].max() < 1e-3
    assert np.isnan(table["stress_error_gpa"]).all()  # of a molecule there is none


def test_audits_are_made_at_their_steps_whatever_else_is_due_there(tmp_path):
    atoms = springy()
    guards = replace(GuardSettings(), audit_every=7)
    settings = MDSettings("nve", temperature_K=50.0, n_steps=40, log_every=10, guards=guards)
    run_md(atoms, Springs(atoms), settings, tmp_path)
    assert read_table(tmp_path / "audit.csv")["step"].tolist() == [7, 14, 21, 28, 35]


def test_audits_do_not_change_the_run(ethanol, tmp_path):
    settings = MDSettings("nvt-langevin", n_steps=60)
    run_md(ethanol, painn(), replace(settings, guards=AUDITED), tmp_path / "audited")
    run_md(ethanol, painn(), replace(settings, guards=GuardSettings.off()), tmp_path / "plain")
    for name in ("thermo.csv", "trajectory.traj", "final.xyz"):
        audited, plain = tmp_path / "audited" / name, tmp_path / "plain" / name
        assert audited.read_bytes() == plain.read_bytes()


def test_audit_of_a_crystal_has_a_stress_and_no_torque(model, tmp_path):
    settings = MDSettings("npt", n_steps=40, guards=AUDITED)
    run_md(crystal(), EqCalculator(model), settings, tmp_path)
    table = read_table(tmp_path / "audit.csv")
    assert table["passed"].all()
    assert (table["stress_error_gpa"] < 1e-3).all()
    assert np.isnan(table["net_torque_eV"]).all()


class ForcesOff(EqCalculator):
    """An engine whose energies are right, and whose forces are 1 % too large."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["forces"] = 1.01 * self.results["forces"]


class Pulled(EqCalculator):
    """An engine that pulls all atoms one way, by a thousandth of an eV/Å."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["forces"] = self.results["forces"] + [0.0, 0.0, 1e-3]


class Shifted(EqCalculator):
    """An engine whose energies are off by 20 meV."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["energy"] += 0.02


class NoNumber(EqCalculator):
    """An engine whose energy is none, while its forces are right."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["energy"] = float("nan")


def test_energy_that_is_no_number_fails_the_audit(ethanol):
    ethanol.calc = painn(NoNumber)
    (reason,) = SelfAudit(ethanol, seed=0).audit(1).failures
    assert reason.startswith("energy off by nan meV/atom")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (ForcesOff, "forces off by"),
        (Pulled, "net force "),
        (Shifted, "energy off by 2.22 meV/atom"),
    ],
)
def test_engine_that_is_wrong_stops_the_run_at_the_first_audit(kind, expected, ethanol, tmp_path):
    import re

    settings = MDSettings("nve", temperature_K=600.0, n_steps=100, guards=AUDITED)
    reason = failed(ethanol, painn(kind), tmp_path / "run", settings)
    assert re.search(expected, reason)
    assert len(read_table(tmp_path / "run" / "audit.csv")["step"]) == 1


def test_stale_neighbour_list_stops_the_run(ethanol, tmp_path, monkeypatch):
    """As if the list were never made again: two molecules that meet do not see each other."""
    other = ethanol.copy()
    other.positions += [0.0, 0.0, 9.0]
    both = ethanol + other
    momenta = np.zeros((18, 3))
    momenta[9:, 2] = -0.1 * both.get_masses()[9:]  # 0.01 Å/fs
    both.set_momenta(momenta)
    settings = MDSettings("nve", n_steps=1500, timestep_fs=0.5, guards=AUDITED)
    settings = replace(settings, log_every=100)
    calculator = painn()
    monkeypatch.setattr(calculator.neighbours, "_is_complete", lambda *_: True)
    assert "off by" in failed(both, calculator, tmp_path / "run", settings)


def test_wrong_stress_is_found(model, tmp_path):
    class StressOff(EqCalculator):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            if "stress" in self.results:
                self.results["stress"] = self.results["stress"] + 0.01

    settings = MDSettings("npt", n_steps=40, guards=AUDITED)
    assert "stress off by" in failed(crystal(), StressOff(model), tmp_path / "run", settings)


def test_forces_of_any_calculator_are_compared_with_its_own_energies(tmp_path):
    atoms = springy()
    atoms.rattle(0.1, seed=3)
    settings = MDSettings("nve", n_steps=40, guards=AUDITED)
    run_md(atoms, Springs(springy()), settings, tmp_path / "right")
    table = read_table(tmp_path / "right" / "audit.csv")
    assert table["passed"].all()
    assert np.isnan(table["force_error_eV_per_A"]).all()  # there is nothing to compare with

    class Wrong(Springs):
        def calculate(self, *arguments, **options):
            super().calculate(*arguments, **options)
            self.results["forces"] = 1.5 * self.results["forces"]

    assert "slope off by" in failed(atoms, Wrong(springy()), tmp_path / "wrong", settings)


def test_audits_of_other_calculators_are_made_only_if_asked_for():
    atoms = springy()
    assert MDRun(atoms, Springs(atoms), MDSettings()).guard_summary()["audit_every"] == 0
    assert MDRun(atoms, painn(), MDSettings()).guard_summary()["audit_every"] == 5000


def test_run_whose_model_file_has_changed_is_refused_before_it_starts(ethanol, tmp_path):
    path = tmp_path / "model.pt"
    export_model(potential(seed=7).float(), path, elements=["H", "C", "O"])
    calculator = EqCalculator(path)
    export_model(potential(seed=2), path, elements=["H", "C", "O"], overwrite=True)
    with pytest.raises(ModelFileError, match="holds another model than when"):
        MDRun(ethanol, calculator, MDSettings(n_steps=40, guards=AUDITED))


def test_committee_is_audited_by_its_mean(ethanol, model, tmp_path):
    second = tmp_path / "second.pt"
    export_model(potential(seed=2, scale=0.1).float(), second, elements=["H", "C", "O"])
    settings = MDSettings("nve", n_steps=40, guards=AUDITED)
    run_md(ethanol, EqCalculator([model, second]), settings, tmp_path / "run")
    assert read_table(tmp_path / "run" / "audit.csv")["passed"].all()


def test_direction_of_an_audit_is_another_at_every_step(ethanol):
    ethanol.calc = painn()
    audit = SelfAudit(ethanol, seed=0)
    first, second, again = (audit.audit(step) for step in (1, 2, 1))
    assert first == again
    assert first.slope_error != second.slope_error
    assert first.failures == []
