"""Frames in one HDF5 file: eqcalc's own layout, of which nothing is believed unchecked.

The first 512 bytes, HDF5's user block, say ``eqcalc frames 1`` and the SHA-256 of all that follows;
it is compared before the HDF5 library sees a byte. At the root stand plain arrays, whose rows are
those of all frames one after the other:

=============================  ==================  ==========================================
name                           shape               holds
=============================  ==================  ==========================================
n_atoms                        (n_frames,)         int64
numbers                        (n_all,)            int64, atomic numbers
positions                      (n_all, 3)          float64, Å
cell, pbc                      (n_frames, 3, 3),   float64, Å, rows are vectors; uint8
                               (n_frames, 3)
energy                         (n_frames,)         float64, eV
forces (or none)               (n_all, 3)          float64, eV/Å; NaN in a frame without
stress (or none)               (n_frames, 6)       float64, eV/Å³, Voigt; NaN in a frame without
info                           (n_bytes,)          uint8, JSON: an array of one object a frame
=============================  ==================  ==========================================

They are contiguous, uncompressed and in the file itself, so that no array is larger than the file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from eqcalc.elements import N_ELEMENTS
from eqcalc.errors import DataError, import_extra, listing

__all__ = ["HEADER_BYTES", "load_hdf5", "require_h5py", "save_hdf5", "stamp"]

HEADER_BYTES = 512
_MAGIC = b"eqcalc frames 1\n"
_MOST_NAMES = 64
_ANI = {"coordinates", "species", "energies"}

# Name -> dtype, and shape behind the first direction.
_ARRAYS: dict[str, tuple[str, tuple[int, ...]]] = {
    "n_atoms": ("int64", ()),
    "numbers": ("int64", ()),
    "positions": ("float64", (3,)),
    "cell": ("float64", (3, 3)),
    "pbc": ("uint8", (3,)),
    "energy": ("float64", ()),
    "forces": ("float64", (3,)),
    "stress": ("float64", (6,)),
    "info": ("uint8", ()),
}
_OPTIONAL = {"forces", "stress"}
_PER_ATOM = {"numbers", "positions", "forces"}


def require_h5py() -> Any:
    """Return h5py.

    Raises
    ------
    MissingDependencyError : it cannot be imported.
    """
    return import_extra("h5py", "hdf5", "an HDF5 file")


def save_hdf5(
    path: Path,
    images: Sequence[Atoms],
    infos: Sequence[Mapping[str, Any]],
) -> None:
    """Write frames with the results of their calculators: energy, forces and stress.

    Parameters
    ----------
    infos : one a frame; what JSON cannot hold is left out
    """
    h5py = require_h5py()
    results = [atoms.calc.results for atoms in images]
    arrays = {
        "n_atoms": [len(atoms) for atoms in images],
        "numbers": np.concatenate([atoms.numbers for atoms in images]),
        "positions": np.concatenate([atoms.positions for atoms in images]),
        "cell": [atoms.cell.array for atoms in images],
        "pbc": [atoms.pbc for atoms in images],
        "energy": [each["energy"] for each in results],
        "info": np.frombuffer(json.dumps([_as_json(info) for info in infos]).encode(), np.uint8),
    }
    if any("forces" in each for each in results):
        none = [np.full((len(atoms), 3), np.nan) for atoms in images]
        arrays["forces"] = np.concatenate(
            [each.get("forces", lacking) for each, lacking in zip(results, none, strict=True)]
        )
    if any("stress" in each for each in results):
        arrays["stress"] = [each.get("stress", np.full(6, np.nan)) for each in results]
    with h5py.File(path, "w", userblock_size=HEADER_BYTES) as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=np.asarray(values, _ARRAYS[name][0]))
    stamp(path)


def stamp(path: Path) -> None:
    """Write the header of a file whose HDF5 part is complete."""
    header = _header(path)
    with path.open("r+b") as file:
        file.write(header)


def load_hdf5(path: Path) -> list[Atoms]:
    """Return every frame of a file, labels as the results of a calculator.

    Raises
    ------
    DataError : another layout, a damaged file, or arrays that are not plain or do not fit.
    """
    h5py = require_h5py()
    with path.open("rb") as stream:
        found = stream.read(HEADER_BYTES)
    if not found.startswith(_MAGIC):
        raise DataError(_foreign(path, h5py))
    if found != _header(path):
        raise DataError(
            f"{path} is damaged: its checksum is not that of its content; it may be truncated. "
            "Fetch or convert it again."
        )
    with h5py.File(path, "r") as file:
        return _frames(_arrays(file, path, h5py), path)


def _header(path: Path) -> bytes:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        stream.seek(HEADER_BYTES)
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return (_MAGIC + digest.hexdigest().encode()).ljust(HEADER_BYTES, b"\0")


def _foreign(path: Path, h5py: Any) -> str:
    """Say what a file without the header is."""
    advice = "; convert it to extxyz with the tools of its own, or write it by eqcalc data convert."
    try:
        with h5py.File(path, "r") as file:
            names = sorted(file)[:_MOST_NAMES]
            inner = _inner_names(file, names, h5py)
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        return f"{path} is not a readable HDF5 file ({error}); it may be truncated."
    if inner >= _ANI:
        kind = f"is an ANI data set ({', '.join(sorted(_ANI))}), whose units it does not state"
    elif any(name.startswith("config_batch_") for name in names):
        kind = "is an HDF5 data set of MACE"
    else:
        kind = f"is HDF5 of an unknown layout, with {listing(names) or 'nothing'} at its root"
    return f"{path} {kind}; only files of eqcalc data convert are read" + advice


def _inner_names(file: Any, names: Sequence[str], h5py: Any) -> set[str]:
    """Return the names in the first groups, two levels deep; links that lead away are not taken."""
    found: set[str] = set()
    pending = [(file, name, 0) for name in names[:4]]
    while pending:
        parent, name, depth = pending.pop()
        if not isinstance(parent.get(name, getlink=True), h5py.HardLink):
            continue
        if parent.get(name, getclass=True) is not h5py.Group:
            continue
        inner = sorted(parent[name])[:_MOST_NAMES]
        found |= set(inner)
        if depth < 1:
            pending += [(parent[name], each, depth + 1) for each in inner[:4]]
    return found


def _arrays(file: Any, path: Path, h5py: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of the layout; no larger than the file, none from another one."""
    names = sorted(file)[:_MOST_NAMES]
    missing = sorted(set(_ARRAYS) - _OPTIONAL - set(names))
    unknown = sorted(set(names) - set(_ARRAYS))
    if missing or unknown:
        raise DataError(
            f"{path} must hold {', '.join(_ARRAYS)} and nothing else; missing are "
            f"{listing(missing) or 'none'}, unknown {listing(unknown) or 'none'}."
        )
    n_bytes = 0
    for name in names:
        n_bytes += _require_plain(file, name, path, h5py)
        if n_bytes > path.stat().st_size:
            raise DataError(
                f"{path}: '{name}' claims more than the file's {path.stat().st_size} bytes hold."
            )
    arrays = {name: file[name][()] for name in names}
    _require_fitting(arrays, path)
    return arrays


def _require_plain(file: Any, name: str, path: Path, h5py: Any) -> int:
    """Return how many bytes an array says it has, from its description alone."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise DataError(
            f"{path}: '{name}' is a link ({type(link).__name__}) that may lead to another file; "
            "it must be an array of this one."
        )
    if file.get(name, getclass=True) is not h5py.Dataset:
        raise DataError(f"{path}: '{name}' must be an array, found a group or a type.")
    array = file[name]
    dtype, rest = _ARRAYS[name]
    if array.dtype != np.dtype(dtype) or array.ndim != 1 + len(rest) or array.shape[1:] != rest:
        raise DataError(
            f"{path}: '{name}' must hold {dtype} of shape (n, ...) with {rest} behind n, found "
            f"{array.dtype} of shape {array.shape}."
        )
    described = array.id.get_create_plist()
    plain = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
    if described.get_layout() not in plain or described.get_external_count() > 0:
        raise DataError(
            f"{path}: '{name}' must lie in one piece in this file; it is chunked, virtual or in an "
            "external file."
        )
    if array.nbytes > 0 and array.id.get_storage_size() != array.nbytes:
        raise DataError(
            f"{path}: '{name}' claims {array.nbytes} bytes and holds {array.id.get_storage_size()}."
        )
    return int(array.nbytes)


def _require_fitting(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    counts = arrays["n_atoms"]
    if (counts < 1).any() or (counts > len(arrays["numbers"])).any():
        raise DataError(f"{path}: 'n_atoms' must be at least 1, and no more than there are.")
    for name, values in arrays.items():
        n = int(counts.sum()) if name in _PER_ATOM else len(counts)
        if name != "info" and len(values) != n:
            raise DataError(f"{path}: '{name}' must have {n} rows, found {len(values)}.")
    numbers = arrays["numbers"]
    if ((numbers < 1) | (numbers >= N_ELEMENTS)).any():
        raise DataError(f"{path}: 'numbers' must lie in 1..{N_ELEMENTS - 1}.")
    if (arrays["pbc"] > 1).any():
        raise DataError(f"{path}: 'pbc' must be 0 or 1.")


def _frames(arrays: Mapping[str, NDArray[Any]], path: Path) -> list[Atoms]:
    infos = json.loads(arrays["info"].tobytes())
    n_frames = len(arrays["n_atoms"])
    fits = isinstance(infos, list) and len(infos) == n_frames
    if not fits or not all(isinstance(info, dict) for info in infos):
        raise DataError(f"{path}: 'info' must be a JSON array of {n_frames} objects.")
    ends = np.cumsum(arrays["n_atoms"])
    images = []
    for k, (end, count) in enumerate(zip(ends, arrays["n_atoms"], strict=True)):
        own = slice(end - count, end)
        info = {key: _as_array(value) for key, value in infos[k].items()}
        atoms = Atoms(
            arrays["numbers"][own],
            arrays["positions"][own],
            cell=arrays["cell"][k],
            pbc=arrays["pbc"][k].astype(bool),
            info=info,
        )
        results: dict[str, Any] = {"energy": float(arrays["energy"][k])}
        if "forces" in arrays and not np.isnan(arrays["forces"][own]).all():
            results["forces"] = arrays["forces"][own]
        if "stress" in arrays and not np.isnan(arrays["stress"][k]).all():
            results["stress"] = arrays["stress"][k]
        atoms.calc = SinglePointCalculator(atoms, **results)
        images.append(atoms)
    return images


def _as_json(info: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON holds of an info; numpy's arrays and numbers as Python's."""
    kept = {}
    for key, value in info.items():
        plain = value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value
        try:
            json.dumps(plain)
        except (TypeError, ValueError):
            continue
        kept[key] = plain
    return kept


def _as_array(value: Any) -> Any:
    """Return a list of numbers as an array, as ASE's readers do."""
    if not isinstance(value, list) or not value:
        return value
    try:
        array = np.array(value)
    except ValueError:  # lists of several lengths
        return value
    return array if array.dtype.kind in "fib" else value
