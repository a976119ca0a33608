"""Structures on which the laws are tested: measured frames, molecules, crystals.

Lengths in Å. Elements are those of :data:`ELEMENTS`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from numpy.typing import NDArray

from eqcalc.data import read_dataset

__all__ = [
    "ELEMENTS",
    "acetylene",
    "benzene",
    "dimer",
    "ethanol",
    "generic",
    "hydrogen",
    "ionic_triclinic",
    "isolated",
    "linear_co2",
    "metal",
    "periodic_in_three",
    "rotation_matrix",
    "slab",
    "square",
    "triatomic",
    "wire",
]

ELEMENTS = ("H", "C", "O", "Na", "Cl", "Cu")

_FRAMES = Path(__file__).parents[1] / "data" / "ethanol_rmd17_frames.npz"


@cache
def _ethanol_frames() -> list[Atoms]:
    return [frame.atoms for frame in read_dataset(_FRAMES).frames]


def ethanol(frame: int = 0) -> Atoms:
    """Return a frame of rMD17: nine atoms off every symmetry."""
    return _ethanol_frames()[frame].copy()


def dimer(first: str, second: str, distance: float) -> Atoms:
    """Return two atoms along a direction of no symmetry."""
    direction = np.array([2.0, -3.0, 6.0]) / 7.0
    return Atoms([first, second], [np.zeros(3), distance * direction])


def triatomic() -> Atoms:
    """Return water with unequal bonds, so that one pair is the longest."""
    atoms = molecule("H2O")
    atoms.rattle(0.05, seed=4)
    return atoms


def hydrogen() -> Atoms:
    """Return H2 along z."""
    return molecule("H2")


def linear_co2() -> Atoms:
    """Return exactly collinear CO2 along z; vectors at the carbon cancel exactly."""
    return Atoms("OCO", [[0, 0, -1.16], [0, 0, 0], [0, 0, 1.16]])


def acetylene() -> Atoms:
    """Return exactly collinear HCCH along z."""
    return Atoms("HCCH", [[0, 0, -1.66], [0, 0, -0.6], [0, 0, 0.6], [0, 0, 1.66]])


def benzene() -> Atoms:
    """Return planar benzene in the xy plane."""
    return molecule("C6H6")


def square() -> Atoms:
    """Return the square H4 transition state: right angles and one shared length."""
    return Atoms("H4", [[0, 0, 0], [1.23, 0, 0], [1.23, 1.23, 0], [0, 1.23, 0]])


def isolated(element: str, *, cell: float | None = None) -> Atoms:
    """Return one atom, alone in the vacuum or in a periodic cube that large."""
    if cell is None:
        return Atoms([element], [[0.3, -0.2, 0.1]])
    return Atoms([element], [[0.3, -0.2, 0.1]], cell=[cell] * 3, pbc=True)


def metal() -> Atoms:
    """Return one atom of sheared copper; the cell is smaller than any cutoff used here."""
    atoms = bulk("Cu", "fcc", a=3.61)
    shear = np.eye(3) + np.array([[0.02, 0.05, 0.0], [0.0, -0.01, 0.03], [0.04, 0.0, 0.01]])
    atoms.set_cell(atoms.cell.array @ shear, scale_atoms=True)
    return atoms


def ionic_triclinic() -> Atoms:
    """Return four atoms of rattled, strained rock salt in a triclinic cell."""
    atoms = bulk("NaCl", "rocksalt", a=5.4).repeat((2, 1, 1))
    strain = np.eye(3) + np.array([[0.03, 0.02, -0.04], [0.0, -0.02, 0.05], [0.01, 0.03, 0.02]])
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.rattle(0.12, seed=1)
    return atoms


def slab() -> Atoms:
    """Return a rattled copper slab with hydrogen on it, periodic in x and y."""
    atoms = fcc111("Cu", (1, 1, 2), vacuum=6.0)
    add_adsorbate(atoms, "H", 1.1, "fcc")
    atoms.rattle(0.08, seed=2)
    atoms.pbc = (True, True, False)
    return atoms


def wire() -> Atoms:
    """Return a rattled polyethylene chain, periodic along z, rows of open axes unset."""
    carbon = [[0.0, 0.43, 0.0], [0.0, -0.43, 1.27]]
    hydrogen = [[0.88, 1.05, 0.0], [-0.88, 1.05, 0.0], [0.88, -1.05, 1.27], [-0.88, -1.05, 1.27]]
    atoms = Atoms("C2H4", carbon + hydrogen, cell=[0, 0, 2.54], pbc=(False, False, True))
    atoms.rattle(0.06, seed=3)
    return atoms


def generic() -> dict[str, Atoms]:
    """Return one structure of every kind of boundary, by name."""
    return {
        "ethanol": ethanol(),
        "triclinic salt": ionic_triclinic(),
        "slab": slab(),
        "wire": wire(),
        "one-atom metal cell": metal(),
    }


def periodic_in_three() -> dict[str, Atoms]:
    """Return the structures that have a stress."""
    return {name: atoms for name, atoms in generic().items() if atoms.pbc.all()}


def rotation_matrix(seed: int) -> NDArray:
    """Return a random proper rotation (3, 3), determinant +1."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)
