"""``manifest.json``: what a run was made with, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from ase import Atoms

from eqcalc.errors import OutputError, OutputLostError
from eqcalc.files import json_default, write_whole
from eqcalc.simulate.interrupts import StopRequested
from eqcalc.versions import package_versions

__all__ = [
    "RunManifest",
    "earlier_parts",
    "engine_fields",
    "has_broken_off",
    "read_manifest",
    "settings_of_run",
    "steps_gone_back_to",
]


_RESERVE = 1000  # bytes, for what the end of a run adds where the disk is full by then


class RunManifest:
    """Keep ``manifest.json`` of a run true from its start to its end.

    Within the ``with`` block the status is "running"; afterwards it is
    "complete", "interrupted" (a :class:`StopRequested` passed) or "failed" (any
    other exception, with its text under "error"). A process that was killed
    leaves "running". Where another run has taken the folder meanwhile, its manifest stays.

    Parameters
    ----------
    path : of the file; replaced in one step at every change
    fields : what else the file holds; ``update`` adds to it

    Raises
    ------
    OutputError : the file cannot be written.
    OutputLostError : at the end, it is gone or another run's.
    """

    def __init__(self, path: Path, fields: dict[str, Any]):
        self._path = path
        self._fields: dict[str, Any] = {
            "status": "running",
            **fields,
            "versions": package_versions(),
            "started": _now(),
        }
        self._written: tuple[int, int] | None = None

    def update(self, **fields: Any) -> None:
        """Set fields; they reach the disk when the run ends."""
        self._fields.update(fields)

    def is_in_place(self) -> bool:
        """Tell whether the folder still is this run's, not removed and not another one's."""
        return _identity(self._path) == self._written

    def __enter__(self) -> RunManifest:
        self._write(_RESERVE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        found = _identity(self._path)
        if error is None and found != self._written:
            error = OutputLostError(f"'{self._path}' was removed or replaced during the run")
            self._end(error, found)
            raise error
        self._end(error, found)

    def _end(self, error: BaseException | None, found: tuple[int, int] | None) -> None:
        self.update(status=_status(error), ended=_now())
        if error is not None and not isinstance(error, StopRequested):
            self.update(error=f"{type(error).__name__}: {error}")
        if found is not None and found != self._written:
            return  # of another run
        try:
            self._write()
        except StopRequested:  # a signal that came just now
            self.update(status="interrupted")
            self._write()
            raise
        except OutputError:
            self._write_over()
            # Else the user needs the first reason.
            if error is None:
                raise

    def _write(self, reserve: int = 0) -> None:
        write_whole(self._path, self._content() + b" " * reserve + b"\n" * (reserve > 0))
        self._written = _identity(self._path)

    def _content(self) -> bytes:
        text = json.dumps(self._fields, indent=2, ensure_ascii=False, default=json_default)
        # A path that is no UTF-8 goes in as the bytes that it is.
        return (text + "\n").encode(errors="surrogateescape")

    def _write_over(self) -> None:
        """Write the end over the beginning, in the space that the file has: the disk is full."""
        with contextlib.suppress(OSError):
            size = os.stat(self._path).st_size
            if len(self._content()) > size and "error" in self._fields:
                self.update(error=str(self._fields["error"])[: _RESERVE // 4])
            if len(self._content()) <= size:
                with open(self._path, "r+b") as file:
                    file.write(self._content().ljust(size))


def earlier_parts(path: Path, step: int) -> list[dict[str, Any]]:
    """Return when, how far and with which versions a run got that now goes on, part by part.

    Nothing of a manifest that is missing or damaged.

    Parameters
    ----------
    step : from which it goes on, and so far the last part got where its process was killed
    """
    before = read_manifest(path)
    if not before:
        return []
    try:
        parts = list(before.get("earlier_parts", []))
    except TypeError:
        return []
    told = ("status", "resumed_at_step", "not_exact", "steps_done")
    names = (*told, "versions", "engine", "started", "ended")
    last = {name: before[name] for name in names if name in before}
    if last.get("status") == "running":  # its manifest still says where it began
        last["steps_done"] = step
    return [*parts, last]


def has_broken_off(path: Path) -> bool:
    """Return whether a run says that it did not come to its end, killed or failed as it was."""
    return read_manifest(path).get("status") in ("running", "failed", "interrupted")


def settings_of_run(folder: Path) -> dict[str, Any]:
    """Return the settings of a run as its manifest has them; none where it cannot be read."""
    found = read_manifest(folder / "manifest.json").get("settings")
    return found if isinstance(found, dict) else {}


def steps_gone_back_to(folder: Path) -> list[int]:
    """Return the steps of a run from which guards made it go on with new random numbers.

    None where its manifest cannot be read, nor while it is running.
    """
    guards = read_manifest(folder / "manifest.json").get("guards")
    alarms = guards.get("alarms") if isinstance(guards, dict) else None
    found: list[int] = []
    for alarm in alarms if isinstance(alarms, list) else []:
        if isinstance(alarm, dict) and isinstance(step := alarm.get("back_to_step"), int):
            found = [before for before in found if before < step]  # later ones were taken back
            found += [step] * (alarm.get("action") == "roll-back")
    return found


def read_manifest(path: Path) -> dict[str, Any]:
    """Return a manifest, empty where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def engine_fields(atoms: Atoms) -> dict[str, Any]:
    """Return what runs the model of a structure (engine, device, precision, threads).

    Nothing where the calculator cannot tell: it may be any of ASE's.
    """
    facts = getattr(atoms.calc, "engine_facts", None)
    return {} if facts is None else {"engine": facts(len(atoms))}


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from another one that took its place; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _status(error: BaseException | None) -> str:
    if error is None:
        return "complete"
    return "interrupted" if isinstance(error, StopRequested) else "failed"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
