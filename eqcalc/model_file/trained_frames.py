"""Which frames a model was trained on: known again in whatever file they lie.

Names of files and numbers of rows say little: a file is renamed, split, merged or converted, and
every second one is called train.xyz. So the card keeps of each frame a checksum of its elements
and five sums of its coordinates, which a copy has too, within what digits were lost.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from ase import Atoms
from numpy.typing import NDArray
from scipy.spatial import KDTree

__all__ = ["MOST_FRAMES", "require_trained_frames", "trained_among", "trained_frames"]

MOST_FRAMES = 100_000
"""Of more frames a card keeps nothing: it would outgrow the model."""

_FREQUENCIES = 2.0 * np.pi * np.sqrt([2.0, 3.0, 5.0, 7.0, 11.0])  # of the sums' weights
_RECORD = np.dtype([("atoms", "<u4"), ("sums", "<f4", len(_FREQUENCIES))])
_TOLERANCE = 3e-5  # Å: ten standard deviations of what five decimals leave
_FLOAT32 = 2.0**-21  # of the largest coordinate: what is kept, and often the file, is float32


class _Known(NamedTuple):
    """What is kept of a frame: a checksum of its atoms, sums (5,) and their tolerance, Å."""

    atoms: int
    sums: NDArray[np.float64]
    tolerance: float


def trained_frames(frames: Iterable[Atoms], before: str = "") -> str:
    """Return what a card keeps of the frames that its model was trained on.

    Single atoms are left out: there is one structure of each.

    Parameters
    ----------
    before : what the card of the model keeps that the training started from

    Returns
    -------
    Base64, 32 characters for each frame; empty for more than :data:`MOST_FRAMES`.
    """
    known = [each for each in map(_known, frames) if each is not None]
    own = np.array([(each.atoms, each.sums) for each in known], dtype=_RECORD)
    kept = np.unique(np.concatenate([own, _read(before)]))
    return base64.b64encode(kept.tobytes()).decode() if len(kept) <= MOST_FRAMES else ""


def trained_among(kept: str, frames: Sequence[Atoms]) -> list[int]:
    """Return the numbers of those frames whose atoms, in the same places and order, are kept.

    The same are coordinates and periodic lattice vectors to about 1e-5 Å (more where float32
    keeps less), up to shifts of atoms by lattice vectors.

    Parameters
    ----------
    kept : what :func:`trained_frames` returned
    """
    records = _read(kept)
    trees: dict[int, Optional[KDTree]] = {}
    found = []
    for k, atoms in enumerate(frames):
        frame = _known(atoms)
        if frame is None:
            continue
        if frame.atoms not in trees:
            sums = records["sums"][records["atoms"] == frame.atoms]
            trees[frame.atoms] = KDTree(sums) if len(sums) > 0 else None
        tree = trees[frame.atoms]
        if tree is not None and tree.query(frame.sums, p=np.inf)[0] <= frame.tolerance:
            found.append(k)
    return found


def require_trained_frames(kept: Any) -> None:
    """Refuse what :func:`trained_frames` does not return.

    Raises
    ------
    ValueError : it is that.
    """
    try:
        records = _read(kept)
    except (TypeError, binascii.Error, ValueError) as error:
        raise ValueError(f"trained_frames: expected base64 of whole frames ({error})") from None
    if len(records) > MOST_FRAMES or not np.isfinite(records["sums"]).all():
        raise ValueError(
            f"trained_frames: expected finite numbers of at most {MOST_FRAMES} frames, found "
            f"{len(records)}"
        )


def _read(kept: str) -> NDArray[Any]:
    return np.frombuffer(base64.b64decode(kept, validate=True), dtype=_RECORD)


def _known(atoms: Atoms) -> Optional[_Known]:
    """Return what is kept of a frame; None of a single atom, and where numbers are not finite."""
    positions, vectors = atoms.positions, atoms.cell.array[atoms.pbc]
    finite = np.isfinite(positions).all() and np.isfinite(vectors).all()
    if not finite or (len(atoms) < 2 and len(vectors) == 0) or len(atoms) == 0:
        return None
    terms = _terms(positions, vectors)
    weights = np.cos(np.outer(np.arange(1, len(terms) + 1), _FREQUENCIES))
    sums = terms @ (weights / np.linalg.norm(weights, axis=0))
    largest = max(np.abs(positions).max(), np.abs(vectors).max(initial=0.0))
    checksum = zlib.crc32(atoms.pbc.tobytes() + atoms.numbers.astype("<i8").tobytes())
    return _Known(checksum, sums, _TOLERANCE + _FLOAT32 * float(largest))


def _terms(positions: NDArray[Any], vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Return numbers (n,), Å, that change by no more than coordinates do.

    Along periodic lattice vectors they are sines and cosines, which a shift by a vector leaves
    alone, else coordinates.
    """
    inverses = np.linalg.pinv(vectors) if len(vectors) > 0 else vectors.T  # (3, k), 1/Å
    along = positions @ inverses  # (n_atoms, k)
    steepest = np.abs(inverses).sum(axis=0)
    scale = 1.0 / (2.0 * np.pi * np.maximum(steepest, 1e-9))
    angles = 2.0 * np.pi * along
    terms = [scale * np.cos(angles), scale * np.sin(angles), vectors]
    if len(vectors) < 3:
        terms.append(positions - along @ vectors)
    return np.concatenate([np.ravel(term) for term in terms])
