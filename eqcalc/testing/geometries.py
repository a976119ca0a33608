"""Structures on which the laws are tested: measured frames, molecules, crystals.

Lengths in Å. Elements are those of :data:`ELEMENTS`; a potential that knows others is tested on
the same positions with elements of its own (:func:`substitution`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from numpy.typing import NDArray

__all__ = [
    "ELEMENTS",
    "Structures",
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
    "perfect_crystals",
    "periodic_in_three",
    "rotation_matrix",
    "slab",
    "square",
    "substituted",
    "substitution",
    "triatomic",
    "wire",
]

ELEMENTS = ("H", "C", "O", "Na", "Cl", "Cu")

Structures = Mapping[str, Atoms]
"""Structures by what messages call them."""

_NEIGHBOURS = (("C", "O"), ("H", "O"), ("C", "H"), ("Na", "Cl"), ("Cu", "H"))
"""Pairs that a structure relies on to be two elements."""

# Rows 0 and 1 of rMD17's ethanol (official split 01, training rows). Source: Christensen and von
# Lilienfeld, Mach. Learn.: Sci. Technol. 1, 045018 (2020), doi:10.6084/m9.figshare.12672038.
# Licence: CC0.
_ETHANOL = (
    (
        (-0.17406277, -0.48797864, 0.0185579),
        (-0.98570278, 0.68695664, 0.58412528),
        (1.06846394, -0.16863939, -0.50269058),
        (0.16712676, -1.19985031, 0.84958249),
        (-0.93496191, -0.92263607, -0.68150202),
        (-1.75179348, 0.29946017, 1.2842646),
        (-0.2072526, 1.35456114, 1.05486243),
        (-1.47331516, 1.17441302, -0.27787521),
        (1.05895494, -0.40161254, -1.43156577),
    ),
    (
        (0.22927937, 0.34043263, 0.22884318),
        (-0.98169102, 0.72626404, -0.70885262),
        (0.71408976, -0.94681151, 0.42485929),
        (1.18129132, 0.88525915, -0.17645318),
        (0.17896233, 0.92701421, 1.19442387),
        (-0.96660517, 1.58609307, -1.40722389),
        (-1.02901306, -0.11620693, -1.33654573),
        (-1.95838617, 0.69792764, -0.11042),
        (0.22355605, -1.66335171, 0.81210607),
    ),
)


def ethanol(frame: int = 0) -> Atoms:
    """Return frame 0 or 1 of rMD17: nine atoms off every symmetry."""
    return Atoms("CCOH6", _ETHANOL[frame])


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
    """Return one atom of sheared copper, the cell smaller than a cutoff."""
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


def perfect_crystals() -> dict[str, Atoms]:
    """Return crystals in which the vectors at every atom cancel."""
    return {
        "diamond": bulk("C", "diamond", a=3.57, cubic=True),
        "rock salt": bulk("NaCl", "rocksalt", a=5.64, cubic=True),
        "copper": bulk("Cu", "fcc", a=3.61, cubic=True),
    }


def rotation_matrix(seed: int) -> NDArray:
    """Return a random proper rotation (3, 3), determinant +1."""
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


@cache
def substitution(known: tuple[str, ...]) -> dict[str, str]:
    """Return which known element takes the place of each of :data:`ELEMENTS`.

    A known element keeps its place. For the others, elements that are neighbours in a structure
    stay two where they can, and each known element is used before one is used again.

    >>> substitution(("H", "O"))
    {'H': 'H', 'O': 'O', 'C': 'H', 'Na': 'O', 'Cl': 'H', 'Cu': 'O'}
    """
    image = {element: element for element in ELEMENTS if element in known}
    for element in ("C", "O", "Na", "Cl", "H", "Cu"):  # the pairs that must differ first
        if element not in image:
            met = [image.get(b if a == element else a) for a, b in _NEIGHBOURS if element in (a, b)]
            used = list(image.values())
            image[element] = min(known, key=lambda k: (met.count(k), used.count(k)))
    return image


def substituted(atoms: Atoms, known: Sequence[str]) -> Atoms:
    """Return a copy of a structure, its elements replaced by :func:`substitution`."""
    image = substitution(tuple(known))
    copied = atoms.copy()
    copied.symbols = [image.get(symbol, symbol) for symbol in atoms.symbols]
    return copied
