"""Search all pairs of atoms within a radius: vesin on the CPU, a cell list on a GPU.

Shapes: n_atoms, n_edges. ``lattice`` is the cell (Å) with zero rows along open directions.
"""

from __future__ import annotations

import numpy as np
import torch
import vesin
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.errors import GraphError
from eqcalc.neighbours.cell_list import find_pairs
from eqcalc.neighbours.lattice import complete, reduced
from eqcalc.neighbours.structure import Structure

__all__ = ["ROUNDING", "distances_of", "pairs_of"]

ROUNDING = 1e-9  # Å; far above the float64 rounding of any distance
_MAX_BINS = 1e5  # vesin's MAX_NUMBER_OF_CELLS
# Atoms from which on a GPU searches. One CPU core takes 30 ms for 1000 atoms of copper within
# 5.5 Å; the cell list is some hundred kernels, a few ms however few the atoms (estimated).
_FEWEST_ON_DEVICE = 1000

_FEW_PAIRS = 5e5  # found in a tenth of a second, however wrong
# Atoms per Å³; diamond has 0.18, metallic hydrogen below 1. Positions and a cell in nm have a
# thousand times too many.
_DENSEST = 5.0


def pairs_of(
    structure: Structure, radius: float, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return receivers, senders (n_edges,) and shifts (n_edges, 3) in order, on the device.

    Raises
    ------
    GraphError : so many pairs are expected that lengths cannot be in Å.
    """
    _refuse_crowded(structure, radius)
    if _searches(device, len(structure.positions)):
        positions = torch.from_numpy(structure.positions).to(device)
        return find_pairs(positions, structure.lattice, structure.pbc, radius)
    receivers, senders, shifts = map(torch.from_numpy, _search(structure, radius))
    return receivers.to(device), senders.to(device), shifts.to(device)


def distances_of(structure: Structure, radius: float) -> tuple[NDArray, NDArray, NDArray]:
    """Return the atoms i, j and the distance (Å) of each pair within the radius, in no order.

    Each pair stands there once, an atom and an image of itself too; on the CPU.

    Raises
    ------
    GraphError : so many pairs are expected that lengths cannot be in Å.
    """
    _refuse_crowded(structure, radius)
    box, _, inside, _, _ = _closed_box(structure, radius)
    finder = vesin.NeighborList(cutoff=_search_radius(box, radius), full_list=False)
    i, j, distances = finder.compute(inside, box, periodic=True, quantities="ijd")
    near = distances < radius
    return i[near].astype(np.int64), j[near].astype(np.int64), distances[near]


def _refuse_crowded(structure: Structure, radius: float) -> None:
    """Refuse what would fill the memory with pairs, before they are searched.

    Each atom is given the atoms of the bins around its own, and of each only the share of a
    sphere in them.
    """
    n_atoms = len(structure.positions)
    box = reduced(complete(structure.lattice, structure.pbc), structure.pbc)[0]
    inverse = np.linalg.inv(box)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)  # Å, between the faces of the box
    reach = np.where(structure.pbc, radius / heights, 0.0)  # in boxes
    if float(n_atoms) ** 2 * np.prod(2.0 * np.ceil(reach) + 1.0) < _FEW_PAIRS:
        return
    places = structure.positions @ inverse
    places[:, structure.pbc] %= 1.0
    width = np.where(structure.pbc, np.maximum(reach, 1e-9), radius / heights)
    width[structure.pbc] = np.minimum(width[structure.pbc], 1.0)
    counts = np.unique(np.floor(places / width).astype(np.int64), axis=0, return_counts=True)[1]
    images = np.prod(np.maximum(reach, 1.0))
    # Seen by an atom of a bin: those of its own, at the same density all around.
    density = images * np.sum(counts.astype(float) ** 2) / n_atoms / radius**3
    if density > _DENSEST:
        n_neighbours = density * 4.0 / 3.0 * np.pi * radius**3
        found = [f"{height:.3g}" for height in heights[structure.pbc]]
        cell = f" The cell is {' x '.join(found)} Å high along its periodic directions."
        raise GraphError(
            f"about {n_neighbours:.2g} neighbours of each atom are expected within {radius:g} Å, "
            f"{density:.2g} atoms per Å³ (diamond has 0.18): positions and cell must be in Å."
            + (cell if found else "")
        )


def _searches(device: torch.device, n_atoms: int) -> bool:
    """Whether the device itself is faster than a search on the CPU and the transfer."""
    return device.type == "cuda" and n_atoms >= _FEWEST_ON_DEVICE


def _search(structure: Structure, radius: float) -> tuple[NDArray, NDArray, NDArray]:
    """Return receivers, senders (n_edges,) and shifts (n_edges, 3) in order, all int64.

    The caller compares the true distances.
    """
    _, positions, lattice, pbc = structure
    box, combination, inside, wraps, margin = _closed_box(structure, radius)
    finder = vesin.NeighborList(cutoff=_search_radius(box, radius + margin), full_list=True)
    found = finder.compute(inside, box, periodic=True, quantities="ijS")
    i, j, inner = (array.astype(np.int64) for array in found)
    shifts = (inner + (wraps[i] - wraps[j]).astype(np.int64)) @ combination
    vectors = positions[j] - positions[i] + shifts @ lattice
    near = np.einsum("ex,ex->e", vectors, vectors) < (radius + margin) ** 2
    near &= ~inner[:, ~pbc].any(axis=1)
    i, j, shifts = i[near], j[near], shifts[near]
    order = np.lexsort((*shifts.T[::-1], j, i))
    return i[order], j[order], shifts[order]


def _closed_box(
    structure: Structure, radius: float
) -> tuple[NDArray, NDArray, NDArray, NDArray, float]:
    """Return a box that is periodic in all directions and has all atoms inside.

    Open directions vesin would bin over their whole extent (two molecules 1e5 Å apart over a
    slab take a minute, and before 0.5.8 pairs get lost); its int32 shifts lose atoms more than
    2e9 cells apart.

    Returns
    -------
    box (3, 3), the integers that make it, positions inside, the boxes by which they were moved,
    and by how much (Å) that may have rounded a distance
    """
    _, positions, lattice, pbc = structure
    box, combination = reduced(complete(lattice, pbc), pbc)
    wraps = np.where(pbc, np.floor(positions @ np.linalg.inv(box)), 0.0)
    inside = positions - wraps @ box
    for axis in np.flatnonzero(~pbc):
        heights = positions @ box[axis]
        squeezed = _squeeze(heights, 2.0 * radius)
        inside += np.outer(squeezed - heights, box[axis])
        box[axis] *= squeezed.max() + 2.0 * radius
    margin = ROUNDING * np.abs(box).sum() + 1e-14 * np.abs(positions).max()
    return box, combination, inside, wraps, margin


def _squeeze(heights: NDArray, gap: float) -> NDArray:
    """Shorten every empty stretch along a line to ``gap`` and start at zero."""
    order = np.argsort(heights)
    squeezed = np.zeros_like(heights)
    squeezed[order[1:]] = np.cumsum(np.minimum(np.diff(heights[order]), gap))
    return squeezed


def _search_radius(box: NDArray, radius: float) -> float:
    """Widen the radius where vesin's grid would break.

    Beyond _MAX_BINS bins it shrinks their three numbers in proportion and rounds down:
    in a long or flat box to zero, by which it then divides and kills the process.
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(box), axis=0)
    while True:
        bins = np.maximum(np.floor(heights / radius), 1.0)
        excess = bins.prod() / _MAX_BINS
        if excess <= 1.0 or bins.min() / np.cbrt(excess) >= 4.0:
            return radius
        radius *= 1.1
