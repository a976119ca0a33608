"""Mean square displacements and diffusion coefficients.

    MSD(t) = ⟨|r(t0 + t) − r(t0)|²⟩ over atoms and all origins t0;   D = slope / 6

The error of D is that of its values in stretches of the trajectory, each of twice the longest
time of the fit, which are independent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from eqcalc.analysis.blocks import N_BLOCKS, error_of_blocks
from eqcalc.analysis.correlations import mean_square_displacement, require_memory
from eqcalc.analysis.rdf import require_elements
from eqcalc.errors import ConfigError, StructureError
from eqcalc.neighbours.lattice import complete

__all__ = ["A2_PER_PS_IN_CM2_PER_S", "MSD", "Diffusion", "Displacements"]

A2_PER_PS_IN_CM2_PER_S = 1e-4

_FEWEST = 10  # frames
_FIT = (0.02, 0.1)  # of the length of the trajectory
_FLAT = 1.0  # Å; less is no space that atoms jump across
_CHANGED = 1e-6  # Å, by which a cell is another one


@dataclass(frozen=True)
class Diffusion:
    """A diffusion coefficient.

    value, error : Å²/ps; the error is None where the trajectory is too short for one
    exponent : of the power of time by which the MSD grows in the fit; 1 for diffusion
    """

    value: float
    error: float | None
    exponent: float


@dataclass(frozen=True)
class MSD:
    """Mean square displacements by element; shapes: n_lags.

    time_ps : (n_lags,)
    msd : (n_lags,) by element, Å²
    error : (n_lags,) by element; NaN where stretches are too short
    diffusion : by element
    fit_ps : from and to which time the line was fitted
    drift : (n_lags,), Å²; MSD of the centre of mass, which is part of that of every atom
    changing_cell : the cell was not the same in all frames
    held : how many atoms never moved, by element, where some did not
    """

    time_ps: NDArray[np.float64]
    msd: dict[str, NDArray[np.float64]]
    error: dict[str, NDArray[np.float64]]
    diffusion: dict[str, Diffusion]
    fit_ps: tuple[float, float]
    drift: NDArray[np.float64]
    changing_cell: bool
    held: dict[str, int]


class Displacements:
    """Follows atoms, frame by frame, across the faces of the cell.

    Runs of eqcalc never put atoms back into the cell, and in a constant cell their positions are
    taken as they are. Otherwise each step is the shortest that leads from an atom to one of the
    images of its next place, in the cell of the later frame (for changing cells: von Bülow,
    Bullerjahn and Hummer, J. Chem. Phys. 153, 021101 (2020), doi 10.1063/5.0008316).

    Parameters
    ----------
    first : a frame; all others have its atoms
    n_frames : how many will be added
    elements : symbols to look at; all by default
    is_unwrapped : atoms were never put back

    Raises
    ------
    ConfigError : an element is not there.
    StructureError : there are too few frames.
    NotEnoughMemoryError : the positions do not fit into memory.
    """

    def __init__(
        self,
        first: Atoms,
        n_frames: int,
        *,
        elements: list[str] | None = None,
        is_unwrapped: bool,
    ):
        if n_frames < _FEWEST:
            raise StructureError(
                f"{n_frames} frames are too few for a mean square displacement; {_FEWEST} are the "
                "least, hundreds are usual."
            )
        present = list(dict.fromkeys(first.symbols))
        self._elements = present if elements is None else list(dict.fromkeys(elements))
        require_elements(self._elements, present)
        self._elements.sort(key=chemical_symbols.index)
        symbols = np.array(list(first.symbols))
        self._kept = np.flatnonzero(np.isin(symbols, self._elements))
        self._symbols = symbols[self._kept]
        self._weights = first.get_masses() / first.get_masses().sum()
        require_memory(n_frames, len(self._kept), "the positions")
        self._path = np.zeros((n_frames, len(self._kept), 3))
        self._centres = np.zeros((n_frames, 3))  # of all atoms
        self._places = np.zeros((len(first), 3))  # of all atoms in the last frame
        self._is_unwrapped = is_unwrapped
        self._first_cell = first.cell.array.copy()
        self._n_added = 0
        self._last: NDArray[np.float64] | None = None
        self._last_inside = np.zeros((len(first), 3))
        self._reduced: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None
        self.changing_cell = False
        # In cells, of an atom between two frames; from 0.5 on an image is taken for it.
        self.longest_step = 0.0
        # Likewise of the space that the atoms take up, where there is no cell.
        self.longest_jump = 0.0

    def add(self, frame: Atoms) -> None:
        """Follow the atoms to the next frame."""
        k = self._n_added
        cell = self._short_vectors(frame)
        inverse = np.asarray(np.linalg.inv(cell))
        if frame.pbc.any() and np.abs(frame.cell.array - self._first_cell).max() > _CHANGED:
            self.changing_cell = True
            if self._is_unwrapped and k > 0:
                # What was taken as it is so far is the same by shortest steps.
                self._is_unwrapped = False
        if self._last is None:
            self._places = frame.positions.copy()
        elif self._is_unwrapped or not frame.pbc.any():
            moved = frame.positions - self._last
            self._places += moved
            if not frame.pbc.any():
                extent = np.maximum(np.ptp(frame.positions, axis=0), _FLAT)
                self.longest_jump = max(self.longest_jump, float(np.abs(moved / extent).max()))
        else:
            step = (_inside(frame, inverse, cell) - self._last_inside) @ inverse
            step -= np.round(step) * frame.pbc
            self.longest_step = max(self.longest_step, float(np.abs(step[:, frame.pbc]).max()))
            self._places += step @ cell
        self._path[k], self._centres[k] = self._places[self._kept], self._weights @ self._places
        self._last = frame.positions.copy()
        if frame.pbc.any():
            self._last_inside = _inside(frame, inverse, cell)
        self._n_added += 1

    def _short_vectors(self, frame: Atoms) -> NDArray[np.float64]:
        """Return the shortest vectors (3, 3) of the frame's lattice, in which images are near.

        The image nearest along the vectors of a skewed cell is not the nearest in space. An open
        vector repeats nothing, and one aslant would make a step off a slab one along it.
        """
        if self._reduced is None or not np.array_equal(frame.cell.array, self._reduced[0]):
            repeated = np.where(frame.pbc[:, None], frame.cell.array, 0.0)
            short, _ = minkowski_reduce(complete(repeated, frame.pbc), frame.pbc)
            self._reduced = (frame.cell.array.copy(), np.asarray(short))
        return self._reduced[1]

    def result(
        self,
        interval_fs: float,
        *,
        n_even: int | None = None,
        fit_ps: tuple[float, float] | None = None,
        remove_drift: bool = False,
    ) -> MSD:
        """Return the mean square displacements.

        Parameters
        ----------
        interval_fs : time between two frames
        n_even : how many frames from the first on are so far apart; all by default
        fit_ps : from and to which time a line is fitted; a tenth of the trajectory by default,
            without the first fifth of that
        remove_drift : take the motion of the centre of mass from that of each atom

        Raises
        ------
        ConfigError : the fit has fewer than three points, or is longer than half the trajectory.
        """
        n_frames = self._n_added if n_even is None else n_even
        path, centre = self._path[:n_frames], self._centres[:n_frames]
        n_lags = n_frames // 2 + 1
        time_ps = np.arange(n_lags) * interval_fs / 1000
        first, last = _fit_range(time_ps, n_frames * interval_fs / 1000, fit_ps)
        is_held = (path == path[0]).all(axis=(0, 2))
        if remove_drift:
            path = path - centre[:, None]
        drift = mean_square_displacement(centre[:, None], n_lags)[0]
        of_atoms = mean_square_displacement(path, n_lags)
        n_blocks = min(N_BLOCKS, n_frames // (2 * last))
        stretches = [
            mean_square_displacement(part, min(n_lags, len(part) // 2 + 1))
            for part in np.array_split(path, max(n_blocks, 1))
        ]
        msd, error, diffusion = {}, {}, {}
        for element in self._elements:
            chosen = self._symbols == element
            msd[element] = of_atoms[chosen].mean(axis=0)
            parts = [part[chosen].mean(axis=0) for part in stretches]
            short = min(map(len, parts))
            error[element] = np.full(n_lags, np.nan)
            slopes: list[float] = []
            if n_blocks > 1:
                error[element][:short] = error_of_blocks([part[:short] for part in parts])
                slopes = [_slope(time_ps[first : last + 1], p[first : last + 1]) for p in parts]
            diffusion[element] = Diffusion(
                _slope(time_ps[first : last + 1], msd[element][first : last + 1]) / 6,
                float(error_of_blocks(slopes)) / 6 if slopes else None,
                _exponent(time_ps[first : last + 1], msd[element][first : last + 1]),
            )
        fitted = (float(time_ps[first]), float(time_ps[last]))
        parts_held = {each: is_held[self._symbols == each] for each in self._elements}
        held = {name: int(part.sum()) for name, part in parts_held.items() if part.any()}
        return MSD(time_ps, msd, error, diffusion, fitted, drift, self.changing_cell, held)


def _inside(
    frame: Atoms, inverse: NDArray[np.float64], cell: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the positions, put into the cell along its periodic directions."""
    places = frame.positions @ inverse
    return np.asarray((places - np.floor(places) * frame.pbc) @ cell)


def _fit_range(
    time_ps: NDArray[np.float64], length_ps: float, fit_ps: tuple[float, float] | None
) -> tuple[int, int]:
    """Return the first and the last lag of the fit."""
    low, high = fit_ps if fit_ps is not None else (_FIT[0] * length_ps, _FIT[1] * length_ps)
    if not (math.isfinite(high) and 0 <= low < high):
        raise ConfigError(
            f"the fit of D goes from {low:g} to {high:g} ps; expected two times, the first from 0 "
            "on and below the second."
        )
    interval = time_ps[1]
    first = max(1, round(low / interval))
    last = round(high / interval)
    if fit_ps is None:
        last = max(last, first + 2)
    if last >= len(time_ps):
        raise ConfigError(
            f"the fit of D ends at {high:g} ps, and times up to half of the trajectory, "
            f"{time_ps[-1]:g} ps, can be averaged."
        )
    if last < first + 2:
        raise ConfigError(
            f"the fit of D from {low:g} to {high:g} ps has fewer than three points, at a frame "
            f"every {interval:g} ps."
        )
    return first, last


def _slope(time: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    return float(np.polyfit(time, values, deg=1)[0])


def _exponent(time: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    if not (values > 0).all():
        return float("nan")
    return float(np.polyfit(np.log(time), np.log(values), deg=1)[0])
