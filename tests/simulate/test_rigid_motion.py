"""What moves as a whole holds no heat: momenta and rotations that a thermostat cannot change."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixInternals,
    FixLinearTriatomic,
    Hookean,
)
from springs import Springs, ethanol

from eqcalc import EqCalculator
from eqcalc.errors import ConfigError
from eqcalc.simulate import GuardSettings, MDRun, MDSettings
from eqcalc.simulate.degrees_of_freedom import degrees_of_freedom
from eqcalc.simulate.rigid_motion import (
    conserved_zero_momenta,
    reach_of,
    remove_rigid_motion,
    rigid_share,
)

QUIET = GuardSettings.off()


def turning(atoms: Atoms, temperature_K: float = 300.0, seed: int = 0) -> Atoms:
    """Return atoms with random velocities, the motion of the whole included."""
    rng = np.random.default_rng(seed)
    width = np.sqrt(atoms.get_masses() * units.kB * temperature_K)
    atoms.set_momenta(width[:, None] * rng.normal(size=(len(atoms), 3)))
    return atoms


def boxed(atoms: Atoms, side: float, shift: float = 0.0) -> Atoms:
    """Return atoms in a periodic box, wrapped."""
    atoms.set_cell([side, side, side])
    atoms.pbc = True
    atoms.positions += shift
    atoms.wrap()
    return atoms


def test_a_molecule_in_a_box_turns_like_one_in_the_open():
    free = turning(ethanol())
    boxes = [boxed(free.copy(), 15.0, shift) for shift in (0.0, 7.0, 14.0)]
    share = remove_rigid_motion(free)
    assert 0.05 < share < 0.6
    assert np.abs(free.get_angular_momentum()).max() < 1e-10
    assert conserved_zero_momenta(free) == 6
    for box in boxes:
        assert rigid_share(box, 5.0) == pytest.approx(share)
        assert remove_rigid_motion(box, 5.0) == pytest.approx(share)
        np.testing.assert_allclose(box.get_momenta(), free.get_momenta(), atol=1e-10)
        assert conserved_zero_momenta(box, 5.0) == 6
        assert conserved_zero_momenta(box) == 3  # how far the interactions reach is not known


def wire() -> Atoms:
    """Return copper that is periodic along z alone."""
    atoms = bulk("Cu", cubic=True) * (1, 1, 3)
    atoms.rattle(0.05, seed=2)
    atoms.set_cell([0, 0, atoms.cell[2, 2]])
    atoms.pbc = [False, False, True]
    return atoms


def test_a_wire_turns_about_its_axis_alone():
    line = turning(wire())
    lying = Atoms(line.numbers, np.roll(line.positions, 1, axis=1), pbc=[True, False, False])
    lying.set_cell([line.cell[2, 2], 0, 0])
    lying.set_momenta(np.roll(line.get_momenta(), 1, axis=1))
    before = line.copy()
    remove_rigid_motion(before, keep_rotation=True)
    share = rigid_share(line)
    assert share > 1.0 - before.get_kinetic_energy() / line.get_kinetic_energy() + 1e-3
    for atoms, reach in ((line, None), (lying, None), (lying, 5.0)):
        twin = atoms.copy()
        assert remove_rigid_motion(twin, reach) == pytest.approx(share)
        assert conserved_zero_momenta(twin, reach) == 4
    remove_rigid_motion(line)
    assert abs(line.get_angular_momentum()[2]) < 1e-10
    moved = line.get_momenta() - before.get_momenta()
    assert np.abs(moved[:, 2]).max() < 1e-12  # nothing else is taken
    slab = line.copy()
    slab.set_cell([3.6, 0, line.cell[2, 2]])
    slab.pbc = [True, False, True]
    assert conserved_zero_momenta(slab, 3.0) == 3
    chain = turning(Atoms("Cu2", [[0, 0, 0], [0, 0, 2.4]], cell=[0, 0, 4.8], pbc=[0, 0, 1]))
    remove_rigid_motion(chain)
    assert conserved_zero_momenta(chain) == 3


@pytest.mark.parametrize("ensemble", ["nvt-nhc", "nve", "nvt-langevin"])
def test_heat_of_a_wire_is_none_of_its_rotation(ensemble):
    run = MDRun(wire(), EMT(), MDSettings(ensemble, guards=QUIET))
    assert run.n_dof == 36 - (3 if ensemble == "nvt-langevin" else 4)
    assert run.start_temperature_K == pytest.approx(300.0)


def test_what_meets_its_images_keeps_its_rotation():
    two = molecule("H2O")
    other = molecule("H2O")
    other.positions += 4.0
    two += other
    for atoms, side, reach in (
        (ethanol(), 9.0, 5.0),  # the gap is narrower than the reach
        (two, 30.0, 5.0),  # they may fly apart, and meet images
    ):
        box = boxed(turning(atoms), side)
        remove_rigid_motion(box, reach)
        assert np.abs(box.get_momenta().sum(axis=0)).max() < 1e-12
        assert conserved_zero_momenta(box, reach) == 3
    assert conserved_zero_momenta(turning(bulk("Cu", cubic=True)), 5.0) == 0


@pytest.mark.parametrize("ensemble", ["nvt-nhc", "npt", "nvt-langevin", "nve"])
def test_a_drift_that_a_structure_brings_is_taken_out_where_a_chain_would_count_it(ensemble):
    crystal = turning(bulk("Cu", cubic=True) * (2, 2, 1))
    remove_rigid_motion(crystal)
    heat = crystal.get_kinetic_energy()
    crystal.set_velocities(crystal.get_velocities() + 0.05)
    run = MDRun(crystal, EMT(), MDSettings(ensemble, guards=QUIET))
    total, kinetic = run.atoms.get_momenta().sum(axis=0), run.atoms.get_kinetic_energy()
    assert run.kept_velocities
    if ensemble in ("nvt-nhc", "npt"):
        assert run.rigid_share == pytest.approx(1 - heat / crystal.get_kinetic_energy())
        assert np.abs(total).max() < 1e-10
        assert kinetic == pytest.approx(heat)
        assert run.n_dof == 3 * len(crystal) - 3
        assert run.start_temperature_K == pytest.approx(2 * heat / (run.n_dof * units.kB))
    elif ensemble == "nve":  # the user's, and said
        assert kinetic == pytest.approx(crystal.get_kinetic_energy())
        assert run.rigid_share == pytest.approx(1 - heat / kinetic)
    else:  # Langevin's friction stops it
        assert run.rigid_share == 0


@pytest.mark.parametrize("ensemble", ["nvt-nhc", "npt"])
def test_velocities_that_only_move_the_whole_are_refused_where_they_are_scaled(ensemble):
    crystal = bulk("Cu", cubic=True)
    crystal.set_velocities(np.full((4, 3), 0.05))
    with pytest.raises(ConfigError, match=r"nothing but move or turn it as a whole.* new ones"):
        MDRun(crystal, EMT(), MDSettings(ensemble, guards=QUIET))
    assert MDRun(crystal, EMT(), MDSettings("nvt-langevin", guards=QUIET)).kept_velocities


def test_vibrations_have_the_temperature_of_the_chain_whatever_the_molecule_brought():
    """As when a run in chains goes on from a frame of Langevin's, which turns molecules."""
    start = turning(ethanol(), 900.0, seed=3)
    settings = MDSettings("nvt-nhc", temperature_K=300.0, n_steps=4000, guards=QUIET)
    run = MDRun(start, Springs(ethanol()), settings)
    assert (run.n_dof, run.rigid_share > 0.05) == (21, True)
    internal = []
    for step, _ in enumerate(run.dynamics.irun(settings.n_steps)):
        if step >= 1000:
            internal.append(run.atoms.get_kinetic_energy() * (1 - rigid_share(run.atoms)))
    assert 2 * np.mean(internal) / (21 * units.kB) == pytest.approx(300.0, rel=0.06)


def test_a_molecule_in_a_box_begins_without_rotation(models):
    calculator = EqCalculator(models["double"], engine="torchscript")
    assert reach_of(calculator) == 4.0
    assert reach_of(EMT()) is None
    box = boxed(ethanol(), 14.0, 6.0)
    for ensemble, n_dof in (("nvt-nhc", 21), ("nve", 21), ("nvt-langevin", 24)):
        run = MDRun(box, calculator, MDSettings(ensemble, guards=QUIET))
        assert run.n_dof == n_dof
    run.atoms.constraints.clear()  # of the centre of mass
    assert rigid_share(run.atoms, 4.0) > 0  # Langevin's noise turns it anyhow


def rigid_gas(kind: str) -> Atoms:
    """Return eight molecules in a box whose bonds, or angles, are rigid."""
    rng, gas, ends = np.random.default_rng(2), Atoms(), {"CO2": (1, 0, 2), "N2": (0, 1)}
    for k in range(8):
        one = molecule("CO2" if kind == "FixLinearTriatomic" else "N2")
        one.rotate(float(rng.uniform(0, 180)), rng.normal(size=3))
        one.translate(5.0 * np.array([k % 2, k // 2 % 2, k // 4]))
        gas += one
    gas.set_cell([10.0] * 3)
    gas.pbc = True
    n = len(gas) // 8
    groups = [[n * k + end for end in ends["CO2" if n == 3 else "N2"]] for k in range(8)]
    gas.set_constraint(
        {
            "FixBondLengths": lambda: FixBondLengths(groups),
            "FixLinearTriatomic": lambda: FixLinearTriatomic(groups),
            "FixInternals": lambda: FixInternals(
                bonds=[[gas.get_distance(*pair), pair] for pair in groups]
            ),
        }[kind]()
    )
    return gas


@pytest.mark.parametrize("kind", ["FixBondLengths", "FixLinearTriatomic", "FixInternals"])
def test_rigid_bonds_hold_no_drift(kind):
    """They act between atoms: the whole keeps its momentum, which is drawn as none."""
    run = MDRun(rigid_gas(kind), EMT(), MDSettings("nve", n_steps=20, guards=QUIET))
    assert conserved_zero_momenta(run.atoms) == 3
    assert rigid_share(run.atoms) == pytest.approx(0.0, abs=1e-12)
    run.dynamics.run(20)
    assert rigid_share(run.atoms) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin"])
def test_a_spring_between_two_atoms_moves_and_turns_nothing(ensemble):
    start = ethanol()
    start.set_constraint(Hookean(0, 1, k=5.0, rt=1.0))
    for brought in (False, True):
        if brought:
            start.set_momenta(MDRun(start, Springs(start), MDSettings("nve")).atoms.get_momenta())
        run = MDRun(start, Springs(start), MDSettings(ensemble, n_steps=20, guards=QUIET))
        assert run.n_dof == (24 if ensemble == "nvt-langevin" else 21)
        centre = run.atoms.get_center_of_mass()
        run.dynamics.run(20)
        np.testing.assert_allclose(run.atoms.get_center_of_mass(), centre, atol=1e-9)
        if ensemble == "nve":
            assert rigid_share(run.atoms) == pytest.approx(0.0, abs=1e-9)


def test_a_drift_of_rigid_molecules_is_said():
    gas = rigid_gas("FixBondLengths")
    gas.set_velocities(np.full((len(gas), 3), 0.05))
    assert rigid_share(gas) == pytest.approx(1.0)
    turning = gas.copy()
    turning.set_momenta(np.random.default_rng(3).normal(size=(len(gas), 3)))
    assert 0.0 < rigid_share(turning) < 0.9
    assert remove_rigid_motion(turning) > 0.0
    np.testing.assert_allclose(turning.get_momenta().sum(axis=0), 0.0, atol=1e-12)


def test_a_rigid_molecule_in_the_open_does_not_turn():
    water = molecule("H2O")
    water.set_constraint(FixBondLengths([(0, 1), (0, 2), (1, 2)]))
    with pytest.raises(ConfigError, match="or nothing but the motion of the whole"):
        MDRun(water, Springs(water), MDSettings("nve", guards=QUIET))
    assert degrees_of_freedom(water) == 6


@pytest.mark.parametrize("ensemble", ["nve", "nvt-langevin"])
def test_a_molecule_whose_centre_is_held_turns_like_any_other(ensemble):
    free, held = molecule("CH3CH2OH"), molecule("CH3CH2OH")
    held.set_constraint(FixCom())
    settings = MDSettings(ensemble, guards=QUIET)
    runs = [MDRun(atoms, Springs(atoms), settings) for atoms in (free, held)]
    assert [run.n_dof for run in runs] == [{"nve": 21, "nvt-langevin": 24}[ensemble]] * 2
    first, second = (run.atoms for run in runs)
    np.testing.assert_allclose(first.get_momenta(), second.get_momenta(), atol=1e-12)
    assert [type(each) for each in second.constraints] == [FixCom]
    runs[1].dynamics.run(20)
    is_at_rest = np.abs(second.get_angular_momentum()).max() < 1e-10
    assert is_at_rest == (ensemble == "nve")
    if ensemble == "nve":  # and where the structure brings such a motion it is said
        held.set_momenta(turning(held).get_momenta())
        assert 0.0 < MDRun(held, Springs(held), settings).rigid_share < 1.0


def test_what_acts_from_outside_holds_the_whole():
    point, plane = Hookean(0, (0.0, 0.0, 0.0), k=1.0, rt=0.0), Hookean(0, (0, 0, 1, -1), k=1.0)
    others = (FixAtoms([0]), FixCartesian(1, (True, False, False)))
    for constraint in (*others, point, plane):
        atoms = turning(bulk("Cu", cubic=True))
        atoms.set_constraint([constraint])
        assert remove_rigid_motion(atoms) == 0.0
        assert conserved_zero_momenta(atoms) == 0


@pytest.mark.parametrize("kind", ["FixBondLengths", "FixLinearTriatomic", "FixInternals"])
def test_noise_does_not_push_rigid_molecules_away(kind):
    gas = rigid_gas(kind)
    length = gas.get_distance(0, 1)
    settings = MDSettings("nvt-langevin", n_steps=50, friction_per_fs=0.02, guards=QUIET)
    run = MDRun(gas, EMT(), settings)
    n_rigid = {"FixLinearTriatomic": 4 * 8}.get(kind, 8)
    assert run.n_dof == 3 * len(gas) - n_rigid - 3
    centre = run.atoms.get_center_of_mass()
    run.dynamics.run(50)
    np.testing.assert_allclose(run.atoms.get_center_of_mass(), centre, atol=1e-8)
    assert run.atoms.get_distance(0, 1) == pytest.approx(length, abs=1e-5)
