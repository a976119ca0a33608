"""Pictures of timings."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle

import numpy as np

from eqcalc.bench.measurement import Measurement, growth_exponent
from eqcalc.errors import import_extra

__all__ = ["growth_plot"]

_COLOURS = ("#4059ad", "#2a9d6f", "#c8553d")
_LEAST_SPAN = 4.0  # of an axis of times: else noise would look like growth


def growth_plot(measurements: Sequence[Measurement], title: str) -> bytes:
    """Return a PNG of µs per atom over the number of atoms, a line per engine.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "a plot of times")
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    plain = FuncFormatter(lambda value, _: f"{value:g}")
    figure = Figure(figsize=(6.0, 4.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    engines = dict.fromkeys(measurement.engine for measurement in measurements)
    for engine, colour in zip(engines, cycle(_COLOURS)):
        shown = [m for m in measurements if m.engine == engine]
        n_atoms = np.array([m.n_atoms for m in shown])
        times = np.array([m.us_per_atom for m in shown])  # (n_sizes, 3): median, low, high
        spread = [times[:, 0] - times[:, 1], times[:, 2] - times[:, 0]]
        exponent = growth_exponent(shown)
        axes.errorbar(
            n_atoms,
            times[:, 0],
            yerr=spread,
            fmt="o-",
            ms=5,
            lw=1.2,
            capsize=3,
            color=colour,
            label=f"{engine}: step ~ atoms$^{{{exponent:.2f}}}$",
        )
    axes.set(xscale="log", yscale="log", xlabel="atoms", ylabel="time of a step (µs per atom)")
    low, high = axes.get_ylim()
    wider = max(1.0, (_LEAST_SPAN * low / high) ** 0.5)
    axes.set_ylim(low / wider, high * wider)
    axes.xaxis.set_major_locator(FixedLocator(sorted({m.n_atoms for m in measurements})))
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(plain)
    # Of more than a decade the labels between powers of ten would lie on each other.
    between = plain if high * wider < 10.0 * low / wider else NullFormatter()
    axes.yaxis.set_minor_formatter(between)
    axes.grid(which="both", alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)  # off the error bars
    axes.set_title(title, fontsize=10, color="0.3")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
