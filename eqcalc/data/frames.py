"""Structures with labels: what every reader returns and every consumer takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import DataError, listing
from eqcalc.units import energy_unit, length_unit

__all__ = ["Dataset", "LabelRequest", "LabelledFrame", "require_finite"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One structure and its labels, in eV and Å.

    atoms : numbers, positions, cell and pbc only; no calculator, no constraint
    energy : total energy, eV
    forces : (n_atoms, 3), eV/Å, or None
    stress : (6,), eV/Å³, ASE's sign and Voigt order xx yy zz yz xz xy, or None
    group : what frames belong together by, such as the name of a trajectory; None alone
    """

    atoms: Atoms
    energy: float
    forces: FloatArray | None = None
    stress: FloatArray | None = None
    group: str | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """The labelled frames of one file.

    frames : the training frames, in the order of the requested rows
    isolated_atoms : atomic number -> energy in eV of the frames that hold one
        atom and say ``config_type=IsolatedAtom``
    source : name of the file
    units : the units that stood in the file, before conversion to eV and Å
    rows : numbers of the frames among those of the file
    n_rows : how many the file has
    """

    frames: list[LabelledFrame]
    isolated_atoms: dict[int, float] = field(default_factory=dict)
    source: str = ""
    units: str = "eV, Angstrom"
    rows: list[int] = field(default_factory=list)
    n_rows: int = 0

    def __len__(self) -> int:
        return len(self.frames)

    def subset(self, positions: Sequence[int]) -> Dataset:
        """Return the data set of some frames, by their positions in ``frames``."""
        return replace(
            self,
            frames=[self.frames[k] for k in positions],
            rows=[self.rows[k] for k in positions],
        )

    @property
    def elements(self) -> list[int]:
        """Atomic numbers that occur in the frames, in rising order."""
        return sorted({int(z) for frame in self.frames for z in frame.atoms.numbers})


@dataclass(frozen=True)
class LabelRequest:
    """What the user said about keys and units; None leaves it to the format."""

    energy_key: str | None = None
    forces_key: str | None = None
    stress_key: str | None = None
    positions_key: str | None = None
    numbers_key: str | None = None
    group_key: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None

    def __post_init__(self) -> None:
        # An unknown unit is the user's mistake: say so before a file is opened.
        if self.energy_unit is not None:
            energy_unit(self.energy_unit)
        if self.length_unit is not None:
            length_unit(self.length_unit)


def require_finite(values: FloatArray, key: str, rows: Sequence[object], path: Path) -> None:
    """Refuse NaN and infinite values in an array (n_rows, ...).

    Raises
    ------
    DataError : a value is not finite; the message gives the row numbers.
    """
    bad = [row for row, value in zip(rows, values, strict=True) if not np.isfinite(value).all()]
    if bad:
        raise DataError(
            f"{path}: '{key}' must be finite, found NaN or infinity in rows {listing(bad)}; "
            "correct these rows or leave them out with rows=."
        )
