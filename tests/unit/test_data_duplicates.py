"""Copies are found whatever they were written with, and frames one step apart are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.data.duplicates import repeated_structures, shared_structures
from eqcalc.data.frames import has_neighbours

SMALL = Path(__file__).parents[1] / "data"


def frames_of(structures: list[Atoms]) -> list[LabelledFrame]:
    return [LabelledFrame(atoms, 0.0) for atoms in structures]


@pytest.mark.parametrize(
    ("cell", "pbc", "expected"),
    [
        (3.6, True, True),
        ([3.6, 3.6, 30], True, True),
        (20.0, True, False),  # a box around an atom alone
        (3.6, False, False),
        ([3.6, 3.6, 0], [1, 1, 0], True),
        ([[9, 0, 0], [9, 2.5, 0], [0, 0, 9]], True, True),  # skewed: 2.5 Å to the nearest image
        ([[1, 0, 0], [2, 0, 0], [0, 0, 3]], True, False),  # of no volume
        ([np.nan, 3.6, 3.6], True, False),
        ([np.inf, 3.6, 3.6], True, False),
    ],
)
def test_one_atom_has_neighbours_where_its_images_are_near(cell, pbc, expected):
    atoms = Atoms("Cu", pbc=pbc)
    atoms.cell = np.diag(np.broadcast_to(cell, 3)) if np.ndim(cell) < 2 else cell
    assert has_neighbours(atoms) is expected


def molecules() -> list[Atoms]:
    return [frame.atoms for frame in read_dataset(SMALL / "ethanol_rmd17_frames.npz").frames]


def crystals(pbc: object = True, n: int = 30) -> list[Atoms]:
    """Return sheared silicon of many temperatures, its atoms anywhere."""
    found = []
    for k in range(n):
        atoms = bulk("Si", cubic=True) * (2, 2, 2)
        atoms.rattle(0.05, seed=k)
        shear = np.eye(3) + 0.02 * np.random.default_rng(k).normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
        atoms.pbc = pbc
        found.append(atoms)
    return found


def rounded(atoms: Atoms, decimals: int) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(copy.cell.array.round(decimals))
    copy.positions = copy.positions.round(decimals)
    return copy


def single(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(copy.cell.array.astype(np.float32).astype(float))
    copy.positions = copy.positions.astype(np.float32).astype(float)
    return copy


def wrapped(atoms: Atoms) -> Atoms:
    copy = atoms.copy()
    copy.wrap()
    return copy


def elsewhere(atoms: Atoms) -> Atoms:
    """Move atoms by lattice vectors of periodic directions."""
    copy = atoms.copy()
    shifts = np.random.default_rng(0).integers(-2, 3, size=(len(copy), 3)) * copy.pbc
    copy.positions += shifts @ copy.cell.array
    return copy


@pytest.mark.parametrize(
    "change",
    [
        lambda atoms: rounded(atoms, 6),
        lambda atoms: rounded(atoms, 5),
        single,
        wrapped,
        elsewhere,
        lambda atoms: single(elsewhere(atoms)),
        lambda atoms: rounded(wrapped(elsewhere(atoms)), 6),
    ],
)
@pytest.mark.parametrize("structures", [molecules(), crystals(), crystals([True, True, False])])
def test_copies_are_found_whatever_they_were_written_with(structures, change):
    frames, copies = frames_of(structures), frames_of([change(atoms) for atoms in structures])
    assert shared_structures(copies, frames) == copies
    assert shared_structures(frames[1:], copies[:1]) == []
    expected = [[one, other] for one, other in zip(frames, copies, strict=True)]
    assert repeated_structures([*frames, *copies]) == expected


@pytest.mark.parametrize("structures", [molecules(), crystals()])
def test_frames_a_small_step_apart_are_no_copies(structures):
    frames = frames_of(structures)
    steps = [atoms.copy() for atoms in structures]
    for k, atoms in enumerate(steps):
        atoms.positions += np.random.default_rng(k).choice([-1e-3, 1e-3], atoms.positions.shape)
    one_atom = [atoms.copy() for atoms in structures]
    for atoms in one_atom:
        atoms.positions[-1, 2] += 1e-4
    assert shared_structures(frames_of([*steps, *one_atom]), frames) == []
    line = [structures[0].copy() for _ in range(200)]
    for k, atoms in enumerate(line):
        atoms.positions[0, 0] += 1e-3 * k
    assert repeated_structures(frames_of(line)) == []


def test_other_cells_elements_and_orders_are_other_structures():
    atoms = crystals()[0]
    strained = atoms.copy()
    strained.set_cell(atoms.cell.array * 1.0001, scale_atoms=True)
    swapped = atoms.copy()
    swapped.positions = atoms.positions[::-1]
    germanium = atoms.copy()
    germanium.numbers[0] = 32
    cluster = atoms.copy()
    cluster.pbc = False
    others = frames_of([strained, swapped, germanium, cluster])
    assert shared_structures(others, frames_of([atoms])) == []


def test_a_cell_without_periodic_directions_does_not_matter():
    boxed = molecules()
    for atoms in boxed:
        atoms.set_cell([20.0, 20.0, 20.0])
    copies = frames_of(boxed)
    assert shared_structures(copies, frames_of(molecules())) == copies


def test_copies_of_copies_are_one_group_in_the_order_of_the_first():
    one, other = crystals(n=2)
    frames = frames_of([other, one, single(other), other, rounded(one, 6), Atoms("H"), Atoms("H")])
    assert repeated_structures(frames) == [
        [frames[0], frames[2], frames[3]],
        [frames[1], frames[4]],
    ]


def test_many_frames_and_many_copies_are_not_held_each_against_each():
    """Which takes a second; each against each would take hours."""
    rng = np.random.default_rng(0)
    first = rng.normal(size=(20, 3)) * 3.0
    walk = first + np.cumsum(rng.normal(size=(20_000, 20, 3)), axis=0) * 1e-3
    walk = frames_of([Atoms("C20", positions) for positions in walk])
    same = frames_of([Atoms("C20", first + 1e-7 * rng.normal(size=(20, 3))) for _ in range(20_000)])
    assert repeated_structures(walk) == []
    assert repeated_structures(same) == [same]
