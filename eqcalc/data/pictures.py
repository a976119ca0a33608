"""Histograms of what a data set holds."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from eqcalc.data.frames import FloatArray
from eqcalc.data.summary import DataSummary
from eqcalc.errors import import_extra
from eqcalc.figures import LABEL_COLOURS, panels_in_rows, png_of

__all__ = ["summary_picture"]

_N_BINS = 60
_LARGEST_LINEAR = 50  # count beside which a single one still shows
_COLOURS = {**LABEL_COLOURS, "distances": "#7d5ba6"}


class _Panel(NamedTuple):
    title: str
    xlabel: str
    ylabel: str
    name: str
    values: FloatArray


def summary_picture(summary: DataSummary) -> bytes:
    """Return a PNG of histograms: energies, force components, distances, stress where there is one.

    Energies are per atom, beside the fit of energies per element. Large counts have a logarithmic
    axis, on which a single wild one is seen.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "a picture of a data set")
    panels = [
        _Panel("Energy", "eV/atom beside the fit", "frames", "energy", summary.deviations),
        _Panel("Force components", "eV/Å", "components", "forces", summary.forces),
        _Panel("Nearest neighbours", "distance (Å)", "atoms", "distances", summary.distances),
        _Panel("Stress", "eV/Å³", "components", "stress", summary.stresses),
    ]
    shown = [panel for panel in panels if len(panel.values) > 0]
    title = f"{summary.source}, {summary.n_read} frame{'s' * (summary.n_read != 1)}"
    n_columns = 2 if len(shown) == 4 else len(shown)
    figure, places = panels_in_rows(len(shown), title, n_columns=n_columns, height=3.6)
    for axes, panel in zip(places, shown, strict=True):
        _draw(axes, panel)
    return png_of(figure)


def _draw(axes: Any, panel: _Panel) -> None:
    from matplotlib.ticker import MaxNLocator  # present, where there is a figure

    low, high = float(panel.values.min()), float(panel.values.max())
    # Equal values, to rounding, would be given bins that floating point cannot tell apart.
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - 0.5, high + 0.5
    bins = np.linspace(low, high, _N_BINS + 1)
    counts, _, _ = axes.hist(panel.values, bins=bins, color=_COLOURS[panel.name])
    if counts.max() > _LARGEST_LINEAR:
        axes.set_yscale("log")
        axes.set_ylim(bottom=0.5)  # a bar of one has a height
    else:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    margin = 0.02 * (high - low)
    axes.set(title=panel.title, xlabel=panel.xlabel, ylabel=panel.ylabel)
    axes.set_xlim(low - margin, high + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
