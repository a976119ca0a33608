"""The picture of an analysis: a panel for each quantity."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from eqcalc.analysis.averages import Averages
from eqcalc.analysis.density import Profile
from eqcalc.analysis.msd import MSD
from eqcalc.analysis.rdf import RDF
from eqcalc.analysis.vacf import ALL, VACF
from eqcalc.errors import import_extra

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw", "require_pictures"]

# Okabe and Ito's colours, told apart by colour-blind readers.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555")
_LINES = ("-", ":", "-.")
_MOST = len(_COLORS)
_RELEVANT = 0.01  # of the highest value of a spectrum: where its picture ends


def require_pictures() -> None:
    """Refuse an analysis whose picture could not be drawn at its end.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "the picture of an analysis")


def draw(found: Averages) -> bytes:
    """Return the picture as PNG."""
    require_pictures()
    from matplotlib.figure import Figure

    panels: list[Callable[[Axes], None]] = []
    if found.rdf is not None:
        panels.append(partial(_draw_rdf, rdf=found.rdf))
    if found.msd is not None:
        panels.append(partial(_draw_msd, msd=found.msd))
    if found.vacf is not None:
        panels.append(partial(_draw_vacf, vacf=found.vacf))
        panels.append(partial(_draw_spectrum, vacf=found.vacf))
    if found.density is not None:
        settings = found.settings
        of = "" if settings.elements is None else f" of {', '.join(settings.elements)}"
        panels.append(partial(_draw_profile, profile=found.density, axis=settings.axis, of=of))
    n_columns = 1 if len(panels) == 1 else 2
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(5.2 * n_columns, 3.1 * n_rows), dpi=150, layout="constrained")
    grid = figure.add_gridspec(n_rows, n_columns)
    for k, panel in enumerate(panels):
        row, column = divmod(k, n_columns)
        # The last of an odd number has its row for itself.
        alone = k == len(panels) - 1 and column == 0
        axes = figure.add_subplot(grid[row, :] if alone else grid[row, column])
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.margins(x=0.01)
        panel(axes)
    image = io.BytesIO()
    figure.savefig(image, format="png")
    return image.getvalue()


def _draw_rdf(axes: Axes, rdf: RDF) -> None:
    g = rdf.g or {}
    pairs = sorted((p for p in g if g[p].any()), key=lambda p: -g[p].max())
    for pair, color in zip(pairs, _COLORS, strict=False):
        axes.plot(rdf.r, g[pair], color=color, linewidth=1.4, label="–".join(pair))
        _band(axes, rdf.r, g[pair], rdf.error[pair], color)
    axes.axhline(1.0, color="#555555", linestyle="--", linewidth=0.8)
    axes.set(xlabel="r (Å)", ylabel="g(r)", xlim=(0, None), ylim=(0, rdf.readable_top()))
    _legend(axes)
    if len(pairs) > _MOST:
        axes.set_title(f"the {_MOST} highest of {len(pairs)} pairs", fontsize=9, loc="right")


def _draw_msd(axes: Axes, msd: MSD) -> None:
    for (element, values), look in zip(msd.msd.items(), _looks(), strict=False):
        axes.plot(msd.time_ps, values, **look, linewidth=1.4, label=element)
        _band(axes, msd.time_ps, values, msd.error[element], look["color"])
        inside = (msd.time_ps >= msd.fit_ps[0]) & (msd.time_ps <= msd.fit_ps[1])
        line = np.polyfit(msd.time_ps[inside], values[inside], deg=1)
        fitted = msd.time_ps[inside]
        axes.plot(fitted, np.polyval(line, fitted), color="black", linewidth=1.0, linestyle="--")
    axes.axvspan(*msd.fit_ps, color="#999999", alpha=0.12, linewidth=0, label="fit of D")
    axes.set(xlabel="time (ps)", ylabel="MSD (Å²)", ylim=(0, None))
    _legend(axes)


def _draw_vacf(axes: Axes, vacf: VACF) -> None:
    names = [name for name in vacf.vacf if name != ALL] if len(vacf.vacf) > 2 else [ALL]
    for name, look in zip(names, _looks(), strict=False):
        axes.plot(vacf.time_ps, vacf.vacf[name], **look, linewidth=1.1, label=name)
    axes.axhline(0.0, color="#555555", linewidth=0.8)
    axes.set(xlabel="time (ps)", ylabel="velocity autocorrelation")
    _legend(axes)


def _draw_spectrum(axes: Axes, vacf: VACF) -> None:
    total = vacf.spectrum[ALL]
    axes.plot(vacf.wavenumber, 1000 * total, color="black", linewidth=1.2, label=ALL)
    names = [name for name in vacf.spectrum if name != ALL]
    for name, look in zip(names if len(names) > 1 else [], _looks(), strict=False):
        axes.plot(vacf.wavenumber, 1000 * vacf.spectrum[name], **look, linewidth=1.0, label=name)
    relevant = np.flatnonzero(total > _RELEVANT * total.max())
    end = min(len(total) - 1, int(relevant[-1] * 1.05) + 1)
    axes.set(xlabel="wavenumber (cm⁻¹)", ylabel="density of states (10⁻³ cm)")
    axes.set_xlim(0, vacf.wavenumber[end])
    axes.set_ylim(min(0.0, 1000 * float(total.min())), None)
    _legend(axes)


def _draw_profile(axes: Axes, profile: Profile, axis: str, of: str) -> None:
    axes.plot(profile.place, profile.mass, color=_COLORS[0], linewidth=1.4)
    _band(axes, profile.place, profile.mass, profile.error, _COLORS[0])
    axes.set(xlabel=f"height along {axis} (Å)", ylabel=f"density{of} (g/cm³)", ylim=(0, None))


def _looks() -> Iterator[dict[str, Any]]:
    """Yield the look of one curve after the other, without an end: no element is left out."""
    return cycle([{"color": color, "linestyle": line} for line in _LINES for color in _COLORS])


def _band(axes: Axes, x: np.ndarray, y: np.ndarray, error: np.ndarray, color: str) -> None:
    known = np.isfinite(error)
    if known.any():
        low, high = (y - error)[known], (y + error)[known]
        axes.fill_between(x[known], low, high, color=color, alpha=0.2, linewidth=0)


def _legend(axes: Axes) -> None:
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(frameon=False, fontsize=8, ncols=2)
    elif axes.lines:
        label = str(axes.lines[0].get_label())
        if not label.startswith("_"):
            axes.set_title(label, fontsize=9, loc="right")
