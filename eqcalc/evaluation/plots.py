"""Pictures of a model's errors, and of a committee's spread beside them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqcalc.errors import import_extra
from eqcalc.evaluation.calibration import Calibration, Calibrations
from eqcalc.evaluation.comparison import Comparison, Quantity
from eqcalc.figures import LABEL_COLOURS, panels_in_rows, png_of

__all__ = ["calibration_plot", "parity_plot"]

_COLOURS = {"energy_per_atom": LABEL_COLOURS["energy"], **LABEL_COLOURS}
_WIDTH, _HEIGHT = 0.45, 0.15  # of a panel, that its two lines of errors take
_TITLES = {"energy_per_atom": "Energy per atom", "forces": "Force components", "stress": "Stress"}


def parity_plot(comparison: Comparison, title: str) -> bytes:
    """Return a PNG of predictions against labels, one panel per quantity.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "a parity plot")
    shown = [q for q in comparison.quantities if q.name in _TITLES]
    subtitle = f"{title}, {comparison.n_frames} frames"
    figure, panels = panels_in_rows(len(shown), subtitle, n_columns=len(shown), height=4.7)
    for axes, quantity in zip(panels, shown, strict=True):
        _panel(axes, quantity)
    return png_of(figure)


def _panel(axes: Any, quantity: Quantity) -> None:
    from matplotlib.ticker import MaxNLocator  # present, where there is a figure

    # Energies are shown about their mean: total energies would hide every difference.
    centre = quantity.expected.mean() if quantity.name == "energy_per_atom" else 0.0
    x, y = quantity.expected - centre, quantity.predicted - centre
    low, high = min(x.min(), y.min()), max(x.max(), y.max())
    margin = 0.04 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color="0.7", lw=1, zorder=0)
    # Few points are large, many are small and shine through where they lie apart.
    size = float(np.clip(10.0 - 2.0 * np.log10(len(x)), 2.0, 7.0))
    axes.plot(x, y, "o", ms=size, mew=0, alpha=0.45, color=_COLOURS[quantity.name])
    # The same mean on both axes, else a constant error of the model would not show.
    about_x, about_y = (" - mean", " - reference mean") if centre else ("", "")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    # A network that fell apart has errors whose digits would leave no room for the panel.
    axes.ticklabel_format(style="sci", scilimits=(-4, 5))
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        title=_TITLES[quantity.name],
        xlabel=f"reference{about_x} ({quantity.unit})",
        ylabel=f"model{about_y} ({quantity.unit})",
    )
    errors = quantity.errors
    is_above = _is_emptier_above((x - limits[0]) / np.ptp(limits), (y - limits[0]) / np.ptp(limits))
    axes.text(
        0.04 if is_above else 0.96,
        0.96 if is_above else 0.04,
        f"MAE {_three_digits(1e3 * errors.mae)} m{quantity.unit}\n"
        f"RMSE {_three_digits(1e3 * errors.rmse)} m{quantity.unit}",
        transform=axes.transAxes,
        ha="left" if is_above else "right",
        va="top" if is_above else "bottom",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )


def _is_emptier_above(x: NDArray, y: NDArray) -> bool:
    """Return whether fewer points lie in the upper left corner than in the lower right.

    Parameters
    ----------
    x, y : (n,), from 0 to 1 across the panel
    """
    below, above = (x > 1 - _WIDTH) & (y < _HEIGHT), (x < _WIDTH) & (y > 1 - _HEIGHT)
    return int(above.sum()) < int(below.sum())


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def calibration_plot(calibrations: Calibrations, title: str) -> bytes:
    """Return a PNG of errors of the mean against spreads, on log axes, one panel per quantity.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "a picture of the calibration")
    shown, n_members = calibrations.quantities, len(calibrations.members)
    subtitle = f"{title}, {calibrations.mean.n_frames} frames, {n_members} members"
    figure, panels = panels_in_rows(len(shown), subtitle, n_columns=len(shown), height=4.9)
    for axes, each in zip(panels, shown, strict=True):
        _calibration_panel(axes, each)
    return png_of(figure)


def _calibration_panel(axes: Any, calibration: Calibration) -> None:
    colour = _COLOURS[calibration.name]
    axes.set_title(_TITLES[calibration.name])
    spread, error = calibration.spread, np.abs(calibration.error)
    seen = calibration.has_spread & (error > 0)
    if not seen.any():
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no spread", ha="center", transform=axes.transAxes)
        return
    x, y = 1e3 * spread[seen], 1e3 * error[seen]
    bins = calibration.bins()
    # Of points that lie far below everything, the last percent is outside the picture.
    both = np.concatenate([x, y])
    low = min(np.quantile(x, 0.001), np.quantile(y, 0.02)) / 1.5
    limits = np.array([low, both.max() * 1.5])
    axes.plot(x, y, "o", ms=2.2, mew=0, color=colour, alpha=_alpha(len(x)), rasterized=True)
    axes.plot(limits, limits, color="0.35", lw=1.2, label="calibrated")
    scale = calibration.scale
    if np.isfinite(scale):
        axes.plot(limits, scale * limits, "--", color="0.35", lw=1, label=f"spread × {scale:.2g}")
    axes.plot(
        [1e3 * each.spread for each in bins],
        [1e3 * each.error for each in bins],
        "o-",
        ms=5,
        lw=1.2,
        color=colour,
        mec="white",
        mew=0.8,
        label="bins, root mean squares",
    )
    unit = calibration.unit
    axes.set(
        xscale="log",
        yscale="log",
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel=f"spread (m{unit})",
        ylabel=f"|mean - reference| (m{unit})",
    )
    axes.legend(loc="lower right", fontsize=8, framealpha=0.85)


def _alpha(n_points: int) -> float:
    return float(np.clip(30.0 / np.sqrt(n_points), 0.03, 0.5))
