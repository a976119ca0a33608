"""Open files of structures with ASE: which kinds are read, and all of their frames."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.io.formats import UnknownFileTypeError, filetype, open_with_compression

from eqcalc.data.hdf5_file import load_hdf5, require_h5py
from eqcalc.errors import DataError, did_you_mean
from eqcalc.extxyz import entries_of_comment, fault_in_extxyz

__all__ = ["ASE_FORMATS", "COMPRESSED", "OUTPUT_FORMATS", "format_of", "load_frames"]

ASE_FORMATS: dict[str, str] = {
    ".xyz": "extxyz",
    ".extxyz": "extxyz",
    ".traj": "traj",
    ".db": "db",
    ".json": "db",
    ".h5": "hdf5",
}
"""Suffix -> how ASE reads it, but for HDF5, which is read here. The format is fixed because
ASE's own guess from a file's content can end in a reader that unpickles."""

OUTPUT_FORMATS: dict[str, str] = {
    "vasp-out": "OUTCAR",
    "vasp-xml": "vasprun.xml",
    "espresso-out": "Quantum ESPRESSO",
    "aims-output": "FHI-aims",
    "orca-output": "ORCA",
    "gaussian-out": "Gaussian",
    "castep-castep": "CASTEP",
    "castep-md": "CASTEP .md",
    "castep-geom": "CASTEP .geom",
    "nwchem-out": "NWChem",
    "gamess-us-out": "GAMESS",
    "gpaw-out": "GPAW",
    "onetep-out": "ONETEP",
}
"""ASE's readers of what codes print, with energies: text alone, nothing that unpickles, and all in
eV and Å. Not among them are Qbox, of which ASE converts no number, and ABINIT, of whose cell it
takes a part."""

COMPRESSED = (".gz", ".bz2", ".xz")

_NAMES = {"*outcar*": "vasp-out", "*vasp*.xml": "vasp-xml"}


def format_of(path: Path) -> str:
    """Return how ASE reads a file, by its name or by what a code prints at its head.

    Raises
    ------
    DataError : it is none of the known kinds.
    """
    name = path.name.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    suffix = Path(name).suffix
    found = ASE_FORMATS.get(suffix)
    if found is None:
        found = next((v for k, v in _NAMES.items() if fnmatch.fnmatch(name, k)), None)
    if found is None:
        try:
            found = filetype(str(path), read=True, guess=False)
        except (UnknownFileTypeError, OSError, UnicodeDecodeError, EOFError):
            found = None
        found = found if found in OUTPUT_FORMATS else None
    if found is None or (found in ("db", "hdf5") and name != path.name.lower()):
        known = [".npz", *ASE_FORMATS]
        raise DataError(
            f"data file {path} has the suffix '{Path(path.name.lower()).suffix}'; known are "
            f"{', '.join(known)}, {', '.join(COMPRESSED)} of text files, and outputs of codes: "
            f"{', '.join(OUTPUT_FORMATS.values())}." + did_you_mean(suffix, known)
        )
    return found


def load_frames(path: Path, kind: str) -> list[Atoms]:
    """Return every frame of a file.

    Raises
    ------
    DataError : the file is damaged, or holds no frames.
    MissingDependencyError : it is HDF5, and h5py cannot be imported.
    """
    if kind == "hdf5":
        require_h5py()  # whose absence is no fault of the file
    try:
        fault = None
        if kind == "extxyz":
            fault = fault_in_extxyz(path)
        elif kind == "gaussian-out":
            fault = _fault_in_gaussian(path)
        if kind == "db":
            frames = list(_from_database(path))
        elif kind == "hdf5":
            frames = load_hdf5(path)
        elif fault is not None:
            raise DataError(f"{path}: {fault}.")
        else:
            options: dict[str, Any] = (
                {"properties_parser": _entries_of_line} if kind == "extxyz" else {}
            )
            images = ase.io.read(path, index=":", format=kind, **options)
            frames = images if isinstance(images, list) else [images]
    except DataError:
        raise
    # ASE's parsers let through whatever a damaged file makes them stumble over.
    except Exception as error:
        raise DataError(
            f"{path} cannot be read as {kind} ({type(error).__name__}: {error}); "
            "it may be truncated or another kind of file."
        ) from error
    if not frames:
        raise DataError(f"{path} holds no frames.")
    return frames


def _entries_of_line(line: str) -> dict[str, Any]:
    """Read a frame's line of extxyz as ASE does, but keep a stress that is not symmetric whole.

    Of a matrix ASE takes the upper triangle; nine numbers in a row it leaves alone, and who reads
    labels refuses them.
    """
    entries = entries_of_comment(line)
    stress = entries.get("stress")
    if isinstance(stress, np.ndarray) and not np.array_equal(stress, stress.T):
        entries["stress"] = stress.ravel()
    return entries


def _from_database(path: Path) -> Iterable[Atoms]:
    for row in ase.db.connect(path).select():
        atoms = row.toatoms()
        atoms.info.update(row.data)
        atoms.info.update(row.key_value_pairs)
        yield atoms


def _fault_in_gaussian(path: Path) -> str | None:
    """Return what is wrong with forces of a Gaussian log, which are in the input's orientation.

    ASE takes the positions that stand first, and of a log without that orientation those that
    Gaussian has turned.
    """
    with open_with_compression(str(path), "rt") as file:
        text = file.read()
    turned = "Standard orientation:" in text and "Input orientation:" not in text
    if not turned or "Forces (Hartrees/Bohr)" not in text:
        return None
    return (
        "Gaussian printed positions in its standard orientation alone, and forces in that of the "
        "input: they do not belong together. Run it with NoSymm, or with #P, which prints both"
    )
