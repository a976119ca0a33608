"""The picture of a verification."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from eqcalc.errors import import_extra
from eqcalc.verification.approach import WALL, Approach
from eqcalc.verification.dynamics import Ripple
from eqcalc.verification.finding import Verdict
from eqcalc.verification.verify import Verification

__all__ = ["verification_plot"]

_COLOURS = {Verdict.OK: "#2a9d6f", Verdict.FAILED: "#c8553d", Verdict.NOTED: "#e0a93b"}
_LEAST, _MOST = 1e-6, 1e2  # shares of what is allowed that are told apart
_HIGHEST = 6.0 * WALL


def verification_plot(found: Verification) -> bytes:
    """Return a PNG: how close each check came to its limit, walls between atoms, NVE.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "the picture of a verification")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 6.4), dpi=150, layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=(1.25, 1.0))
    _shares(figure.add_subplot(grid[:, 0]), found)
    _walls(figure.add_subplot(grid[0, 1]), found.approaches)
    _nve(figure.add_subplot(grid[1, 1]), found.ripple)
    verdict = f"{len(found.failures) or 'no'} check{'s' * (len(found.failures) > 1)} failed"
    title = f"{found.file.card.name} on {found.formula}: {verdict}"
    figure.suptitle(title, fontsize=11, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _shares(axes: Any, found: Verification) -> None:
    """Draw what was measured as a share of what is allowed, a bar for each check."""
    rows = [f for f in found.findings if f.verdict is not Verdict.SKIPPED and f.share is not None]
    rows += [f for f in found.failures if f.share is None]  # failed without a number
    shares = [_MOST if f.share is None else float(np.clip(f.share, _LEAST, _MOST)) for f in rows]
    places = np.arange(len(rows))
    colours = [_COLOURS[f.verdict] for f in rows]
    axes.hlines(places, 0.5 * _LEAST, shares, colors=colours, lw=2.0)
    axes.scatter(shares, places, c=colours, s=42, zorder=3, clip_on=False)
    axes.axvline(1.0, color="0.25", lw=1.2)
    axes.set(
        xscale="log",
        xlim=(0.5 * _LEAST, 1.2 * _MOST),
        xlabel="measured / allowed (at the line a check fails)",
        title="Distance from the limits",
    )
    axes.set_yticks(places, [f.check for f in rows], fontsize=8)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _walls(axes: Any, approaches: tuple[Approach, ...]) -> None:
    """Draw energies of atoms that come closer, with a dot where a low wall turns."""
    axes.set(title="Closest approach", xlabel="distance (Å)", ylabel="energy above the well (eV)")
    if not approaches:
        _say_none(axes)
        return
    for path in approaches:
        above = path.energies - path.energies[path.bottom]
        is_of_structure = any(character.isdigit() for character in path.name)
        style = "-" if is_of_structure else "--"
        (line,) = axes.plot(path.distances, above, style, lw=1.3, label=path.name)
        turn = path.turn()
        if turn is not None and turn.height < WALL:
            axes.plot(turn.distance, turn.height, "o", ms=6, color=line.get_color(), mec="black")
    axes.axhline(WALL, color="0.25", lw=1.0)
    axes.set_ylim(-0.4 * WALL, _HIGHEST)
    axes.legend(fontsize=7, ncols=2, frameon=False, title="dashed: two atoms alone")
    axes.get_legend().get_title().set_fontsize(7)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _nve(axes: Any, ripple: Ripple | None) -> None:
    """Draw the ripple of the total energy over the timestep, with the law it has to follow."""
    axes.set(title="NVE", xlabel="timestep (fs)", ylabel="ripple of the energy\n(meV/atom)")
    if ripple is None:
        _say_none(axes)
        return
    values = 1e3 * ripple.ripples
    law = values[0] * (ripple.timesteps / ripple.timesteps[0]) ** 2
    axes.loglog(ripple.timesteps, law, color="0.6", lw=1.2, label="dt²")
    axes.loglog(ripple.timesteps, values, "o", ms=6, label=f"measured: dt^{ripple.slope:.2f}")
    axes.set_xticks(ripple.timesteps, [f"{x:.2g}" for x in ripple.timesteps])
    axes.set_yticks(values, [f"{y:.2g}" for y in values])
    axes.minorticks_off()
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25, lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _say_none(axes: Any) -> None:
    axes.text(0.5, 0.5, "not applied", transform=axes.transAxes, ha="center", color="0.4")
    axes.set(xticks=[], yticks=[])
