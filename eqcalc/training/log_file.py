"""``train.log``: what a training said, and when."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path

from eqcalc.errors import OutputError
from eqcalc.files import AppendFile
from eqcalc.training.reports import Report

__all__ = ["TrainingLog"]


class TrainingLog:
    """A file of lines with their times, to which a resumed run adds.

    Raises
    ------
    OutputError : it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        keep = path.stat().st_size if path.exists() else None
        self._file = AppendFile(path, keep)

    def say(self, line: str) -> None:
        """Add a line."""
        now = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self._file.append(f"{now}  {line}\n".encode())

    def show(self, report: Report) -> None:
        """Add a line for a message, for an event and for an epoch that has ended."""
        if report.message:
            self.say(report.message)
        elif report.event:
            after = f" in {report.seconds:.0f} s" if report.seconds > 0 else ""
            self.say(f"{report.event}{after}")
        elif report.batch == 0:
            values = "  ".join(f"{name} {value:g}" for name, value in report.metrics.items())
            self.say(f"epoch {report.epoch}/{report.n_epochs}  {values}")

    @contextmanager
    def until_its_end(self) -> Iterator[None]:
        """Say how what is done inside has ended, and close the file."""
        try:
            yield
            self.say("complete")
        except OutputError:
            raise  # the file takes no more either
        except (KeyboardInterrupt, Exception) as error:
            stopped = isinstance(error, KeyboardInterrupt)
            with suppress(OutputError):  # the user needs the first reason
                self.say("interrupted" if stopped else f"failed: {type(error).__name__}: {error}")
            raise
        finally:
            self._file.close()
