"""Radial distribution functions.

    g_ab(r) = V / (N_a N_b) · n_ab(r) / (4π/3 ((r + dr)³ − r³))

with n_ab(r) the mean number of pairs, an atom of a and one of b, in a shell. N_b / V is the
density of b in the whole cell (as in LAMMPS and ASE), so that the integral of g is the number of
neighbours; in an ideal gas of N atoms of one element g is 1 − 1/N, not 1. Images count, so that
beyond half of a small cell an atom meets others twice, and itself. V is each frame's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from eqcalc.analysis.blocks import N_BLOCKS, error_of_blocks
from eqcalc.errors import ConfigError, StructureError
from eqcalc.neighbours.lattice import complete
from eqcalc.neighbours.search import distances_of
from eqcalc.neighbours.structure import check_structure

__all__ = ["RDF", "PairDistances", "half_cell"]

Pair = tuple[str, str]

_BONDS_END = 1.75  # Å


@dataclass(frozen=True)
class RDF:
    """Radial distribution functions, averaged over frames; shapes: n_bins.

    r : (n_bins,), Å; the middle of each shell
    g : (n_bins,) for each pair of elements; None where no volume is defined, as of a molecule
    error : (n_bins,); standard errors of g over blocks of frames, NaN for fewer than two frames
    per_distance : (n_bins,), 1/Å; pairs of all atoms per Å of distance, both orders counted once
    neighbours : (n_bins,) for each ordered pair (a, b): atoms of b within the outer radius of
        the shell, around an atom of a
    n_frames : of the average
    """

    r: NDArray[np.float64]
    g: dict[Pair, NDArray[np.float64]] | None
    error: dict[Pair, NDArray[np.float64]]
    per_distance: dict[Pair, NDArray[np.float64]]
    neighbours: dict[Pair, NDArray[np.float64]]
    n_frames: int

    def readable_top(self) -> float | None:
        """Return where a picture of g is cut, so that bonds do not hide all else; None: nowhere.

        Bonds are peaks many times as high as what lies beyond 1.75 Å.
        """
        if not self.g:
            return None
        beyond = self.r > _BONDS_END
        highest = max(float(values.max()) for values in self.g.values())
        outside = max(float(values[beyond].max(initial=0.0)) for values in self.g.values())
        top = max(1.25 * outside, 2.5)
        return top if outside > 0 and top < 0.4 * highest else None

    def first_peak(self, pair: Pair) -> tuple[float, float] | None:
        """Return distance (Å) and height of the highest value of g, None without any pair."""
        values = self.per_distance[pair] if self.g is None else self.g[pair]
        if not values.any():
            return None
        k = int(values.argmax())
        return float(self.r[k]), float(values[k])


def half_cell(atoms: Atoms) -> float:
    """Return half of the shortest lattice vector (Å), within which no atom meets two images.

    However skewed the cell is that states the lattice. Infinite where nothing repeats.

    Raises
    ------
    GraphError : the structure has no meaningful distances.
    """
    if not atoms.pbc.any():
        return float("inf")
    lattice = check_structure(atoms).lattice
    short, _ = minkowski_reduce(complete(lattice, atoms.pbc), atoms.pbc)
    return float(np.linalg.norm(short[atoms.pbc], axis=1).min() / 2)


class PairDistances:
    """Counts distances of pairs of elements, frame by frame.

    Parameters
    ----------
    first : a frame; all others have its atoms
    n_frames : how many will be added, which makes blocks of them
    r_max : Å
    n_bins : shells of equal width up to r_max
    elements : symbols to look at; all by default
    volume : Å³; of structures that are not periodic in three directions, whose density only the
        user can state

    Raises
    ------
    ConfigError : a number is out of range, or an element is not there.
    """

    def __init__(
        self,
        first: Atoms,
        n_frames: int,
        *,
        r_max: float,
        n_bins: int = 200,
        elements: list[str] | None = None,
        volume: float | None = None,
    ):
        if not (np.isfinite(r_max) and r_max > 0):
            raise ConfigError(f"r_max must be a distance above 0 Å, not {r_max:g}.")
        if n_bins < 1:
            raise ConfigError(f"n_bins must be 1 or more, not {n_bins}.")
        if volume is not None and not (np.isfinite(volume) and volume > 0):
            raise ConfigError(f"the volume must be a number above 0 Å³, not {volume:g}.")
        if volume is not None and first.pbc.all():
            raise ConfigError("a volume is given, but the frames are periodic and have their own.")
        present = list(dict.fromkeys(first.symbols))
        chosen = present if elements is None else list(dict.fromkeys(elements))
        require_elements(chosen, present)
        self._r_max, self._n_bins, self._volume = float(r_max), n_bins, volume
        self._edges = np.linspace(0.0, r_max, n_bins + 1)
        self._elements = sorted(chosen, key=chemical_symbols.index)
        # 0 ... n_elements - 1, and -1 for atoms that are not looked at
        self._kind = np.array(
            [self._elements.index(s) if s in chosen else -1 for s in first.symbols]
        )
        self._n_of = np.bincount(self._kind[self._kind >= 0], minlength=len(chosen))
        self._n_frames = n_frames
        n_blocks = min(N_BLOCKS, n_frames)
        shape = (n_blocks, len(chosen), len(chosen), n_bins)
        self._counts = np.zeros(shape)  # pairs per frame
        self._scaled = np.zeros(shape)  # the same, times that frame's volume
        self._added = np.zeros(n_blocks, dtype=np.int64)
        self._has_volume = True
        self.smallest_half_cell = float("inf")  # Å, of the frames that were added

    def add(self, frame: Atoms) -> None:
        """Count the pairs of a frame.

        Raises
        ------
        GraphError : the frame has no meaningful distances.
        """
        self.smallest_half_cell = min(self.smallest_half_cell, half_cell(frame))
        done = int(self._added.sum())
        block = min(done * len(self._added) // self._n_frames, len(self._added) - 1)
        i, j, distances = distances_of(check_structure(frame), self._r_max)
        a, b = self._kind[i], self._kind[j]
        kept = (a >= 0) & (b >= 0)
        shell = (distances[kept] / self._r_max * self._n_bins).astype(np.int64)
        n = len(self._elements)
        inside = shell < self._n_bins
        place = ((a[kept] * n + b[kept]) * self._n_bins + shell)[inside]
        once = np.bincount(place, minlength=n * n * self._n_bins).reshape(n, n, -1)
        counts = once + once.transpose(1, 0, 2)  # a pair is seen from both of its atoms
        self._counts[block] += counts
        volume = self._volume
        if volume is None and frame.pbc.all():
            volume = frame.get_volume()
        self._has_volume &= volume is not None
        self._scaled[block] += counts * (volume or 0.0)
        self._added[block] += 1

    def result(self) -> RDF:
        """Return the mean over the frames that were added.

        Raises
        ------
        StructureError : no frame was.
        """
        n_frames = int(self._added.sum())
        if n_frames == 0:
            raise StructureError("no frame was added, of which distances could be counted.")
        shells = 4 / 3 * np.pi * np.diff(self._edges**3)  # Å³
        filled = self._added > 0
        blocks = self._scaled[filled] / self._added[filled][:, None, None, None]
        counts = self._counts.sum(axis=0) / n_frames
        g, error, per_distance, neighbours = {}, {}, {}, {}
        for a, b in combinations_with_replacement(range(len(self._elements)), 2):
            pair = (self._elements[a], self._elements[b])
            density = 1.0 / (self._n_of[a] * self._n_of[b] * shells)
            g[pair] = self._scaled[:, a, b].sum(axis=0) / n_frames * density
            error[pair] = error_of_blocks(blocks[:, a, b] * density)
            once = 2 if a == b else 1
            per_distance[pair] = counts[a, b] / once / np.diff(self._edges)
            neighbours[pair] = np.cumsum(counts[a, b]) / self._n_of[a]
            if a != b:
                neighbours[pair[::-1]] = np.cumsum(counts[b, a]) / self._n_of[b]
        middles = (self._edges[1:] + self._edges[:-1]) / 2
        if not self._has_volume:
            return RDF(middles, None, {}, per_distance, neighbours, n_frames)
        return RDF(middles, g, error, per_distance, neighbours, n_frames)


def require_elements(chosen: list[str], present: list[str]) -> None:
    """Refuse elements that the structure does not have.

    Raises
    ------
    ConfigError : some are not there, or none was named.
    """
    absent = [symbol for symbol in chosen if symbol not in present]
    if absent or not chosen:
        raise ConfigError(
            f"there is no {' and no '.join(absent) or 'element'} to look at; the frames have "
            f"{', '.join(present)}."
        )
