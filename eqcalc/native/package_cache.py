"""Where compiled packages are kept, and how a stale or damaged one is told.

A package belongs to one model file, one torch, one device and one precision: all of them are in
its key, hence in its file name. Beside it lies the checksum of its bytes, written last, so that
a package without one was never finished. The folder is this user's alone
(:mod:`eqcalc.native.private_folder`): what lies there is run.
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

from eqcalc.errors import CacheError
from eqcalc.files import write_whole
from eqcalc.native.private_folder import make_private, require_trusted, require_trusted_file

__all__ = ["PackageCache", "cache_folder", "machine_key"]

_KEY_LENGTH = 24


def cache_folder() -> Path:
    """Return ``$EQCALC_CACHE``, else eqcalc's folder under ``$XDG_CACHE_HOME`` or ~/.cache.

    Raises
    ------
    CacheError : that is below a home folder, and there is none; or no absolute path.
    """
    own = os.environ.get("EQCALC_CACHE")
    folder = Path(own or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "eqcalc")
    try:
        folder = folder.expanduser()
    except RuntimeError as error:  # no HOME, and a user whom the system does not know
        raise CacheError(
            f"there is no place for compiled models: '{folder}' asks for a home folder, and this "
            "user has none; set EQCALC_CACHE to a folder of your own."
        ) from error
    if not folder.is_absolute():  # what is compiled in one folder would be missing in the next
        raise CacheError(
            f"there is no place for compiled models: {'EQCALC_CACHE' if own else 'XDG_CACHE_HOME'} "
            f"must be an absolute path, and '{folder}' is another folder wherever eqcalc is "
            f"started; set EQCALC_CACHE to a folder of your own, such as '{folder.absolute()}'."
        )
    return folder


def machine_key(device: torch.device) -> dict[str, str]:
    """Return torch's version and what tells machines apart for which code is compiled."""
    # Code for another processor of a shared home folder may be illegal here.
    hardware = _card(device) if device.type == "cuda" else _processor()
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
        """Return a whole, undamaged package, or None.

        Raises
        ------
        CacheError : others could have put it there.
        """
        path = self.path(key)
        if not os.path.lexists(path):
            return None
        require_trusted(self.folder)
        try:
            for file in (path, _entry(path)):
                require_trusted_file(file)
            entry = json.loads(_entry(path).read_text())
            whole = entry["key"] == key and entry["sha256"] == _sha256(path)
        except CacheError:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return path if whole else None

    def keys_with(self, **wanted: str) -> list[dict[str, str]]:
        """Return the keys of the packages that are there and share these items."""
        found = []
        for path in sorted(self.folder.glob("*.json")) if os.path.isdir(self.folder) else []:
            try:
                key = json.loads(path.read_text())["key"]
                shares = all(key.get(name) == value for name, value in wanted.items())
            except (OSError, ValueError, KeyError, TypeError, AttributeError):
                continue
            if shares and os.path.exists(path.with_suffix(self.suffix)):
                found.append(key)
        return found

    def make(self, key: dict[str, str], compile_to: Callable[[Path], None]) -> Path:
        """Return the package of a key, compiled where there is none.

        A second process that asks for it meanwhile waits for the first.

        Parameters
        ----------
        compile_to : writes the package to the path that it is given

        Raises
        ------
        CacheError : the folder cannot be written, or others can write it too.
        Exception : whatever ``compile_to`` raises; nothing is left behind then.
        """
        path = self.path(key)
        # Before the lock: a folder that can only be read has no place for one.
        found = self._find_own(key)
        if found is not None:
            return found
        with self._locked(path):
            found = self._find_own(key)  # made while this process waited
            if found is not None:
                return found
            _entry(path).unlink(missing_ok=True)
            unfinished = path.with_name(f"{path.stem}.{os.getpid()}{self.suffix}")
            try:
                compile_to(unfinished)
                _keep_others_from_writing(unfinished)
                checksum = _sha256(unfinished)
                os.replace(unfinished, path)
            finally:
                unfinished.unlink(missing_ok=True)
            entry = {"key": key, "sha256": checksum}
            write_whole(_entry(path), (json.dumps(entry, indent=1) + "\n").encode())
            _keep_others_from_writing(_entry(path))
        return path

    def _find_own(self, key: dict[str, str]) -> Path | None:
        """Return what :meth:`find` does, and None for what others could have put there."""
        try:
            return self.find(key)
        except CacheError:  # the folder is refused when it is locked; an old file is made again
            return None

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        try:
            make_private(self.folder)
            lock = FileLock(path.with_suffix(".lock"))
            lock.acquire()
        except CacheError:
            raise
        except OSError as error:
            raise CacheError(
                f"cannot keep compiled models in '{self.folder}': {error}; set EQCALC_CACHE to a "
                "folder that can be written."
            ) from error
        try:
            yield
        finally:
            lock.release()


def _keep_others_from_writing(path: Path) -> None:
    """Take from a new file what a loose umask would let others do."""
    os.chmod(path, path.stat().st_mode & 0o755)


def _entry(package: Path) -> Path:
    return package.with_suffix(".json")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _card(device: torch.device) -> str:
    """Return a GPU's name, and the capability for which its code is compiled."""
    major, minor = torch.cuda.get_device_capability(device)
    return f"{torch.cuda.get_device_name(device)} sm_{major}{minor}"


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
