"""The plot at the end of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eqcalc.errors import import_extra
from eqcalc.figures import BLUE, GREEN, GREY, ORANGE, legend_above, png_of, stacked_panels
from eqcalc.files import write_whole
from eqcalc.simulate.settings import criterion_of
from eqcalc.simulate.thermo import Table, is_ramped, second_half

__all__ = [
    "ENOUGH_FOR_A_MEAN",
    "plot_md",
    "plot_relaxation",
    "require_plots",
    "running_mean",
]

ENOUGH_FOR_A_MEAN = 20
"""Frames below which a mean temperature is mostly chance, and not shown."""


def require_plots() -> None:
    """Refuse to begin a run whose plot could not be drawn at its end.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "the plot of a run")


def plot_md(path: Path, table: Table, *, n_atoms: int, goal_K: float | None) -> None:
    """Draw energies and temperature over time, and the volume where it changes.

    Parameters
    ----------
    table : columns of ``thermo.csv``
    n_atoms : energies are shown per atom, relative to the first step
    goal_K : temperature of the thermostat, or None without one

    Raises
    ------
    OutputError : the file cannot be written.
    """
    volume = table.get("volume_A3")
    with_volume = volume is not None and bool(np.ptp(volume) > 0)
    require_plots()
    figure, panels = stacked_panels(3 if with_volume else 2)
    time_ps = table["time_fs"] / 1000
    for name, label, color in (
        ("potential_energy_eV", "potential", BLUE),
        ("total_energy_eV", "total", ORANGE),
    ):
        change = 1000 * (table[name] - table[name][0]) / n_atoms
        panels[0].plot(time_ps, change, color=color, label=label, linewidth=1.2)
    panels[0].set_ylabel("energy change\n(meV/atom)")
    legend_above(panels[0])

    temperature = table["temperature_K"]
    panels[1].plot(time_ps, temperature, color=GREEN, linewidth=1.0, alpha=0.55)
    if len(temperature) >= ENOUGH_FOR_A_MEAN:
        mean = temperature[second_half(table["time_fs"])].mean()
        of_half = "" if is_ramped(table) else f" (second half: {mean:.0f} K)"
        panels[1].plot(
            time_ps,
            running_mean(temperature),
            color=GREEN,
            linewidth=1.8,
            label=f"running mean{of_half}",
        )
    if "target_temperature_K" in table:
        label = "thermostat {:g} to {:g} K".format(*table["target_temperature_K"][[0, -1]])
        panels[1].plot(
            time_ps,
            table["target_temperature_K"],
            color=GREY,
            linestyle="--",
            linewidth=1.0,
            label=label,
        )
    elif goal_K is not None:
        panels[1].axhline(
            goal_K, color=GREY, linestyle="--", linewidth=1.0, label=f"thermostat {goal_K:g} K"
        )
    panels[1].set_ylabel("temperature (K)")
    legend_above(panels[1])
    if volume is not None and with_volume:
        panels[2].plot(time_ps, volume / n_atoms, color=GREY, linewidth=1.2)
        panels[2].set_ylabel("volume\n(Å³/atom)")
        # "+1.1e1" above the axis is easily missed, and the volume is then misread.
        panels[2].ticklabel_format(axis="y", useOffset=False)
    panels[-1].set_xlabel("time (ps)")
    write_whole(path, png_of(figure))


def plot_relaxation(path: Path, table: Table, *, n_atoms: int, fmax: float) -> None:
    """Draw energy, and what has to fall below the criterion, over the steps of a relaxation.

    Parameters
    ----------
    table : columns of ``relax.csv``
    fmax : eV/Å; the convergence criterion

    Raises
    ------
    OutputError : the file cannot be written.
    """
    require_plots()
    figure, panels = stacked_panels(2)
    from matplotlib.ticker import MaxNLocator  # present, where there is a figure

    step = table["step"]
    has_cell = "enthalpy_eV" in table
    name = "enthalpy_eV" if has_cell else "energy_eV"
    what, unit = criterion_of(cell=has_cell)
    change = 1000 * (table[name] - table[name][-1]) / n_atoms
    panels[0].plot(step, change, color=BLUE, marker=".", markersize=4, linewidth=1.2)
    panels[0].set_ylabel(f"{name.removesuffix('_eV')} above the last\n(meV/atom)")
    panels[1].plot(
        step,
        table["fmax"],
        color=ORANGE,
        marker=".",
        markersize=4,
        linewidth=1.2,
        label=what,
    )
    panels[1].axhline(
        fmax, color=GREY, linestyle="--", linewidth=1.0, label=f"converged below {fmax:g}"
    )
    if (table["fmax"] > 0).all():  # a logarithm of an exact zero does not exist
        panels[1].set_yscale("log")
    panels[1].set_ylabel(f"{what.removeprefix('largest ')}\n({unit})")
    legend_above(panels[1])
    panels[1].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[1].set_xlabel("step")
    write_whole(path, png_of(figure))


def running_mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return centred means over a twentieth of the run, shorter at its ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)
