"""Structures with labels: what every reader returns and every consumer takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.geometry import minkowski_reduce
from numpy.typing import NDArray

from eqcalc.data.label_names import is_gradient_name, is_pressure_name, is_virial_name
from eqcalc.errors import ConfigError, DataError, listing
from eqcalc.units import energy_unit, force_unit, length_unit, stress_unit

__all__ = [
    "DataFile",
    "Dataset",
    "LabelRequest",
    "LabelledFrame",
    "Origin",
    "has_neighbours",
    "have_label",
    "is_isolated_atom",
    "lacking_labels",
    "require_finite",
]

FloatArray = NDArray[np.float64]

_FLAT = 1e-6  # of a cell's volume beside that of a box of such lengths
_FARTHEST_IMAGE = 8.0  # Å: beyond the neighbours of every crystal; Cs has 5.3


class Origin(NamedTuple):
    """Where a frame stands: a file, and its number among that file's frames, from 0."""

    path: Path
    row: int

    def __str__(self) -> str:
        return f"frame {self.row} of {self.path.name}"


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One structure and its labels, in eV and Å.

    atoms : numbers, positions, cell and pbc only; no calculator, no constraint
    energy : total energy, eV
    forces : (n_atoms, 3), eV/Å, or None
    stress : (6,), eV/Å³, ASE's sign and Voigt order xx yy zz yz xz xy, or None
    group : what frames belong together by, such as the name of a trajectory; None alone
    origin : file and number of the frame; None for one that no file holds
    info : what else the file says of the frame, such as config_type: neither labels that were
        read nor units, and in the file's units where they are numbers with one
    """

    atoms: Atoms
    energy: float
    forces: FloatArray | None = None
    stress: FloatArray | None = None
    group: str | None = None
    origin: Origin | None = None
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The labelled frames of one file, or of several in their order.

    frames : the training frames, in the order of the requested rows
    isolated_atoms : atomic number -> energy in eV of the frames that hold one
        atom and say ``config_type=IsolatedAtom``
    source : names of the files
    units : the units that stood in the files, before conversion to eV and Å
    rows : numbers of the frames among all of the files', counted through in the files' order
    n_rows : how many the files have
    notes : what was left out, decided or found odd while reading, each a sentence
    unkept : names of arrays of the files that frames do not have, such as momenta
    left_out : numbers of the isolated atoms that are not among the frames, counted as ``rows``
    """

    frames: list[LabelledFrame]
    isolated_atoms: dict[int, float] = field(default_factory=dict)
    source: str = ""
    units: str = "eV, Angstrom"
    rows: list[int] = field(default_factory=list)
    n_rows: int = 0
    notes: list[str] = field(default_factory=list)
    left_out: list[int] = field(default_factory=list)
    unkept: list[str] = field(default_factory=list)

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


class DataFile(NamedTuple):
    """An open file: how many frames it has, and what reads those of some numbers."""

    n_rows: int
    read: Callable[[list[int]], Dataset]


@dataclass(frozen=True)
class LabelRequest:
    """What the user said about keys and units; None leaves it to the format."""

    energy_key: str | None = None
    forces_key: str | None = None
    gradient_key: str | None = None
    stress_key: str | None = None
    virial_key: str | None = None
    positions_key: str | None = None
    numbers_key: str | None = None
    group_key: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    forces_unit: str | None = None
    stress_unit: str | None = None

    def __post_init__(self) -> None:
        # An unknown unit is the user's mistake: say so before a file is opened.
        for name, value in (
            ("energy_unit", energy_unit),
            ("length_unit", length_unit),
            ("forces_unit", force_unit),
            ("stress_unit", stress_unit),
        ):
            unit = getattr(self, name)
            if unit is not None:
                value(unit)
        for one, other in (("forces_key", "gradient_key"), ("stress_key", "virial_key")):
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise ConfigError(
                    f"{one} and {other} name the same label, found "
                    f"'{getattr(self, one)}' and '{getattr(self, other)}'; give one of them."
                )
        if self.forces_key is not None and is_gradient_name(self.forces_key):
            raise ConfigError(
                f"forces_key='{self.forces_key}' names a gradient, which has the other sign; give "
                f"gradient_key = '{self.forces_key}', and forces are its negative."
            )
        if self.stress_key is not None and is_virial_name(self.stress_key):
            raise ConfigError(
                f"stress_key='{self.stress_key}' names a virial, which has the other sign and is "
                f"not divided by the volume; give virial_key = '{self.stress_key}', and the stress "
                "is -virial/volume."
            )
        for option in ("stress_key", "virial_key"):
            name = getattr(self, option)
            if name is not None and is_pressure_name(name):
                raise ConfigError(
                    f"{option}='{name}' names a pressure, which is positive under compression: the "
                    "stress is its negative. Write that into the file as 'stress'."
                )
        if self.virial_key is not None and "stress" in self.virial_key.lower():
            raise ConfigError(
                f"virial_key='{self.virial_key}' names a stress, which would be divided by the "
                f"volume and change its sign; give stress_key = '{self.virial_key}'."
            )
        if self.virial_key is not None and self.stress_unit is not None:
            raise ConfigError(
                "stress_unit is of a stress, and a virial is in the unit of the energy; leave "
                "stress_unit out, or give stress_key."
            )


def has_neighbours(atoms: Atoms) -> bool:
    """Tell whether an atom has others, or images of itself, within the reach of a bond or more."""
    if len(atoms) > 1 or not atoms.pbc.any():
        return len(atoms) > 1
    cell = atoms.cell.complete().array
    lengths = np.linalg.norm(cell, axis=1)
    is_whole = np.isfinite(cell).all() and abs(np.linalg.det(cell)) > _FLAT * lengths.prod()
    if not is_whole:  # what is wrong with it is said elsewhere
        return False
    vectors = minkowski_reduce(cell, atoms.pbc)[0][atoms.pbc]
    return bool(np.linalg.norm(vectors, axis=1).min() < _FARTHEST_IMAGE)


def is_isolated_atom(atoms: Atoms, info: Mapping[str, Any]) -> bool:
    """Tell one atom with ``config_type=IsolatedAtom``, whose energy is a reference energy.

    Parameters
    ----------
    info : what the file says of the frame
    """
    kind = str(info.get("config_type", "")).lower()
    return len(atoms) == 1 and kind.replace("_", "").replace("-", "") == "isolatedatom"


def lacking_labels(frames: Sequence[LabelledFrame]) -> dict[str, list[LabelledFrame]]:
    """Return label -> the frames that lack it, of a label that some have and others do not.

    Isolated atoms need none; a stress belongs to frames that are periodic in all directions.
    """
    needing = {
        "forces": [frame for frame in frames if not is_isolated_atom(frame.atoms, frame.info)],
        "stress": [frame for frame in frames if frame.atoms.pbc.all()],
    }
    found = {k: [f for f in v if getattr(f, k) is None] for k, v in needing.items()}
    return {label: lack for label, lack in found.items() if lack and have_label(frames, label)}


def have_label(frames: Sequence[LabelledFrame], label: str) -> bool:
    """Tell whether any of the frames has forces, or a stress."""
    return any(getattr(frame, label) is not None for frame in frames)


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
            "correct these rows, or choose other rows."
        )
