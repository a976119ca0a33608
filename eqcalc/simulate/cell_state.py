"""Volume, density, pressure and cell of a crystal or liquid: what a changing cell is judged by."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.units import GRAM_PER_CM3

__all__ = ["CellChange", "CellState", "cell_state", "density", "widest_gaps"]


class CellState(NamedTuple):
    """The cell of one step.

    volume (Å³), density (g/cm³); pressure_gpa, with its kinetic part where atoms move;
    cell : a, b, c (Å) and alpha, beta, gamma (degrees)
    """

    volume: float
    density: float
    pressure_gpa: float
    cell: tuple[float, ...]


class CellChange(NamedTuple):
    """The cell at the start and at the end of a run."""

    start: CellState
    end: CellState


def density(atoms: Atoms) -> float:
    """Return the density of a structure that is periodic in three directions, in g/cm³.

    >>> from ase.build import bulk
    >>> round(density(bulk("Cu")), 2)
    8.97
    """
    return float(atoms.get_masses().sum()) / float(atoms.get_volume()) / GRAM_PER_CM3


def cell_state(atoms: Atoms, pressure_gpa: float) -> CellState:
    """Measure a structure that is periodic in three directions."""
    return CellState(
        volume=float(atoms.get_volume()),
        density=density(atoms),
        pressure_gpa=pressure_gpa,
        cell=tuple(float(value) for value in atoms.cell.cellpar()),
    )


def widest_gaps(atoms: Atoms, scaled_positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the widest layer without atoms (3,), Å, along each axis of the cell.

    Parameters
    ----------
    scaled_positions : (n_atoms, 3), taken to repeat in steps of 1
    """
    heights = 1.0 / np.linalg.norm(np.linalg.inv(atoms.cell.array), axis=0)
    places = np.sort(scaled_positions, axis=0)
    between = np.diff(places, axis=0, append=places[:1] + 1.0)
    return np.asarray(between.max(axis=0) * heights)
