"""Degrees of freedom under constraints are those in which atoms can move, each counted once."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms, units
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixLinearTriatomic,
    FixScaled,
    MirrorForce,
)

from eqcalc.errors import ConfigError
from eqcalc.simulate import MDRun, MDSettings
from eqcalc.simulate.degrees_of_freedom import degrees_of_freedom


def waters(n: int) -> Atoms:
    """Return molecules in a row, atoms O H H, in a periodic cell."""
    whole = Atoms(cell=[4.0 * n, 8.0, 8.0], pbc=True)
    for k in range(n):
        one = molecule("H2O")
        one.translate([4.0 * k, 0.3, 0.3])
        whole += one
    return whole


def rods_of(n: int) -> list[tuple[int, int]]:
    return [(3 * k + a, 3 * k + b) for k in range(n) for a, b in ((0, 1), (0, 2))]


def free_directions(atoms: Atoms) -> int:
    """Return the rank of what the constraints leave of momenta, found by trying them all."""
    n = 3 * len(atoms)
    moved = np.zeros((n, n))
    for k in range(n):
        momenta = np.zeros((len(atoms), 3))
        momenta.ravel()[k] = 1.0
        for _ in range(30):
            for constraint in atoms.constraints:
                constraint.adjust_momenta(atoms, momenta)
        moved[k] = momenta.ravel()
    return int(np.linalg.matrix_rank(moved, tol=1e-6))


@pytest.mark.parametrize(
    ("constraints", "taken"),
    [
        ([], 0),
        ([FixAtoms([0, 1]), FixAtoms([1, 2, -1])], 12),
        ([FixAtoms([0]), FixCartesian([0, 1], (True, False, False))], 4),
        ([FixCartesian([1], (1, 0, 0)), FixCartesian([1], (1, 1, 0))], 2),
        ([FixAtoms([0, 1, 2]), FixBondLengths(rods_of(2))], 11),
        ([FixBondLengths(rods_of(2)), FixBondLengths([(1, 0)])], 4),
        ([FixBondLengths([*rods_of(2), (1, 2)]), FixCom()], 8),
        ([FixedLine([0], (1, 0, 0)), FixedPlane([1, 2], (0, 0, 1))], 4),
        ([FixAtoms([0]), FixScaled([1], (True, True, False))], 5),
        ([FixAtoms([0]), FixBondLengths([(3, 4)])], 4),
        ([FixCom(), FixLinearTriatomic([(1, 0, 2)])], 7),
    ],
)
def test_each_degree_of_freedom_counts_once(constraints, taken):
    atoms = waters(2)
    atoms.set_constraint(constraints)
    assert degrees_of_freedom(atoms) == 18 - taken == free_directions(atoms)


def test_rods_that_others_make_rigid_count_not_at_all():
    atoms = Atoms("Ar5", np.random.default_rng(1).normal(size=(5, 3)))
    atoms.set_constraint(FixBondLengths([(a, b) for a in range(5) for b in range(a)]))
    assert degrees_of_freedom(atoms) == 6  # ten rods, and a rigid body all the same


def test_one_direction_of_all_atoms_is_one():
    atoms = waters(1)
    atoms.set_constraint(FixedMode(np.ones((3, 3))))
    assert degrees_of_freedom(atoms) == 8


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ([FixAtoms([0]), FixBondLengths([(0, 1)])], "FixBondLengths and FixAtoms both act on ato"),
        ([FixCartesian([1], (0, 0, 1)), FixBondLengths([(0, 1)])], "and FixCartesian both act on"),
        ([FixAtoms([2]), FixCom()], "FixCom and FixAtoms both act on atom 2"),
        ([FixCom(), FixedPlane([1], (0, 1, 0))], "FixCom and FixedPlane both act on atom 1"),
        ([FixedMode(np.ones((3, 3))), FixAtoms([2])], "FixedMode and another .* atom 2"),
        ([FixedLine([0], (1, 0, 0)), FixedLine([0], (0, 1, 0))], "FixedLine and another constrai"),
        (
            [FixBondLengths([(0, 1)]), FixedPlane([1], (0, 1, 0))],
            "FixedPlane and another .* atom 1",
        ),
    ],
)
def test_constraints_that_undo_each_other_are_refused(constraints, message):
    atoms = waters(1)
    atoms.set_constraint(constraints)
    with pytest.raises(ConfigError, match=message):
        degrees_of_freedom(atoms)


def test_a_constraint_that_cannot_be_counted_is_named():
    atoms = waters(1)
    atoms.set_constraint(MirrorForce(0, 1))
    with pytest.raises(ConfigError, match=r"MirrorForce does not say how many degrees of freedom"):
        degrees_of_freedom(atoms)


def test_velocities_have_the_temperature_that_is_said():
    atoms = waters(8)
    atoms.set_constraint([FixAtoms(range(12)), FixBondLengths(rods_of(8))])
    run = MDRun(atoms, LennardJones(epsilon=1e-3), MDSettings(ensemble="nve", temperature_K=300.0))
    assert run.n_dof == 28  # four whole molecules of nine coordinates, less two rods each
    kinetic = run.atoms.get_kinetic_energy()
    assert 2 * kinetic / (28 * units.kB) == pytest.approx(300.0, rel=1e-6)
    assert run.start_temperature_K == pytest.approx(300.0, rel=1e-6)
