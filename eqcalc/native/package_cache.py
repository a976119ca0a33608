"""Where compiled packages are kept, and how a stale or damaged one is told.

A package belongs to one model file, one torch, one device, one precision and one number
of threads: all of them are in its key, hence in its file name. Beside it lies the
checksum of its bytes, written last, so that a package without one was never finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock

from eqcalc.errors import OutputError
from eqcalc.files import write_whole

__all__ = ["PackageCache", "cache_folder", "machine_key"]

_KEY_LENGTH = 24


def cache_folder() -> Path:
    """Return ``$EQCALC_CACHE``, else eqcalc's folder under ``$XDG_CACHE_HOME`` or ~/.cache."""
    if os.environ.get("EQCALC_CACHE"):
        return Path(os.environ["EQCALC_CACHE"]).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return (Path(base) / "eqcalc").expanduser()


def machine_key(device: torch.device) -> dict[str, str]:
    """Return torch's version and what tells machines apart for which code is compiled."""
    # Code for another processor of a shared home folder may be illegal here.
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"torch": torch.__version__, "device": device.type, "hardware": hardware}


class PackageCache:
    """The compiled packages of one folder.

    Parameters
    ----------
    folder : default :func:`cache_folder`; made when the first package is
    suffix : of the packages' file names
    """

    def __init__(self, folder: Path | None = None, suffix: str = ".pt2") -> None:
        self.folder = cache_folder() if folder is None else folder
        self.suffix = suffix

    def path(self, key: dict[str, str]) -> Path:
        """Return where the package of a key lies, or would lie."""
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / (digest[:_KEY_LENGTH] + self.suffix)

    def find(self, key: dict[str, str]) -> Path | None:
        """Return a whole, undamaged package, or None."""
        path = self.path(key)
        try:
            entry = json.loads(_entry(path).read_text())
            whole = entry["key"] == key and entry["sha256"] == _sha256(path)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return path if whole else None

    def make(self, key: dict[str, str], compile_to: Callable[[Path], None]) -> Path:
        """Return the package of a key, compiled where there is none.

        A second process that asks for it meanwhile waits for the first.

        Parameters
        ----------
        compile_to : writes the package to the path that it is given

        Raises
        ------
        OutputError : the folder cannot be written.
        Exception : whatever ``compile_to`` raises; nothing is left behind then.
        """
        path = self.path(key)
        with self._locked(path):
            found = self.find(key)
            if found is not None:
                return found
            _entry(path).unlink(missing_ok=True)
            unfinished = path.with_name(f"{path.stem}.{os.getpid()}{self.suffix}")
            try:
                compile_to(unfinished)
                checksum = _sha256(unfinished)
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
            entry = {"key": key, "sha256": checksum}
            write_whole(_entry(path), (json.dumps(entry, indent=1) + "\n").encode())
        return path

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path.with_suffix(".lock"))
            lock.acquire()
        except OSError as error:
            raise OutputError(
                f"cannot keep compiled models in '{self.folder}': {error}; set EQCALC_CACHE to a "
                "folder that can be written."
            ) from error
        try:
            yield
        finally:
            lock.release()


def _entry(package: Path) -> Path:
    return package.with_suffix(".json")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _processor() -> str:
    """Return what tells processors apart for which the same code may not run."""
    instructions = ""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                words = sorted(line.partition(":")[2].split())
                instructions = hashlib.sha256(" ".join(words).encode()).hexdigest()[:12]
                break
    except OSError:  # no Linux
        pass
    capability = torch.backends.cpu.get_cpu_capability()
    return " ".join(word for word in (platform.machine(), capability, instructions) if word)
