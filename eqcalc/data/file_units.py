"""The units of a file: what it states itself, what the user said, and what follows from both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from eqcalc.data.frames import LabelRequest
from eqcalc.errors import ConfigError, DataError
from eqcalc.units import customary_force_unit, energy_unit, force_unit, length_unit, stress_unit

__all__ = ["UNIT_ENTRIES", "FileUnits", "file_units", "obey_stated_units"]

UNIT_ENTRIES: dict[str, tuple[str, ...]] = {
    "energy_unit": ("e_unit", "energy_unit", "energy_units", "unit_energy"),
    "length_unit": (
        "r_unit", "length_unit", "length_units", "unit_length", "position_unit",
        "positions_unit", "position_units", "positions_units", "coords_unit",
    ),
    "forces_unit": (
        "f_unit", "force_unit", "forces_unit", "force_units", "forces_units", "unit_force",
        "unit_forces",
    ),
    "stress_unit": ("stress_unit", "stress_units", "unit_stress"),
}  # fmt: skip
"""Option -> the entries of a file that state it."""

_VALUES = {
    "energy_unit": energy_unit,
    "length_unit": length_unit,
    "forces_unit": force_unit,
    "stress_unit": stress_unit,
}


@dataclass(frozen=True)
class FileUnits:
    """Units of one file by name, and their values in eV and Å; ``note`` says what was decided."""

    energy: str
    length: str
    forces: str
    stress: str | None
    note: str = ""

    @property
    def to_ev(self) -> float:
        """The unit of energy, in eV."""
        return energy_unit(self.energy)

    @property
    def to_angstrom(self) -> float:
        """The unit of length, in Å."""
        return length_unit(self.length)

    @property
    def to_ev_per_angstrom(self) -> float:
        """The unit of forces, in eV/Å."""
        return force_unit(self.forces)

    def to_ev_per_angstrom3(self, path: Path, key: str) -> float:
        """Return the unit of stress, in eV/Å³.

        Raises
        ------
        DataError : energies are per Bohr and lengths are not, so that it could be either.
        """
        if self.stress is not None:
            return stress_unit(self.stress)
        if force_unit(self.forces) != self.to_ev / self.to_angstrom:
            raise DataError(
                f"{path} does not state the unit of '{key}': energies are in {self.energy}, "
                f"lengths in {self.length}, forces in {self.forces}. Give stress_unit, such as "
                "'Hartree/Bohr^3', 'GPa' or 'eV/Angstrom^3'."
            )
        return self.to_ev / self.to_angstrom**3

    def __str__(self) -> str:
        text = f"{self.energy}, {self.length}"
        if force_unit(self.forces) != self.to_ev / self.to_angstrom:
            text += f", forces in {self.forces}"
        return text + (f", stress in {self.stress}" if self.stress is not None else "")


def obey_stated_units(
    entries: Mapping[str, object], request: LabelRequest, path: Path
) -> LabelRequest:
    """Return the request with the units that a file states itself.

    Parameters
    ----------
    entries : what the file says of itself, by name

    Raises
    ------
    DataError : an entry names no known unit, or the request contradicts it.
    """
    for option, names in UNIT_ENTRIES.items():
        for name in names:
            if name not in entries:
                continue
            stated, value = str(entries[name]), _VALUES[option]
            try:
                factor = value(stated)
            except ConfigError as error:
                raise DataError(f"{path}: entry {name}: {error} Correct this entry.") from error
            asked = getattr(request, option)
            if asked is not None and value(asked) != factor:
                raise DataError(
                    f"{path}: {option}='{asked}' contradicts the file: its entry {name} says "
                    f"'{stated}'. Leave {option} out, or correct the entry."
                )
            request = replace(request, **{option: stated})
    return request


def file_units(energy: str, length: str, request: LabelRequest, *, as_stated: bool) -> FileUnits:
    """Return the units of a file.

    Parameters
    ----------
    energy, length : of the file
    as_stated : the file or its layout states that forces are in energy/length
    """
    if request.forces_unit is not None:
        return FileUnits(energy, length, request.forces_unit, request.stress_unit)
    plain = f"{energy}/{length}"
    forces = plain if as_stated else customary_force_unit(energy, length)
    note = ""
    if force_unit(forces) != force_unit(plain):
        note = (
            f"forces are taken to be in {forces}, as codes print them whose energies are in "
            f"{energy}, beside positions in {length}; forces_unit says otherwise, such as "
            f"'{plain}'."
        )
    return FileUnits(energy, length, forces, request.stress_unit, note)
