"""Pictures at the end of a training: how it went, and how its best model does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch

from eqcalc.data.batches import LabelledGraph
from eqcalc.errors import import_extra
from eqcalc.evaluation.comparison import Comparison, comparison_of
from eqcalc.figures import BLUE, GREEN, GREY, ORANGE, legend_above, png_of, stacked_panels
from eqcalc.potential import Potential
from eqcalc.training.loss import residuals

__all__ = ["compare_with_labels", "learning_curve", "require_pictures"]

_MAES = {
    "energy_mae_mev": "energy MAE\n(meV)",
    "energy_per_atom_mae_mev": "energy MAE\n(meV/atom)",
    "forces_mae_mev_per_a": "forces MAE\n(meV/Å)",
    "stress_mae_mev_per_a3": "stress MAE\n(meV/Å³)",
}
_ROLES = ("validation", "replay")


def require_pictures() -> None:
    """Refuse to begin a training whose pictures could not be drawn at its end.

    Raises
    ------
    MissingDependencyError : matplotlib cannot be imported.
    """
    import_extra("matplotlib.figure", "plot", "the learning curve of a training")


def learning_curve(
    rows: Sequence[Mapping[str, Any]], title: str, stage_two: Optional[int] = None
) -> bytes:
    """Return a PNG of losses, errors and learning rate over the epochs.

    Parameters
    ----------
    rows : of metrics.csv, as numbers or their text; a value may be missing
    stage_two : first epoch of the second stage, from 0
    """
    # Old frames may have errors per atom where the new ones have those of total energies.
    names = [
        name
        for name in _MAES
        if any(_value(row, f"{role}_{name}") > 0 for row in rows for role in _ROLES)
    ]
    figure, panels = stacked_panels(2 + len(names))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    curves = {
        "train_loss": ("training", BLUE, "-"),
        "validation_loss": ("validation", ORANGE, "-"),
        "replay_loss": ("old frames", GREEN, "--"),
    }
    # A few epochs are points, many are a line.
    style = {"linewidth": 1.3, "marker": "." if len(rows) < 40 else ""}
    for name, (label, colour, line) in curves.items():
        _curve(panels[0], epochs, rows, name, colour, line, style | {"label": label})
    panels[0].set_ylabel("loss")
    for panel, name in zip(panels[1:-1], names, strict=True):
        _curve(panel, epochs, rows, f"validation_{name}", ORANGE, "-", style)
        _curve(panel, epochs, rows, f"replay_{name}", GREEN, "--", style)
        panel.set_ylabel(_MAES[name])
    _curve(panels[-1], epochs, rows, "learning_rate", GREY, "-", style)
    panels[-1].set_ylabel("learning rate")
    panels[-1].set_xlabel("epoch")
    _mark_best(panels, epochs, rows)
    if stage_two is not None and len(epochs) > 1:
        for panel in panels:
            name = "second stage" if panel is panels[0] else ""
            panel.axvline(stage_two + 1, color=GREY, linestyle="--", linewidth=1.0, label=name)
    _set_ticks(panels)
    legend_above(panels[0])
    figure.suptitle(title, fontsize=10, color="0.3", x=0.02, ha="left", parse_math=False)
    return png_of(figure)


def compare_with_labels(
    potential: Potential, batches: Sequence[LabelledGraph], *, with_stress: bool
) -> Comparison:
    """Return a potential's predictions beside the labels of graphs.

    Parameters
    ----------
    with_stress : of periodic graphs that have it
    """
    columns: list[tuple[Any, ...]] = []
    for batch in batches:
        with torch.enable_grad():
            found = residuals(potential, batch, with_stress=with_stress)
        graph, n = batch.graph, batch.energy.shape[0]
        pairs = [
            (error.detach().cpu() + label.cpu(), label.cpu())
            for error, label in (
                (found.energy, batch.energy),
                (found.forces, batch.forces),
                (found.stress, torch.where(found.stress.isfinite(), batch.stress, torch.nan)),
            )
        ]
        sizes = torch.bincount(graph.structure_index, minlength=n).cpu()
        columns.append((*pairs[0], sizes, *pairs[1], *pairs[2]))
    joined = [torch.cat(column).numpy() for column in zip(*columns, strict=True)]
    return comparison_of(len(joined[0]), joined)


def _curve(
    panel: Any,
    epochs: Sequence[int],
    rows: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
    line: str,
    style: Mapping[str, Any],
) -> None:
    values = [_value(row, name) for row in rows]
    # What is not above zero, or not there, has no place on a logarithmic axis.
    shown = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value > 0]
    if shown:
        panel.plot(*zip(*shown, strict=True), color=colour, linestyle=line, **style)
        panel.set_yscale("log")


def _mark_best(
    panels: Sequence[Any], epochs: Sequence[int], rows: Sequence[Mapping[str, Any]]
) -> None:
    losses = [_value(row, "validation_loss") for row in rows]
    losses = [math.inf if math.isnan(loss) else loss for loss in losses]
    best = min(range(len(rows)), key=losses.__getitem__)
    for panel in panels[:-1]:
        label = f"best, epoch {epochs[best]}" if panel is panels[0] else ""
        panel.axvline(epochs[best], color=ORANGE, linestyle=":", linewidth=1.2, label=label)


def _set_ticks(panels: Sequence[Any]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in panels:
        low, high = panel.get_ylim()
        if panel.get_yscale() != "log" or high > 100 * low:
            continue
        # Powers of ten alone would say little, or nothing.
        if high < 3 * low:
            panel.set_yscale("linear")
            continue
        panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _value(row: Mapping[str, Any], name: str) -> float:
    text = row.get(name, "")
    return float("nan") if text in ("", None) else float(text)
