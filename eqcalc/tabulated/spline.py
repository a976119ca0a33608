"""Functions of a distance as uniform cubic B-splines, accurate to a stated tolerance.

    f(d) = Σ_k c_k B(d/h - k + 1),   B the cubic B-spline on knots 0, 1, ..., 4 around its middle

A cubic B-spline is twice continuously differentiable, so forces made from it are smooth.
Between two knots four rows of the table count, whatever the function cost to make.

Shapes: n_rows = intervals + 3, n_channels, n_distances.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.linalg import solve_banded
from torch import Tensor, nn

from eqcalc.errors import ConfigError

__all__ = ["SplineTable", "fit_table"]

_FEWEST, _MOST = 256, 8192  # intervals
# Where the leading errors of a cubic spline are largest: of its slope at (3 ± √3)/6, where
# t (1 - t) (1 - 2t) is, and of its value in the middle. There the slope is far too good.
_WORST = (0.2113, 0.5, 0.7887)


class SplineTable(nn.Module):
    """The table of one vector-valued function of the distance.

    table : (n_rows, n_channels); row k belongs to d = (k - 1) h
    polynomials : (n_intervals, 4, n_channels); the same function as Σ_k p_k t^k in each
        interval. In float32 its slopes do not lose digits to the size of the values, as sums
        over rows of the table do.
    per_h : 1/h, 1/Å
    """

    table: Tensor
    polynomials: Tensor

    def __init__(self, table: Tensor, cutoff: float) -> None:
        super().__init__()
        self.register_buffer("table", table)
        c0, c1, c2, c3 = table[:-3], table[1:-2], table[2:-1], table[3:]
        powers = [
            (c0 + 4.0 * c1 + c2) / 6.0,
            (c2 - c0) / 2.0,
            (c0 - 2.0 * c1 + c2) / 2.0,
            (c3 - c0) / 6.0 + (c1 - c2) / 2.0,
        ]
        self.register_buffer("polynomials", torch.stack(powers, dim=1))
        self.n_intervals = table.shape[0] - 3
        self.per_h = self.n_intervals / cutoff

    def forward(self, distances: Tensor) -> Tensor:
        """Return values (n_distances, n_channels); zero from the cutoff on."""
        u = distances * self.per_h
        inside = (u < self.n_intervals).unsqueeze(1)
        row = u.detach().clamp(0, self.n_intervals - 1).to(torch.int64)
        t = (u - row).clamp(max=1.0).unsqueeze(1)  # (n_distances, 1)
        p = self.polynomials.flatten(0, 1)
        # Not Horner's way: there, what the derivative needs is of size edges × channels.
        p0, p1, p2, p3 = [p.index_select(0, 4 * row + k) for k in range(4)]
        values = p0 + t * p1 + t**2 * p2 + t**3 * p3
        return torch.where(inside, values, 0.0)


def fit_table(
    function: Callable[[Tensor], Tensor], cutoff: float, dtype: torch.dtype, tolerance: float
) -> SplineTable:
    """Return the table of a function, with as many intervals as its accuracy takes.

    Parameters
    ----------
    function : distances (n_distances,) float64, Å -> values (n_distances, n_channels)
        float64; smooth, and zero at the cutoff
    cutoff : Å
    dtype : of the table
    tolerance : largest error between knots: of values relative to the largest value, of
        derivatives relative to the largest derivative

    Raises
    ------
    ConfigError : 8192 intervals do not reach the tolerance.
    """
    n_intervals = _FEWEST
    while n_intervals <= _MOST:
        table = SplineTable(_coefficients(function, cutoff, n_intervals), cutoff)
        error = _error(table, function, cutoff, n_intervals)
        if error <= tolerance:
            return table.to(dtype)
        n_intervals *= 2
    raise ConfigError(
        f"a spline of {_MOST} intervals reproduces the filters to {error:.1e} only; expected "
        f"{tolerance:.1e}."
    )


def _coefficients(function: Callable[[Tensor], Tensor], cutoff: float, n_intervals: int) -> Tensor:
    """Interpolate at all knots, with the function's own slope at both ends."""
    h = cutoff / n_intervals
    knots = torch.linspace(0.0, cutoff, n_intervals + 1, dtype=torch.float64)
    # Filters are limits at zero, such as sin(d)/d, whose slope loses digits close by: value
    # and slope there come from two points farther away, to second order.
    near = 0.01 * h
    knots[0] = near
    values, slopes = _with_slopes(function, knots)
    bend = _with_slopes(function, 2.0 * knots[:1])[1][0] - slopes[0]
    slopes[0] -= bend
    values[0] -= near * (slopes[0] + 0.5 * bend)
    # Rows: slope at the first knot, values at all knots, slope at the last knot. Taking the
    # slopes' own unknowns c_{-1} and c_{n+1} out leaves a tridiagonal system.
    right = 6.0 * values
    right[0] += 2.0 * h * slopes[0]
    right[-1] -= 2.0 * h * slopes[-1]
    bands = np.ones((3, n_intervals + 1))
    bands[1] = 4.0
    bands[0, 1], bands[2, -2] = 2.0, 2.0
    inner = torch.from_numpy(solve_banded((1, 1), bands, right.numpy()))
    first = inner[1] - 2.0 * h * slopes[0]
    last = inner[-2] + 2.0 * h * slopes[-1]
    return torch.cat([first.unsqueeze(0), inner, last.unsqueeze(0)])


def _error(
    table: SplineTable, function: Callable[[Tensor], Tensor], cutoff: float, n_intervals: int
) -> float:
    h = cutoff / n_intervals
    starts = torch.arange(n_intervals, dtype=torch.float64).unsqueeze(1)
    between = ((starts + torch.tensor(_WORST, dtype=torch.float64)) * h).flatten()
    errors = []
    for found, expected in zip(
        _with_slopes(table, between), _with_slopes(function, between), strict=True
    ):
        errors.append(float((found - expected).abs().max() / expected.abs().max()))
    return max(errors)


def _with_slopes(function: Callable[[Tensor], Tensor], distances: Tensor) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        values, slopes = torch.func.jvp(function, (distances,), (torch.ones_like(distances),))[:2]
    return values, slopes
