"""Read the structure a run starts from."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.io.trajectory import Trajectory
from ase.neighborlist import neighbor_list

from eqcalc.elements import N_ELEMENTS, first_other_mass
from eqcalc.errors import HalfFrameWarning, StructureError
from eqcalc.extxyz import entries_of_comment, fault_in_extxyz
from eqcalc.simulate.frame_content import restore_constraints, restore_origin
from eqcalc.simulate.guessed_elements import (
    read_pdb,
    refuse_guessed_elements,
    settle_positions,
    settle_velocities,
)
from eqcalc.simulate.half_frames import is_of_a_run, open_traj, whole_part

__all__ = ["count_structures", "read_structure", "read_structures", "refuse_other_atoms"]

_FULL = 0.999  # occupancy; files round
_ONE_PLACE = 0.1  # Å; nuclei are never so near, copies of a rounded place are
_MASS_NAMES = ("mass", "atom_mass", "atom_masses", "atomic_mass", "atomic_masses", "isotope_mass")
_MOST_BYTES = 20_000_000  # of a file that is read a second time, to count what it holds

_HEAD = 4096  # bytes, in which the header of a data file of LAMMPS has begun
_COUNTS_OF_LAMMPS = re.compile(rb"^\s*\d+\s+atom types", re.MULTILINE)
_EXTXYZ = re.compile(r"\.(ext)?xyz(\.(gz|bz2|xz))?$", re.IGNORECASE)
_FORMATS = "extxyz, xyz, traj, cif, POSCAR/CONTCAR, pdb and the other formats that ASE reads"


def read_structure(path: str | Path, index: int = -1) -> Atoms:
    """Return one structure of a file.

    Parameters
    ----------
    path : any format that ASE recognises by name or content
    index : which structure of a file that holds several, as ASE counts: 0 is the first, -1 the
        last

    Raises
    ------
    StructureError : the file is missing, empty or unreadable, has no structure
        with that index, or the structure has no atoms.
    """
    path = Path(path)
    if index in (0, -1):
        (atoms,) = _read(path, index, "" if index == -1 else f" (index {index})")
        return atoms
    # ASE's readers give the first frame for an index before it, and some ignore the index.
    n_structures = count_structures(path)
    if not n_structures:  # unreadable or without any, which this says, or large
        every = _read(path, ":", f" (index {index})")
        _require_frame(path, index, len(every))
        return every[index]
    _require_frame(path, index, n_structures)
    # From the end ASE would count a frame of a killed run that is no whole one.
    (atoms,) = _read(path, index % n_structures, f" (index {index})")
    return atoms


def _require_frame(path: Path, index: int, n_structures: int) -> None:
    if not -n_structures <= index < n_structures:
        has = f"has {n_structures} frames" if n_structures > 1 else "has one frame"
        raise StructureError(
            f"'{path}' {has} and none with the index {index}: 0 is the first, "
            f"{n_structures - 1} or -1 the last."
        )


def read_structures(path: str | Path) -> list[Atoms]:
    """Return all structures of a file, in its order.

    Raises
    ------
    StructureError : the file is missing, empty or unreadable, or one of its structures is
        disordered or has no atoms.
    """
    return _read(Path(path), ":", "")


def _read(path: Path, index: int | str, which: str) -> list[Atoms]:
    if not path.exists():
        raise StructureError(
            f"no structure file '{path}'; expected a path to {_FORMATS}.{_trajectory_beside(path)}"
        )
    if path.is_dir():
        raise StructureError(f"'{path}' is a folder; expected a structure file ({_FORMATS}).")
    try:
        if path.stat().st_size == 0:
            raise StructureError(f"the structure file '{path}' is empty.")
        _refuse_lammps_data(path)
        found = _read_with_ase(path, index)
    except StructureError:
        raise
    except StopIteration:  # ASE's readers, of a file that ends before its first frame
        found = []
    except Exception as error:  # ASE's readers raise what they like: ParseError, zlib.error, ...
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        if isinstance(error, KeyError) and error.args in (("D",), ("T",)):
            reason = (
                f"'{error.args[0]}' is {'deuterium' if error.args == ('D',) else 'tritium'}, which "
                "is no element of its own: write H, and give its mass (a column 'masses')"
            )
        elif isinstance(error, KeyError) and len(error.args) == 1:
            reason = f"'{error.args[0]}' is no element or entry that ASE knows"
        raise StructureError(
            f"cannot read a structure from '{path}'{which}: {reason}. Readable are {_FORMATS}; "
            "the suffix must tell which it is."
        ) from error
    structures = found if isinstance(found, list) else [found]
    if not structures:
        raise StructureError(f"'{path}' holds no structure.")
    for atoms in structures:
        if not isinstance(atoms, Atoms) or len(atoms) == 0:
            raise StructureError(f"the structure in '{path}' has no atoms.")
        _refuse_no_numbers(atoms, path)
        refuse_other_atoms(atoms, path)
        settle_positions(path, atoms)
        settle_velocities(path, atoms)
        restore_constraints(atoms)
        restore_origin(atoms)
    return structures


def _read_with_ase(path: Path, index: int | str) -> Atoms | list[Atoms]:
    """Read a file; of a killed run's trajectory what is whole, with a HalfFrameWarning."""
    if not is_of_a_run(path):
        if _EXTXYZ.search(path.name):
            fault = fault_in_extxyz(path)
            if fault is not None:
                raise StructureError(f"cannot read a structure from '{path}': {fault}.")
            return ase.io.read(
                path, index=index, format="extxyz", properties_parser=entries_of_comment
            )
        found = read_pdb(path, index)
        return ase.io.read(path, index=index) if found is None else found
    if path.suffix == ".xyz":
        whole = whole_part(path)
        return ase.io.read(path if whole is None else whole, index=index, format="extxyz")
    try:
        return ase.io.read(path, index=index)
    except Exception:  # as in _read
        with open_traj(path) as (trajectory, n_whole):
            every = range(n_whole)
            if isinstance(index, str):
                return [trajectory[k] for k in every]
            return trajectory[every[index]]


def count_structures(path: Path) -> int | None:
    """Return how many structures a readable file holds; None where telling takes too long.

    Of a killed run's trajectory those that are whole.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", HalfFrameWarning)  # it has been said at reading
            if path.suffix == ".traj":  # knows it without reading them
                return _count_of_traj(path)
            if path.stat().st_size > _MOST_BYTES:
                return None
            return len(_read_with_ase(path, ":"))
    except Exception:  # as in _read; reading will say what is wrong
        return None


def _count_of_traj(path: Path) -> int:
    if is_of_a_run(path):
        with open_traj(path) as (_, n_whole):
            return n_whole
    with Trajectory(path) as trajectory:
        return len(trajectory)


def _trajectory_beside(path: Path) -> str:
    """Return where the frames of a run are that was killed before it wrote its last structure."""
    if path.name not in ("final.xyz", "relaxed.xyz"):
        return ""
    for name in ("trajectory.traj", "trajectory.xyz"):
        trajectory = path.parent / name
        if trajectory.exists() and is_of_a_run(trajectory):
            return f" The run did not end; its frames are in '{trajectory}'."
    return ""


def _refuse_lammps_data(path: Path) -> None:
    """Refuse what ASE takes for a file of RuNNer, or for none, and whose elements are numbers."""
    if path.suffix not in (".data", ".lmp", ".lammps") and not path.name.startswith("data."):
        return
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if _COUNTS_OF_LAMMPS.search(head):
        raise StructureError(
            f"'{path}' is a data file of LAMMPS, which does not say its units and elements. Run it "
            "by LammpsScript.read_data, or make an extxyz of it: ase.io.read(FILE, "
            "format='lammps-data', units=..., atom_style=...) and look at its elements."
        )


def _refuse_no_numbers(atoms: Atoms, path: Path) -> None:
    """Refuse what a file may say and no structure has, before a calculation names it otherwise."""
    for name, values in (
        ("positions", atoms.positions),
        ("cell", atoms.cell.array),
        ("momenta", atoms.get_momenta()),
        ("masses", atoms.arrays.get("masses", 0.0)),
    ):
        if not np.isfinite(values).all():
            raise StructureError(f"the {name} in '{path}' hold NaN or infinity; mend the file.")
    strange = atoms.numbers[(atoms.numbers < 0) | (atoms.numbers >= N_ELEMENTS)]
    if len(strange) > 0:
        raise StructureError(
            f"'{path}' has atomic numbers of no element, such as {strange[0]}; it may be damaged."
        )


def refuse_other_atoms(atoms: Atoms, path: Path) -> None:
    """Refuse a structure whose atoms are not those of its file.

    Raises
    ------
    StructureError : elements are guessed, masses stand where they are not read, sites are
        shared, or symmetry has made several atoms of one.
    """
    refuse_guessed_elements(path, atoms)
    _refuse_other_masses(atoms, path)
    _refuse_disorder(atoms, path)
    _refuse_copies_of_a_site(atoms, path)


def _refuse_other_masses(atoms: Atoms, path: Path) -> None:
    """Refuse masses in a column that ASE does not take them from: deuterium would be hydrogen."""
    taken = atoms.get_masses()
    for name, values in atoms.arrays.items():
        is_number = np.issubdtype(values.dtype, np.number)
        if name.lower() not in _MASS_NAMES or values.shape != taken.shape or not is_number:
            continue
        atom = first_other_mass(values, taken)
        if atom is not None:
            raise StructureError(
                f"'{path}' has a column '{name}' with {values[atom]:g} for atom {atom}, whose mass "
                f"is taken to be {taken[atom]:g} amu; call the column 'masses' (amu) to have it "
                "used, or remove it."
            )


def _refuse_disorder(atoms: Atoms, path: Path) -> None:
    """Refuse sites that are shared or partly empty: one structure cannot say that."""
    partly = np.asarray(atoms.arrays.get("occupancy", 1.0), dtype=float)
    for atom in np.flatnonzero((partly > 0.0) & (partly < _FULL)):  # 0 is written for unknown
        raise StructureError(
            f"'{path}' is disordered: atom {atom} has the occupancy {partly[atom]:g}. A simulation "
            "needs whole atoms: keep one place of each and remove the others."
        )
    sites: Any = atoms.info.get("occupancy")
    if not isinstance(sites, dict):
        return
    for site, shares in sites.items():
        if not isinstance(shares, dict):
            continue
        numbers = [share for share in shares.values() if isinstance(share, (int, float))]
        if len(shares) > 1 or len(numbers) < len(shares) or sum(numbers) < _FULL:
            found = ", ".join(f"{share} {symbol}" for symbol, share in shares.items())
            raise StructureError(
                f"'{path}' is disordered: site {site} has the occupancy {found}. A simulation "
                "needs whole atoms: choose one arrangement (a supercell with atoms placed and "
                "removed) and run that."
            )


def _refuse_copies_of_a_site(atoms: Atoms, path: Path) -> None:
    """Refuse atoms that symmetry makes beside others of their site, where 1/3 is written 0.333."""
    sites = atoms.arrays.get("spacegroup_kinds")
    if sites is None or atoms.cell.rank < 3:
        return
    i, j, distances = neighbor_list("ijd", atoms, _ONE_PLACE)
    one_site = (sites[i] == sites[j]) & (i < j)
    if not one_site.any():
        return
    first, second, apart = (array[one_site][0] for array in (i, j, distances))
    n_copies = len(np.unique(j[one_site]))
    raise StructureError(
        f"'{path}' has {n_copies} atoms too many: symmetry makes several of one, such as "
        f"{atoms.symbols[first]} {first} and {second}, {apart:.2g} Å apart, where the coordinates "
        "of a special position are rounded (0.333 for 1/3). Write them with more digits (0.33333)."
    )
