"""What a summary says of a cell that changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ase import Atoms

    from eqcalc.simulate.cell_state import CellChange

__all__ = ["cell_as_json", "cell_pairs", "fixed_cell_pairs"]


def cell_pairs(change: CellChange) -> dict[str, str]:
    """Return lines of a summary: start and end of volume, density, pressure and cell."""
    start, end = change
    percent = 100 * (end.volume / start.volume - 1)
    return {
        "volume": f"{start.volume:.2f} → {end.volume:.2f} Å³ ({percent:+.2f} %)",
        "density": f"{start.density:.4f} → {end.density:.4f} g/cm³",
        "pressure": f"{start.pressure_gpa:.4g} → {end.pressure_gpa:.4g} GPa",
        "cell at start": _cell(start.cell),
        "cell at end": _cell(end.cell),
    }


def fixed_cell_pairs(atoms: Atoms) -> dict[str, str]:
    """Return lines of a summary: volume, density and cell of a structure whose cell stayed."""
    from eqcalc.simulate.barostats import has_vacuum
    from eqcalc.simulate.cell_state import density

    with_it = ", of the cell with its layer of vacuum" if has_vacuum(atoms) else ""
    return {
        "volume": f"{atoms.get_volume():.2f} Å³",
        "density": f"{density(atoms):.4f} g/cm³{with_it}",
        "cell": _cell(tuple(atoms.cell.cellpar())),
    }


def cell_as_json(change: CellChange | None) -> dict[str, Any] | None:
    """Return the same for a program; cells as a, b, c (Å), alpha, beta, gamma (degrees)."""
    if change is None:
        return None
    return {
        name: {
            "volume_A3": state.volume,
            "density_g_per_cm3": state.density,
            "pressure_gpa": state.pressure_gpa,
            "cellpar": list(state.cell),
        }
        for name, state in zip(("start", "end"), change, strict=True)
    }


def _cell(cellpar: Sequence[float]) -> str:
    a, b, c, alpha, beta, gamma = cellpar
    return f"{a:.4f} {b:.4f} {c:.4f} Å, {alpha:.2f} {beta:.2f} {gamma:.2f}°"
