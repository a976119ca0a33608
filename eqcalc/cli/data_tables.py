"""Tables of what a data set holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from eqcalc.cli.console import show
from eqcalc.errors import listing

if TYPE_CHECKING:
    from rich.table import Table

    from eqcalc.data.summary import DataSummary, LabelCount

__all__ = ["show_summary"]

_MOST_PAIRS = 15


def show_summary(summary: DataSummary) -> None:
    """Print the facts, the extremes, the closest pairs, and what a training would say."""
    facts = _table("", "")
    for name, value in _facts(summary).items():
        facts.add_row(name, value)
    show(facts)
    extremes = _table("extremes", "value>", "unit", "where")
    for each in summary.extremes:
        sign = "+" if "energy" in each.quantity else ""
        extremes.add_row(each.quantity, f"{each.value:{sign}.4g}", each.unit, each.frame)
    pairs = _table("closest pairs", "Å>", "of radii>", "atoms", "where")
    for pair in summary.closest[:_MOST_PAIRS]:
        atoms = f"{pair.atoms[0]}, {pair.atoms[1]}"
        pairs.add_row(pair.pair, f"{pair.distance:.3f}", f"{pair.ratio:.2f}", atoms, pair.frame)
    if len(summary.closest) > _MOST_PAIRS:
        n_pairs = len(summary.closest)
        pairs.add_row("...", "", "", "", f"{n_pairs} pairs in all; --json has every one")
    said = _table("", "")
    for kind, sentences in (("refused", summary.refused), ("odd", summary.odd)):
        for sentence in sentences:
            said.add_row(kind, sentence, style="red" if kind == "refused" else "yellow")
    for table in (extremes, pairs, said):
        if table.row_count > 0:
            show("")
            show(table)


def _table(*columns: str) -> Table:
    """Return a table without lines; a column whose name ends in > stands to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for k, column in enumerate(columns):
        is_number = column.endswith(">")
        table.add_column(
            column.rstrip(">"),
            justify="right" if is_number else "left",
            overflow="fold",
            no_wrap=k == 0 or is_number,
        )
    return table


def _facts(summary: DataSummary) -> dict[str, str]:
    n_atoms = summary.n_atoms
    low, high = min(n_atoms), max(n_atoms)
    sizes = f"{low}" if low == high else f"{low} to {high}"
    facts = {
        "data": summary.source,
        "frames": f"{summary.n_read}, of {sizes} atoms, {sum(n_atoms)} in all",
    }
    if summary.isolated:
        energies = [f"{symbol} {e:.6g} eV" for symbol, e in summary.isolated_atoms.items()]
        facts["isolated atoms"] = f"{len(summary.isolated)}, left out: {', '.join(energies)}"
    n_unread = summary.n_frames - summary.n_read - len(summary.isolated)
    if n_unread > 0:
        facts["not read"] = f"{n_unread} frames, see below"
    facts["elements"] = ", ".join(f"{symbol} {n}" for symbol, n in summary.elements.items())
    facts["compositions"] = _shown(summary.compositions)
    facts["periodic"] = _shown(summary.periodic)
    facts["units"] = summary.units
    facts |= {name: _present(count) for name, count in summary.labels.items()}
    for name, factor in summary.consistency.items():
        facts[f"energies / {name}"] = f"{factor:.2f} of what follows from the {name}"
    for name in ("forces", "stress"):
        there = name in summary.labels and summary.labels[name].present > 0
        if there and name not in summary.consistency:
            facts[f"energies / {name}"] = (
                "not judged: energies of similar frames hardly depend on it"
                if summary.consistency
                else "not judged: no two frames are similar enough"
            )
    if summary.labels.get("forces"):
        shown = [str(each) for each in summary.stiffness[:3]]
        facts["bonds by forces"] = ", ".join(shown) or "not judged: too few, or of one length"
    copies = [
        f"{' = '.join(group[:3])}{' = ...' if len(group) > 3 else ''}" for group in summary.copies
    ]
    facts["duplicates"] = listing(copies, limit=4) or "none"
    return facts


def _shown(counts: Mapping[str, int]) -> str:
    return listing([f"{name}: {n}" for name, n in counts.items()], limit=8)


def _present(count: LabelCount) -> str:
    if not count.missing:
        return f"in all {count.expected}"
    if count.present == 0:
        return "in none"
    return f"in {count.present} of {count.expected}; missing in {listing(count.missing, limit=6)}"
