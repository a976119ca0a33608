"""A script in LAMMPS's words does what ASE's classes do, and says what it will not do."""

import os
import signal

import ase.io
import numpy as np
import pytest
from ase import Atom, Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLength
from ase.md.langevin import Langevin
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.md.verlet import VelocityVerlet

from eqcalc import EqCalculator
from eqcalc.analysis.density import DensityProfile
from eqcalc.analysis.trajectory import Trajectory
from eqcalc.errors import (
    ConfigError,
    NonFiniteError,
    OutputLostError,
    UnknownCommandError,
)
from eqcalc.simulate import StopRequested
from eqcalc.simulate.lammps_style import LammpsScript, write_data
from eqcalc.simulate.structures import read_structures


def copper() -> Atoms:
    """Return eight atoms, displaced and moving, whole at rest."""
    atoms = bulk("Cu", cubic=True) * (2, 1, 1)
    atoms.rattle(0.05, seed=3)
    momenta = np.random.default_rng(4).normal(size=(8, 3)) * 2.0
    atoms.set_momenta(momenta - momenta.mean(axis=0))
    atoms.calc = EMT()
    return atoms


@pytest.fixture
def data(tmp_path):
    """Return the data file of copper() in metal units."""
    write_data(tmp_path / "cu.data", copper(), ["Cu"])
    return tmp_path / "cu.data"


def script_of(path, calculator=None, unit_system="metal", boundary="ppp") -> LammpsScript:
    script = LammpsScript(unit_system, screen=False)
    script.boundary(*boundary)
    script.read_data(path)
    script.pair_coeff(calculator or EMT(), "Cu")
    script.timestep(0.002 if unit_system == "metal" else 2.0)
    return script


def column(rows, name):
    return np.array([row[name] for row in rows])


def test_nve_is_velocity_verlet_of_ase(data):
    script = script_of(data)
    script.fix_nve()
    script.thermo(5)
    rows = script.run(20)
    assert column(rows, "step").tolist() == [0, 5, 10, 15, 20]

    atoms = copper()
    dynamics = VelocityVerlet(atoms, 2.0 * units.fs)
    for row in rows:
        assert row["pe"] == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
        assert row["ke"] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-11)
        assert row["etotal"] == row["pe"] + row["ke"]
        temperature = 2 * atoms.get_kinetic_energy() / (21 * units.kB)
        assert row["temp"] == pytest.approx(temperature, rel=1e-11)
        stress = atoms.get_stress(include_ideal_gas=True)
        assert row["press"] == pytest.approx(-stress[:3].mean() / units.bar, rel=1e-9)
        assert row["vol"] == pytest.approx(atoms.get_volume(), rel=1e-14)
        dynamics.run(5)


def test_every_column_is_what_its_name_says(tmp_path):
    atoms = copper()
    atoms.set_cell(atoms.cell @ [[1, 0, 0], [0.1, 1, 0], [-0.05, 0.02, 1]], scale_atoms=True)
    write_data(tmp_path / "cu.data", atoms, ["Cu"])
    script = script_of(tmp_path / "cu.data")
    script.fix_nve()
    names = ["pxx", "pyy", "pzz", "pyz", "pxz", "pxy", "density", "fmax", "fnorm"]
    box = ["lx", "ly", "lz", "xy", "xz", "yz"]
    script.thermo_style("custom", *names, *box)
    (row,) = script.run(0)
    pressure = -script.atoms.get_stress(voigt=False, include_ideal_gas=True) / units.bar
    places = {"x": 0, "y": 1, "z": 2}
    for name in names[:6]:
        expected = pressure[places[name[1]], places[name[2]]]
        assert row[name] == pytest.approx(expected, rel=1e-10), name
    cell = script.atoms.cell
    found = [row[name] for name in box]
    assert found == [cell[0, 0], cell[1, 1], cell[2, 2], cell[1, 0], cell[2, 0], cell[2, 1]]
    grams = script.atoms.get_masses().sum() / units.kg * 1000
    assert row["density"] == pytest.approx(grams / (atoms.get_volume() * 1e-24), rel=1e-10)
    forces = script.atoms.get_forces()
    assert row["fmax"] == np.abs(forces).max()
    assert row["fnorm"] == pytest.approx(np.sqrt((forces**2).sum()), rel=1e-12)


def test_langevin_is_langevin_of_ase(data):
    script = script_of(data)
    script.fix_nve()
    script.fix_langevin(400.0, 400.0, 0.05, 7)
    rows = script.run(20)

    atoms = copper()
    rng = np.random.default_rng(7)
    Langevin(
        atoms, 2 * units.fs, temperature_K=400, friction=0.02 / units.fs, fixcm=False, rng=rng
    ).run(20)
    assert np.allclose(script.atoms.positions, atoms.positions, rtol=0, atol=1e-11)
    assert rows[-1]["ke"] == pytest.approx(atoms.get_kinetic_energy(), abs=1e-11)


@pytest.mark.parametrize(
    "between",
    [
        lambda script: script.timestep(0.002),
        lambda script: script.atoms.wrap(),
        lambda script: script.velocity_create(300.0, 4321),
        lambda script: (script.unfix("nve"), script.fix_nve()),
        lambda script: script.minimize(0.0, 0.5, 5, 100),
    ],
    ids=["timestep", "wrap", "velocity", "unfix nve", "minimize"],
)
def test_noise_of_langevin_goes_on_whatever_happens_between_runs(data, between):
    script = script_of(data)
    script.fix_nve()
    script.fix_langevin(300.0, 300.0, 0.05, 7)
    script.min_style("fire")
    noise = np.random.default_rng(7)
    for _ in range(3):
        script.run(4)
        noise.standard_normal(4 * 2 * 3 * len(script.atoms))  # ASE draws two vectors an atom
        assert script._noise.bit_generator.state == noise.bit_generator.state
        between(script)


def test_langevin_in_pieces_holds_its_temperature(data):
    script = script_of(data)
    script.fix_nve()
    script.fix_langevin(300.0, 300.0, 0.02, 7)
    found = []
    for _ in range(150):
        script.run(10)
        script.atoms.wrap()
        found.append(script.atoms.get_temperature())
    # 24 degrees of freedom, each piece of its own: 300 K within four standard errors.
    assert np.mean(found[30:]) == pytest.approx(300.0, abs=4 * 300 * np.sqrt(2 / 24 / 120 * 2))


def test_temperature_of_langevin_changes_over_a_run(data):
    script = script_of(data)
    script.fix_nve()
    script.fix_langevin(100.0, 300.0, 0.05, 7)
    seen = []
    calculate = EMT.calculate

    class Watching(EMT):
        def calculate(self, *args, **kwargs):
            calculate(self, *args, **kwargs)
            if script._dynamics is not None:
                seen.append(script._dynamics.temp / units.kB)

    script.pair_coeff(Watching(), "Cu")
    script.run(4)
    assert np.allclose(seen[-4:], [150, 200, 250, 300])


def test_nvt_is_the_chain_of_ase_for_three_n_minus_three_degrees_of_freedom(data):
    script = script_of(data)
    script.fix_nvt(temp=(500.0, 500.0, 0.1))
    script.run(20)

    atoms = copper()
    dynamics = NoseHooverChainNVT(atoms, 2 * units.fs, temperature_K=500, tdamp=100 * units.fs)
    dynamics._thermostat._num_atoms_global = 7
    dynamics._thermostat._Q[0] *= 7 / 8
    dynamics.run(20)
    assert np.allclose(script.atoms.positions, atoms.positions, rtol=0, atol=1e-11)


def test_npt_reaches_the_pressure(data):
    script = script_of(data)
    script.velocity_create(300.0, 5, dist="gaussian")
    script.fix_npt(temp=(300.0, 300.0, 0.1), iso=(50_000.0, 50_000.0, 0.05))
    script.thermo(1)
    rows = script.run(200)
    assert column(rows, "vol")[100:].mean() < 0.985 * rows[0]["vol"]
    assert column(rows, "press")[100:].mean() == pytest.approx(50_000.0, abs=6000)


@pytest.mark.parametrize("fix", ["nve", "nvt", "npt"])
def test_units_real_give_the_trajectory_of_units_metal(tmp_path, fix):
    ends = []
    for name, ps, bar in (
        ("metal", 1.0, 1.0),
        ("real", 1000.0, units.bar / (101325 * units.Pascal)),
    ):
        write_data(tmp_path / "cu.data", copper(), ["Cu"], units=name)
        script = script_of(tmp_path / "cu.data", unit_system=name)
        temp = (300.0, 300.0, 0.1 * ps)
        if fix == "nve":
            script.fix_nve()
        elif fix == "nvt":
            script.fix_nvt(temp)
        else:
            script.fix_npt(temp, iso=(1000.0 * bar, 1000.0 * bar, 1.0 * ps))
        script.thermo_style("custom", "time", "pe", "ke", "press", "fmax", "pxy", "temp")
        ends.append((script.run(20)[-1], script.atoms))
    (metal, one), (real, other) = ends
    assert np.allclose(one.positions, other.positions, rtol=0, atol=1e-10)
    kcal = units.kcal / units.mol
    assert metal["time"] == pytest.approx(0.04)
    assert real["time"] == pytest.approx(40.0)
    assert real["pe"] * kcal == pytest.approx(metal["pe"], abs=1e-9)
    assert real["ke"] * kcal == pytest.approx(metal["ke"], abs=1e-9)
    assert real["fmax"] * kcal == pytest.approx(metal["fmax"], abs=1e-9)
    assert real["press"] * 1.01325 == pytest.approx(metal["press"], rel=1e-8)
    assert real["pxy"] * 1.01325 == pytest.approx(metal["pxy"], rel=1e-8)
    assert real["temp"] == pytest.approx(metal["temp"], rel=1e-10)


def start_nvt(path):
    script = script_of(path)
    script.fix_nvt(temp=(500.0, 500.0, 0.05))
    return script


def test_second_run_goes_on_with_the_state_of_the_thermostat(data):
    once, twice = start_nvt(data), start_nvt(data)
    once.run(30)
    twice.run(20)
    rows = twice.run(10)
    assert column(rows, "step").tolist() == [20, 30]
    assert twice.step == 30
    assert np.array_equal(once.atoms.positions, twice.atoms.positions)


@pytest.mark.parametrize("what", ["positions", "momenta", "cell"])
def test_change_of_the_atoms_between_runs_is_not_undone(data, what):
    script = start_nvt(data)
    script.run(5)
    if what == "positions":
        script.atoms.positions[0, 0] += 0.3
    elif what == "momenta":
        script.atoms.set_momenta(script.atoms.get_momenta() * 3.0)
    else:
        script.atoms.set_cell(script.atoms.cell * 1.01)
    before = script.atoms.copy()
    script.run(0)
    assert np.array_equal(before.positions, script.atoms.positions)
    row = script.run(1)[0]
    assert row["ke"] == pytest.approx(before.get_kinetic_energy())
    assert row["vol"] == pytest.approx(before.get_volume())
    assert np.abs(script.atoms.positions - before.positions).max() < 0.1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda atoms: atoms.append(Atom("Cu", (1, 1, 1))), r"has 9 atoms, and 8 were read"),
        (
            lambda atoms: atoms.symbols.__setitem__(3, "Ni"),
            r"atom 3 is Ni \(63.546 amu\), .* is Cu",
        ),
        (lambda atoms: atoms.set_masses([65.0] * 8), r"is Cu \(65 amu\), and its type 1 is Cu"),
    ],
)
def test_atoms_that_are_no_longer_those_of_their_types_are_not_written(
    data, tmp_path, change, words
):
    script = script_of(data)
    change(script.atoms)
    with pytest.raises(ConfigError, match=words):
        script.write_data(tmp_path / "after.data")
    assert not (tmp_path / "after.data").exists()


def test_new_masses_between_runs_let_the_thermostat_start_afresh(data):
    script = start_nvt(data)
    script.run(5)
    script.atoms.set_masses(4.0 * script.atoms.get_masses())
    twin = script_of(data)
    twin.atoms.set_masses(script.atoms.get_masses())
    twin.atoms.set_positions(script.atoms.positions)
    twin.atoms.set_momenta(script.atoms.get_momenta())
    twin.fix_nvt(temp=(500.0, 500.0, 0.05))
    script.run(10)
    twin.run(10)
    np.testing.assert_allclose(script.atoms.positions, twin.atoms.positions, atol=1e-12)


def test_constraints_that_come_between_runs_are_refused_like_those_before(data):
    script = start_nvt(data)
    script.run(5)
    script.atoms.set_constraint(FixAtoms([0]))
    with pytest.raises(ConfigError, match=r"ignores constraints, and this structure has FixAtoms"):
        script.run(5)


def test_time_counts_each_timestep_as_long_as_it_was(data):
    script = script_of(data)
    script.fix_nve()
    script.thermo_style("custom", "step", "time", "elapsed", "atoms")
    script.run(10)
    script.timestep(0.001)
    assert script.run(10)[-1] == {
        "step": 20,
        "time": pytest.approx(0.03),
        "elapsed": 10,
        "atoms": 8,
    }


def test_log_is_laid_out_as_that_of_lammps(data, tmp_path, capsys):
    script = LammpsScript("metal")
    script.read_data(data)
    script.pair_coeff(EMT(), "Cu")
    script.fix_nve()
    script.log(tmp_path / "log.cu")
    script.thermo_style("custom", "step", "temp", "pe", "lx")
    script.run(1)
    script.log("none")
    script.thermo_modify(format_float="%.3f")
    script.run(0)
    shown = capsys.readouterr().out.splitlines()
    logged = (tmp_path / "log.cu").read_text().splitlines()
    assert shown[:4] == logged
    assert logged[0] == "      Step      Temp          PotEng           Lx"
    assert logged[1].split()[0] == "0"
    assert float(logged[1].split()[3]) == 7.22
    assert logged[3].startswith("Loop time of ")
    assert logged[3].endswith(" on 1 procs for 1 steps with 8 atoms")
    assert shown[5].split()[3] == "7.220"


def test_dump_has_a_frame_at_every_step_that_it_divides(data, tmp_path):
    script = script_of(data)
    script.fix_nve()
    script.run(3)
    script.dump("extxyz", 4, tmp_path / "all.xyz")
    script.dump("traj", 2, tmp_path / "all.traj")
    script.run(5)
    script.run(4)
    script.undump(tmp_path / "all.traj")
    script.run(2)
    frames = ase.io.read(tmp_path / "all.xyz", ":")
    assert [frame.info["step"] for frame in frames] == [4, 8, 12]
    assert [frame.info["time_fs"] for frame in frames] == pytest.approx([8.0, 16.0, 24.0])
    assert [f.info["step"] for f in ase.io.read(tmp_path / "all.traj", ":")] == [4, 6, 8, 10, 12]
    last = frames[-1].copy()
    last.calc = EMT()
    assert frames[-1].get_potential_energy() == pytest.approx(last.get_potential_energy(), abs=1e-5)
    assert np.allclose(frames[-1].get_forces(), last.get_forces(), rtol=0, atol=1e-5)
    assert frames[-1].get_kinetic_energy() > 0


def test_written_state_goes_on_like_the_run(data, tmp_path):
    script = script_of(data)
    script.fix_nve()
    script.run(10)
    script.write_data(tmp_path / "half.data")
    rows = script.run(10)
    again = script_of(tmp_path / "half.data")
    again.fix_nve()
    assert again.run(10)[-1]["etotal"] == pytest.approx(rows[-1]["etotal"], abs=1e-11)
    moved = again.atoms.positions - script.atoms.positions
    assert np.allclose(moved, 0, rtol=0, atol=1e-10)


def slab_data(tmp_path):
    atoms = copper()
    atoms.set_cell([*atoms.cell.lengths()[:2], 30.0])
    atoms.center(axis=2)
    write_data(tmp_path / "slab.data", atoms, ["Cu"])
    return tmp_path / "slab.data"


def test_box_with_a_fixed_face_has_no_pressure(tmp_path):
    script = script_of(slab_data(tmp_path), boundary="ppf")
    script.fix_nve()
    assert script.atoms.pbc.tolist() == [True, True, False]
    assert list(script.run(2)[0]) == ["step", "temp", "pe", "ke", "etotal", "vol"]
    script.thermo_style("custom", "step", "press")
    with pytest.raises(ConfigError, match="thermo press needs a box that is periodic"):
        script.run(2)


def test_rigid_bonds_leave_no_pressure(data):
    script = script_of(data)
    script.atoms.set_constraint(FixBondLength(0, 1))
    script.fix_nve()
    assert "press" not in script.run(2)[0]
    script.thermo_style("custom", "step", "press")
    with pytest.raises(ConfigError, match="no rigid bonds or springs between atoms, whose own"):
        script.run(2)


@pytest.mark.parametrize("style", ["extxyz", "traj"])
def test_dump_keeps_where_the_box_begins(style, tmp_path):
    """A box from -L/2 to L/2, whose density would else lie half outside of the cell."""
    path = slab_data(tmp_path)
    low, high = path.read_text().split(" zlo zhi")[0].split("\n")[-1].split()
    middle = 0.5 * float(high)
    text = path.read_text().replace(f"{low} {high} zlo", f"{-middle!r} {middle!r} zlo")
    head, _, rest = text.partition("Atoms # atomic\n\n")
    lines, _, tail = rest.partition("\n\n")
    moved = []
    for line in lines.split("\n"):
        words = line.split()
        words[4] = repr(float(words[4]) - middle)
        moved.append(" ".join(words))
    joined = "\n".join(moved)
    path.write_text(f"{head}Atoms # atomic\n\n{joined}\n\n{tail}")
    script = script_of(path, boundary="ppf")
    script.fix_nve()
    suffix = {"extxyz": "xyz", "traj": "traj"}[style]
    script.dump(style, 1, tmp_path / f"all.{suffix}")
    script.run(1)
    with Trajectory(tmp_path / f"all.{suffix}") as frames:
        np.testing.assert_allclose(frames[1].get_celldisp().ravel(), [0, 0, -middle])
        worker = DensityProfile(frames[0], 2, axis="c")
        for frame in frames.frames(range(2)):
            worker.add(frame)
    assert worker.result().outside == 0
    (first, *_) = read_structures(tmp_path / f"all.{suffix}")
    np.testing.assert_allclose(first.get_celldisp().ravel(), [0, 0, -middle])
    assert "Origin" not in first.info


def test_atom_that_leaves_through_a_fixed_face_is_an_error(tmp_path):
    script = script_of(slab_data(tmp_path), boundary="ppf")
    script.fix_nve()
    script.atoms.arrays["momenta"][5, 2] = 1e4
    script.thermo(1)
    with pytest.raises(NonFiniteError, match=r"after step \d+: atom 6 \(id\) left the box"):
        script.run(50)


def test_minimization_stops_at_the_norm_of_all_forces(data):
    script = script_of(data)
    script.min_style("fire")
    result = script.minimize(0.0, 1e-3, 500, 1000)
    assert result.stopped_by == "force tolerance"
    assert result.converged
    norm = np.linalg.norm(script.atoms.get_forces())
    assert result.force_norms[1] == pytest.approx(norm)
    assert norm < 1e-3 < result.force_norms[0]
    assert result.energies[1] < result.energies[0]
    assert script.step == result.n_iterations
    assert script.atoms.get_kinetic_energy() == 0


def test_minimization_in_real_units_compares_in_them(tmp_path):
    write_data(tmp_path / "cu.data", copper(), ["Cu"], units="real")
    script = script_of(tmp_path / "cu.data", unit_system="real")
    script.min_style("fire")
    result = script.minimize(0.0, 0.01, 500, 1000)
    kcal = units.kcal / units.mol
    assert 0.005 < result.force_norms[1] / kcal < 0.01


def test_minimization_stops_where_the_energy_hardly_changes_once_it_went_downhill(tmp_path):
    write_data(tmp_path / "ar.data", Atoms("Ar2", [[1, 1, 1], [6, 1, 1]], cell=[20] * 3), ["Ar"])
    results = []
    for etol in (0.9, 1e-9):
        script = LammpsScript(screen=False)
        script.read_data(tmp_path / "ar.data")
        script.pair_coeff(LennardJones(epsilon=0.01, sigma=3.4, rc=9.0), "Ar")
        script.min_style("fire")
        results.append(script.minimize(etol, 0.0, 40, 100))
    loose, strict = results
    assert (loose.stopped_by, strict.stopped_by) == ("energy tolerance", "max iterations")
    # LAMMPS compares no energies before 20 steps in a row went downhill.
    assert loose.n_iterations == 22


@pytest.mark.parametrize(
    ("maxiter", "maxeval", "reason", "steps"),
    [(7, 100, "max iterations", 7), (100, 8, "max force evaluations", 7)],
)
def test_minimization_that_is_cut_short_says_so(data, maxiter, maxeval, reason, steps):
    counting = EMT()
    script = script_of(data, counting)
    script.min_style("fire")
    script.thermo(5)
    result = script.minimize(0.0, 1e-9, maxiter, maxeval)
    assert (result.stopped_by, result.n_iterations) == (reason, steps)
    assert not result.converged


class Failing(EMT):
    """EMT that does something else at its fifth call."""

    def __init__(self, at_fifth):
        super().__init__()
        self.n_calls = 0
        self.at_fifth = at_fifth

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.n_calls += 1
        if self.n_calls == 5:
            self.at_fifth(self.results)


def break_forces(results):
    results["forces"] = results["forces"] * np.nan


def interrupt(results):
    os.kill(os.getpid(), signal.SIGINT)


def test_run_that_breaks_names_the_step(data):
    script = script_of(data, Failing(break_forces))
    script.fix_nve()
    with pytest.raises(NonFiniteError, match="stopped after step 4: the velocities are NaN"):
        script.run(20)


def test_minimization_that_breaks_names_the_step(data):
    script = script_of(data, Failing(break_forces))
    script.min_style("fire")
    with pytest.raises(NonFiniteError, match="stopped after step 3: the energy or the forces"):
        script.minimize(0.0, 1e-9, 20, 100)


@pytest.mark.parametrize("what", ["run", "minimize"])
def test_interrupt_waits_for_the_end_of_the_step(data, tmp_path, what):
    script = script_of(data, Failing(interrupt))
    script.dump("extxyz", 1, tmp_path / "all.xyz")
    script.fix_nve()
    go_on = {"run": lambda: script.run(20), "minimize": lambda: script.minimize(0, 1e-9, 20, 100)}
    script.min_style("fire")
    with pytest.raises(StopRequested, match="stopped after 4") as stopped:
        go_on[what]()
    assert stopped.value.signal_number == signal.SIGINT
    assert len(ase.io.read(tmp_path / "all.xyz", ":")) == 5


def test_dump_that_is_removed_during_a_run_is_an_error(data, tmp_path):
    script = script_of(data)
    script.dump("extxyz", 100, tmp_path / "all.xyz")
    script.fix_nve()
    script.run(1)
    (tmp_path / "all.xyz").unlink()
    with pytest.raises(OutputLostError, match="removed or replaced"):
        script.run(1)


def test_elements_follow_from_the_masses_where_none_are_named(data):
    script = LammpsScript(screen=False)
    script.read_data(data)
    script.pair_coeff(EMT())
    assert str(script.atoms.symbols) == "Cu8"
    assert np.allclose(script.atoms.get_masses(), copper().get_masses())


@pytest.mark.parametrize(
    ("precision", "dtype"), [("model", "float32"), ("float32", "float32"), ("float64", "float64")]
)
def test_precision_is_that_of_the_calculator(tmp_path, precision, dtype):
    write_data(tmp_path / "e.data", molecule("CH3CH2OH", vacuum=6.0), ["C", "H", "O"])
    script = LammpsScript(screen=False)
    script.read_data(tmp_path / "e.data")
    script.pair_style("eqcalc", precision=precision, engine="torchscript")
    script.pair_coeff("painn-ethanol", "C", "H", "O")
    script.thermo_style("custom", "pe")
    script.fix_nve()
    atoms = molecule("CH3CH2OH", vacuum=6.0)
    atoms.pbc = True
    atoms.calc = EqCalculator("painn-ethanol", dtype=dtype, engine="torchscript")
    assert script.run(0)[0]["pe"] == pytest.approx(atoms.get_potential_energy(), abs=1e-9)


def test_swapped_elements_are_refused(tmp_path):
    write_data(tmp_path / "w.data", molecule("H2O", vacuum=5.0), ["O", "H"])
    script = LammpsScript(screen=False)
    script.read_data(tmp_path / "w.data")
    with pytest.raises(ConfigError, match=r"type 1 is H \(mass 1.008\), and its mass .* 15.999"):
        script.pair_coeff(EMT(), "H", "O")
    with pytest.raises(ConfigError, match="are not known; call pair_style"):
        _ = script.atoms


@pytest.mark.parametrize(
    ("commands", "message"),
    [
        (lambda s: s.run(10), "no fix moves the atoms; add fix_nve()"),
        (lambda s: (s.fix_langevin(300, 300, 0.1, 1), s.run(1)), "beside fix_langevin, which only"),
        (lambda s: (s.fix_nve(), s.fix_nvt((300, 300, 0.1)), s.run(1)), "nve and nvt would both"),
        (
            lambda s: (s.fix_langevin(300, 300, 0.1, 1), s.fix_nvt((300, 300, 0.1)), s.run(1)),
            "two thermostats",
        ),
        (lambda s: (s.fix_nve(), s.fix_nve()), "there is a fix nve already"),
        (lambda s: s.unfix("nvt"), "no fix 'nvt' to take away; there are: none"),
        (lambda s: s.fix_nvt((300, 400, 0.1)), "from 300 K to 400 K: the masses of ASE's chain"),
        (lambda s: s.fix_nvt((0, 0, 0.1)), "must be above 0 K, not 0 K"),
        (lambda s: s.fix_nvt((300, 300)), r"three numbers \(Tstart, Tstop, Tdamp\)"),
        (lambda s: s.fix_nvt((300, 300, 0)), "Tdamp of fix nvt is a time in ps above 0"),
        (lambda s: s.fix_npt((300, 300, 0.1), (0, 1, 1)), "from 0 to 1 bar: ASE's barostat"),
        (lambda s: s.fix_npt((300, 300, 0.1), (1, 1)), "Pstart, Pstop, Pdamp"),
        (lambda s: s.fix_langevin(-1, 300, 0.1, 1), "must be 0 K or more, not -1 K"),
        (lambda s: s.fix_langevin(1, 300, 0.1, 0), "seed of fix langevin must be"),
        (lambda s: s.fix_langevin(1, 300, -0.1, 1), "langevin's damp is a time in ps above 0"),
        (lambda s: s.timestep(0.5), "0.5 ps is refused: units metal count in ps, .* 0.01 ps"),
        (lambda s: s.timestep(0.0), "timestep of 0.0 ps is refused"),
        (lambda s: s.run(-1), "run N: N is a whole number >= 0, not -1"),
        (lambda s: s.run(1.0), "not 1.0"),
        (lambda s: s.thermo(-1), "thermo every N steps"),
        (lambda s: s.thermo_style("one"), "thermo_style 'one' is not supported"),
        (lambda s: s.thermo_style("custom", "etot"), "'etot' is not supported; .* 'etotal'"),
        (lambda s: s.thermo_style("custom"), "no thermo keyword is not supported"),
        (lambda s: s.thermo_modify(format_float="%d %d"), "not the format of one number"),
        (lambda s: s.dump("custom", 1, "a.xyz"), "dump style 'custom' is not supported"),
        (lambda s: s.dump("extxyz", 0, "a.xyz"), "N is a whole number >= 1, not 0"),
        (lambda s: s.dump("extxyz", 1, "a.lammpstrj"), "must end in .xyz"),
        (lambda s: s.dump("traj", 1, "a.xyz"), "must end in .traj"),
        (lambda s: s.undump("a.xyz"), "no dump writes 'a.xyz'; there are: none"),
        (lambda s: s.minimize(0, 1, 1, 1), "means LAMMPS's cg"),
        (lambda s: s.min_style("cg"), "min_style 'cg' is not supported"),
        (lambda s: s.pair_style("lj/cut"), "pair_style 'lj/cut' is not supported"),
        (
            lambda s: s.pair_style("eqcalc", precision="double"),
            "precision: expected model, float32",
        ),
        (
            lambda s: s.pair_style("eqcalc", precision="float32", dtype="float64"),
            "says the precision by the word precision",
        ),
        (
            lambda s: (s.pair_style("eqcalc", precision="float32"), s.pair_coeff(EMT(), "Cu")),
            "the calculator that pair_coeff was given has its own",
        ),
        (lambda s: s.pair_coeff("painn-ethanol", "Cu"), "needs pair_style"),
        (lambda s: s.pair_coeff(EMT(), "Cu", "O"), "names 2 elements"),
        (lambda s: s.read_data("b.data"), "reads one data file"),
        (lambda s: s.boundary("p", "p", "p"), "before read_data"),
        (lambda s: LammpsScript().boundary("p", "p", "s"), "boundary 's' is not supported"),
        (lambda s: LammpsScript().write_data("a.data"), "no atoms yet"),
        (lambda s: LammpsScript().velocity_create(300.0, 1), "no atoms yet"),
        (lambda s: LammpsScript("lj"), "units 'lj' are not supported"),
    ],
)
def test_command_that_means_something_else_is_refused(
    data, tmp_path, monkeypatch, commands, message
):
    monkeypatch.chdir(tmp_path)
    script = script_of(data)
    with pytest.raises(ConfigError, match=message):
        commands(script)


def minimizing(*arguments):
    def commands(script):
        script.min_style("fire")
        script.minimize(*arguments)

    return commands


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1.0, 1.0, 1, 1), "etol of minimize must be 0 or more"),
        ((2.0, 1.0, 1, 1), "etol of minimize is relative"),
        ((0.0, np.nan, 1, 1), "ftol of minimize must be 0 or more"),
        ((0.0, 1.0, 0, 1), "maxiter of minimize must be a whole number"),
        ((0.0, 1.0, 1, 1.5), "maxeval of minimize must be a whole number"),
    ],
)
def test_criteria_of_a_minimization_are_checked(data, arguments, message):
    with pytest.raises(ConfigError, match=message):
        minimizing(*arguments)(script_of(data))


def test_two_dumps_into_one_file_are_refused(data, tmp_path):
    script = script_of(data)
    script.dump("extxyz", 1, tmp_path / "a.xyz")
    with pytest.raises(ConfigError, match=r"a dump writes .* already"):
        script.dump("extxyz", 1, tmp_path / "a.xyz")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fix_shake", "hold no bonds"),
        ("kspace_style", "a model needs no bonds, angles or charges"),
        ("fix_nvp", r"known: .*Did you mean 'fix_nv"),
    ],
)
def test_command_that_is_not_there_is_refused_by_name(name, message):
    script = LammpsScript(screen=False)
    with pytest.raises(UnknownCommandError, match=rf"'{name}' is no command.*{message}"):
        getattr(script, name)
    assert not hasattr(script, name)
