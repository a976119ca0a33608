"""One calculator through random calls gives what a new one gives for the same structure.

What a user does between two calls: atoms move, a little or far, cells are scaled and sheared,
atoms are wrapped, exchanged, replaced, added and removed, directions become open or periodic, other
structures come in between, results are asked for again.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
from ase import Atoms
from ase.geometry import get_distances

from eqcalc import EqCalculator

N_CALLS = 12
CLOSEST = 0.6  # Å; random atoms closer than this are placed again
Change = Callable[[Atoms, np.random.Generator], None]


def displaced(atoms: Atoms, rng: np.random.Generator) -> None:
    """Move all atoms by up to a tenth of an Å, as a step does."""
    atoms.positions += rng.uniform(-0.1, 0.1, atoms.positions.shape)


def one_moved(atoms: Atoms, rng: np.random.Generator) -> None:
    """Move one atom anywhere, by whole cells too."""
    atoms.positions[rng.integers(len(atoms))] += rng.normal(0.0, 4.0, 3)


def strained(atoms: Atoms, rng: np.random.Generator) -> None:
    """Scale and shear the cell, with its atoms or without."""
    cell = atoms.cell.array @ (np.eye(3) + rng.normal(0.0, 0.03, (3, 3)))
    atoms.set_cell(cell, scale_atoms=bool(rng.integers(2)))


def cell_changed_alone(atoms: Atoms, rng: np.random.Generator) -> None:
    """Exchange two vectors of the cell, or reverse one: the same lattice."""
    if rng.integers(2):
        atoms.cell.array[rng.integers(3)] *= -1.0
    else:
        atoms.cell.array[0] += atoms.cell.array[1]


def wrapped(atoms: Atoms, rng: np.random.Generator) -> None:
    """Bring all atoms into the cell."""
    if atoms.pbc.any():
        atoms.wrap()


def exchanged(atoms: Atoms, rng: np.random.Generator) -> None:
    """Exchange two atoms, numbers alone or places too."""
    i, j = rng.integers(len(atoms), size=2)
    atoms.numbers[[i, j]] = atoms.numbers[[j, i]]
    if rng.integers(2):
        atoms.positions[[i, j]] = atoms.positions[[j, i]]


def replaced(atoms: Atoms, rng: np.random.Generator) -> None:
    """Make an atom another element."""
    atoms.numbers[rng.integers(len(atoms))] = rng.choice([1, 6, 8])


def toggled(atoms: Atoms, rng: np.random.Generator) -> None:
    """Open or close a direction."""
    axis = rng.integers(3)
    atoms.pbc[axis] = not atoms.pbc[axis]


def grown(atoms: Atoms, rng: np.random.Generator) -> None:
    """Add an atom."""
    atoms.append("H")
    atoms.positions[-1] = rng.uniform(-3.0, 9.0, 3)


def shrunk(atoms: Atoms, rng: np.random.Generator) -> None:
    """Remove an atom, but the last."""
    if len(atoms) > 1:
        del atoms[int(rng.integers(len(atoms)))]


def reordered(atoms: Atoms, rng: np.random.Generator) -> None:
    """Put the atoms into another order."""
    order = rng.permutation(len(atoms))
    atoms.numbers, atoms.positions = atoms.numbers[order], atoms.positions[order]


def unchanged(atoms: Atoms, rng: np.random.Generator) -> None:
    """Ask again."""


CHANGES: tuple[Change, ...] = (
    displaced,
    displaced,
    displaced,
    one_moved,
    strained,
    cell_changed_alone,
    wrapped,
    exchanged,
    replaced,
    toggled,
    grown,
    shrunk,
    reordered,
    unchanged,
)


def random_structure(rng: np.random.Generator) -> Atoms:
    """Return up to 16 atoms of H, C and O in a skew cell, periodic along some directions."""
    cell = np.diag(rng.uniform(3.0, 9.0, 3)) + rng.normal(0.0, 0.7, (3, 3))
    n_atoms = int(rng.integers(1, 17))
    atoms = Atoms(
        rng.choice([1, 6, 8], n_atoms),
        scaled_positions=rng.uniform(0.0, 1.0, (n_atoms, 3)),
        cell=cell,
        pbc=rng.integers(2, size=3).astype(bool),
    )
    separate(atoms, rng)
    return atoms


def separate(atoms: Atoms, rng: np.random.Generator) -> None:
    """Move atoms that lie on each other, until none do."""
    for _ in range(200):
        distances = get_distances(atoms.positions, cell=atoms.cell, pbc=atoms.pbc)[1]
        np.fill_diagonal(distances, np.inf)
        close = np.argwhere(distances < CLOSEST)
        if len(close) == 0:
            return
        atoms.positions[close[0][0]] += rng.normal(0.0, 1.0, 3)


def results(calculator: EqCalculator, atoms: Atoms) -> dict[str, np.ndarray]:
    """Return what can be asked for."""
    atoms = atoms.copy()
    atoms.calc = calculator
    found = {"forces": atoms.get_forces(), "energy": np.array(atoms.get_potential_energy())}
    found["energies"] = atoms.get_potential_energies()
    if atoms.pbc.all():
        found["stress"] = atoms.get_stress()
    return found


def disagreements(
    used: EqCalculator, new: Callable[[], EqCalculator], seed: int, tolerance: float
) -> tuple[list[str], int]:
    """Return where a calculator that has seen other structures differs, and how often it ran."""
    rng = np.random.default_rng(seed)
    atoms, found, n_calls, history = random_structure(rng), [], 0, []
    for _ in range(N_CALLS):
        change = CHANGES[rng.integers(len(CHANGES))]
        history.append(change.__name__)
        change(atoms, rng)
        separate(atoms, rng)
        here, there = results(used, atoms), results(new(), atoms)
        n_calls += 1
        for name, expected in there.items():
            off = float(np.abs(here[name] - expected).max(initial=0.0))
            if not off <= tolerance * (1.0 + float(np.abs(expected).max(initial=0.0))):
                found.append(f"seed {seed}, after {history}: {name} off by {off:.2g}")
    return found, n_calls


KINDS = {
    "float64": (["double"], {}, 1e-11),
    "float32": (["single"], {}, 1e-5),
    "auto skin": (["double"], {"skin": "auto"}, 1e-11),
    "blocks": (["double"], {"max_edges": 6000}, 1e-11),
    "committee": (["double", "other"], {}, 1e-11),
    "inductor": (["single"], {"engine": "inductor"}, 1e-5),
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow if k == "inductor" else ()) for k in KINDS],
)
def test_what_came_before_changes_no_result(kind, models, n_cases, record_property):
    names, options, tolerance = KINDS[kind]
    options = {"device": "cpu", "engine": "torchscript", **options}
    used = EqCalculator([models[name] for name in names], **options)
    for option in ("max_edges", "skin"):
        options.pop(option, None)
    unused = EqCalculator([models[name] for name in names], skin=0.0, **options)
    found, n_calls = [], 0
    for seed in range(n_cases):
        wrong, n = disagreements(used, lambda: copy.deepcopy(unused), seed, tolerance)
        found += wrong
        n_calls += n
    record_property("structures", n_cases)
    record_property("calls", n_calls)
    assert not found, "\n".join(found)
