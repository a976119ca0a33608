"""The same structure twice: in a copy of a file, or in two roles of one data set.

A copy need not be equal to the last digit: it was written with fewer digits, went through float32,
or its atoms were moved into the cell. So coordinates are compared within a tolerance. Frames that
can be copies are found by a few numbers of each that differ by no more than the coordinates do
and stay the same when an atom moves by a lattice vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eqcalc.data.frames import FloatArray, LabelledFrame, has_neighbours

__all__ = ["repeated_structures", "shared_structures"]

IntArray = NDArray[np.int64]

_TOLERANCE = 1e-5  # Å: what text files of five decimals keep
# Of the largest coordinate: two roundings to float32 are 2^-23, and a lattice vector adds its own.
_FLOAT32 = 2.0**-22
_MOST_TOLERANCE = 5e-5  # Å, in cells of hundreds: still far below a step of dynamics
_N_SUMS, _N_SIDES = 16, 4  # sums of a frame, and their means, by which it is put into a box
_SLACK = 2.0  # of the sums: lattice vectors that are rounded move coordinates along them too
_WIDTH = 16.0  # of a box, in tolerances: one mean in four lies near a wall
_CHUNK = 1 << 21  # numbers in memory at a time


def shared_structures(
    frames: Sequence[LabelledFrame], others: Sequence[LabelledFrame]
) -> list[LabelledFrame]:
    """Return those of ``frames`` whose atoms, in the same places and order, ``others`` have too.

    The same are coordinates and periodic lattice vectors to 1e-5 Å (more where float32 keeps
    less), up to shifts of atoms by lattice vectors. Single atoms are left out: there is one
    structure of each.
    """
    found = _first_copies(frames, others)
    return [frame for frame, k in zip(frames, found, strict=True) if k < len(others)]


def repeated_structures(frames: Sequence[LabelledFrame]) -> list[list[LabelledFrame]]:
    """Return the groups of two frames or more that are one structure, in the order of the first.

    What is one structure, and that single atoms are left out, is as in :func:`shared_structures`.
    """
    groups: dict[int, list[LabelledFrame]] = {}
    heads: dict[int, int] = {}
    for k, first in enumerate(_first_copies(frames, frames).tolist()):
        if first < len(frames):
            heads[k] = heads.get(first, first)  # a copy of a copy belongs to the first
            groups.setdefault(heads[k], []).append(frames[k])
    return [group for group in groups.values() if len(group) > 1]


class _Structures(NamedTuple):
    """Frames of the same atoms and periodic directions, of which there are k.

    positions : (n, n_atoms, 3), Å
    vectors : (n, k, 3), Å; the periodic lattice vectors
    inverses : (n, 3, k), 1/Å; positions @ inverses are coordinates along the vectors
    """

    positions: FloatArray
    vectors: FloatArray
    inverses: FloatArray

    def of(self, rows: IntArray | slice) -> _Structures:
        return _Structures(self.positions[rows], self.vectors[rows], self.inverses[rows])


def _first_copies(frames: Sequence[LabelledFrame], others: Sequence[LabelledFrame]) -> IntArray:
    """Return (n_frames,) the first of ``others`` that is the same; ``len(others)`` for none."""
    found = np.full(len(frames), len(others))
    known = _by_atoms(others)
    for key, rows in _by_atoms(frames).items():
        there = known.get(key)
        if there is None:
            continue
        structures = _stacked(frames, rows)
        theirs = structures if others is frames else _stacked(others, there)
        largest = max(
            float(np.abs(array).max(initial=0.0))
            for array in (*structures[:2], *theirs[:2])  # positions and vectors
        )
        tolerance = min(_TOLERANCE + _FLOAT32 * largest, _MOST_TOLERANCE)
        first = _matches(structures, theirs, tolerance)
        found[rows] = np.append(there, len(others))[first]
    return found


def _by_atoms(frames: Sequence[LabelledFrame]) -> dict[bytes, IntArray]:
    """Return which frames have the same elements in the same order, and periodic directions."""
    groups: dict[bytes, list[int]] = {}
    for k, frame in enumerate(frames):
        atoms = frame.atoms
        if np.isfinite(atoms.cell.array).all() and has_neighbours(atoms):
            groups.setdefault(atoms.pbc.tobytes() + atoms.numbers.tobytes(), []).append(k)
    return {key: np.array(rows) for key, rows in groups.items()}


def _stacked(frames: Sequence[LabelledFrame], rows: IntArray) -> _Structures:
    chosen = [frames[k].atoms for k in rows]
    vectors = np.array([atoms.cell.array[atoms.pbc] for atoms in chosen])
    # The pseudo-inverse takes one or two vectors too, whatever stands in the third place.
    inverses = np.linalg.pinv(vectors) if vectors.size else np.swapaxes(vectors, 1, 2)
    return _Structures(np.array([atoms.positions for atoms in chosen]), vectors, inverses)


def _matches(structures: _Structures, others: _Structures, tolerance: float) -> IntArray:
    """Return the first of ``others`` that is each structure; ``len(others.positions)`` for none."""
    n_others = len(others.positions)
    first = np.full(len(structures.positions), n_others)
    # One scale for all: that of each would change with the rounding of its cell.
    inverses = np.concatenate([structures.inverses, others.inverses])
    steepest = np.abs(inverses).sum(axis=1).max(axis=0)  # (k,), 1/Å
    own, theirs = _sums(structures, steepest), _sums(others, steepest)
    boxes = _numbered(np.floor(_places(theirs, tolerance)))
    order = np.argsort(boxes, kind="stable")
    boxes = boxes[order]
    for rows, box in _boxes_around(_places(own, tolerance)):
        start, stop = np.searchsorted(boxes, box), np.searchsorted(boxes, box, side="right")
        # Every structure is held against the next of its box: of many copies each finds the
        # first at once, and is done.
        while (left := start < stop).any():
            rows, start, stop = rows[left], start[left], stop[left]
            candidates = order[start]
            same = np.abs(own[rows] - theirs[candidates]).max(axis=1) <= _SLACK * tolerance
            near = np.flatnonzero(same)
            same[near] = _are_same(structures, others, rows[near], candidates[near], tolerance)
            first[rows[same]] = np.minimum(first[rows[same]], candidates[same])
            start = np.where(same, stop, start + 1)
    return first


def _sums(structures: _Structures, steepest: FloatArray) -> FloatArray:
    """Return (n, 16) sums, Å, that coordinates within a tolerance change by no more than it.

    Each coordinate enters one of them: along lattice vectors by sine and cosine, which a shift
    by a vector leaves alone, else by itself.
    """
    n, n_atoms, _ = structures.positions.shape
    n_periodic = structures.vectors.shape[1]
    n_each = 2 * n_periodic + (3 if n_periodic < 3 else 0)
    n_terms = n_atoms * n_each + 3 * n_periodic
    # The same for all; their absolute values add up to one, which is what bounds the change.
    rng = np.random.default_rng(0)
    weights = np.zeros((n_terms, _N_SUMS))
    weights[rng.permutation(n_terms), np.arange(n_terms) % _N_SUMS] = rng.uniform(0.5, 1.0, n_terms)
    weights *= rng.choice([-1.0, 1.0], size=(n_terms, 1))
    weights /= np.maximum(np.abs(weights).sum(axis=0), 0.5)  # of two atoms some are empty
    sums = np.zeros((n, _N_SUMS))
    step = max(1, _CHUNK // len(weights))
    for start in range(0, n, step):
        part = structures.of(slice(start, start + step))
        along = part.positions @ part.inverses  # (n, n_atoms, k)
        terms = []
        if n_periodic:
            scale = 1.0 / (2.0 * np.pi * np.maximum(steepest, 1e-9))
            angles = 2.0 * np.pi * along
            terms += [scale * np.cos(angles), scale * np.sin(angles)]
        if n_periodic < 3:  # what is perpendicular to the vectors is at most √3 as much
            terms.append((part.positions - along @ part.vectors) / np.sqrt(3.0))
        flat = [term.reshape(len(along), -1) for term in (*terms, part.vectors)]
        sums[start : start + step] = np.concatenate(flat, axis=1) @ weights
    return sums


def _places(sums: FloatArray, tolerance: float) -> FloatArray:
    """Return (n, 4) means of sums, in widths of a box."""
    means: FloatArray = sums.reshape(len(sums), -1, _N_SIDES).mean(axis=1)
    return means / (_WIDTH * tolerance)


def _numbered(boxes: FloatArray) -> IntArray:
    """Return one number for each row of (n, 4) whole numbers; two boxes share one hardly ever."""
    primes = np.array([73856093, 19349663, 83492791, 49979687])
    return (np.clip(boxes, -(2.0**40), 2.0**40).astype(np.int64) * primes).sum(axis=1)


def _boxes_around(places: FloatArray) -> list[tuple[IntArray, IntArray]]:
    """Return structures and the box that each lies in, and those whose wall it is near."""
    boxes = np.floor(places)
    inside, margin = places - boxes, _SLACK / _WIDTH
    beyond = (inside > 1.0 - margin).astype(float) - (inside < margin)  # (n, 4): -1, 0 or 1
    found = []
    for chosen in product((False, True), repeat=_N_SIDES):
        rows = np.flatnonzero((beyond != 0)[:, chosen].all(axis=1))
        found.append((rows, _numbered(boxes[rows] + beyond[rows] * np.array(chosen))))
    return found


def _are_same(
    structures: _Structures,
    others: _Structures,
    rows: IntArray,
    candidates: IntArray,
    tolerance: float,
) -> NDArray[np.bool_]:
    same = np.zeros(len(rows), dtype=bool)
    step = max(1, _CHUNK // (3 * structures.positions.shape[1]))
    for start in range(0, len(rows), step):
        chunk = slice(start, start + step)
        one, other = structures.of(rows[chunk]), others.of(candidates[chunk])
        difference = one.positions - other.positions
        # The inverse of the one finds how many of its vectors lie between the two.
        difference -= np.round(difference @ one.inverses) @ one.vectors
        cells = np.abs(one.vectors - other.vectors).max(axis=(1, 2), initial=0.0)
        same[chunk] = np.maximum(np.abs(difference).max(axis=(1, 2)), cells) <= tolerance
    return same
