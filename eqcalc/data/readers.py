"""Read files of labelled structures into a :class:`Dataset`, in eV and Å.

The name chooses the reader: ``.npz`` (rMD17, MD17, sGDML), ``.xyz`` and ``.extxyz``,
``.traj``, ASE's data bases ``.db`` and ``.json``, ``.h5`` of ``eqcalc data
convert``, and what codes print (OUTCAR, vasprun.xml, ...). Text files may be compressed.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Optional

from eqcalc.data.ase_reader import open_with_ase
from eqcalc.data.data_files import DataPath, find_files
from eqcalc.data.frames import DataFile, Dataset, LabelledFrame, LabelRequest, Origin
from eqcalc.data.npz_reader import open_npz
from eqcalc.data.plausibility import find_implausible
from eqcalc.data.rows import Rows, parse_rows
from eqcalc.data.unseen import notes_on_electrons, notes_on_weights
from eqcalc.errors import DataError, DataWarning, listing

__all__ = [
    "Dataset",
    "LabelledFrame",
    "WholeFrames",
    "parse_rows",
    "read_dataset",
    "read_whole_frames",
    "refuse_implausible",
]


class WholeFrames(NamedTuple):
    """What could be read of files.

    dataset : the frames that could, each with the labels it has
    unread : where those that could not stand
    refused : why not; None where all could
    """

    dataset: Dataset
    unread: list[Origin]
    refused: Optional[str]


def read_dataset(
    path: DataPath,
    *,
    rows: Rows = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    gradient_key: str | None = None,
    stress_key: str | None = None,
    virial_key: str | None = None,
    energy_unit: str | None = None,
    length_unit: str | None = None,
    forces_unit: str | None = None,
    stress_unit: str | None = None,
    positions_key: str | None = None,
    numbers_key: str | None = None,
    group_key: str | None = None,
    exclude_isolated: bool = True,
    trust_data: bool = False,
) -> Dataset:
    """Read labelled frames and convert them to eV and Å.

    Parameters
    ----------
    path : a file, a pattern such as ``"runs/*/OUTCAR"``, or a list of both
    rows : which frames, see :func:`parse_rows`; None for all. They are numbers of the file's
        frames, isolated atoms included; those of several files count through in their order
    energy_key, forces_key, stress_key : names of the labels; by default those of
        the recognised npz layout, or ``energy``, ``forces`` and ``stress``.
        Forces and stress under their default names may be absent; a name that
        is given must be there. The stress has ASE's sign, as (6,), (9,) or (3, 3)
    gradient_key : in place of forces_key, dE/dx; forces are its negative
    virial_key : in place of stress_key, a virial in the unit of the energy, in the same
        shapes; the stress is -virial/volume
    energy_unit, length_unit : units of the file where it does not state them;
        they are refused where they contradict it. See :mod:`eqcalc.units`
    forces_unit : by default energy/length, but Hartree/Bohr beside energies in Hartree and
        Rydberg/Bohr beside Rydberg, whatever the unit of length
    stress_unit : by default energy/length³
    positions_key, numbers_key : npz files of no known layout only
    group_key : entry of a frame's info that says which frames belong together, such as
        ``config_type``; not for npz files
    exclude_isolated : leave frames of one atom with ``config_type=IsolatedAtom``
        out of the training frames; their energies are in ``isolated_atoms`` either way
    trust_data : take frames that would be refused as implausible

    Returns
    -------
    dataset : frames in the order of ``rows``, and the isolated atoms of the whole files

    Raises
    ------
    ConfigError : an unknown unit, malformed rows, or an option that the format
        does not have.
    DataError : a file that is missing, damaged or of an unknown kind, or whose
        keys, units, shapes or values are not what was expected.

    Warns
    -----
    DataWarning : for each of the data set's ``notes``.
    """
    request = LabelRequest(
        energy_key=energy_key,
        forces_key=forces_key,
        gradient_key=gradient_key,
        stress_key=stress_key,
        virial_key=virial_key,
        positions_key=positions_key,
        numbers_key=numbers_key,
        group_key=group_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        forces_unit=forces_unit,
        stress_unit=stress_unit,
    )
    opened, n_rows, asked = _open(find_files(path), rows, request, exclude_isolated)
    dataset = _read(opened, asked, n_rows)
    if rows is not None and not dataset.frames:
        raise DataError(
            f"rows '{rows}' of {dataset.source} select nothing but isolated atoms, which are left "
            "out; choose other rows."
        )
    dataset = refuse_implausible(dataset, trust_data)
    for note in dataset.notes:
        warnings.warn(note, DataWarning, stacklevel=2)
    return dataset


def refuse_implausible(dataset: Dataset, trust_data: bool) -> Dataset:
    """Return a data set with notes on frames that are odd, and on those that are trusted.

    Raises
    ------
    DataError : frames that no calculation gives, unless ``trust_data``.
    """
    found = find_implausible(dataset.frames)
    if found.refused and not trust_data:
        raise DataError(
            f"{dataset.source}: " + "; ".join(found.refused) + ". Mend or leave out the frames, "
            "or say trust_data = true to take them as they are."
        )
    odd = [f"{dataset.source}: {sentence}." for sentence in (*found.odd, *found.refused)]
    return replace(dataset, notes=[*dataset.notes, *odd])


def read_whole_frames(
    path: DataPath, request: LabelRequest, *, rows: Rows = None, exclude_isolated: bool = True
) -> WholeFrames:
    """Read the frames that have an energy, each with the labels it has, and say what others lack.

    Forces or a stress that some frames do not have are None there. Nothing is warned of, and
    nothing refused as implausible.

    Raises
    ------
    ConfigError, DataError : as :func:`read_dataset`, and where no frame at all can be read.
    """
    files = find_files(path)
    opened, n_rows, asked = _open(files, rows, request, exclude_isolated, partial=True)
    try:
        return WholeFrames(_read(opened, asked, n_rows), [], None)
    except DataError as error:
        parts, refused = _read_halves(opened, asked, n_rows), error
    if not any(part.frames for part in parts):
        raise refused
    found = {row for part in parts for row in (*part.rows, *part.left_out)}
    whole = _joined(parts, asked, n_rows)
    notes = [note for part in parts for note in part.notes] + _notes_on_all(whole.frames)
    whole = replace(
        whole,
        source=parts[0].source,
        units=next(part.units for part in parts if part.frames),
        notes=list(dict.fromkeys(notes)),
    )
    unread = [_origin(files, opened, row) for row in asked if row not in found]
    return WholeFrames(whole, unread, str(refused))


def _origin(files: Sequence[Path], opened: Sequence[DataFile], row: int) -> Origin:
    """Return the file of a row that counts through all files, and its number there."""
    for path, file in zip(files[:-1], opened, strict=False):
        if row < file.n_rows:
            return Origin(path, row)
        row -= file.n_rows
    return Origin(files[-1], row)


def _read_halves(opened: Sequence[DataFile], asked: list[int], n_rows: int) -> list[Dataset]:
    """Return the data sets of the longest stretches of rows that can be read together."""
    if len(asked) < 2:
        return []
    parts = []
    for half in (asked[: len(asked) // 2], asked[len(asked) // 2 :]):
        try:
            parts.append(_read(opened, half, n_rows))
        except DataError:
            parts += _read_halves(opened, half, n_rows)
    return parts


def _open(
    files: Sequence[Path],
    rows: Rows,
    request: LabelRequest,
    exclude_isolated: bool,
    *,
    partial: bool = False,
) -> tuple[list[DataFile], int, list[int]]:
    """Return the open files, the number of their frames, and those that are asked for."""
    opened = [
        open_npz(file, request)
        if file.suffix.lower() == ".npz"
        else open_with_ase(file, request, exclude_isolated=exclude_isolated, partial=partial)
        for file in files
    ]
    n_rows = sum(file.n_rows for file in opened)
    return opened, n_rows, parse_rows(rows, n_rows, listing([file.name for file in files]))


def _read(opened: Sequence[DataFile], asked: Sequence[int], n_rows: int) -> Dataset:
    parts, first = [], 0
    for file in opened:
        here = [row - first for row in asked if first <= row < first + file.n_rows]
        part = file.read(here)  # of a file without chosen rows still its isolated atoms
        parts.append(
            replace(
                part,
                rows=[row + first for row in part.rows],
                left_out=[row + first for row in part.left_out],
            )
        )
        first += file.n_rows
    whole = parts[0] if len(parts) == 1 else _joined(parts, asked, n_rows)
    return replace(whole, notes=[*whole.notes, *_notes_on_all(whole.frames)])


def _notes_on_all(frames: Sequence[LabelledFrame]) -> list[str]:
    return notes_on_electrons(frames) + notes_on_weights(frames)


def _joined(parts: Sequence[Dataset], asked: Sequence[int], n_rows: int) -> Dataset:
    """Return the data sets of several files as one, frames in the order that was asked for."""
    isolated: dict[int, float] = {}
    for part in parts:
        for number, energy in part.isolated_atoms.items():
            if isolated.setdefault(number, energy) != energy:
                raise DataError(
                    f"isolated atoms of atomic number {number} disagree between files, found "
                    f"{isolated[number]} and {energy} eV (in {part.source}); keep one."
                )
    by_row = {row: frame for p in parts for row, frame in zip(p.rows, p.frames, strict=True)}
    rows = [row for row in asked if row in by_row]
    units = {part.units: part.source for part in parts if part.frames}
    return Dataset(
        [by_row[row] for row in rows],
        isolated,
        listing([part.source for part in parts], limit=3),
        "; ".join(units) if len(units) < 2 else "; ".join(f"{s}: {u}" for u, s in units.items()),
        rows,
        n_rows,
        [note for part in parts for note in part.notes],
        [row for part in parts for row in part.left_out],
        sorted({name for part in parts for name in part.unkept}),
    )
