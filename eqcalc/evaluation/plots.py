"""Pictures of a model's errors."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from eqcalc.errors import import_extra
from eqcalc.evaluation.comparison import Comparison, Quantity

__all__ = ["parity_plot"]

_COLOURS = {"energy_per_atom": "#4059ad", "forces": "#2a9d6f", "stress": "#c8553d"}
_TITLES = {"energy_per_atom": "Energy per atom", "forces": "Force components", "stress": "Stress"}


def parity_plot(comparison: Comparison, title: str) -> bytes:
    """Return a PNG of predictions against labels, one panel per quantity.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "a parity plot")
    from matplotlib.figure import Figure

    shown = [q for q in comparison.quantities if q.name in _TITLES]
    figure = Figure(figsize=(4.4 * len(shown), 4.7), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12)
    for axes, quantity in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        _panel(axes, quantity)
    figure.suptitle(f"{title}, {comparison.n_frames} frames", fontsize=10, color="0.3")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


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
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        title=_TITLES[quantity.name],
        xlabel=f"reference{about_x} ({quantity.unit})",
        ylabel=f"model{about_y} ({quantity.unit})",
    )
    errors = quantity.errors
    axes.text(
        0.96,
        0.04,
        f"MAE {_three_digits(1e3 * errors.mae)} m{quantity.unit}\n"
        f"RMSE {_three_digits(1e3 * errors.rmse)} m{quantity.unit}",
        transform=axes.transAxes,
        ha="right",
        va="bottom",
        fontsize=9,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 2},
    )


def _three_digits(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
