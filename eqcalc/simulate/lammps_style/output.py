"""What a script writes while it runs: thermo output for screen and log, frames for dumps."""

from __future__ import annotations

import time
import weakref
from pathlib import Path

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, NonFiniteError, did_you_mean
from eqcalc.files import AppendFile
from eqcalc.simulate.interrupts import StopOnSignal
from eqcalc.simulate.lammps_style.thermo_columns import ThermoTable, observe_step
from eqcalc.simulate.lammps_style.unit_system import UnitSystem
from eqcalc.simulate.settings import TRAJECTORY_SUFFIXES
from eqcalc.simulate.thermo import snapshot
from eqcalc.simulate.writers import open_trajectory, require_extxyz

__all__ = ["Clock", "Dump", "Log", "Output", "Record"]


class Log:
    """Lines for the screen, and for a file where one was opened.

    Parameters
    ----------
    screen : print the lines
    """

    def __init__(self, screen: bool):
        self._screen = screen
        self._file: AppendFile | None = None

    def open(self, path: Path) -> None:
        """Write what follows to a new file as well, and close the one before.

        Raises
        ------
        OutputError : it cannot be created.
        """
        self.close()
        self._file = AppendFile(path)
        weakref.finalize(self, self._file.close)  # nobody closes a script

    def close(self) -> None:
        """Write to no file any more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def write(self, line: str) -> None:
        """Write one line.

        Raises
        ------
        OutputError : the file takes no more, or is gone.
        """
        if self._file is not None:
            self._file.append(f"{line}\n".encode())
        if self._screen:
            print(line, flush=True)


class Dump:
    """``dump ID all STYLE N FILE``: frames at steps that N divides.

    Parameters
    ----------
    style : "extxyz" or "traj"
    every : steps between two frames
    path : replaced if it exists

    Raises
    ------
    ConfigError : an unknown style, a suffix that says another format, or ``every`` below 1.
    OutputError : the file cannot be created.
    """

    def __init__(self, style: str, every: int, path: Path):
        if style not in TRAJECTORY_SUFFIXES:
            raise ConfigError(
                f"dump style '{style}' is not supported; known: {', '.join(TRAJECTORY_SUFFIXES)}."
                + did_you_mean(str(style), TRAJECTORY_SUFFIXES)
            )
        if isinstance(every, bool) or not isinstance(every, int) or every < 1:
            raise ConfigError(f"dump every N steps: N is a whole number >= 1, not {every!r}.")
        if style == "extxyz":
            require_extxyz(path)
        elif path.suffix != ".traj":
            raise ConfigError(f"'{path}' is to be a trajectory of ASE; its name must end in .traj.")
        self.every = every
        self._file = open_trajectory(path, style)
        weakref.finalize(self, self._file.close)  # nobody closes a script
        self._last: int | None = None

    def write(self, atoms: Atoms, step: int, time_fs: float) -> None:
        """Add a frame where the step is one of the dump's, once."""
        if step % self.every == 0 and step != self._last:
            self._file.write(snapshot(atoms, [], step=step, time_fs=time_fs))
            self._last = step

    def require_present(self) -> None:
        """Refuse to go on where the file was removed or replaced."""
        self._file.require_present()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Clock:
    """The number of the present step, and the time, which a new timestep does not change.

    Parameters
    ----------
    timestep : in the script's unit of time

    >>> clock = Clock(0.5)
    >>> clock.step = 10
    >>> clock.set_timestep(1.0)
    >>> clock.step = 12
    >>> clock.time
    7.0
    """

    def __init__(self, timestep: float):
        self.step = 0
        self.timestep = timestep
        self._since = (0, 0.0)  # step and time at which the timestep was set

    @property
    def time(self) -> float:
        """Time since the start, in the script's unit."""
        step, time_then = self._since
        return time_then + (self.step - step) * self.timestep

    def set_timestep(self, timestep: float) -> None:
        """Let the steps that follow have another length."""
        self._since = (self.step, self.time)
        self.timestep = timestep


class Output:
    """What is to be written, and how.

    Attributes
    ----------
    every (steps between two rows; 0: none but the first and last), table (the columns; None: the
    default ones), format_float, dumps (by file), log
    """

    def __init__(self, screen: bool, system: UnitSystem):
        self.system = system
        self.log = Log(screen)
        self.every = 0
        self.table: ThermoTable | None = None
        self.format_float: str | None = None
        self.dumps: dict[Path, Dump] = {}

    def begin(self, atoms: Atoms, origin: NDArray[np.float64], clock: Clock) -> Record:
        """Print the header of a run or a minimization.

        Raises
        ------
        ConfigError : a column of a pressure that is not defined.
        """
        if self.table is None:
            table = ThermoTable.default(atoms)
        else:
            table = self.table
            table.require_fit(atoms)
        self.log.write(table.header())
        return Record(self, table, atoms, origin, clock)


class Record:
    """What one run or minimization writes.

    Attributes
    ----------
    rows : keyword -> value, of the rows so far
    """

    def __init__(
        self,
        output: Output,
        table: ThermoTable,
        atoms: Atoms,
        origin: NDArray[np.float64],
        clock: Clock,
    ):
        self.rows: list[dict[str, float]] = []
        self._output = output
        self._table = table
        self._atoms = atoms
        self._origin = origin
        self._clock = clock
        self._first = clock.step
        self._start = time.perf_counter()

    @property
    def n_done(self) -> int:
        """Number of steps so far."""
        return self._clock.step - self._first

    def step(self, stop: StopOnSignal, *, is_last: bool) -> None:
        """Write the frames of the present step, and its row where one is due.

        Raises
        ------
        NonFiniteError : the energy is no number, or an atom left the box.
        OutputError : a file takes no more, or is gone.
        """
        output, clock, atoms = self._output, self._clock, self._atoms
        for dump in output.dumps.values():
            dump.write(atoms, clock.step, clock.time * output.system.time_fs)
        is_edge = is_last or self.n_done == 0 or stop.signal_number is not None
        if not (is_edge or (output.every and clock.step % output.every == 0)):
            return
        self._refuse_lost_atoms()
        now = observe_step(atoms, clock.step, clock.time, self.n_done, output.system)
        if not np.isfinite(now.thermo.total_energy):
            raise NonFiniteError(f"the energy is {now.thermo.total_energy}")
        self.rows.append(self._table.row(now))
        stop.tell(output.log.write, self._table.line(self.rows[-1], output.format_float))

    def finish(self) -> None:
        """Print how long it took.

        Raises
        ------
        OutputLostError : a dump was removed or replaced meanwhile.
        """
        for dump in self._output.dumps.values():
            dump.require_present()
        wall = time.perf_counter() - self._start
        self._output.log.write(
            f"Loop time of {wall:g} on 1 procs for {self.n_done} steps with {len(self._atoms)} "
            "atoms"
        )

    def _refuse_lost_atoms(self) -> None:
        atoms = self._atoms
        inside = np.linalg.solve(atoms.cell.T, (atoms.positions - self._origin).T).T
        lost = ((inside < 0) | (inside > 1)) & ~atoms.pbc  # (n_atoms, 3)
        if lost.any():
            index = int(np.flatnonzero(lost.any(axis=1))[0])
            raise NonFiniteError(
                f"atom {index + 1} (id) left the box through a fixed face; give the box more room, "
                "or take boundary p"
            )
