"""Labels of one file's frames, as ASE read them, under the keys and units that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ase import Atoms

from eqcalc.data.entries import entries_of, refuse_two_values
from eqcalc.data.file_units import UNIT_ENTRIES, file_units
from eqcalc.data.frames import FloatArray, LabelledFrame, LabelRequest, Origin, require_finite
from eqcalc.data.label_names import look_alikes, named_options
from eqcalc.data.unseen import notes_on_cells
from eqcalc.derivatives import VOIGT
from eqcalc.errors import DataError, did_you_mean, listing

__all__ = ["FrameLabels"]

_ASYMMETRY = 1e-3  # of the largest component: above codes' rounding, below any mix-up of axes

_LABELS = {"energy", "free_energy", "forces", "stress"}


class FrameLabels:
    """Energies, forces and stresses of frames, under the requested keys and units.

    Parameters
    ----------
    partial_file : every frame of the file, of which one that has a label is enough; None where
        each frame that is read must have it
    """

    def __init__(self, path: Path, request: LabelRequest, partial_file: list[Atoms] | None) -> None:
        self.path = path
        self.request = request
        self.partial_file = partial_file
        self.units = file_units(
            request.energy_unit or "eV",
            request.length_unit or "Angstrom",
            request,
            as_stated=False,
        )
        self.notes: list[str] = []

    def read(self, images: list[Atoms], rows: list[int]) -> list[LabelledFrame]:
        """Return frames in eV and Å; ``rows`` are their numbers in the file.

        Raises
        ------
        DataError : a frame without atoms or elements, or a label that is missing or wrong.
        """
        if not images:
            return []
        self._require_elements(images, rows)
        energies = self.energies(images, rows)
        forces = self._forces(images, rows)
        stresses = self._stresses(images, rows)
        self._note_ignored(images)
        self.notes += notes_on_cells(images, rows)
        frames = []
        for k, atoms in enumerate(images):
            # A bare copy: no calculator, constraint or momentum reaches the training.
            bare = Atoms(
                atoms.numbers,
                atoms.positions * self.units.to_angstrom,
                cell=atoms.cell.array * self.units.to_angstrom,
                pbc=atoms.pbc,
            )
            require_finite(bare.positions[None], "positions", [rows[k]], self.path)
            group, origin = self._group(atoms, rows[k]), Origin(self.path, rows[k])
            frames.append(
                LabelledFrame(
                    bare,
                    float(energies[k]),
                    forces[k],
                    stresses[k],
                    group,
                    origin,
                    self._rest(atoms),
                )
            )
        return frames

    def _used(self) -> set[str]:
        """Return the names of entries that are labels or units of this reading."""
        asked = self.request
        labels = {
            asked.energy_key or "energy",
            asked.forces_key or asked.gradient_key or "forces",
            asked.stress_key or asked.virial_key or "stress",
        }
        return labels.union(*UNIT_ENTRIES.values())

    def _rest(self, atoms: Atoms) -> dict[str, object]:
        """Return what a frame's info says besides labels and units."""
        used = self._used() | _LABELS  # a label that is not used would be one where it is written
        return {str(key): v for key, v in atoms.info.items() if str(key) not in used}

    def unkept(self, images: list[Atoms]) -> list[str]:
        """Return the names of arrays, results and other labels that frames do not have."""
        found = {"constraints"} if any(atoms.constraints for atoms in images) else set()
        for atoms in images:
            found |= set(entries_of(atoms)) - {str(key) for key in atoms.info}
            found |= _LABELS & {str(key) for key in atoms.info}
        used, key = self._used(), self.request.stress_key or self.request.virial_key or "stress"
        if any(_has_open_stress(atoms, key) for atoms in images):
            used = used - {key}
        # ASE writes the free energy beside each energy; where they differ, it is said.
        return sorted(found - used - {"free_energy"})

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
        """Return (n_images,) energies in eV; ``rows`` are the frames' names in messages."""
        key = self.request.energy_key or "energy"
        self._require(images, rows, key, "energy")
        values = [
            self._array(atoms, key, [()], row) for atoms, row in zip(images, rows, strict=True)
        ]
        energies = np.array(values) * self.units.to_ev
        require_finite(energies, key, rows, self.path)
        return energies

    def _forces(self, images: list[Atoms], rows: list[int]) -> list[FloatArray | None]:
        asked = self.request.forces_key or self.request.gradient_key
        key = asked or "forces"
        if asked is None and not any(key in entries_of(atoms) for atoms in images):
            self._refuse_forces_by_another_name(images)
            return [None] * len(images)
        kind = "forces" if self.request.gradient_key is None else "gradient"
        where = self._having(images, rows, range(len(images)), key, kind)
        if self.units.note:
            self.notes.append(self.units.note)
        sign = 1.0 if kind == "forces" else -1.0
        forces: list[FloatArray | None] = [None] * len(images)
        for k in where:
            value = self._array(images[k], key, [(len(images[k]), 3)], rows[k])
            require_finite(value[None], key, [rows[k]], self.path)
            forces[k] = sign * value * self.units.to_ev_per_angstrom
        return forces

    def _refuse_forces_by_another_name(self, images: list[Atoms]) -> None:
        names = self._others("forces", images)
        if names:
            raise DataError(
                f"{self.path} has no 'forces', but arrays named {listing(names)}; "
                f"give {named_options('forces', names)} to say which of them holds the forces, "
                "or the gradient of the energy."
            )

    def _stresses(self, images: list[Atoms], rows: list[int]) -> list[FloatArray | None]:
        asked = self.request.stress_key or self.request.virial_key
        key, kind = asked or "stress", "stress" if self.request.virial_key is None else "virial"
        stresses: list[FloatArray | None] = [None] * len(images)
        where = [k for k, atoms in enumerate(images) if atoms.pbc.all()]
        self._note_open(images, rows, key, kind)
        if asked is None:
            if not any(key in entries_of(images[k]) for k in where):
                return stresses
        elif not where:
            raise DataError(
                f"{self.path}: {kind}_key='{key}' was given, but no frame is periodic in all "
                f"three directions; leave {kind}_key out."
            )
        where = self._having(images, rows, where, key, kind)
        unit = self.units.to_ev_per_angstrom3(self.path, key) if kind == "stress" else 0.0
        for k in where:
            value = self._array(images[k], key, [(6,), (3, 3), (9,)], rows[k])
            require_finite(value[None], key, [rows[k]], self.path)
            if kind == "virial":
                unit = -self.units.to_ev / self._volume(images[k], rows[k])
            stresses[k] = self._voigt(value, key, rows[k]) * unit
        return stresses

    def _note_open(self, images: list[Atoms], rows: list[int], key: str, kind: str) -> None:
        """Say whose stress is not used: a strain needs all three directions."""
        found = [rows[k] for k, atoms in enumerate(images) if _has_open_stress(atoms, key)]
        if found:
            self.notes.append(
                f"the {kind} '{key}' of frames {listing(found)} is not used: they are not periodic "
                "in all three directions."
            )

    def _volume(self, atoms: Atoms, row: int) -> float:
        volume = float(abs(np.linalg.det(atoms.cell.array))) * self.units.to_angstrom**3
        if volume == 0.0:
            raise DataError(
                f"{self.path}: frame {row} is periodic but its cell {atoms.cell.array.tolist()} "
                "has no volume, by which its virial could be divided; mend the cell."
            )
        return volume

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

    def _others(self, kind: str, images: list[Atoms]) -> list[str]:
        """Return the names in any frame that look like a label and are not what was read."""
        used = {"energy", "forces", "stress", *vars(self.request).values()}
        found = {name for a in images for name in look_alikes(kind, entries_of(a), len(a))}
        return sorted(found - used)

    def _note_ignored(self, images: list[Atoms]) -> None:
        for kind in ("energy", "forces", "stress"):
            names = self._others(kind, images)
            read = getattr(self.request, f"{kind}_key") or kind
            if kind == "energy" and not _differ(images, read, "free_energy"):
                names = [name for name in names if name != "free_energy"]
            if kind == "stress":
                images = [atoms for atoms in images if atoms.pbc.all()]
                names = self._others(kind, images)
            if names:
                self.notes.append(
                    f"{listing(names)} may hold {kind} too and "
                    f"{'is' if len(names) == 1 else 'are'} not used; to use it, give "
                    f"{named_options(kind, names)}."
                )

    def _having(
        self,
        images: list[Atoms],
        rows: Sequence[object],
        where: Sequence[int],
        key: str,
        kind: str,
    ) -> list[int]:
        """Return which of the images ``where`` have a label: all, unless the file is partial.

        Raises
        ------
        DataError : one has none; of a partial file, it has another entry that may be the
            label, or no frame of the file has one.
        """
        required = list(where)
        if any(key in entries_of(atoms) for atoms in self.partial_file or []):
            required = [
                k
                for k in where
                if key in entries_of(images[k]) or self._others(_label(kind), [images[k]])
            ]
        self._require([images[k] for k in required], [rows[k] for k in required], key, kind)
        return required

    def _require(self, images: list[Atoms], rows: Sequence[object], key: str, kind: str) -> None:
        missing = [k for k, atoms in enumerate(images) if key not in entries_of(atoms)]
        if missing:
            found = list(entries_of(images[missing[0]]))
            label = _label(kind)
            names = self._others(label, [images[k] for k in missing])
            option = named_options(label, names) if names else f"{kind}_key"
            raise DataError(
                f"{self.path}: no {kind} '{key}' in {len(missing)} of {len(images)} frames, rows "
                f"{listing([rows[k] for k in missing])}; the first of them has "
                f"{listing(found, limit=20) or 'no keys'}. Give {option}, or choose other rows."
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
        value = np.asarray(entries_of(atoms)[key])
        if value.dtype.kind not in "fiu" or value.shape not in shapes:
            raise DataError(
                f"{self.path}: '{key}' of row {row} must hold real numbers of shape "
                f"{' or '.join(map(str, shapes))}, found {value.dtype} of shape {value.shape}."
            )
        refuse_two_values(atoms, key, shapes, f"{self.path}: '{key}' of row {row}")
        return value.astype(np.float64)


def _label(kind: str) -> str:
    return {"gradient": "forces", "virial": "stress"}.get(kind, kind)


def _differ(images: list[Atoms], one: str, other: str) -> bool:
    """Tell whether two energies differ by what matters, 1 meV per atom."""
    for atoms in images:
        entries = entries_of(atoms)
        if one in entries and other in entries:
            difference = np.asarray(entries[one], float) - np.asarray(entries[other], float)
            if abs(difference).max() > 1e-3 * len(atoms):
                return True
    return False


def _has_open_stress(atoms: Atoms, key: str) -> bool:
    """Tell whether a frame that is not periodic in three directions has a stress, and not zero."""
    if atoms.pbc.all() or key not in entries_of(atoms):
        return False
    values = np.asarray(entries_of(atoms)[key])
    return bool(np.issubdtype(values.dtype, np.number) and np.any(np.nan_to_num(values)))
