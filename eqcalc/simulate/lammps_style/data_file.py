"""LAMMPS data files: read with ASE's reader and held against their own header, and written.

ASE's reader takes what it finds: it guesses elements by the nearest mass, fills in a box that is
not there, and lets sections pass that change what LAMMPS would compute (bonds exclude pairs of
neighbours). What it would get wrong is refused here.

A LAMMPS box is a cell whose vectors have no y and z (the first) and no z (the second) component.
Such a cell stays as it is, and so do positions and velocities; another one, of an ASE structure,
is turned by :class:`ase.calculators.lammps.Prism` with positions and velocities.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.io.lammpsdata import read_lammps_data
from numpy.typing import NDArray

from eqcalc.elements import atomic_number
from eqcalc.errors import ConfigError, StructureError, did_you_mean, listing
from eqcalc.files import write_whole
from eqcalc.simulate.lammps_style.unit_system import UnitSystem, unit_system

__all__ = ["ATOM_STYLES", "DataFile", "read_data_file", "write_data", "write_data_file"]

ATOM_STYLES = ("atomic", "charge", "full")

_READ = ("Masses", "Atoms", "Velocities")
# Sections whose meaning a model does not know. Topology excludes neighbours in LAMMPS.
_TOPOLOGY = ("Bonds", "Angles", "Dihedrals", "Impropers")
_COEFFICIENTS = re.compile(r"(Pair|PairIJ|Bond|Angle|Dihedral|Improper|\w+) Coeffs")
_SECTION = re.compile(r"[A-Z][A-Za-z0-9]*( [A-Z0-9][A-Za-z0-9]*)*")
# What ASE's reader raises on lines that are too few, too short or no numbers.
_READER_ERRORS = (LookupError, RuntimeError, StopIteration, TypeError, ValueError)
_UNIT_SYSTEMS = ("lj", "real", "metal", "si", "cgs", "electron", "micro", "nano")  # of LAMMPS
_BOUNDS = ("xlo xhi", "ylo yhi", "zlo zhi")


@dataclass
class DataFile:
    """What a data file holds: a box of atoms that have types.

    Parameters
    ----------
    atoms : in the order of their ids 1 ... n; positions (Å) with the images that their flags say,
        velocities where the file has them, charges in ``initial_charges``, molecules in
        ``mol-id``. Its atomic numbers are the types, until elements are known.
    types : (n_atoms,) from 1
    masses : (n_types,) amu
    origin : (3,) Å, the corner (xlo, ylo, zlo) of the box
    atom_style : "atomic", "charge" or "full"
    """

    atoms: Atoms
    types: NDArray[np.int64]
    masses: NDArray[np.float64]
    origin: NDArray[np.float64]
    atom_style: str


def read_data_file(path: str | Path, atom_style: str, system: UnitSystem) -> DataFile:
    """Read a data file.

    Raises
    ------
    ConfigError : an atom style that is not supported, or not the file's; units that are not the
        file's, where it states them.
    StructureError : the file is missing, unreadable or inconsistent, or has a section that no
        model knows.
    """
    _require_atom_style(atom_style)
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StructureError(f"cannot read the data file '{path}': {error}.") from error
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    _check_sections(path, text, lines, atom_style)
    _check_units(path, text, system)
    n_atoms, n_types = _count(path, lines, "atoms"), _count(path, lines, "atom types")
    origin = _corner(path, lines)
    masses = _read_masses(path, lines, n_types)
    try:
        atoms = read_lammps_data(
            io.StringIO(text),
            Z_of_type={number: number for number in range(1, n_types + 1)},
            units=system.name,
            atom_style=atom_style,
        )
    except _READER_ERRORS as error:
        raise StructureError(
            f"cannot read the data file '{path}' with atom_style {atom_style}: "
            f"{type(error).__name__}: {error}. Expected {n_atoms} lines of Atoms, and as many of "
            "Velocities where there are any."
        ) from error
    _check_atoms(path, atoms, n_atoms)
    types = atoms.arrays.pop("type")
    del atoms.arrays["id"]
    atoms.arrays.pop("mmcharges", None)
    atoms.set_celldisp(origin)
    atoms.info.clear()
    # ASE's amu of LAMMPS differs from its own by 1e-10; both are g/mol.
    momenta = atoms.get_velocities() * masses[types - 1][:, None]
    atoms.set_masses(masses[types - 1])
    atoms.set_momenta(momenta)
    return DataFile(atoms, types, masses, origin, atom_style)


def write_data_file(path: str | Path, data: DataFile, system: UnitSystem) -> None:
    """Write a data file, with masses, velocities and image flags, that reads back as it is.

    Positions are put into the box along periodic directions, and the flags say from where.

    Raises
    ------
    ConfigError : there is no box, or a left-handed one.
    OutputError : the file cannot be written; an older one stays as it was.
    """
    atoms = data.atoms
    cell, corner, positions, velocities = _lammps_frame(atoms, data.origin)
    inside = np.linalg.solve(cell.T, (positions - corner).T).T  # (n_atoms, 3) fractions
    flags = np.where(atoms.pbc, np.floor(inside), 0.0).astype(int)
    positions = positions - flags @ cell
    lines = [
        f"LAMMPS data file written by eqcalc, units {system.name}",
        "",
        f"{len(atoms)} atoms",
        f"{len(data.masses)} atom types",
        "",
    ]
    lines += [
        f"{_numbers(np.array([low, low + length]))} {names}"
        for low, length, names in zip(corner, np.diag(cell), _BOUNDS, strict=True)
    ]
    tilt = cell[[1, 2, 2], [0, 0, 1]]
    if tilt.any():
        lines.append(f"{_numbers(tilt)} xy xz yz")
    lines += ["", "Masses", ""]
    lines += [f"{number} {float(mass)!r}" for number, mass in enumerate(data.masses, start=1)]
    lines += ["", f"Atoms # {data.atom_style}", ""]
    charges = atoms.get_initial_charges()
    molecules = atoms.arrays.get("mol-id", np.zeros(len(atoms), dtype=int))
    for index, number in enumerate(data.types):
        middle = {
            "atomic": f"{number}",
            "charge": f"{number} {float(charges[index])!r}",
            "full": f"{molecules[index]} {number} {float(charges[index])!r}",
        }[data.atom_style]
        images = " ".join(map(str, flags[index]))
        lines.append(f"{index + 1} {middle} {_numbers(positions[index])} {images}")
    lines += ["", "Velocities", ""]
    rows = velocities / system.velocity
    lines += [f"{index} {_numbers(row)}" for index, row in enumerate(rows, start=1)]
    write_whole(Path(path), ("\n".join(lines) + "\n").encode())


def write_data(
    path: str | Path,
    atoms: Atoms,
    elements: Sequence[str],
    *,
    units: str = "metal",
    atom_style: str = "atomic",
) -> None:
    """Write an ASE structure as a LAMMPS data file with masses and velocities.

    A cell that is no LAMMPS box is turned, and positions and velocities with it: energies stay,
    directions in space do not. The box begins where the cell does (``atoms.get_celldisp()``).

    Parameters
    ----------
    elements : symbols in the order of the types, as ``pair_coeff`` will name them; all atoms
        of one element need one mass
    units : "metal" or "real"
    atom_style : "atomic", "charge" or "full"; charges are the initial charges

    Raises
    ------
    ConfigError : an element is not among ``elements``, or named twice, or its atoms differ in
        mass; a unit system or atom style that is not supported; no box, or a left-handed one.
    OutputError : the file cannot be written.
    """
    system = unit_system(units)
    _require_atom_style(atom_style)
    numbers = [atomic_number(element) for element in elements]
    if len(set(numbers)) < len(numbers):
        raise ConfigError(f"elements are named twice: {' '.join(elements)}.")
    absent = sorted(set(atoms.symbols) - set(elements))
    if absent:
        raise ConfigError(
            f"the structure has {', '.join(absent)}, which is not among the elements "
            f"{' '.join(elements)}; name every element, in the order of the types."
        )
    types = np.array([numbers.index(number) + 1 for number in atoms.numbers])
    masses = Atoms(numbers).get_masses()
    for number in range(1, len(numbers) + 1):
        found = np.unique(atoms.get_masses()[types == number])
        if len(found) > 1:
            raise ConfigError(
                f"atoms of {elements[number - 1]} have the masses {listing(found.tolist())}; a "
                "LAMMPS type has one mass: set one with atoms.set_masses()."
            )
        masses[number - 1] = found[0] if len(found) else masses[number - 1]
    data = DataFile(atoms, types, masses, atoms.get_celldisp().ravel(), atom_style)
    write_data_file(path, data, system)


def _numbers(row: NDArray[np.float64]) -> str:
    """Return numbers in as many digits as give them back."""
    return " ".join(repr(float(value)) for value in row)


def _require_atom_style(atom_style: str) -> None:
    if atom_style not in ATOM_STYLES:
        raise ConfigError(
            f"atom_style '{atom_style}' is not supported; known: {', '.join(ATOM_STYLES)}."
            + did_you_mean(str(atom_style), ATOM_STYLES)
        )


def _lammps_frame(atoms: Atoms, corner: NDArray[np.float64]) -> tuple[Any, Any, Any, Any]:
    """Return cell, its corner, positions and velocities, turned if the cell is no LAMMPS box."""
    cell = np.asarray(atoms.cell)
    volume = np.linalg.det(cell)
    if abs(volume) < 1e-9:
        raise ConfigError(
            "a LAMMPS data file needs a box, and the structure has no cell with a volume; give it "
            "one (atoms.center(vacuum=10.0))."
        )
    if volume < 0:
        raise ConfigError(
            "the cell is left-handed, and LAMMPS boxes are right-handed: turning it would mirror "
            "the structure; exchange two of its vectors first."
        )
    if not cell[[0, 0, 1], [1, 2, 2]].any() and (np.diag(cell) > 0).all():
        return cell, corner, atoms.positions, atoms.get_velocities()
    prism = Prism(cell)
    return (
        prism.cell,
        prism.vector_to_lammps(corner),
        prism.vector_to_lammps(atoms.positions),
        prism.vector_to_lammps(atoms.get_velocities()),
    )


def _check_sections(path: Path, text: str, lines: list[str], atom_style: str) -> None:
    found = [line for line in lines[1:] if _SECTION.fullmatch(line)]
    topology = [name for name in found if name in _TOPOLOGY]
    if topology:
        raise StructureError(
            f"'{path}' has {', '.join(topology)}: a model takes no topology, and LAMMPS would "
            "leave bonded pairs out of its neighbour lists; delete these sections and their counts."
        )
    if any(_COEFFICIENTS.fullmatch(name) for name in found):
        raise StructureError(
            f"'{path}' holds coefficients of another force field; write it with the option nocoeff "
            "(LAMMPS: write_data FILE nocoeff)."
        )
    strange = [name for name in found if name not in _READ]
    if strange:
        raise StructureError(
            f"'{path}' has the section '{strange[0]}', which is not supported; known: "
            f"{', '.join(_READ)}. Types are numbers (LAMMPS: write_data FILE types numeric)."
        )
    for name in ("Atoms", "Masses"):
        if found.count(name) != 1:
            raise StructureError(
                f"'{path}' has {found.count(name)} sections '{name}' where one is needed: masses "
                "tell the elements."
            )
    stated = re.search(r"^\s*Atoms\s*#\s*(\w+)", text, re.MULTILINE)
    if stated and stated[1] != atom_style:
        raise ConfigError(
            f"'{path}' says atom_style {stated[1]}, and read_data was told {atom_style}; the "
            "columns mean other things."
        )
    if any(line.endswith(("avec", "bvec", "cvec")) for line in lines):
        raise StructureError(
            f"'{path}' has a general triclinic box (avec, bvec, cvec); write it as xlo xhi, ylo "
            "yhi, zlo zhi and xy xz yz."
        )


def _check_units(path: Path, text: str, system: UnitSystem) -> None:
    """Refuse a file whose first line says other units, as LAMMPS and :func:`write_data` write."""
    stated = re.search(r"\bunits\s*=?\s*(\w+)\s*$", text.partition("\n")[0])
    if stated and stated[1] in _UNIT_SYSTEMS and stated[1] != system.name:
        raise ConfigError(
            f"'{path}' says units {stated[1]}, and the script has units {system.name}: velocities "
            "mean other things. Take LammpsScript(units=...) of the file."
        )


def _count(path: Path, lines: list[str], what: str) -> int:
    for line in lines[1:]:
        if re.fullmatch(rf"\d+ +{what}", line):
            return int(line.split()[0])
    raise StructureError(f"the header of '{path}' has no line 'N {what}'.")


def _corner(path: Path, lines: list[str]) -> NDArray[np.float64]:
    """Return (xlo, ylo, zlo)."""
    corner = []
    for names in _BOUNDS:
        bounds = [line.split()[:2] for line in lines[1:] if line.split()[2:] == names.split()]
        try:
            low, high = (float(value) for value in bounds[0])
        except (IndexError, ValueError):
            raise StructureError(
                f"the header of '{path}' has no line 'LOW HIGH {names}'."
            ) from None
        if not (np.isfinite([low, high]).all() and low < high):
            raise StructureError(
                f"'{path}': {names} must be finite and grow, not {low:g} {high:g}."
            )
        corner.append(low)
    return np.array(corner)


def _read_masses(path: Path, lines: list[str], n_types: int) -> NDArray[np.float64]:
    below = [line for line in lines[lines.index("Masses") + 1 :] if line]
    masses: dict[str, float] = {}
    for line in below[:n_types]:
        number, _, mass = line.partition(" ")
        try:
            masses[number] = float(mass)
        except ValueError:
            break
    expected = [str(number) for number in range(1, n_types + 1)]
    values = np.array([masses.get(number, np.nan) for number in expected])
    if sorted(masses) != sorted(expected) or not (values > 0).all():
        raise StructureError(
            f"the section Masses of '{path}' must give a mass above 0 to each of the types 1 to "
            f"{n_types}, found {listing(below[:n_types])}."
        )
    return values


def _check_atoms(path: Path, atoms: Atoms, n_atoms: int) -> None:
    ids = atoms.arrays["id"]
    if n_atoms < 2:
        raise StructureError(
            f"'{path}' has {n_atoms} atoms; LAMMPS counts 3 n - 3 degrees of freedom, so two atoms "
            "are the fewest that have a temperature."
        )
    if not np.array_equal(ids, np.arange(1, n_atoms + 1)):
        raise StructureError(
            f"the ids of the atoms in '{path}' must be 1 to {n_atoms}, each once (LAMMPS: "
            "reset_atoms id)."
        )
    for what, values in (("positions", atoms.positions), ("velocities", atoms.get_velocities())):
        wrong = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(wrong):
            raise StructureError(
                f"'{path}' has {what} that are NaN or infinite: atoms "
                f"{listing((wrong + 1).tolist())} (ids)."
            )
