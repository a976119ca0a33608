"""The motion of a structure as a whole: what is conserved of it, and holds no heat.

Total momentum is conserved where nothing acts from outside, and so is the angular momentum of a
structure that no image of it touches, and of a wire that about its axis. A thermostat that only
scales velocities (Nosé-Hoover chains) never changes the share of such a motion: counted as heat, it
would keep the vibrations colder, or hotter, than the temperature that is reported.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.constraints import FixCom
from ase.data import covalent_radii
from numpy.typing import NDArray

from eqcalc.neighbours.search import distances_of
from eqcalc.neighbours.structure import check_structure
from eqcalc.simulate.connected import connected_parts
from eqcalc.simulate.degrees_of_freedom import is_held

__all__ = ["conserved_zero_momenta", "reach_of", "remove_rigid_motion", "rigid_share"]

# Share of the kinetic energy below which a rigid motion counts as absent. Files
# keep 8 digits of a velocity.
_ABSENT = 1e-8

# Share of the largest moment of inertia below which an axis carries none.
_LINEAR = 1e-8

_BONDED = 1.3  # in sums of covalent radii


def reach_of(calculator: Calculator) -> float | None:
    """Return how far (Å) a calculator's interactions reach; None where it does not say."""
    models = getattr(calculator, "models", ())
    return max((model.card.cutoff for model in models), default=None)


def conserved_zero_momenta(atoms: Atoms, reach: float | None = None) -> int:
    """Count the components of total momentum and rotation that are zero and stay so.

    Parameters
    ----------
    reach : Å, beyond which atoms do not act on each other; None where that is not known, and a
        periodic structure counts as tied to its images

    Returns
    -------
    0, 3 (at rest), 5 or 6 (an isolated molecule, linear or not, that does not
    rotate either) or 4 (nor does a wire, periodic along its axis alone). Always 0 for one atom,
    and with constraints that exert forces from outside; rigid bonds, and springs between atoms, do
    not. Without the 3 that a FixCom takes, which count among those of the constraints.
    """
    if _is_bound(atoms):
        return 0
    momenta = atoms.get_momenta()
    kinetic = atoms.get_kinetic_energy()
    total = momenta.sum(axis=0)
    count = 0
    is_counted = any(isinstance(constraint, FixCom) for constraint in atoms.constraints)
    if not is_counted and total @ total / (2 * atoms.get_masses().sum()) <= _ABSENT * kinetic:
        count += 3
    free = _free_places(atoms, reach)
    if free is not None:
        arms, inverse, n_axes = _inertia(atoms, *free)
        angular = np.cross(arms, momenta).sum(axis=0)
        if angular @ inverse @ angular / 2 <= _ABSENT * kinetic:
            count += n_axes
    return count


def remove_rigid_motion(
    atoms: Atoms, reach: float | None = None, *, keep_rotation: bool = False
) -> float:
    """Stop, in place, the motion as a whole that is conserved; return its share.

    Parameters
    ----------
    reach : as :func:`conserved_zero_momenta` takes it
    keep_rotation : stop the centre of mass alone

    Returns
    -------
    share of the kinetic energy that was taken away; 0 where constraints hold the whole
    """
    before = atoms.get_kinetic_energy()
    if _is_bound(atoms) or before == 0:
        return 0.0
    masses, momenta = atoms.get_masses()[:, None], atoms.get_momenta()
    momenta = momenta - masses * momenta.sum(axis=0) / masses.sum()
    free = None if keep_rotation else _free_places(atoms, reach)
    if free is not None:
        arms, inverse, _ = _inertia(atoms, *free)
        # ASE's ZeroRotation divides by the moment about the axis of a linear
        # molecule, which is zero up to rounding; here it is left out.
        spin = inverse @ np.cross(arms, momenta).sum(axis=0)
        momenta = momenta - masses * np.cross(spin[None, :], arms)
    atoms.set_momenta(momenta)
    return 1.0 - atoms.get_kinetic_energy() / before


def rigid_share(atoms: Atoms, reach: float | None = None) -> float:
    """Return the share of the kinetic energy in motion as a whole that is conserved."""
    return remove_rigid_motion(atoms.copy(), reach)


def _is_bound(atoms: Atoms) -> bool:
    return len(atoms) == 1 or is_held(atoms)


def _free_places(atoms: Atoms, reach: float | None) -> tuple[NDArray, NDArray] | None:
    """Return positions (n_atoms, 3) of a structure that turns freely, and about which axes (k, 3).

    One in a periodic box does if it is one molecule and a gap wider than the reach parts it from
    its images; it is put together across the faces. Several molecules would meet their images.
    What has images along one direction alone, as a wire, turns about that in any case; None where
    nothing turns.
    """
    if not atoms.pbc.any():
        return atoms.get_positions(), np.eye(3)
    cell = atoms.cell.complete().array
    in_line = None
    if atoms.pbc.sum() == 1:
        in_line = atoms.get_positions(), cell[atoms.pbc] / np.linalg.norm(cell[atoms.pbc])
    if reach is None:
        return in_line
    heights = 1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    shares = np.linalg.solve(cell.T, atoms.get_positions().T).T
    for axis in np.flatnonzero(atoms.pbc):
        share = shares[:, axis] - np.floor(shares[:, axis])
        ordered = np.sort(share)
        gaps = np.diff(ordered, append=ordered[0] + 1.0)
        widest = int(gaps.argmax())
        if gaps[widest] * heights[axis] <= reach:
            return in_line
        begin = ordered[(widest + 1) % len(ordered)]
        shares[:, axis] = share - begin - np.floor(share - begin)
    places = shares @ cell
    return (places, np.eye(3)) if _is_one_molecule(atoms.numbers, places) else in_line


def _is_one_molecule(numbers: NDArray, places: NDArray) -> bool:
    radii = _BONDED * covalent_radii[numbers]
    i, j, distances = distances_of(check_structure(Atoms(numbers, places)), 2.0 * radii.max())
    bonded = distances < radii[i] + radii[j]
    return bool((connected_parts(len(numbers), i[bonded], j[bonded]) == 0).all())


def _inertia(atoms: Atoms, places: NDArray, axes: NDArray) -> tuple[NDArray, NDArray, int]:
    """Return arms from the centre of mass, the inverse inertia (3, 3) and its number of axes.

    Parameters
    ----------
    axes : (k, 3), unit vectors at right angles; of others the inverse holds nothing
    """
    masses = atoms.get_masses()
    arms = places - masses @ places / masses.sum()
    squares = (arms**2).sum(axis=1)
    inertia = (masses * squares).sum() * np.eye(3) - (masses[:, None] * arms).T @ arms
    moments, ways = np.linalg.eigh(axes @ inertia @ axes.T)
    turns = moments > _LINEAR * np.linalg.eigvalsh(inertia)[-1]
    ways = ways[:, turns].T @ axes  # (n_axes, 3)
    return arms, (ways.T / moments[turns]) @ ways, int(turns.sum())
