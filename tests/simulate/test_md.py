"""Molecular dynamics: physics, determinism, files, refusals."""

import json
import warnings

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, FixBondLengths, Hookean
from springs import Springs, ethanol

from eqcalc.errors import (
    ConfigError,
    GraphError,
    NonFiniteError,
    OutputError,
    OutputExistsError,
)
from eqcalc.simulate import GuardSettings, MDRun, MDSettings, plots, run_md
from eqcalc.simulate.thermo import read_table


def copper() -> Atoms:
    return bulk("Cu", cubic=True) * (2, 1, 1)


def spring_run(tmp_path, **settings):
    """Run ethanol of springs and return (run, result, table)."""
    atoms = ethanol()
    run = MDRun(atoms, Springs(atoms), MDSettings(**settings))
    result = run.run(tmp_path / "run", overwrite=True)
    return run, result, read_table(result.folder / "thermo.csv")


def test_nve_conserves_the_energy(tmp_path):
    settings = MDSettings(ensemble="nve", timestep_fs=2, n_steps=300, log_every=1)
    result = run_md(copper(), EMT(), settings, tmp_path / "run")
    total = read_table(result.folder / "thermo.csv")["total_energy_eV"]
    assert np.ptp(total) / 8 < 1e-3
    assert abs(result.drift_mev_per_atom_ps) < 0.5


def test_first_step_has_the_temperature_asked_for(tmp_path):
    run, _, table = spring_run(tmp_path, ensemble="nve", n_steps=10, temperature_K=250.0)
    assert run.n_dof == 21
    assert table["temperature_K"][0] == pytest.approx(250.0, rel=1e-9)


def test_isolated_molecule_neither_drifts_nor_turns(tmp_path):
    run, result, _ = spring_run(tmp_path, ensemble="nve", n_steps=200)
    assert np.allclose(run.atoms.get_momenta().sum(axis=0), 0, atol=1e-10)
    assert np.allclose(run.atoms.get_angular_momentum(), 0, atol=1e-9)
    assert np.allclose(
        result.atoms.get_center_of_mass(), ethanol().get_center_of_mass(), atol=1e-10
    )


@pytest.mark.parametrize(
    ("atoms", "n_dof"),
    [
        (molecule("N2"), 1),
        (molecule("CO2"), 4),
        (molecule("H2O"), 3),
        (Atoms("Ar"), 3),
        (bulk("Cu", cubic=True), 9),
        (Atoms("Ar2", positions=[[0, 0, 0], [0, 0, 4]], cell=[9, 9, 9], pbc=[1, 1, 0]), 3),
    ],
)
def test_degrees_of_freedom_are_those_that_hold_heat(atoms, n_dof):
    assert MDRun(atoms, EMT(), MDSettings(ensemble="nve")).n_dof == n_dof


@pytest.mark.parametrize("ensemble", ["nvt-langevin", "nvt-nhc"])
def test_thermostat_holds_the_temperature_of_a_small_molecule(tmp_path, ensemble):
    _, _, table = spring_run(
        tmp_path,
        ensemble=ensemble,
        timestep_fs=1.5,
        n_steps=5000,
        friction_per_fs=0.03,
        thermostat_time_fs=20.0,
        seed=1,
    )
    # 27 instead of 21 degrees of freedom in the chain would give 386 K.
    assert table["temperature_K"].mean() == pytest.approx(300.0, abs=20.0)


def largest_change(run: MDRun, n_steps: int) -> float:
    """Return the largest change of the integrator's conserved energy."""
    energies = [run.dynamics.get_conserved_energy() for _ in run.dynamics.irun(n_steps)]
    return float(np.abs(np.array(energies) - energies[0]).max())


def test_nose_hoover_chain_conserves_its_energy_to_second_order():
    def change(timestep_fs: float) -> float:
        settings = MDSettings(ensemble="nvt-nhc", timestep_fs=timestep_fs, thermostat_time_fs=50.0)
        run = MDRun(ethanol(), Springs(ethanol()), settings)
        return largest_change(run, int(100 / timestep_fs))

    assert change(0.5) < 5e-3
    assert change(1.0) / change(0.5) == pytest.approx(4.0, rel=0.1)


def test_npt_conserves_its_energy_to_second_order():
    def change(timestep_fs: float) -> float:
        settings = MDSettings(
            ensemble="npt", pressure_gpa=-10.0, timestep_fs=timestep_fs, barostat_time_fs=100.0
        )
        return largest_change(MDRun(copper(), EMT(), settings), int(200 / timestep_fs))

    assert change(4.0) / change(2.0) == pytest.approx(4.0, rel=0.1)


@pytest.mark.parametrize(("pressure_gpa", "sign"), [(30.0, -1), (-10.0, 1)])
def test_npt_volume_follows_the_pressure(tmp_path, pressure_gpa, sign):
    settings = MDSettings(
        ensemble="npt",
        pressure_gpa=pressure_gpa,
        timestep_fs=2.0,
        n_steps=150,
        barostat_time_fs=100.0,
    )
    run = MDRun(copper(), EMT(), settings)
    result = run.run(tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    volume = table["volume_A3"]
    assert sign * (volume[-5:].mean() - volume[0]) > 0.02 * volume[0]
    # on the way, the pressure inside has moved towards the one outside
    assert abs(table["pressure_gpa"][-5:].mean() - pressure_gpa) < abs(pressure_gpa)


def test_table_has_volume_density_and_cell_of_periodic_structures(tmp_path):
    atoms = bulk("Cu", "hcp", a=2.6, c=4.2, orthorhombic=False)
    result = run_md(atoms, EMT(), MDSettings("nve", n_steps=2), tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    assert list(table)[-7:] == [
        "density_g_per_cm3", "a_A", "b_A", "c_A", "alpha_deg", "beta_deg", "gamma_deg",
    ]  # fmt: skip
    cell = [table[name][-1] for name in list(table)[-6:]]
    assert cell == pytest.approx([2.6, 2.6, 4.2, 90, 90, 120])
    assert table["volume_A3"][0] == pytest.approx(atoms.get_volume())
    expected = atoms.get_masses().sum() / atoms.get_volume() * 1.66053907
    assert table["density_g_per_cm3"][0] == pytest.approx(expected, rel=1e-6)
    second_half = table["pressure_gpa"][len(table["step"]) // 2 :]
    assert result.mean_pressure_gpa == pytest.approx(second_half.mean(), rel=1e-12)


def test_table_of_a_calculator_without_stress_has_the_volume(tmp_path):
    atoms = ethanol()
    atoms.set_cell([20, 20, 20])
    atoms.pbc = True
    result = run_md(atoms, Springs(atoms), MDSettings("nve", n_steps=2), tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    assert table["volume_A3"][0] == pytest.approx(8000)
    assert "pressure_gpa" not in table
    assert result.mean_pressure_gpa is None


def test_pressure_has_the_sign_of_compression(tmp_path):
    squeezed = bulk("Cu", a=3.4, cubic=True)
    settings = MDSettings(ensemble="nve", n_steps=1, temperature_K=1.0)
    result = run_md(squeezed, EMT(), settings, tmp_path / "run")
    pressure = read_table(result.folder / "thermo.csv")["pressure_gpa"][0]
    squeezed.calc = EMT()
    expected = -squeezed.get_stress()[:3].mean() / units.GPa
    assert pressure > 10
    assert pressure == pytest.approx(expected, rel=1e-3)


def test_pressure_of_rigid_bonds_is_left_out(tmp_path):
    """What keeps them rigid has a virial too: of an ideal gas it is all that there is."""
    gas = Atoms("N2", [[0, 0, 0], [0, 0, 1.1]], cell=[12.0] * 3, pbc=True) * (2, 2, 2)
    gas.set_constraint(FixBondLengths([(k, k + 1) for k in range(0, len(gas), 2)]))
    result = run_md(gas, EMT(), MDSettings("nve", n_steps=2), tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    assert result.mean_pressure_gpa is None
    assert "pressure_gpa" not in table
    assert "density_g_per_cm3" in table
    (frame, *_) = ase.io.read(result.folder / "trajectory.traj", ":")
    assert frame.get_stress().shape == (6,)  # what the potential says


def test_pressure_of_springs_between_atoms_is_left_out(tmp_path):
    """Their energy is in the table, and their virial would be missing beside it."""
    crystal, settings = bulk("Cu", cubic=True) * (2, 2, 2), MDSettings("nve", n_steps=1)
    crystal.set_constraint(Hookean(0, 1, k=10.0, rt=2.0))
    result = run_md(crystal, EMT(), settings, tmp_path / "pair")
    assert "pressure_gpa" not in read_table(result.folder / "thermo.csv")
    crystal.set_constraint(Hookean(0, (0.0, 0.0, 0.0), k=10.0, rt=0.0))  # holds it, as FixAtoms
    result = run_md(crystal, EMT(), settings, tmp_path / "tether")
    assert "pressure_gpa" in read_table(result.folder / "thermo.csv")


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin", "nvt-nhc"])
def test_same_seed_gives_the_same_trajectory(tmp_path, ensemble):
    def positions(seed: int, name: str):
        atoms = ethanol()
        settings = MDSettings(ensemble=ensemble, n_steps=40, seed=seed)
        run_md(atoms, Springs(atoms), settings, tmp_path / name)
        return [f.positions for f in ase.io.read(tmp_path / name / "trajectory.traj", ":")]

    assert np.array_equal(positions(3, "a"), positions(3, "b"))
    assert not np.allclose(positions(3, "c")[-1], positions(4, "d")[-1])


def test_run_leaves_atoms_and_global_random_state_alone(tmp_path):
    atoms = ethanol()
    atoms.info["note"] = "mine"
    before, state = atoms.copy(), np.random.get_state()[1].copy()  # noqa: NPY002
    run_md(atoms, Springs(atoms), MDSettings(n_steps=20), tmp_path / "run")
    assert atoms == before
    assert atoms.calc is None
    assert atoms.info == {"note": "mine"}
    assert not atoms.has("momenta")
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(("ensemble", "left"), [("nve", 1.0), ("nvt-langevin", np.exp(-1.0))])
def test_free_atom_shows_the_units_of_time_and_friction(tmp_path, ensemble, left):
    atom = Atoms("Ar", velocities=[[0.01, 0, 0]])
    settings = MDSettings(
        ensemble=ensemble, temperature_K=0.0, timestep_fs=0.5, n_steps=200, friction_per_fs=0.01
    )
    run = MDRun(atom, Springs(atom), settings)
    result = run.run(tmp_path / "run")
    assert result.atoms.get_velocities()[0, 0] == pytest.approx(0.01 * left, rel=1e-3)
    if ensemble == "nve":
        assert result.atoms.positions[0, 0] == pytest.approx(0.01 * 100 * units.fs)


def test_velocities_of_the_structure_are_kept(tmp_path):
    atoms = ethanol()
    momenta = np.random.default_rng(0).standard_normal((9, 3))
    atoms.set_momenta(momenta)
    run = MDRun(atoms, Springs(atoms), MDSettings(ensemble="nve"))
    assert np.array_equal(run.atoms.get_momenta(), momenta)
    assert run.n_dof == 27  # it drifts and turns, as the file says


def test_constraints_hold_and_leave_fewer_degrees_of_freedom(tmp_path):
    atoms = ethanol()
    atoms.set_constraint(FixAtoms([0, 1]))
    run = MDRun(atoms, Springs(atoms), MDSettings(n_steps=30))
    assert run.n_dof == 21
    result = run.run(tmp_path / "run")
    assert np.array_equal(result.atoms.positions[:2], atoms.positions[:2])
    assert not np.allclose(result.atoms.positions[2:], atoms.positions[2:])


@pytest.mark.parametrize("fmt", ["traj", "extxyz"])
def test_frames_hold_energies_forces_and_velocities(tmp_path, fmt):
    settings = MDSettings(n_steps=25, log_every=10, trajectory_format=fmt, timestep_fs=2.0)
    result = run_md(copper(), EMT(), settings, tmp_path / "run")
    name = {"traj": "trajectory.traj", "extxyz": "trajectory.xyz"}[fmt]
    frames = ase.io.read(tmp_path / "run" / name, ":")
    table = read_table(tmp_path / "run" / "thermo.csv")
    assert [f.info["step"] for f in frames] == table["step"].tolist() == [0, 10, 20, 25]
    assert [f.info["time_fs"] for f in frames] == [0, 20, 40, 50]
    for frame, energy, kinetic in zip(
        frames, table["potential_energy_eV"], table["kinetic_energy_eV"], strict=True
    ):
        check = frame.copy()
        check.calc = EMT()
        assert frame.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        assert check.get_potential_energy() == pytest.approx(energy, abs=1e-6)
        assert frame.get_kinetic_energy() == pytest.approx(kinetic, abs=1e-6)
        assert np.allclose(frame.get_forces(), check.get_forces(), atol=1e-6)
        assert np.allclose(frame.get_stress(), check.get_stress(), atol=1e-6)
        assert not frame.constraints
    assert np.allclose(result.atoms.positions, frames[-1].positions, atol=1e-7)
    assert ase.io.read(tmp_path / "run" / "final.xyz").info["step"] == 25


def test_manifest_says_what_was_run(tmp_path):
    atoms = ethanol()
    settings = MDSettings(n_steps=20, seed=7)
    MDRun(atoms, Springs(atoms), settings, {"model": {"name": "springs"}}).run(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "complete"
    assert manifest["steps_done"] == 20
    assert manifest["settings"]["seed"] == 7
    assert manifest["formula"] == "C2H6O"
    assert manifest["model"] == {"name": "springs"}
    assert set(manifest["versions"]) == {"eqcalc", "torch", "ase", "numpy"}
    assert manifest["ended"] >= manifest["started"]


def test_plot_is_a_png(tmp_path):
    _, result, _ = spring_run(tmp_path, n_steps=20)
    assert (result.folder / "plot.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_folder_with_a_run_is_refused_and_overwritten_on_request(tmp_path):
    atoms = ethanol()
    (tmp_path / "notes.txt").write_text("mine")
    settings = MDSettings(n_steps=10, trajectory_format="extxyz")
    run_md(atoms, Springs(atoms), settings, tmp_path)
    with pytest.raises(
        OutputExistsError, match=r"already holds a run \(manifest.json.*overwrite=True"
    ):
        run_md(atoms, Springs(atoms), settings, tmp_path)
    run_md(atoms, Springs(atoms), MDSettings(n_steps=10), tmp_path, overwrite=True)
    assert not (tmp_path / "trajectory.xyz").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_run_that_cannot_start_costs_no_older_run(tmp_path):
    atoms = ethanol()
    run_md(atoms, Springs(atoms), MDSettings(n_steps=10), tmp_path)
    with pytest.raises(NonFiniteError, match=r"^the forces on the first structure are NaN"):
        run_md(atoms, Springs(atoms, fail_at=1), MDSettings(), tmp_path, overwrite=True)
    assert len(ase.io.read(tmp_path / "trajectory.traj", ":")) == 2


def test_run_that_was_run_is_not_run_again(tmp_path):
    run = MDRun(ethanol(), Springs(ethanol()), MDSettings("nve", n_steps=7, log_every=5))
    run.run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"is at step 7 and began at 0: .* MDRun\.resume"):
        run.run(tmp_path / "more")
    assert not (tmp_path / "more").exists()
    resumed = MDRun.resume(tmp_path / "run", Springs(ethanol()), n_steps=9)
    resumed.run(tmp_path / "run")
    with pytest.raises(ConfigError, match=r"is at step 9 and began at 7"):
        resumed.run(tmp_path / "run")


def test_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    atoms = ethanol()
    with pytest.raises(OutputError, match=r"cannot use '.*file' as the folder of a run"):
        run_md(atoms, Springs(atoms), MDSettings(n_steps=1), tmp_path / "file")


def test_nan_from_the_model_stops_the_run_and_names_step_and_file(tmp_path):
    atoms = ethanol()
    calculator = Springs(atoms, fail_at=18)
    with pytest.raises(NonFiniteError, match=r"after step 17: the velocities.*run/trajectory.traj"):
        run_md(atoms, calculator, MDSettings(n_steps=50), tmp_path / "run")
    frames = ase.io.read(tmp_path / "run" / "trajectory.traj", ":")
    assert [f.info["step"] for f in frames] == [0, 10]
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["status"] == "failed"
    assert manifest["steps_done"] == 10
    assert "velocities are NaN" in manifest["error"]


def test_nan_energy_stops_the_run(tmp_path):
    class Nameless(Springs):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            if self.n_calls > 5:
                self.results["energy"] = float("nan")

    atoms = ethanol()
    with pytest.raises(NonFiniteError, match="after step 10: the energy is nan"):
        run_md(atoms, Nameless(atoms), MDSettings(n_steps=50), tmp_path / "run")


def test_structure_that_flies_apart_stops_the_run(tmp_path):
    atoms = ethanol()
    calculator = Springs(atoms, stiffness=3000.0)
    settings = MDSettings(ensemble="nve", n_steps=500, timestep_fs=5.0, guards=GuardSettings.off())
    expected = r"flies apart \(temperature.*last good frame.*shorter timestep"
    with pytest.raises(NonFiniteError, match=expected):
        run_md(atoms, calculator, settings, tmp_path / "run")


def test_nan_velocities_are_refused_before_anything_is_claimed():
    atoms = ethanol()
    atoms.set_momenta(np.full((9, 3), np.nan))
    with pytest.raises(NonFiniteError, match="velocities of the structure are NaN"):
        MDRun(atoms, Springs(atoms), MDSettings())


def test_structure_that_starts_too_hot_costs_no_older_run(tmp_path):
    atoms = ethanol()
    run_md(atoms, Springs(atoms), MDSettings(n_steps=10), tmp_path)
    atoms.set_momenta(np.random.default_rng(0).standard_normal((9, 3)) * 1e3)
    with pytest.raises(NonFiniteError, match=r"^the structure flies apart \(temperature .* K\)$"):
        run_md(atoms, Springs(atoms), MDSettings(), tmp_path, overwrite=True)
    assert len(ase.io.read(tmp_path / "trajectory.traj", ":")) == 2


def test_error_of_the_calculator_at_the_start_passes_as_it_is(tmp_path):
    class Refusing(Springs):
        def calculate(self, *args, **kwargs):
            raise GraphError("atoms 0 and 1 are at the same place.")

    atoms = ethanol()
    with pytest.raises(GraphError, match=r"^atoms 0 and 1 are at the same place\.$"):
        run_md(atoms, Refusing(atoms), MDSettings(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_exploding_barostat_ends_in_words_not_in_warnings(tmp_path, monkeypatch):
    class Checking(EMT):  # as EqCalculator does; EMT itself dies of a NaN cell
        def calculate(self, atoms, *args):
            if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell).all()):
                raise GraphError("positions or cell are NaN or infinite.")
            super().calculate(atoms, *args)

    # Times that are refused, and so sure to end badly.
    monkeypatch.setattr("eqcalc.simulate.settings._FEWEST_STEPS", 0)
    settings = MDSettings(
        ensemble="npt", timestep_fs=10.0, n_steps=300, barostat_time_fs=1.0, thermostat_time_fs=1.0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(NonFiniteError, match=r"after step \d+: .*last good frame"):
            run_md(copper(), Checking(), settings, tmp_path / "run")


@pytest.mark.parametrize(
    ("n_steps", "end_K", "drawn"), [(18, None, False), (19, None, True), (19, 500.0, True)]
)
def test_running_mean_is_drawn_from_twenty_frames_on(tmp_path, monkeypatch, n_steps, end_K, drawn):
    figures = []
    made = plots.png_of
    monkeypatch.setattr(plots, "png_of", lambda figure: figures.append(figure) or made(figure))
    options = {"log_every": 1, "barostat_time_fs": 100.0, "to_temperature_K": end_K}
    settings = MDSettings(ensemble="npt", n_steps=n_steps, **options)
    result = run_md(copper(), EMT(), settings, tmp_path / "run")
    assert result.n_frames == n_steps + 1
    _, temperature, volume = figures[0].axes
    labels = [text.get_text() for text in temperature.get_legend().get_texts()]
    assert any("running mean" in label for label in labels) is drawn
    assert any("second half" in label for label in labels) is (drawn and end_K is None)
    assert not volume.yaxis.get_major_formatter().get_useOffset()


def test_short_nve_plot_has_no_empty_legend(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        spring_run(tmp_path, ensemble="nve", n_steps=10)


def test_final_structure_continues_the_run(tmp_path):
    run, result, _ = spring_run(tmp_path, ensemble="nve", n_steps=20)
    final = ase.io.read(result.folder / "final.xyz")
    more = MDRun(final, Springs(ethanol()), MDSettings(ensemble="nve"))
    assert more.kept_velocities
    assert more.n_dof == run.n_dof
    assert np.allclose(more.atoms.get_momenta(), run.atoms.get_momenta(), atol=1e-7)


def test_npt_needs_three_periodic_directions():
    slab = bulk("Cu", cubic=True)
    slab.pbc = [True, True, False]
    with pytest.raises(ConfigError, match=r"'npt'.*pbc \[True, True, False\]"):
        MDRun(slab, EMT(), MDSettings(ensemble="npt"))


def test_npt_needs_a_stress():
    with pytest.raises(ConfigError, match="needs the stress, which the calculator 'springs'"):
        MDRun(copper(), Springs(copper()), MDSettings(ensemble="npt"))


@pytest.mark.parametrize("ensemble", ["nvt-nhc", "npt"])
def test_chain_refuses_constraints_that_ase_would_ignore(ensemble):
    atoms = copper()
    atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigError, match=r"ignores constraints.*FixAtoms.*nvt-langevin"):
        MDRun(atoms, EMT(), MDSettings(ensemble=ensemble))


def test_structure_with_every_atom_fixed_is_refused():
    atoms = ethanol()
    atoms.set_constraint(FixAtoms(range(9)))
    with pytest.raises(ConfigError, match="no atom free to move"):
        MDRun(atoms, Springs(atoms), MDSettings())
    atoms.set_momenta(np.ones((9, 3)), apply_constraint=False)
    with pytest.raises(ConfigError, match="no atom free to move"):
        MDRun(atoms, Springs(atoms), MDSettings())


def test_progress_is_told_every_logged_step(tmp_path):
    atoms = ethanol()
    seen = []
    settings = MDSettings(n_steps=30)
    result = run_md(atoms, Springs(atoms), settings, tmp_path / "run", progress=seen.append)
    assert [now.thermo.step for now in seen] == [0, 10, 20, 30]
    assert seen[-1].ns_per_day > 0
    assert result.ns_per_day == pytest.approx(15e-6 / (result.wall_s / 86400), rel=1e-9)
    assert result.ms_per_step == pytest.approx(1000 * result.wall_s / 30, rel=1e-9)


def test_zero_kelvin_starts_at_rest(tmp_path):
    _, _, table = spring_run(tmp_path, ensemble="nve", temperature_K=0.0, n_steps=10)
    assert table["temperature_K"][0] == 0
