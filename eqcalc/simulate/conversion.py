"""The trajectory of a run in formats of other programs, written once the run is there.

A run itself writes ASE's trajectories, or extended xyz where its settings ask for it: what can be
cut back to a checkpoint frame by frame. What MDAnalysis, VMD, GROMACS's tools or OVITO want is
made of them afterwards, or at any time during the run:

| suffix | positions | velocities | cell | times |
|---|---|---|---|---|
| .xtc | 0.01 Å | no | yes | yes |
| .trr | float32 | Å/ps | yes | yes |
| .dcd | float32 | no | yes | by one spacing |
| .xyz (extended) | 1e-8 Å | ``velo``, Å/fs | yes | ``Time``, fs |
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from eqcalc.arguments import require_at_least
from eqcalc.errors import ConfigError, StructureError, import_extra
from eqcalc.files import AppendFile, refuse_existing, require_folders, write_through
from eqcalc.simulate.frame_content import restore_origin, store_origin
from eqcalc.simulate.half_frames import DAMAGED, is_of_a_run, open_traj, whole_part
from eqcalc.simulate.run_folder import refuse_run_files

__all__ = ["CONVERSIONS", "Conversion", "convert_run"]

CONVERSIONS: dict[str, str] = {
    ".xtc": "positions to 0.01 Å, no velocities (.trr has them)",
    ".trr": "positions and velocities in float32",
    ".dcd": "positions in float32, no velocities (.trr has them)",
    ".xyz": "positions, velocities (velo, Å/fs), forces, energies; Time in fs",
}
"""Suffix -> what of a frame such a file holds."""


@dataclass(frozen=True)
class Conversion:
    """A trajectory that was written: frames, their atoms, and the time (fs) of the last one.

    ``n_left_out`` counts frames that a format with one spacing cannot hold: the last of a run
    whose end is not one of its logged steps, and all of one whose timestep a guard halved that do
    not lie in the spacing of the first two.
    """

    path: Path
    n_frames: int
    n_atoms: int
    last_fs: float
    n_left_out: int


def convert_run(
    folder: str | Path, path: str | Path, *, every: int = 1, overwrite: bool = False
) -> Conversion:
    """Write the trajectory of a run of molecular dynamics in another program's format.

    Cells are turned so that the first vector lies along x, and atoms and velocities with them:
    these formats hold lengths and angles. The extended xyz file has them as they are.

    Parameters
    ----------
    folder : of the run, which may still be going on
    path : to write; its suffix is the format, one of :data:`CONVERSIONS`
    every : take one frame of so many

    Raises
    ------
    ConfigError : another suffix; no number of frames; a left-handed cell; a file of a run.
    StructureError : there is no run of molecular dynamics, or its trajectory is damaged.
    OutputExistsError : the file is there and ``overwrite`` is false.
    OutputError : it cannot be written; nothing is left of it.
    MissingDependencyError : MDAnalysis is not installed (.xyz needs none).
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in CONVERSIONS:
        raise ConfigError(
            f"'{path}' has no suffix of a known format; known: {', '.join(CONVERSIONS)}."
        )
    require_at_least(1, every=every)
    source = _trajectory_of(Path(folder))
    refuse_run_files([path])
    refuse_existing([path], overwrite)
    require_folders([path])
    frames = _frames_of(source, every)
    first_two = list(islice(frames, 2))
    if not first_two:
        raise StructureError(f"'{source}' holds no frame yet.")
    if "time_fs" not in first_two[0].info:
        raise StructureError(
            f"the run in '{folder}' is a relaxation, whose frames have no times; read "
            f"'{source}' with ASE."
        )
    write = _write_extxyz if suffix == ".xyz" else _write_with_mdanalysis
    with write_through(path) as part:
        done = write(part, first_two, chain(first_two, frames))
    return Conversion(path, **done)


def _trajectory_of(folder: Path) -> Path:
    for name in ("trajectory.traj", "trajectory.xyz"):
        if (folder / name).is_file() and is_of_a_run(folder / name):
            return folder / name
    raise StructureError(
        f"there is no run in '{folder}'; expected a folder that eqcalc md wrote, with its "
        "manifest.json and trajectory."
    )


def _frames_of(path: Path, every: int) -> Iterator[Atoms]:
    """Read whole frames one by one.

    Raises
    ------
    StructureError : one is damaged.
    """
    read = _frames_of_extxyz if path.suffix == ".xyz" else _frames_of_traj
    n_read = 0
    try:
        for frame in read(path, every):
            restore_origin(frame)
            yield frame
            n_read += 1
    except StructureError:
        raise
    except DAMAGED as error:
        raise StructureError(
            f"'{path}' is damaged: {n_read} frames could be taken from it, then "
            f"{type(error).__name__}: {error}."
        ) from error


def _frames_of_extxyz(path: Path, every: int) -> Iterator[Atoms]:
    whole = whole_part(path)
    source = path if whole is None else whole
    return ase.io.iread(source, index=f"::{every}", format="extxyz")


def _frames_of_traj(path: Path, every: int) -> Iterator[Atoms]:
    with open_traj(path) as (trajectory, n_whole):
        for index in range(0, n_whole, every):
            yield trajectory[index]


def _velocities(frame: Atoms) -> NDArray[np.float64]:
    """Return velocities (n_atoms, 3) in Å/fs."""
    return np.asarray(frame.get_velocities() * units.fs)


def _write_extxyz(path: Path, first_two: list[Atoms], frames: Iterator[Atoms]) -> dict[str, Any]:
    n_frames = 0
    with closing(AppendFile(path)) as file:
        for frame in frames:
            text = io.StringIO()
            ase.io.write(text, _as_others_read_it(frame), format="extxyz")
            file.append(text.getvalue().encode())
            n_frames += 1
    return {
        "n_frames": n_frames,
        "n_atoms": len(frame),
        "last_fs": float(frame.info["time_fs"]),
        "n_left_out": 0,
    }


def _as_others_read_it(frame: Atoms) -> Atoms:
    """Return a frame whose velocities are no momenta, in ASE's units, but velocities."""
    other = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=frame.pbc)
    other.new_array("velo", _velocities(frame))
    if frame.has("masses"):  # isotopes
        other.set_masses(frame.get_masses())
    time_fs = float(frame.info["time_fs"])
    # "Time" is what other programs read, each in its own unit; "time_fs" says which one it is.
    other.info = {"Time": time_fs, "time_fs": time_fs, "Step": int(frame.info["step"])}
    other.set_celldisp(frame.get_celldisp())
    store_origin(other)
    if frame.calc is not None:
        other.calc = SinglePointCalculator(other, **frame.calc.results)
    return other


def _write_with_mdanalysis(
    path: Path, first_two: list[Atoms], frames: Iterator[Atoms]
) -> dict[str, Any]:
    mdanalysis = import_extra("MDAnalysis", "mdanalysis", f"writing a {path.suffix} file")
    n_atoms = len(first_two[0])
    spacing_fs = first_two[-1].info["time_fs"] - first_two[0].info["time_fs"]
    options: dict[str, Any] = {"n_atoms": n_atoms}
    has_times = path.suffix.lower() != ".dcd"
    if not has_times:
        options |= {"dt": (spacing_fs or 1.0) / 1000, "nsavc": 1, "istart": 0}
    universe = mdanalysis.Universe.empty(n_atoms, trajectory=True, velocities=True)
    step = universe.trajectory.ts
    n_frames = n_left_out = 0
    last_fs = 0.0
    with mdanalysis.Writer(str(path), **options) as writer:
        for frame in frames:
            time_fs = float(frame.info["time_fs"])
            off_fs = abs(time_fs - n_frames * spacing_fs)
            if not has_times and off_fs > 1e-6 * max(spacing_fs, 1.0):
                n_left_out += 1
                continue
            dimensions, turn = _box(frame)
            step.positions = frame.positions @ turn
            step.velocities = 1000 * _velocities(frame) @ turn  # Å/ps
            step.dimensions = dimensions
            step.time, step.frame = time_fs / 1000, n_frames
            step.data["step"] = int(frame.info["step"])
            writer.write(universe.atoms)
            n_frames, last_fs = n_frames + 1, time_fs
    return {
        "n_frames": n_frames,
        "n_atoms": n_atoms,
        "last_fs": last_fs,
        "n_left_out": n_left_out,
    }


def _box(frame: Atoms) -> tuple[NDArray[np.float64] | None, NDArray[np.float64]]:
    """Return lengths and angles of the cell (6,), None without one, and what turns the frame.

    Raises
    ------
    ConfigError : a left-handed cell, which lengths and angles cannot say.
    """
    if frame.cell.rank < 3:
        return None, np.eye(3)
    if frame.cell.handedness < 0:
        raise ConfigError(
            "the cell is left-handed, and lengths and angles would make its mirror image of it; "
            "write an .xyz file, or exchange two of the cell's vectors before the run."
        )
    _, rotation = frame.cell.standard_form()
    return frame.cell.cellpar(), np.asarray(rotation.T)
