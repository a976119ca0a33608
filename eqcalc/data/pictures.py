"""Histograms of what a data set holds."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

from eqcalc.data.frames import FloatArray
from eqcalc.data.summary import DataSummary
from eqcalc.errors import import_extra

__all__ = ["summary_picture"]

_N_BINS = 60


class _Panel(NamedTuple):
    title: str
    xlabel: str
    ylabel: str
    colour: str
    values: FloatArray
    is_logarithmic: bool = False


def summary_picture(summary: DataSummary) -> bytes:
    """Return a PNG of histograms: energies, force components, distances, stress where there is one.

    Energies are per atom, beside the fit of energies per element. Counts of force components have
    a logarithmic axis, on which a few wild ones are seen.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "a picture of a data set")
    from matplotlib.figure import Figure

    panels = [
        _Panel("Energy", "eV/atom beside the fit", "frames", "#4059ad", summary.deviations),
        _Panel("Force components", "eV/Å", "components", "#2a9d6f", summary.forces, True),
        _Panel("Nearest neighbours", "distance (Å)", "atoms", "#7d5ba6", summary.distances),
        _Panel("Stress", "eV/Å³", "components", "#c8553d", summary.stresses, True),
    ]
    shown = [panel for panel in panels if len(panel.values) > 0]
    n_columns = 2 if len(shown) == 4 else len(shown)
    n_rows = len(shown) // n_columns
    figure = Figure(figsize=(4.4 * n_columns, 3.4 * n_rows + 0.3), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.08, w_pad=0.08)
    places = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axes, panel in zip(places, shown, strict=True):
        _draw(axes, panel)
    title = f"{summary.source}, {summary.n_read} frames"
    figure.suptitle(title, fontsize=10, color="0.3", parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw(axes: Any, panel: _Panel) -> None:
    from matplotlib.ticker import MaxNLocator  # present, where there is a figure

    low, high = float(panel.values.min()), float(panel.values.max())
    # Equal values, to rounding, would be given bins that floating point cannot tell apart.
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - 0.5, high + 0.5
    axes.hist(panel.values, bins=np.linspace(low, high, _N_BINS + 1), color=panel.colour)
    if panel.is_logarithmic:
        axes.set_yscale("log")
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel, xlim=(low, high))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
