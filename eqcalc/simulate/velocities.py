"""First velocities, and the number of degrees of freedom that share the heat.

The temperature is T = 2 E_kin / (n_dof k_B). ``n_dof`` is not 3 n_atoms: a total
momentum that starts at zero stays zero, and so does the angular momentum of an
isolated molecule. For nine atoms the difference is 27 against 21, a quarter of
the temperature.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms, units

from eqcalc.errors import ConfigError
from eqcalc.simulate.degrees_of_freedom import degrees_of_freedom, is_held
from eqcalc.simulate.frame_content import VELOCITY_NAMES
from eqcalc.simulate.rigid_motion import conserved_zero_momenta, remove_rigid_motion

__all__ = [
    "has_velocities",
    "project_velocities",
    "redraw_velocities",
    "set_velocities",
]

_ROUNDING = 1e-10  # of the kinetic energy: what is left of motion that is taken away


def has_velocities(atoms: Atoms) -> bool:
    """Return whether the structure brings velocities of its own.

    Raises
    ------
    ConfigError : it brings them under a name that says nothing of their unit.
    """
    for name, values in atoms.arrays.items():
        if name.lower() in VELOCITY_NAMES and np.shape(values) == (len(atoms), 3):
            raise ConfigError(
                f"the structure brings a column '{name}' of velocities, whose unit is not known; "
                "expected 'momenta' in ASE's units (eV, Å, amu). Set them with "
                "atoms.set_velocities(), or remove the column to have new ones drawn."
            )
    columns = {name.lower() for name in atoms.arrays}
    if {"vx", "vy", "vz"} <= columns:
        raise ConfigError(
            "the structure brings columns 'vx', 'vy' and 'vz' of velocities, whose unit is not "
            "known; expected 'momenta' in ASE's units (eV, Å, amu). Set them with "
            "atoms.set_velocities(), or remove the columns to have new ones drawn."
        )
    return bool(atoms.has("momenta") and np.any(atoms.get_momenta() != 0))


def project_velocities(atoms: Atoms) -> float:
    """Take from velocities, in place, what the constraints do not allow; return its share.

    Returns
    -------
    share of the kinetic energy that was taken away
    """
    before = atoms.get_kinetic_energy()
    atoms.set_momenta(atoms.get_momenta())  # constraints act here
    return 1.0 - atoms.get_kinetic_energy() / before if before > 0 else 0.0


def set_velocities(
    atoms: Atoms,
    temperature_K: float,
    rng: np.random.Generator,
    reach: float | None = None,
    *,
    keep_rotation: bool,
) -> None:
    """Draw Maxwell-Boltzmann velocities in place, at rest as a whole.

    The motion of the centre of mass is taken out, and the rotation of an isolated
    molecule unless ``keep_rotation``; nothing is taken out where constraints hold the
    whole, as rigid bonds and springs between atoms do not. The rest is scaled to exactly
    ``temperature_K``.

    Parameters
    ----------
    reach : Å, of the calculator's interactions, by which a molecule in a box counts as isolated

    Raises
    ------
    ConfigError : the constraints leave no degree of freedom, or cannot be counted
        (:func:`eqcalc.simulate.degrees_of_freedom.degrees_of_freedom`).
    """
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses())[:, None]
    atoms.set_momenta(momenta)  # constraints act here
    taken = remove_rigid_motion(atoms, reach, keep_rotation=keep_rotation)
    n_dof = degrees_of_freedom(atoms) - conserved_zero_momenta(atoms, reach)
    kinetic = atoms.get_kinetic_energy()
    if n_dof < 1 or kinetic == 0 or 1.0 - taken < _ROUNDING:
        raise ConfigError(
            "the constraints of the structure leave no atom free to move, or nothing but the "
            "motion of the whole."
        )
    wanted = 0.5 * n_dof * units.kB * temperature_K
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(wanted / kinetic))


def redraw_velocities(atoms: Atoms, rng: np.random.Generator, reach: float | None = None) -> None:
    """Draw the velocities anew, in place: with the same kinetic energy.

    The motion of the centre of mass, and the rotation of an isolated molecule, stay as they are,
    whether zero or not; where constraints hold the whole, only the kinetic energy does.
    """
    kinetic, before = atoms.get_kinetic_energy(), atoms.get_momenta()
    internal = atoms.copy()  # with the constraints
    momenta = rng.standard_normal((len(atoms), 3)) * np.sqrt(atoms.get_masses())[:, None]
    rigid = np.zeros_like(before)
    if not is_held(atoms) and len(atoms) > 1:
        remove_rigid_motion(internal, reach)
        rigid = before - internal.get_momenta()
        wanted = internal.get_kinetic_energy()
        internal.set_momenta(momenta)
        remove_rigid_motion(internal, reach)
    else:
        wanted = kinetic
        internal.set_momenta(momenta)  # constraints act here
    found = internal.get_kinetic_energy()
    if found > 0:
        scaled = internal.get_momenta() * np.sqrt(wanted / found)
        atoms.set_momenta(rigid + scaled, apply_constraint=False)
