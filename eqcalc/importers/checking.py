"""An imported model beside the package that trained it, where that is installed.

The package loads the file in its own way, which may run code of it: a check is for files that one
trusts, and is made only where somebody asks for it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from eqcalc.errors import ConfigError
from eqcalc.importers.conversion import ImportedModel, find_importer

__all__ = ["Difference", "check_import"]

_ENERGY, _FORCES, _SHARE = 1e-4, 1e-3, 1e-3  # eV/atom, eV/Å, of the largest force


class Difference(NamedTuple):
    """How far two calculators are apart on a structure.

    energy : eV/atom; forces : largest component, eV/Å
    largest_force : eV/Å, to compare with
    """

    structure: str
    n_atoms: int
    energy: float
    forces: float
    largest_force: float

    @property
    def is_small(self) -> bool:
        """Whether it may be rounding of the original, which runs in float32 as a rule."""
        allowed = _FORCES + _SHARE * self.largest_force
        return self.energy <= _ENERGY and self.forces <= allowed  # NaN is not small


def check_import(
    model: ImportedModel, calculator: Calculator, structures: dict[str, Atoms]
) -> list[Difference]:
    """Compare an imported model with the package that it came from.

    Parameters
    ----------
    calculator : runs the imported model
    structures : by a name to show

    Raises
    ------
    MissingDependencyError : that package is not installed.
    ConfigError : its importer has no comparison.
    """
    importer = find_importer(model.file)
    if not hasattr(importer, "original"):
        raise ConfigError(f"there is no comparison with the original of a {importer.KIND}.")
    original = importer.original(model.file, model.choices)
    return [_difference(name, atoms, calculator, original) for name, atoms in structures.items()]


def _difference(
    name: str, atoms: Atoms, calculator: Calculator, original: Calculator
) -> Difference:
    found, expected = atoms.copy(), atoms.copy()
    found.calc, expected.calc = calculator, original
    forces = np.asarray(expected.get_forces(), dtype=np.float64)
    energy = abs(found.get_potential_energy() - float(expected.get_potential_energy()))
    return Difference(
        structure=name,
        n_atoms=len(atoms),
        energy=energy / len(atoms),
        forces=float(np.abs(found.get_forces() - forces).max()),
        largest_force=float(np.abs(forces).max()),
    )
