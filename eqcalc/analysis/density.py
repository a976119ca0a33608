"""Density profiles along a vector of the cell.

Slices are parallel to the other two vectors, so that they fill any cell; the place of a slice is
its distance from the face through the origin. Each frame has its own volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from numpy.typing import NDArray

from eqcalc.analysis.blocks import N_BLOCKS, error_of_blocks
from eqcalc.analysis.rdf import require_elements
from eqcalc.errors import ConfigError, StructureError
from eqcalc.units import GRAM_PER_CM3

__all__ = ["AXES", "DensityProfile", "Profile"]

AXES = ("a", "b", "c")
"""Vectors of the cell along which there are profiles."""

_ROUNDED = 1e-9  # of the cell


@dataclass(frozen=True)
class Profile:
    """A density profile; shapes: n_bins.

    place : (n_bins,), Å; the middle of each slice at the mean height of the cell
    number : (n_bins,) by element, atoms/Å³
    mass, error : (n_bins,), g/cm³, of the elements looked at; standard errors over blocks of
        frames, NaN for fewer than two frames
    outside : share of the atoms that were outside of the cell along an open direction
    """

    place: NDArray[np.float64]
    number: dict[str, NDArray[np.float64]]
    mass: NDArray[np.float64]
    error: NDArray[np.float64]
    outside: float


class DensityProfile:
    """Counts atoms in slices, frame by frame.

    Parameters
    ----------
    first : a frame; all others have its atoms
    n_frames : how many will be added, which makes blocks of them
    axis : "a", "b" or "c", the vector of the cell along which slices follow each other
    n_bins : slices
    elements : symbols to look at; all by default

    Raises
    ------
    ConfigError : an option is out of range, or an element is not there.
    StructureError : there is no cell.
    """

    def __init__(
        self,
        first: Atoms,
        n_frames: int,
        *,
        axis: str = "c",
        n_bins: int = 100,
        elements: list[str] | None = None,
    ):
        if axis not in AXES:
            raise ConfigError(f"the axis of a profile is one of {', '.join(AXES)}, not '{axis}'.")
        if n_bins < 1:
            raise ConfigError(f"n_bins must be 1 or more, not {n_bins}.")
        _require_cell(first)
        present = list(dict.fromkeys(first.symbols))
        chosen = present if elements is None else list(dict.fromkeys(elements))
        require_elements(chosen, present)
        self._elements = sorted(chosen, key=chemical_symbols.index)
        self._axis, self._n_bins, self._n_frames = AXES.index(axis), n_bins, n_frames
        symbols = np.array(list(first.symbols))
        self._kept = np.flatnonzero(np.isin(symbols, self._elements))
        self._kind = np.array([self._elements.index(s) for s in symbols[self._kept]])
        self._masses = first.get_masses()[self._kept]
        n_blocks = min(N_BLOCKS, n_frames)
        self._number = np.zeros((n_blocks, len(chosen), n_bins))
        self._mass = np.zeros((n_blocks, n_bins))
        self._added = np.zeros(n_blocks, dtype=np.int64)
        self._height = self._n_outside = 0.0

    def add(self, frame: Atoms) -> None:
        """Count the atoms of a frame.

        Raises
        ------
        StructureError : it has no cell.
        """
        block = min(
            int(self._added.sum()) * len(self._added) // self._n_frames, len(self._added) - 1
        )
        _require_cell(frame)
        inverse = np.linalg.inv(frame.cell.array)
        # A cell may begin elsewhere than at zero, as LAMMPS's boxes do.
        places = frame.positions[self._kept] - frame.get_celldisp().ravel()
        share = places @ inverse[:, self._axis]
        if frame.pbc[self._axis]:
            share -= np.floor(share)
            share[share >= 1.0] = 0.0  # of -1e-17 the line above makes 1
        # An atom on a face is not outside for the sake of a rounded last digit.
        inside = (share >= -_ROUNDED) & (share <= 1.0 + _ROUNDED)
        place = (share[inside] * self._n_bins).astype(np.int64).clip(0, self._n_bins - 1)
        slice_volume = frame.get_volume() / self._n_bins
        n_all = len(self._elements) * self._n_bins
        counts = np.bincount(self._kind[inside] * self._n_bins + place, minlength=n_all)
        self._number[block] += counts.reshape(-1, self._n_bins) / slice_volume
        weighed = np.bincount(place, self._masses[inside], self._n_bins)
        self._mass[block] += weighed / slice_volume / GRAM_PER_CM3
        self._height += 1.0 / float(np.linalg.norm(inverse[:, self._axis]))
        self._n_outside += 1.0 - inside.mean()
        self._added[block] += 1

    def result(self) -> Profile:
        """Return the mean over the frames that were added.

        Raises
        ------
        StructureError : no frame was.
        """
        n_frames = int(self._added.sum())
        if n_frames == 0:
            raise StructureError("no frame was added, of which atoms could be counted.")
        filled = self._added > 0
        blocks = self._mass[filled] / self._added[filled][:, None]
        middles = (np.arange(self._n_bins) + 0.5) / self._n_bins
        number = self._number.sum(axis=0) / n_frames
        return Profile(
            middles * self._height / n_frames,
            {e: number[k] for k, e in enumerate(self._elements)},
            self._mass.sum(axis=0) / n_frames,
            error_of_blocks(blocks),
            self._n_outside / n_frames,
        )


def _require_cell(frame: Atoms) -> None:
    if abs(np.linalg.det(frame.cell.array)) < 1e-9:
        raise StructureError(
            "the frames have no cell of three vectors, and a density needs its volume."
        )
