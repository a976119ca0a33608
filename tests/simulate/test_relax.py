"""Relaxation of positions and cells."""

import json
import signal

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLength,
    FixCartesian,
    FixCom,
    FixedPlane,
    FixScaled,
    Hookean,
)
from springs import Springs, ethanol

from eqcalc.errors import ConfigError, GuardError, NonFiniteError, OutputExistsError
from eqcalc.simulate import GuardSettings, RelaxRun, RelaxSettings, StopRequested, run_relax
from eqcalc.simulate.thermo import read_table


def rattled_ethanol():
    atoms = ethanol()
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.parametrize("optimizer", ["bfgs", "lbfgs", "fire"])
def test_positions_relax_below_fmax(tmp_path, optimizer):
    atoms = rattled_ethanol()
    before = atoms.copy()
    settings = RelaxSettings(optimizer=optimizer)
    result = run_relax(atoms, Springs(ethanol()), settings, tmp_path)
    assert result.converged
    assert atoms == before
    relaxed = ase.io.read(tmp_path / "relaxed.xyz")
    assert np.linalg.norm(relaxed.get_forces(), axis=1).max() < 0.01
    table = read_table(tmp_path / "relax.csv")
    frames = ase.io.read(tmp_path / "trajectory.traj", ":")
    assert len(frames) == len(table["step"]) == result.n_steps + 1
    assert table["energy_eV"][-1] == pytest.approx(result.energy)
    assert table["fmax"][-1] == pytest.approx(result.fmax)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["status"], manifest["converged"]) == ("complete", True)
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_velocities_of_other_positions_are_left_out(tmp_path):
    atoms = rattled_ethanol()
    atoms.set_momenta(np.ones((len(atoms), 3)))
    run = RelaxRun(atoms, Springs(ethanol()), RelaxSettings())
    assert run.velocities_left_out
    result = run.run(tmp_path)
    assert atoms.has("momenta")
    assert not result.atoms.has("momenta")
    assert not np.any(ase.io.read(tmp_path / "relaxed.xyz").get_momenta())
    assert not np.any(ase.io.read(tmp_path / "trajectory.traj", 0).get_momenta())
    assert json.loads((tmp_path / "manifest.json").read_text())["velocities_left_out"] is True
    assert not RelaxRun(ethanol(), Springs(ethanol()), RelaxSettings()).velocities_left_out


def test_cell_relaxes_to_zero_pressure_and_shrinks_under_pressure(tmp_path):
    atoms = bulk("Cu", a=3.75)
    settings = RelaxSettings(cell=True, fmax=0.001)
    free = run_relax(atoms, EMT(), settings, tmp_path / "free")
    assert free.converged
    assert np.abs(free.atoms.get_stress()).max() < 1e-3
    settings = RelaxSettings(cell=True, fmax=0.001, pressure_gpa=20.0)
    pressed = run_relax(atoms, EMT(), settings, tmp_path / "pressed")
    assert pressed.atoms.get_volume() < 0.95 * free.atoms.get_volume()
    table = read_table(tmp_path / "pressed" / "relax.csv")
    assert table["pressure_gpa"][-1] == pytest.approx(20.0, abs=0.1)
    assert np.isclose(
        table["enthalpy_eV"][-1] - table["energy_eV"][-1],
        20.0 * table["volume_A3"][-1] / 160.21766,
    )


def test_relaxation_that_does_not_converge_keeps_its_files_and_says_so(tmp_path):
    settings = RelaxSettings(max_steps=2, trajectory_format="extxyz")
    result = run_relax(rattled_ethanol(), Springs(ethanol()), settings, tmp_path)
    assert not result.converged
    assert result.n_steps == 2
    assert len(ase.io.read(tmp_path / "trajectory.xyz", ":")) == 3
    assert (tmp_path / "relaxed.xyz").exists()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["status"], manifest["converged"]) == ("complete", False)


def test_minimum_needs_no_step(tmp_path):
    result = run_relax(ethanol(), Springs(ethanol()), RelaxSettings(), tmp_path)
    assert result.converged
    assert result.n_steps == 0


def test_constraints_hold(tmp_path):
    atoms = rattled_ethanol()
    atoms.set_constraint(FixAtoms([0]))
    result = run_relax(atoms, Springs(ethanol()), RelaxSettings(), tmp_path)
    assert np.array_equal(result.atoms.positions[0], atoms.positions[0])


@pytest.mark.parametrize(
    "constraint",
    [
        FixBondLength(0, 1),
        FixCartesian([0], (True, False, False)),
        FixedPlane([0], (0, 0, 1)),
        FixCom(),
        Hookean(0, 1, 5.0, rt=2.0),
    ],
    ids=lambda constraint: type(constraint).__name__,
)
def test_constraints_that_a_changing_cell_breaks_are_refused(constraint, tmp_path):
    atoms = bulk("Cu", cubic=True)
    atoms.set_constraint(constraint)
    name = type(constraint).__name__
    with pytest.raises(ConfigError, match=rf"moves all atoms with it, and {name} would not hold"):
        run_relax(atoms, EMT(), RelaxSettings(cell=True), tmp_path)


@pytest.mark.parametrize(
    "constraint",
    [FixAtoms([1]), FixScaled([1], (True, True, True)), FixCartesian([1])],
    ids=lambda constraint: type(constraint).__name__,
)
def test_fixed_atoms_keep_their_places_in_a_changing_cell(constraint, tmp_path):
    atoms = bulk("Cu", cubic=True, a=3.7)
    atoms.rattle(0.05, seed=2)
    atoms.set_constraint(constraint)
    result = run_relax(atoms, EMT(), RelaxSettings(cell=True, max_steps=200), tmp_path)
    assert result.converged
    assert abs(result.atoms.get_volume() - atoms.get_volume()) > 1.0
    before, after = atoms.get_scaled_positions()[1], result.atoms.get_scaled_positions()[1]
    np.testing.assert_allclose(after, before, atol=1e-10)


def test_cell_of_a_molecule_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"relaxing the cell.*periodic in three"):
        run_relax(ethanol(), EMT(), RelaxSettings(cell=True), tmp_path)


def test_cell_of_a_slab_is_refused(tmp_path):
    slab = bulk("Cu", cubic=True) * (2, 2, 2)
    slab.center(vacuum=8.0, axis=2)
    slab.pbc = True
    with pytest.raises(ConfigError, match=r"relaxing the cell changes the volume, .*along c there"):
        run_relax(slab, EMT(), RelaxSettings(cell=True), tmp_path / "r")


def test_cell_without_stress_is_refused(tmp_path):
    crystal = bulk("Cu", cubic=True)
    with pytest.raises(ConfigError, match="needs the stress"):
        run_relax(crystal, Springs(crystal), RelaxSettings(cell=True), tmp_path)


def test_stop_request_says_how_to_go_on(tmp_path):
    with pytest.raises(StopRequested, match=r"stopped at step 1 of.*eqcalc relax .*relaxed.xyz"):
        run_relax(
            rattled_ethanol(),
            Springs(ethanol()),
            RelaxSettings(),
            tmp_path,
            progress=lambda now: now.step and signal.raise_signal(signal.SIGINT),
        )


def test_folder_with_a_run_is_refused(tmp_path):
    run_relax(ethanol(), Springs(ethanol()), RelaxSettings(), tmp_path)
    with pytest.raises(OutputExistsError, match=r"already holds a run.*relax\.csv"):
        run_relax(ethanol(), Springs(ethanol()), RelaxSettings(), tmp_path)


def test_nan_forces_stop_the_relaxation(tmp_path):
    calculator = Springs(ethanol(), fail_at=3)
    with pytest.raises(NonFiniteError, match=r"after step 2: energy or forces.*last good frame"):
        run_relax(rattled_ethanol(), calculator, RelaxSettings(), tmp_path)
    assert len(ase.io.read(tmp_path / "trajectory.traj", ":")) == 2
    assert json.loads((tmp_path / "manifest.json").read_text())["status"] == "failed"


class Abyss(Calculator):
    """Two atoms that gain ``depth / r`` by falling into each other, without a wall."""

    implemented_properties = ("energy", "forces")

    def __init__(self, depth: float):
        super().__init__()
        self.depth = depth

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        arm = atoms.positions[1] - atoms.positions[0]
        distance = np.linalg.norm(arm)
        pull = self.depth * arm / distance**3
        self.results = {"energy": -self.depth / distance, "forces": np.array([pull, -pull])}


def test_collapse_stops_the_relaxation_with_advice_that_fits(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    settings = RelaxSettings(optimizer="fire", guards=GuardSettings.off())
    expected = r"after step \d+: the (structure falls apart|largest).*no atoms overlap"
    with pytest.raises(NonFiniteError, match=expected):
        run_relax(atoms, Abyss(100.0), settings, tmp_path)
    assert np.isfinite(read_table(tmp_path / "relax.csv")["energy_eV"]).all()


def test_guard_stops_a_collapse_with_advice_that_fits(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]])
    expected = r"stopped at step \d+: atoms 1 \(H\) and 0 \(H\) are .* below 0.31.*atoms overlap"
    with pytest.raises(GuardError, match=expected):
        run_relax(atoms, Abyss(100.0), RelaxSettings(optimizer="fire"), tmp_path)
    alarms = json.loads((tmp_path / "manifest.json").read_text())["guards"]["alarms"]
    assert [(alarm["guard"], alarm["action"]) for alarm in alarms] == [("distance", "stop")]


def test_energy_far_below_the_first_is_refused(tmp_path):
    run = RelaxRun(Atoms("H2", positions=[[0, 0, 0], [0, 0, 1]]), Abyss(1.0), RelaxSettings())
    run._refuse_absurd(energy=-1.0, fmax=1.0)
    run._refuse_absurd(energy=-2000.0, fmax=1.0)
    with pytest.raises(NonFiniteError, match=r"falls apart \(energy changed by -1e\+03 eV/atom"):
        run._refuse_absurd(energy=-2002.0, fmax=1.0)


def test_absurd_force_at_the_start_is_refused_as_it_is(tmp_path):
    atoms = Atoms("H2", positions=[[0, 0, 0], [0, 0, 1e-4]])
    with pytest.raises(NonFiniteError, match=r"^the largest force is 1e\+08 eV/Å.*each other\.$"):
        run_relax(atoms, Abyss(1.0), RelaxSettings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()
