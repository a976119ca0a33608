"""What moves as a whole holds no heat: momenta and rotations that a thermostat cannot change."""

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from springs import Springs, ethanol

from eqcalc import EqCalculator
from eqcalc.errors import ConfigError
from eqcalc.simulate import GuardSettings, MDRun, MDSettings
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
