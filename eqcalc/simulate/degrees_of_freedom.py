"""How many degrees of freedom the constraints of a structure leave, each counted once.

ASE adds up what each constraint takes, so that an atom held by two of them counts twice; and it
applies one after another, so that of two that pull at one atom the second undoes the first.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from ase.constraints import (
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixConstraint,
    FixedMode,
    FixInternals,
    FixLinearTriatomic,
    Hookean,
)
from ase.geometry import find_mic
from numpy.typing import NDArray

from eqcalc.errors import ConfigError
from eqcalc.simulate.connected import connected_parts

__all__ = ["INTERNAL", "degrees_of_freedom", "is_held"]

INTERNAL = (FixBondLengths, FixInternals, FixLinearTriatomic)
"""Constraints whose forces act between atoms: total and angular momentum are conserved with them,
and their virial, which ASE does not know, belongs to a pressure."""

_LARGEST_RANK = 100  # atoms that rods join, whose rank is computed; larger ones have no cycles


def degrees_of_freedom(atoms: Atoms) -> int:
    """Return 3 n_atoms less what constraints take; at least 0.

    Components that several constraints hold, rods between atoms that are held anyway, and rods
    that others make rigid already, count once.

    Raises
    ------
    ConfigError : two constraints act on one atom and do not both hold, or one of a kind that ASE
        cannot count.
    """
    held = np.zeros((len(atoms), 3), dtype=bool)
    rods, others, total = [], [], False
    for constraint in atoms.constraints:
        kind = type(constraint)
        if kind is FixAtoms:
            held[constraint.index] = True
        elif kind is FixCartesian:
            held[constraint.index] |= constraint.mask
        elif kind is FixBondLengths:
            rods.append(np.reshape(constraint.pairs, (-1, 2)) % len(atoms))
        elif kind is FixCom:
            total = True
        else:
            others.append(constraint)
    free = 3 * len(atoms) - int(held.sum())
    if total and held.any():
        raise _clash("FixCom", _name_of_held(atoms), int(np.flatnonzero(held.any(axis=1))[0]))
    free -= 3 * total
    busy: NDArray[np.bool_] = np.any(held, axis=1)  # by a constraint that another one would undo
    pairs = _pairs(rods)
    if len(pairs) > 0:
        free -= _n_rods(atoms, pairs, held)
        rigid = np.zeros(len(atoms), dtype=bool)
        rigid[pairs.ravel()] = True
        busy = busy | rigid
    for constraint in others:
        taken = _taken_by(constraint, atoms)
        if taken == 0:
            continue
        index = _atoms_of(constraint, atoms)
        if total and type(constraint) not in INTERNAL:
            raise _clash("FixCom", type(constraint).__name__, int(index[0]))
        if busy[index].any():
            atom = int(index[busy[index]][0])
            raise _clash(type(constraint).__name__, "another constraint", atom)
        busy[index] = True
        free -= taken
    return max(free, 0)


def is_held(atoms: Atoms) -> bool:
    """Return whether a constraint acts from outside, so that motion as a whole is not conserved.

    FixCom does not: it holds the total momentum, which is conserved anyway, and turns nothing.
    """
    return any(
        not isinstance(constraint, (*INTERNAL, FixCom)) and not _joins_two_atoms(constraint)
        for constraint in atoms.constraints
    )


def _joins_two_atoms(constraint: FixConstraint) -> bool:
    """Whether it is a spring from atom to atom; one to a point or a plane acts from outside."""
    return isinstance(constraint, Hookean) and np.size(constraint.get_indices()) == 2


def _atoms_of(constraint: FixConstraint, atoms: Atoms) -> NDArray[np.int64]:
    """Return the atoms that a constraint holds, all of them where it does not say."""
    indices: list[int] = list(getattr(constraint, "get_indices", list)())
    return np.asarray(indices or range(len(atoms)), dtype=int) % len(atoms)


def _taken_by(constraint: FixConstraint, atoms: Atoms) -> int:
    if isinstance(constraint, FixedMode):
        return 1  # ASE says n_atoms
    try:
        return int(constraint.get_removed_dof(atoms))
    except NotImplementedError:
        raise ConfigError(
            f"the constraint {type(constraint).__name__} does not say how many degrees of freedom "
            "it takes, without which there is no temperature; remove it for dynamics."
        ) from None


def _pairs(rods: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the pairs (n, 2) that rods join, each once."""
    if not rods:
        return np.zeros((0, 2), dtype=int)
    pairs: NDArray[np.int64] = np.unique(np.sort(np.concatenate(rods), axis=1), axis=0)
    return pairs


def _n_rods(atoms: Atoms, pairs: NDArray[np.int64], held: NDArray[np.bool_]) -> int:
    """Return how many degrees of freedom rods take; those between held atoms take none."""
    whole: NDArray[np.bool_] = np.all(held, axis=1)
    any_part: NDArray[np.bool_] = np.any(held, axis=1)
    is_idle: NDArray[np.bool_] = np.all(whole[pairs], axis=1)
    clashing: NDArray[np.bool_] = np.any(any_part[pairs], axis=1) & ~is_idle
    if clashing.any():
        pair = pairs[clashing][0]
        atom = int(pair[any_part[pair]][0])
        raise _clash("FixBondLengths", _name_of_held(atoms), atom)
    pairs = pairs[~is_idle]
    of_pair = connected_parts(len(atoms), pairs[:, 0], pairs[:, 1])[pairs[:, 0]]
    order = np.argsort(of_pair, kind="stable")
    groups = np.split(pairs[order], np.flatnonzero(np.diff(of_pair[order])) + 1)
    return sum(_rank(atoms, group) for group in groups if len(group) > 0)


def _rank(atoms: Atoms, pairs: NDArray[np.int64]) -> int:
    """Return how many of the rods that join some atoms are independent."""
    members, ends = np.unique(pairs, return_inverse=True)
    if len(pairs) < len(members) or len(members) > _LARGEST_RANK:  # a tree
        return len(pairs)
    ends = ends.reshape(pairs.shape)
    rods, _ = find_mic(np.diff(atoms.positions[pairs], axis=1)[:, 0], atoms.cell, atoms.pbc)
    rows = np.zeros((len(pairs), len(members), 3))
    numbers = np.arange(len(pairs))
    rows[numbers, ends[:, 0]], rows[numbers, ends[:, 1]] = -rods, rods
    return int(np.linalg.matrix_rank(rows.reshape(len(pairs), -1), tol=1e-6))


def _name_of_held(atoms: Atoms) -> str:
    kinds = (FixAtoms, FixCartesian)
    return next(type(each).__name__ for each in atoms.constraints if type(each) in kinds)


def _clash(first: str, second: str, atom: int) -> ConfigError:
    return ConfigError(
        f"{first} and {second} both act on atom {atom}: ASE applies one after the other, so that "
        "they do not both hold, and the degrees of freedom cannot be counted; let one of them do."
    )
