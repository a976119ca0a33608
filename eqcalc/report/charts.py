"""Curves of the page: columns of a run's table, thinned so that no spike is lost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eqcalc.analysis.rdf import RDF
from eqcalc.report.labels import label_of
from eqcalc.simulate.plots import ENOUGH_FOR_A_MEAN, running_mean
from eqcalc.simulate.settings import criterion_of
from eqcalc.simulate.thermo import Table

__all__ = ["Chart", "Curve", "audit_charts", "md_charts", "rdf_chart", "relaxation_charts"]

Curve = dict[str, Any]
Chart = dict[str, Any]

_MOST_POINTS = 1200
_DIGITS = 7

# Okabe and Ito's colours, told apart by colour-blind readers.
_BLUE, _ORANGE, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#555555"
_COLORS = (_BLUE, _ORANGE, _GREEN, "#CC79A7", "#E69F00", "#56B4E9", _GREY)

_SHOWN = {
    "step",
    "time_fs",
    "temperature_K",
    "target_temperature_K",
    "potential_energy_eV",
    "kinetic_energy_eV",
    "total_energy_eV",
    "volume_A3",
    "pressure_gpa",
    "target_pressure_gpa",
    "density_g_per_cm3",
}
"""Columns of thermo.csv that have a chart of their own or need none."""

# Columns that share a chart, which has this title and unit.
_TOGETHER = (
    ("edges of the cell", "Å", ("a_A", "b_A", "c_A")),
    ("angles of the cell", "°", ("alpha_deg", "beta_deg", "gamma_deg")),
)
_FORCE_ERRORS = ("force_error_eV_per_A", "slope_error_eV_per_A", "net_force_eV_per_A")


def md_charts(
    table: Table, n_atoms: int, *, goal_K: float | None, goal_gpa: float | None
) -> list[Chart]:
    """Return the charts of a run of molecular dynamics.

    Parameters
    ----------
    table : columns of ``thermo.csv``
    n_atoms : energies are shown per atom, relative to the first step
    goal_K, goal_gpa : of thermostat and barostat, None without one; what the table says of
        them, where they change, comes first
    """
    time = table["time_fs"] / 1000
    goals = {"temperature_K": goal_K, "pressure_gpa": goal_gpa}
    charts = [_with_goal(table, "temperature_K", _GREEN, goals["temperature_K"])]
    energies = [
        _curve(name, time, _per_atom(table[column], n_atoms), color)
        for name, column, color in (
            ("potential", "potential_energy_eV", _BLUE),
            ("total", "total_energy_eV", _ORANGE),
        )
    ]
    charts.append(_chart("change of energy", "meV/atom", energies))
    if goal_K is None:  # a straight line beside the potential energy, however it drifts
        total = [_curve("", time, _per_atom(table["total_energy_eV"], n_atoms), _ORANGE)]
        charts.append(_chart("change of total energy", "meV/atom", total))
    if "pressure_gpa" in table:
        charts.append(_with_goal(table, "pressure_gpa", _BLUE, goals["pressure_gpa"]))
    if "volume_A3" in table and np.ptp(table["volume_A3"]) > 0:
        if "density_g_per_cm3" in table:
            charts.append(
                _with_mean("density", "g/cm³", time, table["density_g_per_cm3"], _GREY, None)
            )
        else:
            volume = table["volume_A3"] / n_atoms
            charts.append(_with_mean("volume", "Å³/atom", time, volume, _GREY, None))
    shown = set(_SHOWN)
    for title, unit, names in _TOGETHER:
        shown |= set(names)
        if any(name in table and np.ptp(table[name]) > 1e-9 for name in names):
            curves = [
                _curve(name.rpartition("_")[0], time, table[name], color)
                for name, color in zip(names, _COLORS, strict=False)
                if name in table
            ]
            charts.append(_chart(title, unit, curves))
    return charts + _others(table, time, shown)


def audit_charts(table: Table) -> list[Chart]:
    """Return the charts of a run's audits of itself.

    Parameters
    ----------
    table : columns of ``audit.csv``
    """
    time = table["time_fs"] / 1000
    names = [name for name in _FORCE_ERRORS if name in table]
    curves = [
        _curve(label_of(name)[0], time, np.abs(table[name]), color)
        for name, color in zip(names, _COLORS, strict=False)
    ]
    charts = [_chart("self-audit: forces", "eV/Å", curves)] if curves else []
    others = _others(table, time, {"step", "time_fs", "passed", *names})
    for chart in others:
        chart["title"] = f"self-audit: {chart['title']}"
    for chart in [*charts, *others]:
        values = [y for curve in chart["curves"] for y in curve["y"] if y is not None]
        chart["log"] = any(y > 0 for y in values)  # an exact zero has no place there
    return charts + others


def relaxation_charts(table: Table, n_atoms: int, *, fmax: float | None) -> list[Chart]:
    """Return the charts of a relaxation.

    Parameters
    ----------
    table : columns of ``relax.csv``
    fmax : eV/Å; the criterion, None where it is not known
    """
    step = table["step"]
    has_cell = "enthalpy_eV" in table
    name = "enthalpy_eV" if has_cell else "energy_eV"
    change = 1000 * (table[name] - table[name][-1]) / n_atoms
    title = f"{name.removesuffix('_eV')} above the last"
    energy = _chart(title, "meV/atom", [_curve("", step, change, _BLUE)], x="step")
    what, unit = criterion_of(cell=has_cell)
    force = _chart(what, unit, [_curve("", step, table["fmax"], _ORANGE)], x="step")
    if fmax is not None:
        force["lines"] = [{"y": fmax, "label": f"converged below {fmax:g}"}]
    force["log"] = bool((table["fmax"] > 0).all())
    others = _others(table, step, {"step", "energy_eV", "enthalpy_eV", "fmax"})
    for chart in others:
        chart["x"] = "step"
    return [energy, force, *others]


def rdf_chart(rdf: RDF) -> Chart:
    """Return g(r), or pairs per distance where there is no density."""
    values = rdf.per_distance if rdf.g is None else rdf.g
    pairs = [pair for pair in values if values[pair].any()]
    pairs = sorted(pairs, key=lambda pair: -values[pair].max())
    shown = min(len(pairs), len(_COLORS))
    share = f", the {shown} highest of {len(pairs)} pairs" if shown < len(pairs) else ""
    pairs = pairs[:shown]
    end = len(rdf.r)
    if rdf.g is None and pairs:  # a molecule ends
        end = min(end, max(int(values[pair].nonzero()[0][-1]) for pair in pairs) + 4)
    curves = [
        _curve(f"{a}–{b}", rdf.r[:end], values[a, b][:end], color)
        for (a, b), color in zip(pairs, _COLORS, strict=False)
    ]
    if rdf.g is None:
        return _chart(f"pairs of atoms{share}", "pairs/Å", curves, x="distance (Å)")
    chart = _chart(f"radial distribution g(r){share}", "", curves, x="distance (Å)")
    chart["lines"] = [{"y": 1.0, "label": ""}]
    chart["top"] = rdf.readable_top()
    return chart


def _others(table: Table, x: NDArray[np.float64], shown: set[str]) -> list[Chart]:
    """Return a chart for each further column, whatever wrote it."""
    charts = []
    for name in table:
        finite = np.isfinite(table[name])
        if name in shown or not finite.any() or np.ptp(table[name][finite]) == 0:
            continue
        title, unit = label_of(name)
        charts.append(_chart(title, unit, [_curve("", x, table[name], _BLUE)]))
    return charts


def _with_goal(table: Table, column: str, color: str, goal: float | None) -> Chart:
    """Return the chart of what a thermostat or barostat holds, or changes."""
    title, unit = label_of(column)
    time, target = table["time_fs"] / 1000, table.get(f"target_{column}")
    held = goal if target is None else None
    chart = _with_mean(title, unit, time, table[column], color, held)
    if target is not None:
        chart["curves"].append(_curve("target", time, target, _GREY))
    return chart


def _with_mean(
    title: str,
    unit: str,
    x: NDArray[np.float64],
    values: NDArray[np.float64],
    color: str,
    goal: float | None,
) -> Chart:
    """Return a chart of what fluctuates: thin values, a thick running mean, the goal."""
    curves = [_curve("", x, values, color, faint=True)]
    if len(values) >= ENOUGH_FOR_A_MEAN:
        curves.append(_curve("running mean", x, running_mean(values), color))
    else:
        curves[0]["faint"] = False
    chart = _chart(title, unit, curves)
    if goal is not None:
        chart["lines"] = [{"y": float(goal), "label": f"set to {goal:g} {unit}"}]
    return chart


def _chart(title: str, unit: str, curves: list[Curve], x: str = "time (ps)") -> Chart:
    chart = {"title": title, "unit": unit, "x": x, "curves": curves, "lines": []}
    return {**chart, "log": False, "top": None}


def _curve(
    name: str,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    color: str,
    faint: bool = False,
) -> Curve:
    kept = _thinned(y)
    return {
        "name": name,
        "color": color,
        "faint": faint,
        "x": _rounded(x[kept]),
        "y": _rounded(y[kept]),
    }


def _thinned(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of points to keep: lowest and highest of each stretch, and both ends."""
    n = len(values)
    if n <= _MOST_POINTS:
        return np.arange(n)
    edges = np.linspace(0, n, _MOST_POINTS // 2 + 1).astype(np.int64)
    safe = np.where(np.isfinite(values), values, 0.0)
    kept = {0, n - 1}
    for low, high in pairwise(edges.tolist()):
        stretch = safe[low:high]
        kept |= {int(low + stretch.argmin()), int(low + stretch.argmax())}
    return np.array(sorted(kept))


def _rounded(values: Sequence[float] | NDArray[np.float64]) -> list[float | None]:
    return [float(f"{v:.{_DIGITS}g}") if np.isfinite(v) else None for v in values]


def _per_atom(energy: NDArray[np.float64], n_atoms: int) -> NDArray[np.float64]:
    return 1000 * (energy - energy[0]) / n_atoms
