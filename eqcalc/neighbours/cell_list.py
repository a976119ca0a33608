"""All pairs within a radius, by a cell list in plain torch: for a device that holds the atoms.

vesin searches on a GPU too, with a compiler and libraries that are found at run time, and up
to a number of pairs per atom that is set in the environment. This needs torch alone.

Space is divided into bins no thinner than the radius, so that neighbours lie in bins that
touch. A bin has a number; atoms sorted by it are found by bisection, so that empty bins cost
nothing. A cell thinner than the radius is one bin, and more of its images are visited.

Shapes: n_atoms, n_pairs, n_offsets (from a bin to those around it); of a block of receivers:
n_receivers, n_candidates.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eqcalc.neighbours.lattice import complete, reduced

__all__ = ["find_pairs"]

_MOST_CANDIDATES = 1 << 20  # looked at together; each takes about 150 bytes
_MOST_BINS = 1 << 20  # along one direction; the numbers of all bins fit into 63 bits
_ROUNDING = 1e-9  # relative to the box; far above the float64 rounding of any distance


def find_pairs(
    positions: Tensor, lattice: NDArray, pbc: NDArray, radius: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return receivers, senders (n_pairs,) and shifts (n_pairs, 3), all int64.

    Both directions are listed, ordered by receiver, sender and shift; no atom is paired with
    itself, only with its images. Some pairs may be longer than the radius, by a rounding.

    Parameters
    ----------
    positions : (n_atoms, 3) float64, Å, inside the cell or not; on any device
    lattice : (3, 3), Å; rows are lattice vectors, zero along open directions
    pbc : (3,) bool
    radius : Å
    """
    box, combination = reduced(complete(lattice, pbc), pbc)
    margin = _ROUNDING * np.abs(box).sum() + 1e-14 * float(positions.abs().max())
    bins = _bins(positions, box, pbc, radius + 2.0 * margin)
    order = torch.argsort(bins.ids, stable=True)
    sorted_ids = bins.ids[order]
    fullest = int(torch.unique_consecutive(sorted_ids, return_counts=True)[1].max())
    n_receivers = max(_MOST_CANDIDATES // (fullest * len(bins.offsets)), 1)
    blocks = []
    for first in range(0, len(positions), n_receivers):
        block = torch.arange(
            first, min(first + n_receivers, len(positions)), device=positions.device
        )
        i, slots, inner = _candidates(bins, sorted_ids, block)
        j = order[slots]
        shifts = inner + bins.wraps[i] - bins.wraps[j]  # in vectors of the box
        vectors = positions[j] - positions[i] + shifts.to(torch.float64) @ bins.box
        near = vectors.square().sum(dim=1) < (radius + margin) ** 2
        near &= (i != j) | inner.any(dim=1)
        kept = near.nonzero().squeeze(1)
        blocks.append(_ordered(i[kept], j[kept], _combined(shifts[kept], combination)))
    receivers, senders, shifts = (torch.cat(parts) for parts in zip(*blocks, strict=True))
    return receivers, senders, shifts


class _Bins(NamedTuple):
    """Where atoms are, and where their neighbours can be.

    box : (3, 3) float64, Å; the vectors that wraps and shifts count
    wraps : (n_atoms, 3) int64; how often the box is taken off an atom to put it inside
    places : (n_atoms, 3) int64; the bin along each direction
    ids : (n_atoms,) int64; the number of the bin
    n_bins : (3,) int64; along a periodic direction, and 0 along an open one
    strides : (3,) int64; ids = places @ strides
    offsets : (n_offsets, 3) int64
    """

    box: Tensor
    wraps: Tensor
    places: Tensor
    ids: Tensor
    n_bins: Tensor
    strides: Tensor
    offsets: Tensor


def _bins(positions: Tensor, box: NDArray, pbc: NDArray, reach: float) -> _Bins:
    device = positions.device
    inverse = np.linalg.inv(box)
    heights = 1.0 / np.linalg.norm(inverse, axis=0)
    # Fractions along periodic directions, lengths along open ones: their vectors are units.
    coordinates = positions @ torch.from_numpy(inverse).to(device)
    periodic = torch.from_numpy(pbc).to(device)
    wraps = torch.where(periodic, coordinates.floor(), 0.0)
    coordinates -= wraps
    places = torch.empty_like(coordinates, dtype=torch.int64)
    n_bins, n_places, spans = [0, 0, 0], [0, 0, 0], [1, 1, 1]
    for axis in range(3):
        if pbc[axis]:
            n = int(np.clip(heights[axis] / reach, 1, _MOST_BINS))
            place = (coordinates[:, axis] * n).to(torch.int64).clamp(max=n - 1)
            n_bins[axis] = n_places[axis] = n
            spans[axis] = int(np.ceil(reach * n / heights[axis]))
        else:
            place = _open_places(coordinates[:, axis], reach)
            n_places[axis] = int(place.max()) + 2  # an empty one at either end
        places[:, axis] = place
    strides = torch.tensor([n_places[1] * n_places[2], n_places[2], 1], device=device)
    offsets = list(itertools.product(*(range(-span, span + 1) for span in spans)))
    return _Bins(
        torch.from_numpy(box).to(device),
        wraps.to(torch.int64),
        places,
        (places * strides).sum(dim=1),
        torch.tensor(n_bins, device=device),
        strides,
        torch.tensor(offsets, device=device),
    )


def _open_places(heights: Tensor, reach: float) -> Tensor:
    """Return bins (n_atoms,) from 1 on; a long empty stretch counts as a short one."""
    ordered, order = heights.sort()
    gaps = ordered.diff().clamp(max=2.0 * reach)
    squeezed = torch.zeros_like(heights)
    squeezed[order[1:]] = gaps.cumsum(dim=0)
    width = max(reach, float(squeezed.max()) / (_MOST_BINS - 2))
    return (squeezed / width).to(torch.int64) + 1


def _candidates(bins: _Bins, sorted_ids: Tensor, block: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all that lie in touching bins.

    Returns
    -------
    receivers : (n_candidates,)
    slots : (n_candidates,); places of the senders among the atoms sorted by bin
    inner : (n_candidates, 3); the image of the box in which the sender's bin lies
    """
    places = bins.places[block].unsqueeze(1) + bins.offsets  # (n_receivers, n_offsets, 3)
    n_bins = bins.n_bins.clamp(min=1)
    inner = torch.where(
        bins.n_bins > 0, torch.div(places, n_bins, rounding_mode="floor"), 0
    ).flatten(0, 1)
    ids = ((places.flatten(0, 1) - inner * n_bins) * bins.strides).sum(dim=1)
    starts = torch.searchsorted(sorted_ids, ids)
    counts = torch.searchsorted(sorted_ids, ids, right=True) - starts
    visit = torch.arange(len(ids), device=ids.device).repeat_interleave(counts)
    before = counts.cumsum(dim=0) - counts
    rank = torch.arange(len(visit), device=ids.device) - before[visit]
    receivers = block[torch.div(visit, len(bins.offsets), rounding_mode="floor")]
    return receivers, starts[visit] + rank, inner[visit]


def _combined(shifts: Tensor, combination: NDArray) -> Tensor:
    """Return shifts (n_pairs, 3) in lattice vectors; CUDA has no matrix product of int64."""
    rows = torch.from_numpy(np.asarray(combination, dtype=np.int64)).to(shifts.device)
    return sum((shifts[:, k : k + 1] * rows[k] for k in range(1, 3)), shifts[:, :1] * rows[0])


def _ordered(i: Tensor, j: Tensor, shifts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sort by i, then j, then the components of the shifts."""
    order = torch.argsort(shifts[:, 2], stable=True)
    for key in (shifts[:, 1], shifts[:, 0], j, i):
        order = order[torch.argsort(key[order], stable=True)]
    return i[order], j[order], shifts[order]
