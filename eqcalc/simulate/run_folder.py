"""The folder of one run, and what is true of it only as long as its trajectory is the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from eqcalc.errors import ConfigError, OutputError, OutputExistsError, OutputLostError
from eqcalc.files import remove_files
from eqcalc.simulate.checkpoint import CHECKPOINT, EARLIER, PREVIOUS
from eqcalc.simulate.half_frames import run_in

__all__ = ["ANALYSIS", "ANALYSIS_FILES", "REPORT", "RunFolder", "refuse_run_files"]

REPORT = "report.html"
"""The page of a run, by ``eqcalc report``."""
ANALYSIS = "analysis"
"""Where ``eqcalc analyse`` puts what it finds in a run, unless it is told another place."""
ANALYSIS_FILES: tuple[str, ...] = (
    "rdf.csv",
    "msd.csv",
    "vacf.csv",
    "spectrum.csv",
    "density.csv",
    "analysis.png",
    "analysis.json",
)
# What other verbs make of a run, and put beside it.
_MADE_OF_IT = (REPORT, *(f"{ANALYSIS}/{name}" for name in ANALYSIS_FILES))
_RUN_FILES = (
    "manifest.json",
    "trajectory.traj",
    "trajectory.xyz",
    "plot.png",
    "thermo.csv",
    "final.xyz",
    "relax.csv",
    "relaxed.xyz",
    "queued.extxyz",
    "audit.csv",
    CHECKPOINT,
    PREVIOUS,
    EARLIER,
)


def refuse_run_files(outputs: Iterable[Path]) -> None:
    """Refuse to write what a run in that folder would take for its own file.

    Raises
    ------
    ConfigError : an output has the name of a run's file, beside a run, whether it is there or not
        and whatever may be overwritten.
    """
    for path in outputs:
        if path.name in _RUN_FILES and run_in(path.parent) is not None:
            raise ConfigError(
                f"'{path}' would be a file of the run in '{path.parent}', which could not go on "
                "from it; give it another name."
            )


class RunFolder:
    """A folder that belongs to one run.

    Making one only looks; :meth:`claim` creates the folder and removes the run
    that was there, with what other verbs have made of it. In between a run proves that it can
    start, so that a failing start never costs an older result.

    Parameters
    ----------
    path : files in it that are no run's stay untouched
    overwrite : allow an older run to be replaced

    Raises
    ------
    OutputExistsError : the folder holds a run and ``overwrite`` is false.

    Attributes
    ----------
    path; holds_run (whether one is there that is going to be replaced)
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False):
        self.path = Path(path)
        self._overwrite = overwrite
        self.holds_run = bool(self._replaceable())

    def make(self) -> None:
        """Create the folder, and leave what is in it.

        Raises
        ------
        OutputError : it cannot be created.
        """
        with self._using():
            self.path.mkdir(parents=True, exist_ok=True)

    def claim(self) -> None:
        """Create the folder, empty of any run.

        Raises
        ------
        OutputError : it cannot be created or emptied.
        OutputExistsError : a run has begun in it meanwhile, and ``overwrite`` is false.
        """
        self.make()
        existing = self._replaceable()
        with self._using():
            for old in existing:
                old.unlink()
        self.remove_made_of_it()

    def remove(self, *names: str) -> None:
        """Remove files that are no longer true.

        Raises
        ------
        OutputError : one cannot be removed.
        """
        remove_files(self.path, names)

    def remove_made_of_it(self) -> None:
        """Remove what other verbs have made of a trajectory that is about to be another one.

        Raises
        ------
        OutputError : a file cannot be removed.
        """
        self.remove(*_MADE_OF_IT)
        with contextlib.suppress(OSError):  # it is not there, or holds a user's files
            (self.path / ANALYSIS).rmdir()

    def others(self) -> list[str]:
        """Return the names of what is in the folder and no run's, as a new one would find it."""
        known = {*_RUN_FILES, REPORT}
        if not self.path.is_dir():
            return []
        names = {path.name for path in self.path.iterdir()} - known
        analysis = self.path / ANALYSIS
        if analysis.is_dir() and {path.name for path in analysis.iterdir()} <= {*ANALYSIS_FILES}:
            names.discard(ANALYSIS)
        return sorted(name for name in names if not name.startswith("."))

    def require_sizes(self, sizes: dict[str, int]) -> None:
        """Check, before a run goes on, that its files still hold the bytes that they had.

        Raises
        ------
        OutputLostError : a file is missing or shorter.
        """
        for name, size in sizes.items():
            path = self.path / name
            there = path.stat().st_size if path.is_file() else 0
            if there < size:
                raise OutputLostError(
                    f"'{path}' has {there} bytes, and had {size} at the checkpoint; what is "
                    f"missing is lost. A new run can begin from the last whole frame."
                )

    def require_whole_lines(self, sizes: dict[str, int]) -> None:
        """Check, before files are cut to these bytes, that no line is cut.

        Raises
        ------
        OutputLostError : one would be.
        """
        for name, size in sizes.items():
            path = self.path / name
            # A spreadsheet that has saved a table writes other digits and other ends of lines.
            if path.suffix != ".traj" and not _ends_a_line(path, size):
                raise OutputLostError(
                    f"'{path}' is not what it was at the checkpoint: its first {size} bytes end "
                    "within a line, where the run would be gone on with. Put back the file as the "
                    "run wrote it."
                )

    def require_files(self, *names: str) -> None:
        """Check at the end of a run that what it wrote is there.

        Raises
        ------
        OutputLostError : a file is missing.
        """
        missing = [name for name in names if not (self.path / name).is_file()]
        if missing:
            raise OutputLostError(
                f"{', '.join(missing)} of '{self.path}' was removed while the run was writing it"
            )

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def _replaceable(self) -> list[Path]:
        """Return the files of the run that is there; refuse one that is not to be replaced."""
        existing = [self.path / name for name in _RUN_FILES if (self.path / name).is_file()]
        if existing and not self._overwrite:
            raise OutputExistsError(
                f"'{self.path}' already holds a run ({', '.join(p.name for p in existing)}); "
                "pass overwrite=True to replace it, or choose another output."
            )
        return existing

    @contextlib.contextmanager
    def _using(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"cannot use '{self.path}' as the folder of a run: {error.strerror or error}."
            ) from error


def _ends_a_line(path: Path, size: int) -> bool:
    if size == 0:
        return True
    with open(path, "rb") as file:
        file.seek(size - 1)
        return file.read(1) == b"\n"
