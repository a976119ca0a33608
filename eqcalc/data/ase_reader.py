"""Read labelled frames through ASE: extxyz, trajectories and data bases.

A label is looked up among the frame's calculator results, then its per-atom
arrays, then its info. Units are eV and Å, as these formats state, unless the
request names others; forces are then in energy/length and stress in
energy/length³. Stress has ASE's sign and is read only where all three directions
are periodic: elsewhere there is no volume it could refer to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase import Atoms

from eqcalc.data.frames import Dataset, FloatArray, LabelledFrame, LabelRequest, require_finite
from eqcalc.data.rows import Rows, parse_rows
from eqcalc.derivatives import VOIGT
from eqcalc.errors import DataError, did_you_mean, listing
from eqcalc.units import energy_unit, length_unit

__all__ = ["ASE_FORMATS", "read_with_ase"]

ASE_FORMATS: dict[str, str] = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".traj": "traj",
    ".db": "db",
    ".json": "db",
}
"""Suffix -> how ASE reads it. The format is fixed because ASE's own guess from a
file's content can end in a reader that unpickles."""

_ASYMMETRY = 1e-3  # of the largest component: above codes' rounding, below any mix-up of axes


def read_with_ase(
    path: Path, rows: Rows, request: LabelRequest, *, exclude_isolated: bool
) -> Dataset:
    """Read one file; rows count the training frames, without the isolated atoms.

    Raises
    ------
    ConfigError : ``rows`` is malformed.
    DataError : the file is damaged, a label is missing, has another shape than
        expected or is not finite, or two isolated atoms disagree.
    """
    images = _load(path)
    if not images:
        raise DataError(f"{path} holds no frames.")
    labels = _Labels(path, request)
    isolated = [atoms for atoms in images if _is_isolated(atoms)]
    isolated_atoms = _isolated_energies(isolated, labels)
    training = [atoms for atoms in images if not (exclude_isolated and _is_isolated(atoms))]
    units = ", ".join((request.energy_unit or "eV", request.length_unit or "Angstrom"))
    if not training and rows is None:  # a file of nothing but isolated atoms
        return Dataset([], isolated_atoms, path.name, units)
    chosen = parse_rows(rows, len(training))
    frames = labels.read([training[row] for row in chosen], chosen)
    return Dataset(frames, isolated_atoms, path.name, units, chosen, len(training))


class _Labels:
    """Energies, forces and stresses of frames, under the requested keys and units."""

    def __init__(self, path: Path, request: LabelRequest) -> None:
        self.path = path
        self.request = request
        self.to_ev = energy_unit(request.energy_unit or "eV")
        self.to_angstrom = length_unit(request.length_unit or "Angstrom")

    def read(self, images: list[Atoms], rows: list[int]) -> list[LabelledFrame]:
        self._require_elements(images, rows)
        energies = self.energies(images, rows)
        forces = self._forces(images, rows)
        stresses = self._stresses(images, rows)
        frames = []
        for k, atoms in enumerate(images):
            # A bare copy: no calculator, constraint or momentum reaches the training.
            bare = Atoms(
                atoms.numbers,
                atoms.positions * self.to_angstrom,
                cell=atoms.cell.array * self.to_angstrom,
                pbc=atoms.pbc,
            )
            require_finite(bare.positions[None], "positions", [rows[k]], self.path)
            group = self._group(atoms, rows[k])
            frames.append(LabelledFrame(bare, float(energies[k]), forces[k], stresses[k], group))
        return frames

    def _group(self, atoms: Atoms, row: int) -> str | None:
        key = self.request.group_key
        if key is None:
            return None
        if key not in atoms.info:
            raise DataError(
                f"{self.path}: frame {row} has no '{key}' to group by; it has "
                f"{listing(sorted(atoms.info)) or 'nothing'}.{did_you_mean(key, atoms.info)}"
            )
        return str(atoms.info[key])

    def energies(self, images: list[Atoms], rows: Sequence[object]) -> FloatArray:
        key = self.request.energy_key or "energy"
        self._require(images, rows, key, "energy")
        values = [
            self._array(atoms, key, [()], row) for atoms, row in zip(images, rows, strict=True)
        ]
        energies = np.array(values) * self.to_ev
        require_finite(energies, key, rows, self.path)
        return energies

    def _forces(self, images: list[Atoms], rows: list[int]) -> list[FloatArray | None]:
        key = self.request.forces_key or "forces"
        if self.request.forces_key is None and not any(key in _entries(atoms) for atoms in images):
            self._refuse_forces_by_another_name(images)
            return [None] * len(images)
        self._require(images, rows, key, "forces")
        forces: list[FloatArray | None] = []
        for atoms, row in zip(images, rows, strict=True):
            value = self._array(atoms, key, [(len(atoms), 3)], row)
            require_finite(value[None], key, [row], self.path)
            forces.append(value * (self.to_ev / self.to_angstrom))
        return forces

    def _refuse_forces_by_another_name(self, images: list[Atoms]) -> None:
        names = {
            name
            for atoms in images
            for name, array in atoms.arrays.items()
            if "force" in name.lower() and array.shape == (len(atoms), 3)
        }
        if names:
            raise DataError(
                f"{self.path} has no 'forces', but arrays named {listing(sorted(names))}; "
                "give forces_key to say which of them holds the forces."
            )

    def _stresses(self, images: list[Atoms], rows: list[int]) -> list[FloatArray | None]:
        key = self.request.stress_key or "stress"
        stresses: list[FloatArray | None] = [None] * len(images)
        where = [k for k, atoms in enumerate(images) if atoms.pbc.all()]
        if self.request.stress_key is None:
            if not any(key in _entries(images[k]) for k in where):
                return stresses
        elif not where:
            raise DataError(
                f"{self.path}: stress_key='{key}' was given, but no frame is periodic in all "
                "three directions; leave stress_key out."
            )
        self._require([images[k] for k in where], [rows[k] for k in where], key, "stress")
        for k in where:
            value = self._array(images[k], key, [(6,), (3, 3), (9,)], rows[k])
            require_finite(value[None], key, [rows[k]], self.path)
            stresses[k] = self._voigt(value, key, rows[k]) * (self.to_ev / self.to_angstrom**3)
        return stresses

    def _voigt(self, stress: FloatArray, key: str, row: int) -> FloatArray:
        if stress.shape == (6,):
            return stress
        full = stress.reshape(3, 3)
        if np.abs(full - full.T).max() > _ASYMMETRY * np.abs(full).max():
            raise DataError(
                f"{self.path}: '{key}' of row {row} must be a symmetric matrix, "
                f"found {full.tolist()}."
            )
        return np.array([0.5 * (full[a, b] + full[b, a]) for a, b in VOIGT])

    def _require(self, images: list[Atoms], rows: Sequence[object], key: str, kind: str) -> None:
        missing = [k for k, atoms in enumerate(images) if key not in _entries(atoms)]
        if missing:
            found = list(_entries(images[missing[0]]))
            raise DataError(
                f"{self.path}: no {kind} '{key}' in {len(missing)} of {len(images)} frames, rows "
                f"{listing([rows[k] for k in missing])}; the first of them has "
                f"{listing(found, limit=20) or 'no keys'}. Give {kind}_key, or choose other rows."
                + did_you_mean(key, found)
            )

    def _require_elements(self, images: list[Atoms], rows: list[int]) -> None:
        bad = [
            row
            for atoms, row in zip(images, rows, strict=True)
            if len(atoms) == 0 or min(atoms.numbers) < 1
        ]
        if bad:
            raise DataError(
                f"{self.path}: every frame needs at least one atom, and every atom an element; "
                f"not so in rows {listing(bad)}."
            )

    def _array(
        self, atoms: Atoms, key: str, shapes: list[tuple[int, ...]], row: object
    ) -> FloatArray:
        value = np.asarray(_entries(atoms)[key])
        if value.dtype.kind not in "fiu" or value.shape not in shapes:
            raise DataError(
                f"{self.path}: '{key}' of row {row} must hold real numbers of shape "
                f"{' or '.join(map(str, shapes))}, found {value.dtype} of shape {value.shape}."
            )
        return value.astype(np.float64)


def _load(path: Path) -> list[Atoms]:
    kind = ASE_FORMATS[path.suffix.lower()]
    try:
        if kind == "db":
            return list(_from_database(path))
        images = ase.io.read(path, index=":", format=kind)
        frames = images if isinstance(images, list) else [images]
    # ASE's parsers let through whatever a damaged file makes them stumble over.
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as {kind} ({type(error).__name__}: {error}); "
            "it may be truncated or another kind of file."
        ) from error
    if kind == "extxyz":
        _require_whole_file(path, frames)
    return frames


def _from_database(path: Path) -> Iterable[Atoms]:
    for row in ase.db.connect(path).select():
        atoms = row.toatoms()
        atoms.info.update(row.data)
        atoms.info.update(row.key_value_pairs)
        yield atoms


def _require_whole_file(path: Path, frames: list[Atoms]) -> None:
    """Refuse what ASE leaves out in silence: frames behind a blank line."""
    lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    n_read = sum(len(atoms) + 2 for atoms in frames)
    if n_read < len(lines) and not lines[n_read].strip():
        raise DataError(
            f"{path}: a blank line {n_read + 1} ends the file before its last frame; remove it."
        )


def _isolated_energies(isolated: list[Atoms], labels: _Labels) -> dict[int, float]:
    if not isolated:
        return {}
    energies: dict[int, float] = {}
    values = labels.energies(isolated, [f"isolated {atoms.symbols[0]}" for atoms in isolated])
    for atoms, energy in zip(isolated, values.tolist(), strict=True):
        number = int(atoms.numbers[0])
        if energies.setdefault(number, energy) != energy:
            raise DataError(
                f"{labels.path}: isolated {atoms.symbols[0]} atoms disagree, "
                f"found {energies[number]} and {energy} eV; keep one."
            )
    return energies


def _is_isolated(atoms: Atoms) -> bool:
    return len(atoms) == 1 and atoms.info.get("config_type") == "IsolatedAtom"


def _entries(atoms: Atoms) -> dict[str, object]:
    arrays = {key: v for key, v in atoms.arrays.items() if key not in ("numbers", "positions")}
    results = {} if atoms.calc is None else atoms.calc.results
    return {**{str(key): value for key, value in atoms.info.items()}, **arrays, **results}
