"""The folder of one run."""

from __future__ import annotations

from pathlib import Path

from eqcalc.errors import OutputError, OutputExistsError, OutputLostError
from eqcalc.simulate.checkpoint import CHECKPOINT, EARLIER, PREVIOUS

__all__ = ["RunFolder"]

_RUN_FILES = (
    "manifest.json",
    "trajectory.traj",
    "trajectory.xyz",
    "plot.png",
    "report.html",
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


class RunFolder:
    """A folder that belongs to one run.

    Making one only looks; :meth:`claim` creates the folder and removes the run
    that was there. In between a run proves that it can start, so that a failing
    start never costs an older result.

    Parameters
    ----------
    path : files in it that are no run's stay untouched
    overwrite : allow an older run to be replaced

    Raises
    ------
    OutputExistsError : the folder holds a run and ``overwrite`` is false.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False):
        self.path = Path(path)
        existing = self._existing()
        if existing and not overwrite:
            raise OutputExistsError(
                f"'{self.path}' already holds a run ({', '.join(p.name for p in existing)}); "
                "choose another folder (--output) or replace the run (--overwrite)."
            )

    def claim(self) -> None:
        """Create the folder, empty of any run.

        Raises
        ------
        OutputError : it cannot be created or emptied.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for old in self._existing():
                old.unlink()
        except OSError as error:
            raise OutputError(
                f"cannot use '{self.path}' as the folder of a run: {error.strerror or error}."
            ) from error

    def remove(self, *names: str) -> None:
        """Remove files that are no longer true.

        Raises
        ------
        OutputError : one cannot be removed.
        """
        try:
            for name in names:
                (self.path / name).unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(
                f"cannot go on in '{self.path}': {error.strerror or error}."
            ) from error

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

    def _existing(self) -> list[Path]:
        return [self.path / name for name in _RUN_FILES if (self.path / name).is_file()]
