"""Check which atoms form which rigid object."""

from __future__ import annotations

import torch
from torch import Tensor

from eqcalc.errors import GraphError, listing

__all__ = ["OBJECT_SIZES", "require_objects", "require_rods"]

OBJECT_SIZES: dict[str, int] = {"isolated": 1, "stick": 2, "hinge": 3}
"""Atoms of an object of each kind. A hinge is two rods that share a joint, its row 0."""


def require_objects(object_index: dict[str, Tensor], n_atoms: int) -> None:
    """Check that every atom belongs to exactly one object.

    Parameters
    ----------
    object_index : int64 tensors "isolated" (K0,), "stick" (2, K1), "hinge" (3, K2)
        with row 0 the joint; a missing key means none

    Raises
    ------
    GraphError : a key, shape or dtype is wrong, an index is out of range, an object
        repeats an atom, two objects share one, or an atom belongs to none.
    """
    for kind, index in object_index.items():
        _require_shape(kind, index)
        _require_range(kind, index, n_atoms)
        _require_distinct(kind, index)
    members = [index.flatten() for index in object_index.values()]
    every = torch.cat(members) if members else torch.zeros(0, dtype=torch.int64)
    counts = torch.bincount(every, minlength=n_atoms)
    shared = torch.nonzero(counts > 1).flatten().tolist()
    if shared:
        raise GraphError(
            "object_index must put every atom into one object; objects overlap at atoms "
            f"{listing(shared)} ({_owners(object_index, shared[0])})."
        )
    left = torch.nonzero(counts == 0).flatten().tolist()
    if left:
        raise GraphError(
            "object_index must put every atom into an object; found none for atoms "
            f"{listing(left)}. List free atoms under 'isolated'."
        )


def require_rods(object_index: dict[str, Tensor], node_pos: Tensor) -> None:
    """Check that no stick, and no rod of a hinge, has length zero: it has no direction.

    Raises
    ------
    GraphError : one has.
    """
    for kind in ("stick", "hinge"):
        index = object_index.get(kind)
        if index is None:
            continue
        for end in range(1, OBJECT_SIZES[kind]):
            first, other = node_pos[index[0]], node_pos[index[end]]
            found = torch.nonzero((first == other).all(dim=1)).flatten().tolist()
            if found:
                atoms = index[[0, end], found[0]].tolist()
                raise GraphError(
                    f"object_index['{kind}'] column {found[0]} is a rod of zero length: atoms "
                    f"{listing(atoms)} of node_pos coincide."
                )


def _require_shape(kind: str, index: Tensor) -> None:
    if kind not in OBJECT_SIZES:
        raise GraphError(
            f"object_index has the unknown key '{kind}'; known: {', '.join(OBJECT_SIZES)}."
        )
    size = OBJECT_SIZES[kind]
    if index.dtype != torch.int64:
        raise GraphError(f"object_index['{kind}'] must be int64, found {index.dtype}.")
    right = index.dim() == 1 if size == 1 else index.dim() == 2 and index.shape[0] == size
    if not right:
        expected = "(n,)" if size == 1 else f"({size}, n)"
        raise GraphError(
            f"object_index['{kind}'] must have shape {expected}, found {tuple(index.shape)}."
        )


def _require_range(kind: str, index: Tensor, n_atoms: int) -> None:
    outside = index[(index < 0) | (index >= n_atoms)].tolist()
    if outside:
        raise GraphError(
            f"object_index['{kind}'] must lie in 0..{n_atoms - 1}, found {listing(outside)}."
        )


def _require_distinct(kind: str, index: Tensor) -> None:
    if OBJECT_SIZES[kind] == 1:
        return
    repeated = (index.sort(dim=0).values.diff(dim=0) == 0).any(dim=0)
    columns = torch.nonzero(repeated).flatten().tolist()
    if columns:
        raise GraphError(
            f"object_index['{kind}'] column {columns[0]} repeats an atom: "
            f"{listing(index[:, columns[0]].tolist())}; its {OBJECT_SIZES[kind]} atoms must differ."
        )


def _owners(object_index: dict[str, Tensor], atom: int) -> str:
    found = []
    for kind, index in object_index.items():
        rows = index.reshape(OBJECT_SIZES[kind], -1)
        columns = torch.nonzero((rows == atom).any(dim=0)).flatten().tolist()
        found += [f"'{kind}' column {column}" for column in columns]
    return f"atom {atom}: {', '.join(found)}"
