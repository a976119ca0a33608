"""Read a file of labelled structures into a :class:`Dataset`, in eV and Å.

The suffix chooses the reader: ``.npz`` (rMD17, MD17, sGDML), ``.xyz`` and
``.extxyz``, ``.traj``, and ASE's data bases ``.db`` and ``.json``.
"""

from __future__ import annotations

import os
from pathlib import Path

from eqcalc.data.ase_reader import ASE_FORMATS, read_with_ase
from eqcalc.data.frames import Dataset, LabelledFrame, LabelRequest
from eqcalc.data.npz_reader import read_npz
from eqcalc.data.rows import Rows, parse_rows
from eqcalc.errors import ConfigError, DataError, did_you_mean

__all__ = ["Dataset", "LabelledFrame", "parse_rows", "read_dataset"]


def read_dataset(
    path: str | os.PathLike[str],
    *,
    rows: Rows = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    stress_key: str | None = None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    positions_key: str | None = None,
    numbers_key: str | None = None,
    group_key: str | None = None,
    exclude_isolated: bool = True,
) -> Dataset:
    """Read labelled frames and convert them to eV and Å.

    Parameters
    ----------
    path : an .npz, .xyz, .extxyz, .traj, .db or .json (ASE data base) file
    rows : which frames, see :func:`parse_rows`; None for all. Isolated atoms are
        not counted as long as ``exclude_isolated`` holds
    energy_key, forces_key, stress_key : names of the labels; by default those of
        the recognised npz layout, or ``energy``, ``forces`` and ``stress``.
        Forces and stress under their default names may be absent; a name that
        is given must be there. The stress has ASE's sign, as (6,), (9,) or (3, 3)
    energy_unit, length_unit : units of the file where it does not state them;
        they are refused where they contradict it. See :mod:`eqcalc.units`
    positions_key, numbers_key : npz files of no known layout only
    group_key : entry of a frame's info that says which frames belong together, such as
        ``config_type``; not for npz files
    exclude_isolated : leave frames of one atom with ``config_type=IsolatedAtom``
        out of the training frames; their energies are in ``isolated_atoms`` either way

    Returns
    -------
    dataset : frames in the order of ``rows``, and the isolated atoms of the whole file

    Raises
    ------
    ConfigError : an unknown unit, malformed rows, or an option that the format
        does not have.
    DataError : a file that is missing, damaged or of an unknown kind, or whose
        keys, units, shapes or values are not what was expected.
    """
    path = Path(path)
    request = LabelRequest(
        energy_key=energy_key,
        forces_key=forces_key,
        stress_key=stress_key,
        positions_key=positions_key,
        numbers_key=numbers_key,
        group_key=group_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
    )
    suffix = path.suffix.lower()
    known = [".npz", *ASE_FORMATS]
    if suffix not in known:
        raise DataError(
            f"data file {path} has the suffix '{suffix}'; known are {', '.join(known)}."
            + did_you_mean(suffix, known)
        )
    if not path.is_file():
        raise DataError(f"data file {path} does not exist or is not a file.")
    if suffix == ".npz":
        if group_key is not None:
            raise ConfigError(
                f"{path}: group_key='{group_key}' names an entry of a frame's info, which npz "
                "files do not have; leave it out."
            )
        return read_npz(path, rows, request)
    if positions_key is not None or numbers_key is not None:
        raise ConfigError(
            f"{path}: positions_key and numbers_key are for npz files; "
            f"{suffix} files state positions and elements themselves."
        )
    if stress_key is not None and "virial" in stress_key.lower():
        raise ConfigError(
            f"{path}: stress_key='{stress_key}' names a virial, which has the other sign and is "
            "not divided by the volume; write stress = -virial/volume into the file."
        )
    return read_with_ase(path, rows, request, exclude_isolated=exclude_isolated)
