"""``manifest.json``: what a run was made with, and how it ended."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
from datetime import datetime, timezone
from pathlib import Path
from types import TracebackType
from typing import Any

from ase import Atoms

from eqcalc import __version__
from eqcalc.errors import OutputError
from eqcalc.files import write_whole
from eqcalc.simulate.interrupts import StopRequested

__all__ = ["RunManifest", "engine_fields", "package_versions"]


class RunManifest:
    """Keep ``manifest.json`` of a run true from its start to its end.

    Within the ``with`` block the status is "running"; afterwards it is
    "complete", "interrupted" (a :class:`StopRequested` passed) or "failed" (any
    other exception, with its text under "error"). A process that was killed
    leaves "running".

    Parameters
    ----------
    path : of the file; replaced in one step at every change
    fields : what else the file holds; ``update`` adds to it

    Raises
    ------
    OutputError : the file cannot be written.
    """

    def __init__(self, path: Path, fields: dict[str, Any]):
        self._path = path
        self._fields: dict[str, Any] = {
            "status": "running",
            **fields,
            "versions": package_versions(),
            "started": _now(),
        }

    def update(self, **fields: Any) -> None:
        """Set fields; they reach the disk when the run ends."""
        self._fields.update(fields)

    def __enter__(self) -> RunManifest:
        self._write()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.update(status=_status(error), ended=_now())
        if error is None:
            self._write()
            return
        if not isinstance(error, StopRequested):
            self.update(error=f"{type(error).__name__}: {error}")
        # On a full disk this write fails as well; the user needs the first reason.
        with contextlib.suppress(OutputError):
            self._write()

    def _write(self) -> None:
        text = json.dumps(self._fields, indent=2, ensure_ascii=False, default=str)
        write_whole(self._path, (text + "\n").encode())


def engine_fields(atoms: Atoms) -> dict[str, Any]:
    """Return what runs the model of a structure (engine, device, precision, threads).

    Nothing where the calculator cannot tell: it may be any of ASE's.
    """
    facts = getattr(atoms.calc, "engine_facts", None)
    return {} if facts is None else {"engine": facts(len(atoms))}


def package_versions() -> dict[str, str]:
    """Return the versions of eqcalc and of what its numbers depend on."""
    names = ("torch", "ase", "numpy")
    return {"eqcalc": __version__, **{name: importlib.metadata.version(name) for name in names}}


def _status(error: BaseException | None) -> str:
    if error is None:
        return "complete"
    return "interrupted" if isinstance(error, StopRequested) else "failed"


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
