"""Constrained n-body systems and their recorded trajectories."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.constraints import FixBondLengths
from numpy.typing import NDArray

from eqcalc.arguments import require_at_least
from eqcalc.errors import ConfigError, DataError
from eqcalc.files import ARRAY_DAMAGE, write_whole

__all__ = ["NBodyData", "NBodySystem", "read_nbody", "write_nbody"]

SUFFIXES = (".npz", ".xyz", ".extxyz")
_KEYS = ("positions", "velocities", "charges", "objects", "frame_time", "seed")


@dataclass(frozen=True)
class NBodySystem:
    """How many free particles, sticks and hinges; they are numbered in this order.

    A stick is two particles one after the other, a hinge three, its joint first.

    >>> NBodySystem(1, 2, 0).n_particles
    5

    Raises
    ------
    ConfigError : a count is negative, or there is no particle at all.
    """

    n_isolated: int
    n_sticks: int
    n_hinges: int

    def __post_init__(self) -> None:
        require_at_least(
            0, n_isolated=self.n_isolated, n_sticks=self.n_sticks, n_hinges=self.n_hinges
        )
        if self.n_particles == 0:
            raise ConfigError("an n-body system needs at least one particle, found none.")

    @property
    def n_particles(self) -> int:
        """Number of particles, those of sticks and hinges included."""
        return self.n_isolated + 2 * self.n_sticks + 3 * self.n_hinges

    @property
    def object_index(self) -> dict[str, NDArray[np.int64]]:
        """Return "isolated" (K0,), "stick" (2, K1) and "hinge" (3, K2), row 0 the joint."""
        index = np.arange(self.n_particles)
        ends = np.cumsum([self.n_isolated, 2 * self.n_sticks])
        isolated, stick, hinge = np.split(index, ends)
        return {
            "isolated": isolated,
            "stick": stick.reshape(-1, 2).T,
            "hinge": hinge.reshape(-1, 3).T,
        }

    @property
    def rods(self) -> NDArray[np.int64]:
        """Return (2, n_rods): the sticks, then two rods per hinge, row 1 their joint."""
        objects = self.object_index
        joint, first, second = objects["hinge"]
        hinges = np.stack([[first, second], [joint, joint]])  # (2, 2, n_hinges)
        return np.concatenate([objects["stick"], hinges.transpose(0, 2, 1).reshape(2, -1)], axis=1)

    @property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the particles i < j of all pairs that no rod joins."""
        joined = np.zeros((self.n_particles, self.n_particles), dtype=bool)
        joined[self.rods[0], self.rods[1]] = joined[self.rods[1], self.rods[0]] = True
        i, j = np.triu_indices(self.n_particles, k=1)
        free = ~joined[i, j]
        return i[free], j[free]


@dataclass(frozen=True)
class NBodyData:
    """Trajectories of one system.

    positions, velocities : (n_samples, n_frames, n, 3)
    charges : (n_samples, n)
    frame_time : time between two frames; seed : of the initial conditions
    """

    system: NBodySystem
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    charges: NDArray[np.float64]
    frame_time: float
    seed: int

    @property
    def n_frames(self) -> int:
        """Number of saved frames of every sample."""
        return self.positions.shape[1]

    def __len__(self) -> int:
        return len(self.positions)

    def samples(self, rows: slice) -> NBodyData:
        """Return some of the samples."""
        return NBodyData(
            self.system,
            self.positions[rows],
            self.velocities[rows],
            self.charges[rows],
            self.frame_time,
            self.seed,
        )

    def rod_lengths(self) -> NDArray[np.float64]:
        """Return (n_samples, n_frames, n_rods)."""
        first, second = self.system.rods
        apart = self.positions[:, :, first] - self.positions[:, :, second]
        return np.linalg.norm(apart, axis=-1)

    def atoms(self, sample: int, frame: int) -> Atoms:
        """Return one frame as atoms of element X (mass 1) with charges, momenta and rods."""
        atoms = Atoms(
            f"X{self.system.n_particles}",
            self.positions[sample, frame],
            charges=self.charges[sample],
            momenta=self.velocities[sample, frame],
        )
        if self.system.rods.shape[1] > 0:
            atoms.set_constraint(FixBondLengths(self.system.rods.T.tolist()))
        return atoms


def write_nbody(path: Path, data: NBodyData) -> None:
    """Write an npz file, or extended xyz with the frames of one sample after the other.

    Raises
    ------
    ConfigError : another suffix than .npz, .xyz or .extxyz.
    OutputError : the file cannot be written.
    """
    require_suffix(path)
    if path.suffix == ".npz":
        content = io.BytesIO()
        system = data.system
        np.savez_compressed(
            content,
            positions=data.positions,
            velocities=data.velocities,
            charges=data.charges,
            objects=np.array([system.n_isolated, system.n_sticks, system.n_hinges]),
            frame_time=data.frame_time,
            seed=data.seed,
        )
        write_whole(path, content.getvalue())
        return
    text = io.StringIO()
    ase.io.write(text, list(_frames(data)), format="extxyz")
    write_whole(path, text.getvalue().encode())


def read_nbody(path: Path) -> NBodyData:
    """Read an npz file of :func:`write_nbody`.

    Raises
    ------
    DataError : the file is missing, or is not one.
    """
    try:
        with np.load(path) as content:
            missing = [key for key in _KEYS if key not in content]
            if missing:
                raise DataError(
                    f"'{path}' is no n-body file: it lacks {', '.join(missing)}. "
                    "Make one with eqcalc nbody."
                )
            counts = [int(count) for count in content["objects"]]
            return NBodyData(
                NBodySystem(*counts),
                content["positions"],
                content["velocities"],
                content["charges"],
                float(content["frame_time"]),
                int(content["seed"]),
            )
    except ARRAY_DAMAGE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read the n-body file '{path}': {error}.") from error


def require_suffix(path: Path) -> None:
    """Check that the suffix names a format.

    Raises
    ------
    ConfigError : it does not.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(
            f"the n-body file '{path}' must end in {', '.join(SUFFIXES)}, found '{path.suffix}'."
        )


def _frames(data: NBodyData) -> Iterator[Atoms]:
    for sample in range(len(data)):
        for frame in range(data.n_frames):
            atoms = data.atoms(sample, frame)
            atoms.info.update(sample=sample, time=frame * data.frame_time)
            yield atoms
