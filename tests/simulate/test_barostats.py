"""Constant pressure with cells that change in one, three or six ways."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from rarely import rarely

from eqcalc.errors import ConfigError
from eqcalc.simulate import MDRun, MDSettings, run_md
from eqcalc.simulate.cell_state import widest_gaps
from eqcalc.simulate.settings import BAROSTATS, CHAINS
from eqcalc.simulate.thermo import read_table

NEW = ["npt-anisotropic", "npt-flexible"]


def settings_of(ensemble: str, **changes) -> MDSettings:
    words = {"timestep_fs": 4.0, "thermostat_time_fs": 50.0, "barostat_time_fs": 300.0, "seed": 1}
    return MDSettings(ensemble, **{**words, **changes})


def copper(n: int = 1) -> Atoms:
    return bulk("Cu", cubic=True) * (2, n, n)


def largest_change(run: MDRun, n_steps: int) -> float:
    energies = [run.dynamics.get_conserved_energy() for _ in run.dynamics.irun(n_steps)]
    return float(np.abs(np.array(energies) - energies[0]).max())


@pytest.mark.parametrize("ensemble", NEW)
def test_changing_cell_conserves_its_energy_to_second_order(ensemble):
    def change(timestep_fs: float) -> float:
        settings = settings_of(
            ensemble, pressure_gpa=-10.0, timestep_fs=timestep_fs, barostat_time_fs=100.0
        )
        return largest_change(MDRun(copper(), EMT(), settings), int(200 / timestep_fs))

    assert change(4.0) / change(2.0) == pytest.approx(4.0, rel=0.15)


def stretched() -> Atoms:
    """Return copper whose axes are too long, right and too short, at right angles."""
    atoms = copper(2)
    atoms.set_cell(atoms.cell.lengths() * [1.03, 1.0, 0.97], scale_atoms=True)
    return atoms


@pytest.mark.parametrize("ensemble", ["npt", rarely("npt-anisotropic"), "npt-flexible"])
def test_axes_change_by_themselves_where_they_may(ensemble, tmp_path):
    settings = settings_of(ensemble, temperature_K=100.0, n_steps=400, log_every=4)
    result = run_md(stretched(), EMT(), settings, tmp_path / "run")
    table = read_table(result.folder / "thermo.csv")
    lengths = np.array([table[name] for name in ("a_A", "b_A", "c_A")])
    angles = np.array([table[name] for name in ("alpha_deg", "beta_deg", "gamma_deg")])
    mean = lengths[:, 50:].mean(axis=1)
    assert np.ptp(table["volume_A3"]) > 1.0
    assert result.cell_change.end.cell == pytest.approx([*lengths[:, -1], *angles[:, -1]], rel=1e-9)
    if ensemble == "npt":
        assert mean / mean[1] == pytest.approx([1.03, 1.0, 0.97], rel=1e-9)
    else:
        assert mean / mean[1] == pytest.approx([1.0, 1.0, 1.0], abs=0.015)
    if ensemble == "npt-flexible":
        assert np.ptp(angles) > 0.1
    else:
        assert angles == pytest.approx(np.full_like(angles, 90.0), abs=1e-9)


def test_flexible_cell_does_not_turn():
    run = MDRun(stretched(), EMT(), settings_of("npt-flexible"))
    for _ in run.dynamics.irun(50):
        momentum = run.dynamics._p_g
        assert np.allclose(momentum, momentum.T, atol=1e-9 * np.abs(momentum).max())
    assert np.abs(run.dynamics._p_g).max() > 0


def blocks(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and its error over ten blocks of what follows the first quarter."""
    means = np.array([part.mean(axis=0) for part in np.array_split(values[len(values) // 4 :], 10)])
    return means.mean(axis=0), means.std(axis=0, ddof=1) / np.sqrt(10)


class IdealGas(Calculator):
    """Atoms that do not act on each other."""

    implemented_properties = ("energy", "free_energy", "forces", "stress")

    def calculate(self, atoms, properties, system_changes):
        self.results = {"energy": 0.0, "free_energy": 0.0}
        self.results |= {"forces": np.zeros((len(atoms), 3)), "stress": np.zeros(6)}


def test_volume_of_an_ideal_gas_is_that_of_its_pressure():
    """Two atoms at rest as a whole move in three ways: p(V) ~ V exp(-pV/kT) has the mean 2 kT/p.

    With the six ways that ASE counts where momenta follow the cell, it is 1.5 kT/p.
    """
    atoms = Atoms("He2", [[0, 0, 0], [3, 3, 3]], cell=[8, 8, 8], pbc=True)
    pressure = 2 * units.kB * 300 / atoms.get_volume()
    settings = MDSettings(
        "npt",
        timestep_fs=10.0,
        pressure_gpa=pressure / units.GPa,
        barostat_time_fs=400.0,
        seed=2,
    )
    run = MDRun(atoms, IdealGas(), settings)
    volumes = np.array([run.atoms.get_volume() for _ in run.dynamics.irun(6000)])
    mean, error = blocks(volumes * pressure / (units.kB * 300))
    assert abs(mean - 2.0) < 4 * error
    assert error < 0.08


@pytest.mark.parametrize("ensemble", BAROSTATS)
def test_momenta_follow_a_growing_cell_in_the_ways_in_which_they_move(ensemble):
    """What keeps the volume of phase space: each shrinks as the cube root of V^(1 + 3 / n_dof)."""
    run = MDRun(copper(), EMT(), settings_of(ensemble))
    dynamics, rate = run.dynamics, 1e-3
    run.atoms.calc = IdealGas()
    mass = dynamics._barostat.W
    if ensemble == "npt":
        dynamics._p_eps = rate * mass
    elif ensemble == "npt-anisotropic":
        dynamics._p_c = np.full(3, rate * mass)
    else:
        dynamics._p_g = rate * mass * np.eye(3)
    before = dynamics._p.copy()
    dynamics._integrate_p(1.0)
    np.testing.assert_allclose(
        dynamics._p, before * np.exp(-rate * (1 + 3 / run.n_dof)), rtol=1e-12, atol=1e-14
    )


@pytest.mark.parametrize("ensemble", CHAINS)
def test_thermostat_and_barostat_have_the_times_that_were_set(ensemble):
    """Their masses are n k_B T τ², where the first link of a chain holds n ways to move."""
    times = {"thermostat_time_fs": 30.0, "barostat_time_fs": 400.0}
    run = MDRun(copper(), EMT(), settings_of(ensemble, temperature_K=200.0, **times))
    thermostat, barostat = (units.kB * 200.0 * (t * units.fs) ** 2 for t in times.values())
    chain = run.dynamics._thermostat._Q / thermostat
    assert chain == pytest.approx([run.n_dof, 1.0, 1.0], rel=1e-12)
    if ensemble in BAROSTATS:
        assert run.dynamics._barostat._R[1:] / barostat == pytest.approx([1.0, 1.0], rel=1e-12)
        n_ways = (3 if ensemble == "npt" else 1) * (len(run.atoms) + 1)  # as ASE weighs a cell
        assert run.dynamics._barostat.W / barostat == pytest.approx(n_ways, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ensemble", "n_ways"), [rarely("npt-anisotropic", 3), ("npt-flexible", 6)]
)
def test_stress_is_the_pressure_and_the_cell_as_warm_as_the_atoms(ensemble, n_ways):
    """ASE counts nine ways for a flexible cell, and would have it half as hot again."""
    run = MDRun(copper(2), EMT(), settings_of(ensemble, pressure_gpa=2.0))
    stress, warmth, kelvin = [], [], []
    for _ in run.dynamics.irun(4000):
        stress.append(-run.atoms.get_stress(include_ideal_gas=True) / units.GPa)
        warmth.append(2 * run.dynamics._get_cell_kinetic_energy() / (300 * units.kB))
        kelvin.append(run.atoms.get_temperature() * 3 * len(run.atoms) / run.n_dof)
    pressure, error = blocks(np.array(stress))
    assert np.all(np.abs(pressure[:3] - 2.0) < 4 * error[:3])
    assert error[:3].max() < 0.1
    if ensemble == "npt-flexible":
        assert np.all(np.abs(pressure[3:]) < 4 * error[3:])
        assert error[3:].max() < 0.1
    mean, error = blocks(np.array(warmth))
    assert abs(mean - n_ways) < 3 * error
    assert error < 0.2 * n_ways
    mean, error = blocks(np.array(kelvin))
    assert abs(mean - 300) < 4 * error


@pytest.mark.slow
@pytest.mark.parametrize("ensemble", NEW)
def test_stress_of_a_network_drives_the_cell_as_its_energy_does(ensemble):
    """Were it not the stress of the energy, nothing would be conserved to second order."""
    from eqcalc import EqCalculator

    atoms = bulk("MgO", "rocksalt", a=4.25, cubic=True)
    calculator = EqCalculator("sevennet-0", dtype="float64", engine="torchscript")

    def change(timestep_fs: float) -> float:
        settings = settings_of(
            ensemble, timestep_fs=timestep_fs, barostat_time_fs=100.0, pressure_gpa=10.0
        )
        return largest_change(MDRun(atoms, calculator, settings), int(60 / timestep_fs))

    assert change(2.0) / change(1.0) == pytest.approx(4.0, rel=0.15)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize("ensemble", BAROSTATS)
def test_cell_with_a_layer_of_vacuum_is_refused(ensemble):
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0, orthogonal=True)
    slab.pbc = True
    with pytest.raises(ConfigError, match=r"along c there is a layer of 16\.0 Å without atoms, as"):
        MDRun(slab, EMT(), settings_of(ensemble))
    box = molecule("N2", cell=[12, 12, 12], pbc=True)
    with pytest.raises(ConfigError, match=r"'npt.*' changes the volume, .* along a there is a lay"):
        MDRun(box, EMT(), settings_of(ensemble))


@pytest.mark.parametrize("ensemble", NEW)
def test_open_directions_are_refused(ensemble):
    slab = fcc111("Cu", (2, 2, 3), vacuum=8.0, orthogonal=True)
    with pytest.raises(ConfigError, match=rf"'{ensemble}' changes the cell and needs a structure"):
        MDRun(slab, EMT(), settings_of(ensemble))


def test_layer_across_the_end_of_the_cell_is_no_vacuum():
    atoms = bulk("Cu", cubic=True) * (1, 1, 8)  # 29 Å, and an edge within the crystal
    atoms.positions[:, 2] += 1.0
    MDRun(atoms, EMT(), settings_of("npt-anisotropic"))


def test_gap_of_an_aslant_cell_is_that_of_its_height():
    atoms = bulk("Cu", cubic=True) * (1, 1, 2)
    cell = atoms.cell.array.copy()
    cell[2] += 6 * cell[0]  # 23 Å long, of the same lattice
    atoms.set_cell(cell)
    gaps = widest_gaps(atoms, atoms.get_scaled_positions())
    assert gaps[2] == pytest.approx(3.61 / 2, abs=1e-9)  # between planes


def test_axes_that_are_not_at_right_angles_are_refused():
    with pytest.raises(ConfigError, match=r"the angles 60\.00 60\.00 60\.00°; use npt-flexible"):
        MDRun(bulk("Cu") * 2, EMT(), settings_of("npt-anisotropic"))
    turned = copper()
    turned.rotate(33, (1, 2, 3), rotate_cell=True)
    MDRun(turned, EMT(), settings_of("npt-anisotropic"))
    MDRun(bulk("Cu") * 2, EMT(), settings_of("npt-flexible"))
