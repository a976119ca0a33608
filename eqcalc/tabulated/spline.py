"""Functions of a distance as cubic splines, accurate to a stated tolerance.

Between two knots a spline is the cubic that has the values f and the slopes s of both:

    f(d) = (1 + 2t)(1 - t)² f_k + t (1 - t)² h s_k + t² (3 - 2t) f_k+1 - t² (1 - t) h s_k+1
    t = (d - d_k) / h

It interpolates the function at all knots, and its slopes there are those that make it twice
continuously differentiable, so forces made from it are smooth. Where a function bends (its second
derivative jumps, as at the onset of some cutoff functions) two splines meet, with the function's
own slope. Knots lie in uniform *stretches*, which meet at bends, and at joints: there one spline
goes on with knots of another distance, twice continuously differentiable like everywhere.

Two rows of the table belong to a knot, f and h s, and four count between two knots, whatever the
function cost to make. Where stretches meet, the knot is in both, with the h of each.

Shapes: n_rows = Σ 2 (intervals + 1) over the stretches, n_channels, n_distances.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor, nn

from eqcalc.errors import ConfigError

__all__ = ["SplineTable", "fit_table"]

_FEWEST, _MOST = 64, 8192  # intervals
_TINY = 1e-300  # a function may be zero from some distance on
# Where the leading errors of a cubic spline are largest: of its slope at (3 ± √3)/6, where
# t (1 - t) (1 - 2t) is, and of its value in the middle. There the slope is far too good.
_WORST = (0.2113, 0.5, 0.7887)


class SplineTable(nn.Module):
    """The table of one vector-valued function of the distance.

    table : (n_rows, n_channels); value and h times slope of each knot
    polynomials : (n_intervals, 4, n_channels); the same function as Σ_k p_k t^k in each
        interval. In float32 its slopes do not lose digits to the size of the values, as sums
        over rows of the table do.
    ends, counts : of each stretch, where it ends in Å (the first begins at zero, the last ends
        at the cutoff) and its number of intervals
    """

    table: Tensor
    polynomials: Tensor

    def __init__(self, table: Tensor, ends: Sequence[float], counts: Sequence[int]) -> None:
        super().__init__()
        self.ends, self.counts = list(ends), list(counts)
        self.starts = [0.0, *self.ends[:-1]]
        self.register_buffer("table", table)
        stretches = table.split([2 * (count + 1) for count in counts])
        self.register_buffer("polynomials", torch.cat([_polynomials(part) for part in stretches]))
        self.n_intervals = sum(counts)

    def forward(self, distances: Tensor) -> Tensor:
        """Return values (n_distances, n_channels); zero from the cutoff on."""
        inside = (distances < self.ends[-1]).unsqueeze(1)
        row, t = self._place(distances)
        t = t.unsqueeze(1)  # (n_distances, 1)
        p = self.polynomials.flatten(0, 1)
        # Not Horner's way: there, what the derivative needs is of size edges × channels.
        p0, p1, p2, p3 = [p.index_select(0, 4 * row + k) for k in range(4)]
        values = p0 + t * p1 + t**2 * p2 + t**3 * p3
        return torch.where(inside, values, 0.0)

    def _place(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Return the interval (n_distances,) of each distance, and where in it: t."""
        first = 0
        for k, (start, end, count) in enumerate(
            zip(self.starts, self.ends, self.counts, strict=True)
        ):
            u = (distances - start) * (count / (end - start))
            own = u.detach().clamp(0, count - 1).to(torch.int64)
            own_t = (u - own).clamp(max=1.0)
            if k == 0:
                row, t = own, own_t
            else:
                beyond = distances >= start
                row, t = torch.where(beyond, own + first, row), torch.where(beyond, own_t, t)
            first += count
        return row, t


def _polynomials(stretch: Tensor) -> Tensor:
    """Return the coefficients (n_intervals, 4, n_channels) from one stretch of a table."""
    values, slopes = stretch[::2], stretch[1::2]
    f0, f1, s0, s1 = values[:-1], values[1:], slopes[:-1], slopes[1:]
    step = f1 - f0
    return torch.stack([f0, s0, 3.0 * step - 2.0 * s0 - s1, s0 + s1 - 2.0 * step], dim=1)


def fit_table(
    function: Callable[[Tensor], Tensor],
    cutoff: float,
    dtype: torch.dtype,
    tolerance: float,
    bends: Sequence[float] = (),
    joints: Sequence[float] = (),
) -> SplineTable:
    """Return the table of a function, with as few intervals as its accuracy takes.

    Parameters
    ----------
    function : distances (n_distances,) float64, Å -> values (n_distances, n_channels)
        float64; smooth but for its bends, and zero at the cutoff
    cutoff : Å
    dtype : of the table
    tolerance : largest error between knots: of values relative to the largest value, of
        derivatives relative to the largest derivative, that the function has in the same
        stretch or beyond. What it does nearer to zero, where atoms seldom are, is no measure
    bends : Å; where second derivatives jump. A knot lies there.
    joints : Å; where knots may begin to lie closer or farther apart, for a function that varies
        more on one side. Those beyond the cutoff are left out

    Raises
    ------
    ConfigError : 8192 intervals do not reach the tolerance, or a bend is not below the cutoff.
    """
    for bend in bends:
        if not 0.0 < bend < cutoff:
            raise ConfigError(
                f"a bend of a table must lie between 0 and its cutoff, {cutoff:g} Å; found "
                f"{bend:g} Å."
            )
    inside = {float(bend) for bend in bends} | {float(end) for end in joints if 0.0 < end < cutoff}
    ends = [*sorted(inside), float(cutoff)]
    lengths = np.diff([0.0, *ends])
    counts = [max(4, math.ceil(_FEWEST * length / cutoff)) for length in lengths]
    while True:
        table = SplineTable(_rows(function, ends, counts, bends), ends, counts)
        errors = _errors(table, function)
        if max(errors) <= tolerance:
            return table.to(dtype)
        # An error falls with h³ at least, once intervals are short enough for that to be said.
        finer = [
            math.ceil(count * min(2.0, max(1.0, 1.02 * (error / tolerance) ** (1.0 / 3.0))))
            for count, error in zip(counts, errors, strict=True)
        ]
        if sum(counts) == _MOST:
            break
        shrink = min(1.0, _MOST / sum(finer))
        counts = [max(1, math.floor(shrink * count)) for count in finer]
        counts[-1] += (_MOST - sum(counts)) * (shrink < 1.0)
    raise ConfigError(
        f"a spline of {_MOST} intervals reproduces the filters to {max(errors):.1e} only; expected "
        f"{tolerance:.1e}."
    )


def _rows(
    function: Callable[[Tensor], Tensor],
    ends: Sequence[float],
    counts: Sequence[int],
    bends: Sequence[float],
) -> Tensor:
    """Return the rows of all stretches, of which those between two bends are one spline."""
    rows: list[Tensor] = []
    first, start = 0, 0.0
    for last, end in enumerate(ends):
        if end in bends or last == len(ends) - 1:
            limits = [start, *ends[first : last + 1]]
            rows += _spline_rows(function, limits, counts[first : last + 1])
            first, start = last + 1, end
    return torch.cat(rows)


def _spline_rows(
    function: Callable[[Tensor], Tensor], limits: Sequence[float], counts: Sequence[int]
) -> list[Tensor]:
    """Return the rows (2 (n_intervals + 1), n_channels) of each stretch of one spline.

    Values are the function's at all knots, slopes its own at both ends and the spline's between.

    Parameters
    ----------
    limits : Å; where the stretches meet, with both ends
    """
    steps = np.diff(limits) / counts
    h = np.repeat(steps, counts)
    knots = torch.from_numpy(np.concatenate([[limits[0]], limits[0] + np.cumsum(h)]))
    knots[np.cumsum(counts)] = torch.tensor(limits[1:], dtype=torch.float64)
    if limits[0] > 0.0:
        values, slopes = _with_slopes(function, knots)
    else:
        # Filters are limits at zero, such as sin(d)/d, whose slope loses digits close by: value
        # and slope there come from two points farther away, to second order.
        near = 0.01 * h[0]
        knots[0] = near
        values, slopes = _with_slopes(function, knots)
        bend = _with_slopes(function, 2.0 * knots[:1])[1][0] - slopes[0]
        slopes[0] -= bend
        values[0] -= near * (slopes[0] + 0.5 * bend)
    if len(h) > 1:
        # Second derivatives are continuous at the inner knots.
        inverse = 1.0 / h
        bands = np.zeros((3, len(h) - 1))
        bands[0, 1:] = inverse[1:-1]
        bands[1] = 2.0 * (inverse[:-1] + inverse[1:])
        bands[2, :-1] = inverse[1:-1]
        chords = 3.0 * torch.diff(values, dim=0) * torch.from_numpy(inverse**2).unsqueeze(1)
        right = chords[:-1] + chords[1:]
        right[0] -= inverse[0] * slopes[0]
        right[-1] -= inverse[-1] * slopes[-1]
        slopes[1:-1] = torch.from_numpy(solve_banded((1, 1), bands, right.numpy()))
    rows, first = [], 0
    for step, count in zip(steps, counts, strict=True):
        own = slice(first, first + count + 1)
        rows.append(torch.stack([values[own], step * slopes[own]], dim=1).flatten(0, 1))
        first += count
    return rows


def _errors(table: SplineTable, function: Callable[[Tensor], Tensor]) -> list[float]:
    """Return the error of each stretch, of values or slopes, whichever is larger.

    Each is relative to the largest of the function from the stretch's beginning on.
    """
    t = torch.tensor(_WORST, dtype=torch.float64)
    # Products with all polynomials: faster than forward, which looks rows up.
    of_values = torch.stack([t**k for k in range(4)], dim=1)
    of_slopes = torch.stack([k * t ** max(k - 1, 0) for k in range(4)], dim=1)
    distances, values, slopes = [], [], []
    stretches = table.polynomials.split(table.counts)
    for start, end, polynomials in zip(table.starts, table.ends, stretches, strict=True):
        step = (end - start) / len(polynomials)
        knots = torch.arange(len(polynomials), dtype=torch.float64).unsqueeze(1)
        distances.append((start + (knots + t) * step).flatten())
        values.append((of_values @ polynomials).flatten(0, 1))
        slopes.append((of_slopes @ polynomials).flatten(0, 1) / step)
    sizes = [len(part) for part in distances]
    exact = _with_slopes(function, torch.cat(distances))
    errors = torch.zeros(len(sizes), dtype=torch.float64)
    for found, whole in zip((values, slopes), exact, strict=True):
        expected = whole.split(sizes)
        largest = torch.stack([part.abs().max() for part in expected])
        beyond = largest.flip(0).cummax(0).values.flip(0).clamp(min=_TINY)
        off = [(a - b).abs().max() for a, b in zip(found, expected, strict=True)]
        errors = torch.maximum(errors, torch.stack(off) / beyond)
    return errors.tolist()


def _with_slopes(function: Callable[[Tensor], Tensor], distances: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        values, slopes = torch.func.jvp(function, (distances,), (torch.ones_like(distances),))[:2]
    return values, slopes
