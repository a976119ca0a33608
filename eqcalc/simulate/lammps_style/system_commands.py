"""Commands that make the system: its box, atoms, elements, potential and first velocities."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.md.md import MolecularDynamics

from eqcalc.errors import ConfigError
from eqcalc.simulate.lammps_style.created_velocities import create_velocities
from eqcalc.simulate.lammps_style.data_file import DataFile, read_data_file, write_data_file
from eqcalc.simulate.lammps_style.thermo_columns import n_dof_of
from eqcalc.simulate.lammps_style.type_elements import elements_by_mass, require_masses
from eqcalc.simulate.lammps_style.unit_system import UnitSystem

__all__ = ["SystemCommands"]

_PRECISIONS = ("model", "float32", "float64")


class SystemCommands:
    """The commands of a script that say what is simulated."""

    def __init__(self, system: UnitSystem):
        self._system = system
        self._boundary = (True, True, True)
        self._data: DataFile | None = None
        self._pair_options: dict[str, Any] | None = None
        self._elements: list[str] | None = None  # of the types, once pair_coeff has said them
        # The integrator of the last run; None where a command made another start.
        self._dynamics: MolecularDynamics | None = None

    @property
    def atoms(self) -> Atoms:
        """The structure, with its calculator, in ASE's units. Change it between runs, if at all.

        Raises
        ------
        ConfigError : no pair_coeff has said which elements the atoms are.
        """
        atoms = self._require_data().atoms
        if atoms.calc is None:
            raise ConfigError(
                "the elements of the atoms and their potential are not known; call "
                "pair_style('eqcalc') and pair_coeff(model, element of type 1, ...) first."
            )
        return atoms

    def boundary(self, x: str, y: str, z: str) -> None:
        """``boundary x y z``: "p" periodic, or "f" fixed; before read_data.

        ASE: ``atoms.pbc``. An atom that leaves the box through a fixed face is an error, as lost
        atoms are in LAMMPS; it is looked for at steps of thermo output. There is no pressure then.

        Raises
        ------
        ConfigError : "s" or "m" (a box that follows the atoms), or after read_data.
        """
        if self._data is not None:
            raise ConfigError("boundary stands before read_data, which makes the box.")
        wrong = [each for each in (x, y, z) if each not in ("p", "f")]
        if wrong:
            raise ConfigError(
                f"boundary '{wrong[0]}' is not supported; known: p (periodic), f (fixed). Boxes "
                "that follow the atoms (s, m) are not ASE's."
            )
        self._boundary = (x == "p", y == "p", z == "p")

    def read_data(self, file: str | Path, atom_style: str = "atomic") -> None:
        """``atom_style STYLE`` and ``read_data FILE``: box, types, masses, positions, velocities.

        ASE: :func:`ase.io.lammpsdata.read_lammps_data`. Positions are those of the images that the
        file's flags name. Charges and molecules are kept and written again; models do not see them.

        Parameters
        ----------
        atom_style : "atomic", "charge" or "full"

        Raises
        ------
        ConfigError : a second read_data; an atom style that is not supported, or not the file's;
            units that are not the file's, where its first line states them.
        StructureError : the file is missing, unreadable or inconsistent, or holds what a model
            cannot know (bonds, coefficients).
        """
        if self._data is not None:
            raise ConfigError("a script reads one data file; make another LammpsScript.")
        data = read_data_file(file, atom_style, self._system)
        data.atoms.pbc = self._boundary
        self._data = data

    def write_data(self, file: str | Path) -> None:
        """``write_data FILE``: the present state, with masses, velocities and image flags.

        Read again it gives the same positions and velocities to rounding.

        Raises
        ------
        ConfigError : no read_data; or ``atoms`` was changed so that its number, elements or masses
            are no longer those of the types.
        OutputError : the file cannot be written; an older one stays as it was.
        """
        data = self._require_data()
        self._require_types(data)
        write_data_file(file, data, self._system)

    def pair_style(self, style: str, *, precision: str = "model", **options: Any) -> None:
        """``pair_style eqcalc precision PRECISION engine ENGINE``.

        Parameters
        ----------
        style : "eqcalc"
        precision : "model" (the file's own), "float32" or "float64"
        options : of :class:`eqcalc.EqCalculator`, such as engine="torchscript" or device="cuda"

        Raises
        ------
        ConfigError : another style or precision, or the precision said twice.
        """
        if style != "eqcalc":
            raise ConfigError(
                f"pair_style '{style}' is not supported; known: eqcalc. For another potential give "
                "pair_coeff its ASE calculator."
            )
        if precision not in _PRECISIONS:
            raise ConfigError(
                f"pair_style eqcalc precision: expected {', '.join(_PRECISIONS)}, found "
                f"'{precision}'."
            )
        if "dtype" in options:
            raise ConfigError("pair_style eqcalc says the precision by the word precision.")
        self._pair_options = {"dtype": None if precision == "model" else precision, **options}

    def pair_coeff(self, model: str | Path | Calculator, *elements: str) -> None:
        """``pair_coeff * * MODEL ELEMENT ...``: the potential, and the elements of the types.

        ASE: ``atoms.calc = EqCalculator(model)``.

        Parameters
        ----------
        model : a shipped model's name or a path; or any ASE calculator, for which LAMMPS has no
            word
        elements : symbols, one a type, in their order; none: by the masses of the data file

        Raises
        ------
        ConfigError : no read_data or pair_style before; elements that are not those of the masses
            (a swap), or masses that two elements have.
        ModelFileError, DeviceError : see :class:`eqcalc.EqCalculator`.
        """
        data = self._require_data()
        masses = data.masses
        named = list(elements) or elements_by_mass(masses)
        require_masses(named, masses)
        if isinstance(model, (str, Path)):
            if self._pair_options is None:
                raise ConfigError("pair_coeff needs pair_style('eqcalc') before it.")
            from eqcalc.calculator import EqCalculator  # torch takes a second to import

            model = EqCalculator(model, **self._pair_options)
        elif self._pair_options not in (None, {"dtype": None}):
            raise ConfigError(
                "pair_style has options, and the calculator that pair_coeff was given has its own; "
                "give the calculator those, or pair_coeff a model."
            )
        data.atoms.set_chemical_symbols([named[number - 1] for number in data.types])
        data.atoms.set_masses(masses[data.types - 1])
        data.atoms.calc = model
        self._elements = named
        self._dynamics = None

    def velocity_create(
        self, temp: float, seed: int, *, dist: str = "uniform", mom: bool = True
    ) -> None:
        """``velocity all create TEMP SEED dist DIST mom MOM``: LAMMPS's own numbers.

        For one seed the velocities are those of LAMMPS (``loop all``, ``rot no``) up to 1e-6 of
        each: the constants differ. With ``dist="gaussian"`` they are distributed like those of
        :func:`ase.md.velocitydistribution.MaxwellBoltzmannDistribution`. The state of a Nosé-Hoover
        chain starts afresh.

        Parameters
        ----------
        temp : K, exact for 3 n_atoms - 3 degrees of freedom
        seed : 1 to 2^31 - 2
        dist : "uniform" (LAMMPS's default) or "gaussian"
        mom : take out the momentum of the whole

        Raises
        ------
        ConfigError : no read_data, or a value that is out of range.
        """
        atoms = self._require_data().atoms
        create_velocities(atoms, temp, seed, n_dof_of(atoms), dist=dist, mom=mom)
        self._dynamics = None

    def _require_types(self, data: DataFile) -> None:
        """Refuse atoms that are no longer those of their types."""
        atoms, types = data.atoms, data.types
        if len(atoms) != len(types):
            raise ConfigError(
                f"write_data: the structure has {len(atoms)} atoms, and {len(types)} were read, "
                "whose types alone are known; write it with write_data(path, atoms, elements) of "
                "eqcalc.simulate.lammps_style."
            )
        if self._elements is None:
            return
        other = np.flatnonzero(
            (np.array(self._elements)[types - 1] != np.array(list(atoms.symbols)))
            | (data.masses[types - 1] != atoms.get_masses())
        )
        if len(other) > 0:
            k = int(other[0])
            raise ConfigError(
                f"write_data: atom {k} is {atoms.symbols[k]} ({atoms.get_masses()[k]:g} amu), and "
                f"its type {types[k]} is {self._elements[types[k] - 1]} "
                f"({data.masses[types[k] - 1]:g} amu); write the structure with "
                "write_data(path, atoms, elements) of eqcalc.simulate.lammps_style."
            )

    def _require_data(self) -> DataFile:
        if self._data is None:
            raise ConfigError("there are no atoms yet; call read_data(file) first.")
        return self._data
