"""One edge under tabulated filters: where its length lies in the table.

The table is that of :class:`eqcalc.tabulated.spline.SplineTable`: two rows for each knot, the value
there and h times the slope. ``stretches`` (n_stretches, 4) has a row for each uniform stretch of
knots: where it begins (Å), 1/h, its last interval, the row of its first knot.
"""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["edge_place", "filter_slope", "filter_value", "stretches_on"]


@functools.cache  # for good: a captured graph reads them by their address, and holds nothing
def stretches_on(ends: tuple[float, ...], counts: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the stretches (n_stretches, 4) of a table, float32; made once, and never changed."""
    rows, start, row = [], 0.0, 0
    for end, count in zip(ends, counts, strict=True):
        rows.append([start, count / (end - start), count - 1, row])
        start, row = end, row + 2 * (count + 1)
    return torch.tensor(rows, dtype=torch.float32, device=device)


@triton.jit
def edge_place(vectors, k, stretches, n_stretches: tl.constexpr, cutoff):
    """Return whether edge k is inside the table, its direction, 1/d, its row there, t and 1/h."""
    x = tl.load(vectors + 3 * k)
    y = tl.load(vectors + 3 * k + 1)
    z = tl.load(vectors + 3 * k + 2)
    d = tl.sqrt_rn(x * x + y * y + z * z)
    inside = d < cutoff  # false for NaN
    inverse = tl.where(inside, 1.0 / d, 0.0)
    x = tl.where(inside, x, 0.0)  # of an edge outside, zeros, whatever it is
    y = tl.where(inside, y, 0.0)
    z = tl.where(inside, z, 0.0)
    start = tl.load(stretches)
    per_h = tl.load(stretches + 1)
    last = tl.load(stretches + 2)
    first = tl.load(stretches + 3)
    for s in tl.static_range(1, n_stretches):
        begin = tl.load(stretches + 4 * s)
        beyond = d >= begin
        start = tl.where(beyond, begin, start)
        per_h = tl.where(beyond, tl.load(stretches + 4 * s + 1), per_h)
        last = tl.where(beyond, tl.load(stretches + 4 * s + 2), last)
        first = tl.where(beyond, tl.load(stretches + 4 * s + 3), first)
    u = tl.where(inside, (d - start) * per_h, 0.0)
    interval = tl.minimum(tl.floor(u), last)
    row = (first + 2.0 * interval).to(tl.int32)
    return inside, x * inverse, y * inverse, z * inverse, inverse, row, u - interval, per_h


@triton.jit
def filter_value(c0, c1, c2, c3, t):
    """Return filters of the four rows of the table around a place."""
    q = 1.0 - t
    return (
        (1.0 + 2.0 * t) * q * q * c0
        + t * q * q * c1
        + (3.0 - 2.0 * t) * t * t * c2
        - t * t * q * c3
    )


@triton.jit
def filter_slope(c0, c1, c2, c3, t, per_h):
    """Return the filters' derivatives; the values are subtracted first, which is exact."""
    q = 1.0 - t
    return per_h * (6.0 * t * q * (c2 - c0) + q * (1.0 - 3.0 * t) * c1 + t * (3.0 * t - 2.0) * c3)
