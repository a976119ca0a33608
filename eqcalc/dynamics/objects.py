"""Which atoms form sticks and hinges: an index that is given, or what the atoms say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.constraints import FixBondLengths
from torch import Tensor

from eqcalc.errors import GraphError, listing
from eqcalc.nn.object_index import require_objects, require_rods

__all__ = ["RIGID_GROUP", "find_objects", "object_tensors"]

RIGID_GROUP = "rigid_group"
"""Array of atoms: two of the same number >= 0 are a stick, -1 is a free atom."""


def find_objects(atoms: Atoms) -> dict[str, list[Any]]:
    """Return the object index that ASE's constraints and rigid groups describe.

    A pair of :class:`ase.constraints.FixBondLengths`, or two atoms of one number in
    ``atoms.arrays["rigid_group"]``, is a rod. A rod alone is a stick, two rods with a
    common atom are a hinge, every other atom is isolated.

    >>> atoms = Atoms("X5", np.random.default_rng(0).normal(size=(5, 3)))
    >>> atoms.set_constraint(FixBondLengths([[0, 3], [3, 1]]))
    >>> find_objects(atoms)
    {'isolated': [2, 4], 'stick': [[], []], 'hinge': [[3], [0], [1]]}

    Raises
    ------
    GraphError : another kind of constraint, a pair out of range or of one atom with
        itself, a rigid group that is no pair, or rods that form anything else.
    """
    rods = sorted({*_constrained_pairs(atoms), *_grouped_pairs(atoms)})
    of_atom: dict[int, list[int]] = {}  # atom -> atoms at the other ends of its rods
    for a, b in rods:
        of_atom.setdefault(a, []).append(b)
        of_atom.setdefault(b, []).append(a)
    sticks, hinges = [], []
    for a, b in rods:
        if len(of_atom[a]) == len(of_atom[b]) == 1:
            sticks.append((a, b))
    for joint, ends in sorted(of_atom.items()):
        if len(ends) == 1:
            continue
        if len(ends) > 2 or any(len(of_atom[end]) > 1 for end in ends):
            raise GraphError(
                f"the rods at atom {joint} (to {listing(ends)}) form neither a stick (one rod) nor "
                "a hinge (two rods with a common joint); GMN knows no other object."
            )
        hinges.append((joint, *ends))
    return {
        "isolated": [k for k in range(len(atoms)) if k not in of_atom],
        "stick": np.array(sticks, dtype=int).reshape(-1, 2).T.tolist(),
        "hinge": np.array(hinges, dtype=int).reshape(-1, 3).T.tolist(),
    }


def object_tensors(objects: Mapping[str, Any], atoms: Atoms) -> dict[str, Tensor]:
    """Return a checked object index as int64 tensors.

    Parameters
    ----------
    objects : array-likes "isolated" (K0,), "stick" (2, K1), "hinge" (3, K2), row 0 the
        joint; a missing key means none

    Raises
    ------
    GraphError : an index is out of range or repeated, objects overlap or leave an atom
        out, a rod has length zero, or the atoms have a constraint that no rod keeps.
    """
    tensors = {}
    for kind, index in objects.items():
        array = np.asarray(index)
        if array.size == 0:
            array = array.astype(np.int64)
        if not np.issubdtype(array.dtype, np.integer):
            raise GraphError(f"object_index['{kind}'] must hold integers, found {array.dtype}.")
        tensors[kind] = torch.from_numpy(array.astype(np.int64))
    require_objects(tensors, len(atoms))
    require_rods(tensors, torch.from_numpy(np.array(atoms.positions)))
    rods = set()
    for kind in ("stick", "hinge"):
        for first, *others in tensors[kind].T.tolist() if kind in tensors else []:
            rods |= {(min(first, end), max(first, end)) for end in others}
    loose = [pair for pair in _constrained_pairs(atoms) if pair not in rods]
    if loose:
        raise GraphError(
            f"FixBondLengths holds the pair {listing(loose[0])}, which is no rod of the objects "
            "given: its length would change."
        )
    return tensors


def _constrained_pairs(atoms: Atoms) -> list[tuple[int, int]]:
    pairs = []
    for constraint in atoms.constraints:
        if not isinstance(constraint, FixBondLengths):
            raise GraphError(
                f"a propagator cannot hold the constraint {type(constraint).__name__}; it knows "
                "FixBondLengths (sticks and hinges). Remove it."
            )
        pairs += [(int(a), int(b)) for a, b in constraint.pairs]
    return [_checked(pair, len(atoms)) for pair in pairs]


def _checked(pair: tuple[int, int], n_atoms: int) -> tuple[int, int]:
    if min(pair) < 0 or max(pair) >= n_atoms:
        raise GraphError(f"FixBondLengths pair {listing(pair)} is out of range 0..{n_atoms - 1}.")
    if pair[0] == pair[1]:
        raise GraphError(f"FixBondLengths pair {listing(pair)} joins an atom to itself.")
    return min(pair), max(pair)


def _grouped_pairs(atoms: Atoms) -> list[tuple[int, int]]:
    if not atoms.has(RIGID_GROUP):
        return []
    groups = atoms.get_array(RIGID_GROUP)
    pairs = []
    for group in sorted({int(g) for g in groups if g >= 0}):
        members = np.flatnonzero(groups == group).tolist()
        if len(members) != 2:
            raise GraphError(
                f"{RIGID_GROUP} {group} holds atoms {listing(members)}; a rigid group is two "
                "atoms (a stick). A hinge is two rods: give it as FixBondLengths or objects=."
            )
        pairs.append((members[0], members[1]))
    return pairs
