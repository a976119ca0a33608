"""Read labelled frames from npz files: rMD17, MD17 and sGDML, or any keys on request.

=========  =======================  =========================  ==========================
layout     geometry                 labels                     units
=========  =======================  =========================  ==========================
rMD17      nuclear_charges, coords  energies, forces, or       kcal/mol, Å
                                    old_energies, old_forces
MD17       z, R                     E, F                       kcal/mol, Å
sGDML      z, R                     E, F                       e_unit, r_unit in the file,
                                                               else asked for
any other  numbers_key,             energy_key, forces_key     energy_unit, length_unit
           positions_key
=========  =======================  =========================  ==========================

Shapes in the file: numbers (n_atoms,), positions and forces (n_rows, n_atoms, 3),
energies (n_rows,) or (n_rows, 1). A layout is recognised by its whole set of keys;
nothing is unpickled, and only the entries that are needed are read.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from eqcalc.data.frames import Dataset, FloatArray, LabelledFrame, LabelRequest, require_finite
from eqcalc.data.rows import Rows, parse_rows
from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import ConfigError, DataError, did_you_mean, listing
from eqcalc.units import ENERGY_UNITS, LENGTH_UNITS, energy_unit, length_unit

__all__ = ["read_npz"]


@dataclass(frozen=True)
class _Layout:
    """Keys of one kind of file; ``labels`` holds (energy key, forces key) pairs."""

    name: str
    numbers: str
    positions: str
    labels: tuple[tuple[str, str | None], ...]
    also: frozenset[str]
    units: tuple[str, str] | None  # energy, length

    @property
    def needed(self) -> list[str]:
        return [self.numbers, self.positions, *map(str, self.labels[0])]

    def fits(self, keys: set[str]) -> bool:
        return set(self.needed) <= keys <= self.also.union(self.needed)


_RMD17 = _Layout(
    "rMD17",
    "nuclear_charges",
    "coords",
    (("energies", "forces"), ("old_energies", "old_forces")),
    frozenset({"old_indices", "old_energies", "old_forces"}),
    ("kcal/mol", "Angstrom"),
)
_MD17 = _Layout(
    "MD17",
    "z",
    "R",
    (("E", "F"),),
    frozenset({"name", "theory", "type", "md5"}),
    ("kcal/mol", "Angstrom"),
)
# sGDML's scripts store whatever unit their input had, and leave r_unit and e_unit
# out when the user does not know: no default is safe here.
_SGDML = _Layout(
    "sGDML",
    "z",
    "R",
    (("E", "F"),),
    _MD17.also
    | {
        "code_version",
        "r_unit",
        "e_unit",
        "E_min",
        "E_max",
        "E_mean",
        "E_var",
        "F_min",
        "F_max",
        "F_mean",
        "F_var",
    },
    None,
)
_LAYOUTS = (_RMD17, _MD17, _SGDML)

# Entries without a reader would turn a crystal into a cluster. sGDML's 'lattice' is
# among them: its scripts have written the vectors as rows and as columns.
_PERIODIC_KEYS = {"cell", "cells", "lattice", "pbc", "box"}


def read_npz(path: Path, rows: Rows, request: LabelRequest) -> Dataset:
    """Read one npz file; see the module for the layouts.

    Raises
    ------
    ConfigError : ``rows`` is malformed, or a stress is asked for.
    DataError : the file is damaged, or its keys, shapes, units or values are
        not what the layout or the request says.
    """
    if request.stress_key is not None:
        raise ConfigError(
            f"{path}: stress_key='{request.stress_key}' is not supported for npz files; "
            "write the data as extxyz, which states cell and stress."
        )
    # np.load leaves a file that it opened itself open when the archive is damaged.
    with path.open("rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(
                f"{path} is not a readable npz archive ({_first_line(error)}); "
                "it may be truncated: fetch or write it again."
            ) from error
        if not isinstance(file, NpzFile):
            raise DataError(f"{path} holds a single array, not an npz archive of named arrays.")
        return _read_archive(file, path, rows, request)


def _read_archive(file: NpzFile, path: Path, rows: Rows, request: LabelRequest) -> Dataset:
    layout = _find_layout(file, path, request)
    energy_key, forces_key = _label_keys(layout, file, path, request)
    units = (
        _unit("energy", "e_unit", layout, file, path, request.energy_unit),
        _unit("length", "r_unit", layout, file, path, request.length_unit),
    )
    to_ev, to_angstrom = energy_unit(units[0]), length_unit(units[1])
    numbers, positions, energies, forces = _arrays(file, path, layout, energy_key, forces_key)
    n_rows = len(positions)
    chosen = parse_rows(rows, n_rows)
    positions = positions[chosen] * to_angstrom
    energies = energies[chosen] * to_ev
    require_finite(positions, layout.positions, chosen, path)
    require_finite(energies, energy_key, chosen, path)
    if forces is not None and forces_key is not None:
        forces = forces[chosen] * (to_ev / to_angstrom)
        require_finite(forces, forces_key, chosen, path)
    frames = [
        LabelledFrame(
            Atoms(numbers, positions[k]),
            float(energies[k]),
            None if forces is None else forces[k],
        )
        for k in range(len(chosen))
    ]
    return Dataset(frames, source=path.name, units=", ".join(units), rows=chosen, n_rows=n_rows)


def _find_layout(file: NpzFile, path: Path, request: LabelRequest) -> _Layout:
    keys = set(file.files)
    for layout in _LAYOUTS:
        if layout.fits(keys):
            _require_own_geometry(layout, path, request)
            return layout
    found = f"{path}: found the keys {listing(sorted(keys), limit=30)}"
    if keys & _PERIODIC_KEYS:
        raise DataError(
            f"{found}; periodic structures ({listing(sorted(keys & _PERIODIC_KEYS))}) are not "
            "read from npz. Write the data as extxyz, which states cell and pbc."
        )
    numbers = request.numbers_key or _present(keys, "nuclear_charges", "z")
    positions = request.positions_key or _present(keys, "coords", "R")
    if numbers is None or positions is None or request.energy_key is None:
        known = "; ".join(f"{layout.name} ({', '.join(layout.needed)})" for layout in _LAYOUTS)
        raise DataError(
            f"{found}, which is none of the known sets: {known}. For other files give "
            "energy_key, forces_key, energy_unit and length_unit, and numbers_key and "
            "positions_key where they are named otherwise."
        )
    # One "pair" whose forces may be missing: energies alone can be asked for.
    pair = (request.energy_key, request.forces_key)
    return _Layout("explicit", numbers, positions, (pair,), frozenset(), None)


def _require_own_geometry(layout: _Layout, path: Path, request: LabelRequest) -> None:
    for option, asked, own in (
        ("numbers_key", request.numbers_key, layout.numbers),
        ("positions_key", request.positions_key, layout.positions),
    ):
        if asked not in (None, own):
            raise DataError(
                f"{path}: {option}='{asked}' contradicts the file: in {layout.name} files it is "
                f"'{own}'. Leave {option} out."
            )


def _label_keys(
    layout: _Layout, file: NpzFile, path: Path, request: LabelRequest
) -> tuple[str, str | None]:
    found = {*file.files, None}
    pairs = [pair for pair in layout.labels if found.issuperset(pair)] or list(layout.labels)
    asked = (request.energy_key or pairs[0][0], request.forces_key or pairs[0][1])
    if asked not in pairs:
        known = [str(key) for pair in pairs for key in pair]
        unknown = [key for key in asked if key not in known]
        raise DataError(
            f"{path}: energy_key='{asked[0]}' with forces_key='{asked[1]}' is not a pair of labels "
            f"of this {layout.name} file; give one of {', '.join(map(str, pairs))}, which come "
            "from one calculation each." + "".join(did_you_mean(str(k), known) for k in unknown)
        )
    return asked


def _unit(
    kind: str, key: str, layout: _Layout, file: NpzFile, path: Path, asked: str | None
) -> str:
    table, value = (ENERGY_UNITS, energy_unit) if kind == "energy" else (LENGTH_UNITS, length_unit)
    if key in file.files:
        stated, origin = _text(file, key, path), f"its entry {key} says"
    elif layout.units is not None:
        stated = layout.units[0 if kind == "energy" else 1]
        origin = f"its keys are {layout.name}'s, which is in"
    elif asked is not None:
        return asked
    else:
        raise DataError(
            f"{path} does not state its {kind} unit; give {kind}_unit, one of {', '.join(table)}."
        )
    try:
        factor = value(stated)
    except ConfigError as error:
        raise DataError(f"{path}: entry {key}: {error} Correct this entry.") from error
    if asked is not None and value(asked) != factor:
        raise DataError(
            f"{path}: {kind}_unit='{asked}' contradicts the file: {origin} '{stated}'. Leave "
            f"{kind}_unit out, or write an entry {key} into the file if it truly differs."
        )
    return stated


def _arrays(
    file: NpzFile, path: Path, layout: _Layout, energy_key: str, forces_key: str | None
) -> tuple[NDArray[np.int64], FloatArray, FloatArray, FloatArray | None]:
    numbers = np.asarray(_load(file, layout.numbers, path))
    if numbers.ndim != 1 or numbers.dtype.kind not in "iu":
        raise DataError(
            f"{path}: '{layout.numbers}' must be integers of shape (n_atoms,), "
            f"found {numbers.dtype} of shape {numbers.shape}."
        )
    if not ((numbers >= 1) & (numbers < N_ELEMENTS)).all():
        raise DataError(
            f"{path}: '{layout.numbers}' must lie in 1..{N_ELEMENTS - 1}, found {numbers.tolist()}."
        )
    positions = _float(file, layout.positions, path)
    n_rows = len(positions) if positions.ndim else 0
    _require_shape(positions, layout.positions, (n_rows, len(numbers), 3), path)
    energies = _float(file, energy_key, path)
    if energies.ndim == 2 and energies.shape[1] == 1:  # MD17 stores a column
        energies = energies[:, 0]
    _require_shape(energies, energy_key, (n_rows,), path)
    forces = None
    if forces_key is not None:
        forces = _float(file, forces_key, path)
        _require_shape(forces, forces_key, positions.shape, path)
    return numbers.astype(np.int64), positions, energies, forces


def _require_shape(array: FloatArray, key: str, expected: tuple[int, ...], path: Path) -> None:
    if array.shape != expected:
        raise DataError(
            f"{path}: '{key}' must have shape {expected} to match the other arrays, "
            f"found {array.shape}."
        )


def _load(file: NpzFile, key: str, path: Path) -> NDArray[np.generic]:
    if key not in file.files:
        raise DataError(
            f"{path} has no key '{key}'; found {listing(sorted(file.files), limit=30)}."
            + did_you_mean(key, file.files)
        )
    try:
        return np.asarray(file[key])
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path}: '{key}' cannot be read ({_first_line(error)}); pickled objects are never "
            "loaded, and a damaged file must be fetched or written again."
        ) from error


def _float(file: NpzFile, key: str, path: Path) -> FloatArray:
    array = _load(file, key, path)
    if array.dtype.kind not in "fiu":
        raise DataError(f"{path}: '{key}' must hold real numbers, found {array.dtype}.")
    return array.astype(np.float64)


def _text(file: NpzFile, key: str, path: Path) -> str:
    value = _load(file, key, path).reshape(-1)
    if value.size != 1 or value.dtype.kind not in "US":
        raise DataError(f"{path}: '{key}' must be one word, found {value.dtype} {value.shape}.")
    return value[0].decode() if value.dtype.kind == "S" else str(value[0])


def _present(keys: set[str], *options: str) -> str | None:
    return next((option for option in options if option in keys), None)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
