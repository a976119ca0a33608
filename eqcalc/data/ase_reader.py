"""Read labelled frames through ASE: extxyz, trajectories, data bases, and outputs of codes.

A label is looked up among the frame's calculator results, then its per-atom
arrays, then its info. Units are eV and Å, as these formats state, unless the
request or entries such as ``energy_unit`` in a frame's info name others. Stress
has ASE's sign and is read only where all three directions are periodic:
elsewhere there is no volume it could refer to. A virial becomes the stress
-virial/volume.
"""

from __future__ import annotations

from pathlib import Path

from ase import Atoms

from eqcalc.data.ase_files import OUTPUT_FORMATS, format_of, load_frames
from eqcalc.data.file_units import UNIT_ENTRIES, obey_stated_units
from eqcalc.data.frame_labels import FrameLabels
from eqcalc.data.frames import DataFile, Dataset, LabelRequest, is_isolated_atom
from eqcalc.errors import ConfigError, DataError, listing

__all__ = ["open_with_ase"]


def open_with_ase(
    path: Path, request: LabelRequest, *, exclude_isolated: bool, partial: bool
) -> DataFile:
    """Open one file; what it reads are frames by their numbers in the file.

    Parameters
    ----------
    partial : take frames without forces, or without a stress, among others that have them

    Raises
    ------
    ConfigError : an option for npz files, or a unit of what ASE converts itself.
    DataError : the file is damaged; on reading, a label that is missing, has another shape
        than expected or is not finite, or two isolated atoms that disagree.
    """
    kind = format_of(path)
    _refuse_options_of_others(path, kind, request)
    images = load_frames(path, kind)
    request = obey_stated_units(_stated(images, path), request, path)
    isolated = {k: atoms for k, atoms in enumerate(images) if is_isolated_atom(atoms, atoms.info)}

    def read(rows: list[int]) -> Dataset:
        labels = FrameLabels(path, request, images if partial else None)
        isolated_atoms = _isolated_energies(list(isolated.values()), labels)
        left_out = isolated.keys() & set(rows) if exclude_isolated else set()
        if left_out:
            labels.notes.append(
                f"{len(left_out)} of {len(rows)} frames, {listing(sorted(left_out))}, hold one "
                "atom with config_type=IsolatedAtom: their energies are kept for "
                "reference_energies, and they are left out of the frames to train or judge on."
            )
        chosen = [row for row in rows if row not in left_out]
        frames = labels.read([images[row] for row in chosen], chosen)
        notes = [f"{path.name}: {note}" for note in labels.notes]
        return Dataset(
            frames,
            isolated_atoms,
            path.name,
            str(labels.units),
            chosen,
            len(images),
            notes,
            sorted(left_out),
            labels.unkept([images[row] for row in chosen]),
        )

    return DataFile(len(images), read)


def _refuse_options_of_others(path: Path, kind: str, request: LabelRequest) -> None:
    if request.positions_key is not None or request.numbers_key is not None:
        raise ConfigError(
            f"{path}: positions_key and numbers_key are for npz files; "
            f"{path.suffix.lower()} files state positions and elements themselves."
        )
    units = [name for name in UNIT_ENTRIES if getattr(request, name) is not None]
    if kind in OUTPUT_FORMATS and units:
        raise ConfigError(
            f"{path}: ASE reads {OUTPUT_FORMATS[kind]} files in eV and Angstrom, whatever they "
            f"print; leave {', '.join(units)} out."
        )


def _stated(images: list[Atoms], path: Path) -> dict[str, object]:
    """Return the units that the frames' info states."""
    stated: dict[str, object] = {}
    names = {name for entries in UNIT_ENTRIES.values() for name in entries}
    for row, atoms in enumerate(images):
        for name in names & set(atoms.info):
            value = str(atoms.info[name])
            if stated.setdefault(name, value) != value:
                raise DataError(
                    f"{path}: {name} must be the same in all frames, found '{stated[name]}' "
                    f"before and '{value}' in frame {row}; write one file per unit."
                )
    if stated and (without := [k for k, a in enumerate(images) if not set(stated) <= set(a.info)]):
        raise DataError(
            f"{path}: {', '.join(sorted(stated))} must stand in every frame or in none, missing "
            f"in frames {listing(without)}."
        )
    return stated


def _isolated_energies(isolated: list[Atoms], labels: FrameLabels) -> dict[int, float]:
    if not isolated:
        return {}
    energies: dict[int, float] = {}
    values = labels.energies(isolated, [f"isolated {atoms.symbols[0]}" for atoms in isolated])
    for atoms, energy in zip(isolated, values.tolist(), strict=True):
        number = int(atoms.numbers[0])
        if energies.setdefault(number, energy) != energy:
            raise DataError(
                f"{labels.path}: isolated {atoms.symbols[0]} atoms disagree, "
                f"found {energies[number]} and {energy} eV; keep one."
            )
    return energies
