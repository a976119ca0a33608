"""Figures of panels, stacked or beside each other, without pyplot, and their PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "BLUE",
    "GREEN",
    "GREY",
    "LABEL_COLOURS",
    "ORANGE",
    "legend_above",
    "panels_in_rows",
    "png_of",
    "stacked_panels",
]

# Okabe and Ito's colours, told apart by colour-blind readers.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#555555"

LABEL_COLOURS = {"energy": "#4059ad", "forces": "#2a9d6f", "stress": "#c8553d"}
"""Of each label, in every picture that has a panel for it."""


def stacked_panels(n_panels: int) -> tuple[Figure, list[Axes]]:
    """Return a figure of panels one below the other, with one x axis."""
    # A bare Figure: pyplot would keep it alive and pick a backend for the process.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 2.1 * n_panels + 0.6), dpi=150, layout="constrained")
    panels = list(np.atleast_1d(figure.subplots(n_panels, sharex=True)))
    for panel in panels:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(alpha=0.25, linewidth=0.6)
        panel.margins(x=0.01)
    figure.align_ylabels(panels)
    return figure, panels


def panels_in_rows(
    n_panels: int, title: str, *, n_columns: int, height: float
) -> tuple[Figure, list[Axes]]:
    """Return a figure of separate panels beside each other, in full rows, under a title.

    Parameters
    ----------
    title : a name in it may have dollar signs, which are no formula
    height : of a row, in inches
    """
    from matplotlib.figure import Figure

    n_rows = n_panels // n_columns
    figure = Figure(figsize=(4.4 * n_columns, height * n_rows), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.12, w_pad=0.12)
    figure.suptitle(title, fontsize=10, color="0.3", parse_math=False)
    return figure, list(figure.subplots(n_rows, n_columns, squeeze=False).ravel())


def legend_above(panel: Axes) -> None:
    """Put a panel's legend, where it has something to say, above its right end."""
    if not panel.get_legend_handles_labels()[0]:
        return  # matplotlib warns about a legend of nothing
    panel.legend(
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        ncols=4,
        frameon=False,
        fontsize=9,
        borderaxespad=0.1,
    )


def png_of(figure: Figure) -> bytes:
    """Return a figure as PNG."""
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()
