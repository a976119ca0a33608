"""Read labelled frames from npz files: rMD17, MD17 and sGDML, or any keys on request.

=========  =======================  =========================  ==========================
layout     geometry                 labels                     units
=========  =======================  =========================  ==========================
rMD17      nuclear_charges, coords  energies, forces, or       kcal/mol, Å
                                    old_energies, old_forces
MD17       z, R, and one of name,   E, F                       kcal/mol, Å
           theory, type, md5
sGDML      z, R                     E, F                       e_unit, r_unit in the file,
                                                               else asked for
any other  numbers_key,             energy_key, forces_key     energy_unit, length_unit,
           positions_key            or gradient_key            forces_unit
=========  =======================  =========================  ==========================

Shapes in the file: numbers (n_atoms,), positions and forces (n_rows, n_atoms, 3),
energies (n_rows,) or (n_rows, 1). A layout is recognised by its whole set of keys;
nothing is unpickled, and only the entries that are needed are read. Any layout may state
its units in entries such as ``e_unit``, ``r_unit`` and ``f_unit``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from eqcalc.data.file_units import UNIT_ENTRIES, FileUnits, file_units, obey_stated_units
from eqcalc.data.frames import (
    DataFile,
    Dataset,
    FloatArray,
    LabelledFrame,
    LabelRequest,
    Origin,
    require_finite,
)
from eqcalc.data.label_names import named_options, names_like
from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import ConfigError, DataError, did_you_mean, listing
from eqcalc.files import ARRAY_DAMAGE
from eqcalc.units import ENERGY_UNITS, LENGTH_UNITS, energy_unit, force_unit, length_unit

__all__ = ["open_npz"]

_UNITS = frozenset(name for names in UNIT_ENTRIES.values() for name in names)


@dataclass(frozen=True)
class _Layout:
    """Keys of one kind of file.

    labels : (energy key, forces key) pairs
    also : keys that may stand there too
    marks : keys of which one must, by which the file is known as of this kind
    """

    name: str
    numbers: str
    positions: str
    labels: tuple[tuple[str, str | None], ...]
    also: frozenset[str]
    units: tuple[str, str] | None  # energy, length
    marks: frozenset[str] = frozenset()

    @property
    def needed(self) -> list[str]:
        return [self.numbers, self.positions, *map(str, self.labels[0])]

    def fits(self, keys: set[str]) -> bool:
        is_marked = not self.marks or bool(keys & self.marks)
        return is_marked and set(self.needed) <= keys <= self.also.union(self.needed, _UNITS)


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
    marks=frozenset({"name", "theory", "type", "md5"}),  # z, R, E and F alone may be anybody's
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
_PERIODIC = re.compile("cell|latt|box|pbc|periodic", re.IGNORECASE)


def open_npz(path: Path, request: LabelRequest) -> DataFile:
    """Open one npz file; see the module for the layouts.

    Raises
    ------
    ConfigError : a stress, a virial or groups are asked for.
    DataError : the file is damaged, or its keys, shapes, units or values are
        not what the layout or the request says.
    """
    for option in ("stress_key", "virial_key"):
        if getattr(request, option) is not None:
            raise ConfigError(
                f"{path}: {option}='{getattr(request, option)}' is not supported for npz files; "
                "write the data as extxyz, which states cell and stress."
            )
    if request.group_key is not None:
        raise ConfigError(
            f"{path}: group_key='{request.group_key}' names an entry of a frame's info, which npz "
            "files do not have; leave it out."
        )
    # np.load leaves a file that it opened itself open when the archive is damaged.
    with path.open("rb") as stream:
        try:
            file = np.load(stream, allow_pickle=False)
        except ARRAY_DAMAGE as error:
            raise DataError(
                f"{path} is not a readable npz archive ({_first_line(error)}); "
                "it may be truncated: fetch or write it again."
            ) from error
        if not isinstance(file, NpzFile):
            raise DataError(f"{path} holds a single array, not an npz archive of named arrays.")
        return _open_archive(file, path, request)


def _open_archive(file: NpzFile, path: Path, request: LabelRequest) -> DataFile:
    layout = _find_layout(file, path, request)
    energy_key, forces_key = _label_keys(layout, file, path, request)
    units = _units(layout, file, path, request)
    numbers, positions, energies, forces = _arrays(file, path, layout, energy_key, forces_key)
    n_rows = len(positions)
    sign = 1.0 if request.gradient_key is None else -1.0

    def read(rows: list[int]) -> Dataset:
        where, labels = positions[rows] * units.to_angstrom, energies[rows] * units.to_ev
        require_finite(where, layout.positions, rows, path)
        require_finite(labels, energy_key, rows, path)
        vectors = None
        if forces is not None and forces_key is not None:
            vectors = sign * forces[rows] * units.to_ev_per_angstrom
            require_finite(vectors, forces_key, rows, path)
        frames = [
            LabelledFrame(
                Atoms(numbers, where[k]),
                float(labels[k]),
                None if vectors is None else vectors[k],
                origin=Origin(path, row),
            )
            for k, row in enumerate(rows)
        ]
        notes = [f"{path.name}: {units.note}"] if units.note and vectors is not None else []
        return Dataset(frames, {}, path.name, str(units), rows, n_rows, notes)

    return DataFile(n_rows, read)


def _find_layout(file: NpzFile, path: Path, request: LabelRequest) -> _Layout:
    keys = set(file.files)
    for layout in _LAYOUTS:
        if layout.fits(keys):
            _require_own_geometry(layout, path, request)
            return layout
    found = f"{path}: found the keys {listing(sorted(keys), limit=30)}"
    named = {asked for asked in vars(request).values() if asked is not None}
    periodic = sorted(key for key in keys - named if _PERIODIC.search(key))
    if periodic:
        raise DataError(
            f"{found}; periodic structures ({listing(periodic)}) are not read from npz. Write the "
            "data as extxyz, which states cell and pbc, or leave an entry out that is no cell."
        )
    numbers = request.numbers_key or _present(keys, "nuclear_charges", "z")
    positions = request.positions_key or _present(keys, "coords", "R")
    if numbers is None or positions is None or request.energy_key is None:
        known = "; ".join(f"{layout.name} ({', '.join(layout.needed)})" for layout in _LAYOUTS)
        raise DataError(
            f"{found}, which is none of the known sets: {known}. For other files give "
            "energy_key, forces_key (or gradient_key), energy_unit and length_unit, and "
            "numbers_key and positions_key where they are named otherwise."
        )
    forces_key = request.forces_key or request.gradient_key
    others = names_like("forces", keys - {numbers, positions})
    if forces_key is None and others:
        raise DataError(
            f"{path} holds {listing(others)}, which may be forces; give "
            f"{named_options('forces', others)}, or leave them out of the file."
        )
    # One "pair" whose forces may be missing: energies alone can be asked for.
    pair = (request.energy_key, forces_key)
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
    asked_forces = request.forces_key or request.gradient_key
    asked = (request.energy_key or pairs[0][0], asked_forces or pairs[0][1])
    if asked not in pairs:
        known = [str(key) for pair in pairs for key in pair]
        unknown = [key for key in asked if key not in known]
        raise DataError(
            f"{path}: energy_key='{asked[0]}' with forces_key='{asked[1]}' is not a pair of labels "
            f"of this {layout.name} file; give one of {', '.join(map(str, pairs))}, which come "
            "from one calculation each." + "".join(did_you_mean(str(k), known) for k in unknown)
        )
    return asked


def _units(layout: _Layout, file: NpzFile, path: Path, request: LabelRequest) -> FileUnits:
    entries = {name: _text(file, name, path) for name in sorted(_UNITS & set(file.files))}
    # Forces of a known layout are in its units, and in e_unit/r_unit where it states both.
    own = layout in _LAYOUTS and {"e_unit", "r_unit"} <= set(entries)
    if _departs(layout, obey_stated_units(entries, LabelRequest(), path)):
        layout = replace(layout, units=None)
    asked = request if layout.units is None else replace(request, forces_unit=None)
    stated = obey_stated_units(entries, asked, path)
    energy = _unit("energy", 0, layout, stated.energy_unit, "e_unit", entries, path)
    length = _unit("length", 1, layout, stated.length_unit, "r_unit", entries, path)
    plain = f"{energy}/{length}"
    asked_forces = request.forces_unit
    known = layout.units is not None and asked_forces is not None
    if known and force_unit(str(asked_forces)) != force_unit(plain):
        raise DataError(
            f"{path}: forces_unit='{asked_forces}' contradicts the file: in {layout.name} files "
            f"forces are in {plain}. Leave forces_unit out."
        )
    return file_units(energy, length, stated, as_stated=own or layout.units is not None)


def _departs(layout: _Layout, stated: LabelRequest) -> bool:
    """Return whether a file states another unit than its layout's, which then says no unit."""
    if layout.units is None:
        return False
    energy, length = stated.energy_unit, stated.length_unit
    return (energy is not None and energy_unit(energy) != energy_unit(layout.units[0])) or (
        length is not None and length_unit(length) != length_unit(layout.units[1])
    )


def _unit(
    kind: str,
    place: int,
    layout: _Layout,
    asked: str | None,
    key: str,
    entries: dict[str, str],
    path: Path,
) -> str:
    table, value = (ENERGY_UNITS, energy_unit) if kind == "energy" else (LENGTH_UNITS, length_unit)
    if layout.units is None or set(UNIT_ENTRIES[f"{kind}_unit"]) & set(entries):
        if asked is None:
            raise DataError(
                f"{path} does not state its {kind} unit; give {kind}_unit, one of "
                f"{', '.join(table)}."
            )
        return asked
    stated = layout.units[place]
    if asked is not None and value(asked) != value(stated):
        raise DataError(
            f"{path}: {kind}_unit='{asked}' contradicts the file: its keys are {layout.name}'s, "
            f"which is in '{stated}'. Leave {kind}_unit out, or write an entry {key} into the "
            "file if it truly differs."
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
    except ARRAY_DAMAGE as error:
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
    if "allow_pickle" in str(error):  # numpy's guess of what is no array, with bad advice
        return "it holds something else"
    return (str(error).splitlines() or [type(error).__name__])[0]
