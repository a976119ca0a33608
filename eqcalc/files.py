"""Files that never hold half of anything, unless a kill ends a write.

A file that grows during a run is an :class:`AppendFile`: a piece is in it whole
or not at all, except that a kill inside a write leaves a half, which readers cut
off. A file that is written once goes through :func:`write_whole`, which replaces
the old content in one step.
"""

from __future__ import annotations

import contextlib
import os
import struct
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from eqcalc.errors import ConfigError, OutputError, OutputExistsError, OutputLostError

__all__ = [
    "ARRAY_DAMAGE",
    "ZIP_DAMAGE",
    "AppendFile",
    "json_default",
    "refuse_existing",
    "remove_files",
    "require_folders",
    "write_through",
    "write_whole",
]

# What zipfile raises, depending on where a file is damaged: a flipped bit may claim
# encryption, another compression or a name that is no text.
ZIP_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,
    OverflowError,
    MemoryError,
)
# What numpy raises besides at the arrays inside: a header is a piece of Python's syntax.
ARRAY_DAMAGE = (
    *ZIP_DAMAGE,
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    SyntaxError,
    tokenize.TokenError,
)


class AppendFile:
    """A file that grows by whole pieces: a new one, or the first ``keep`` bytes of an old one.

    Writes are unbuffered, so whatever kills the process leaves every piece that
    was appended, and at most half of the next. A piece that cannot be written to its
    end (disk full) is taken back before the error is raised. A file that was removed or
    replaced meanwhile would take every piece, and nobody would ever see them: that is an error too.

    Raises
    ------
    OutputError : the file cannot be created, a piece cannot be written, or the file is gone.
    """

    def __init__(self, path: Path, keep: int | None = None):
        self.path = path
        self.size = 0
        try:
            mode = "w+b" if keep is None else "r+b"
            self._file = open(path, mode, buffering=0)  # noqa: SIM115  closed in close()
            if keep is not None:
                self._file.truncate(keep)
                self.size = keep
        except OSError as error:
            what = "cannot create" if keep is None else "cannot go on with"
            raise OutputError(_reason(what, path, error)) from error

    def append(self, piece: bytes) -> None:
        """Add ``piece`` at the end, whole or not at all."""
        self.require_present()
        end = self.size + len(piece)
        try:
            self._write_at(self.size, piece)
            self.size = end
        except OSError as error:
            raise OutputError(
                _reason("cannot write to", self.path, error)
                + "; everything written before is complete. Free some space or choose another "
                "output folder."
            ) from error
        finally:
            # Also after an exception that is not the disk's, such as a second Ctrl-C.
            if self.size != end:
                with contextlib.suppress(OSError):  # the failed write is being reported already
                    self._file.truncate(self.size)

    def require_present(self) -> None:
        """Refuse to go on where the path no longer leads to this file.

        Raises
        ------
        OutputLostError : it was removed or cut, or another file stands in its place.
        OutputError : the system does not tell.
        """
        try:
            own = os.fstat(self._file.fileno())
            is_there = os.path.samestat(os.stat(self.path), own) and own.st_size >= self.size
        except FileNotFoundError:
            is_there = False
        except OSError as error:
            raise OutputError(_reason("cannot look for", self.path, error)) from error
        if not is_there:
            raise OutputLostError(
                f"'{self.path}' was removed or replaced while it was being written; what it held "
                "is lost"
            )

    def patch(self, position: int, piece: bytes) -> None:
        """Replace bytes that were appended earlier; the size stays."""
        try:
            self._write_at(position, piece)
        except OSError as error:
            raise OutputError(_reason("cannot write to", self.path, error)) from error

    def read(self, position: int, n_bytes: int) -> bytes:
        """Return up to ``n_bytes`` from ``position``."""
        self._file.seek(position)
        return self._file.read(n_bytes)

    def close(self) -> None:
        """Close the file; closing twice is fine."""
        self._file.close()

    def _write_at(self, position: int, piece: bytes) -> None:
        rest = memoryview(piece)
        self._file.seek(position)
        while rest:  # the system may take less than it was given
            rest = rest[self._file.write(rest) :]


def refuse_existing(paths: Iterable[Path], overwrite: bool = False) -> None:
    """Refuse to write where something stands already, unless ``overwrite`` allows it.

    Raises
    ------
    OutputExistsError : files exist; the message names them all.
    """
    existing = [f"'{path}'" for path in paths if path.exists()]
    if existing and not overwrite:
        are, them = (" exist", "them") if len(existing) > 1 else (" exists", "it")
        raise OutputExistsError(
            f"{', '.join(existing)}{are}; pass overwrite=True to replace {them}, or choose "
            "another output."
        )


def refuse_own_input(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Refuse to replace what is read: what the new file does not hold would be gone.

    Raises
    ------
    ConfigError : an output is one of the inputs, whatever may be overwritten.
    """
    there = [path for path in outputs if path.exists()]
    for file in inputs:
        for output in there:
            if file.exists() and output.samefile(file):
                raise ConfigError(
                    f"'{output}' is one of the files that are read ({file}); write another one."
                )


def require_folders(paths: Iterable[Path]) -> None:
    """Refuse, before anything is computed, to write into a folder that is not there.

    Raises
    ------
    OutputError : a file has no folder to be in, or is one itself.
    """
    for path in paths:
        if path.is_dir():
            raise OutputError(f"cannot write '{path}': it is a folder.")
        if not path.parent.is_dir():
            raise OutputError(f"cannot write '{path}': there is no folder '{path.parent}'.")


def json_default(value: Any) -> Any:
    """Return what JSON shall hold in place of a value that it does not know.

    A number of numpy's is a number, an array a list, and all else its name: ``default`` of
    :func:`json.dumps`.
    """
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    return str(value)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part.

    Raises
    ------
    OutputError : the file cannot be written; an older one stays as it was.
    """
    require_folders([path])  # "." has no name that a part could be called by
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # the failed write is being reported already
            part.unlink()
        raise OutputError(_reason("cannot write", path, error)) from error


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Remove files that are no longer true; those that are not there are no error.

    Raises
    ------
    OutputError : one cannot be removed.
    """
    for name in names:
        path = folder / name
        try:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                path.unlink()
        except OSError as error:
            raise OutputError(_reason("cannot remove", path, error)) from error


@contextlib.contextmanager
def write_through(path: Path) -> Iterator[Path]:
    """Give a path of the same name in a folder beside it; what stands there in the end moves here.

    For what is written by name, not as bytes: a reader sees the old file or the new one.

    Raises
    ------
    OutputError : the file cannot be written; an older one stays as it was.
    """
    try:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            os.replace(part, path)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(_reason("cannot write", path, error)) from error


def _reason(what: str, path: Path, error: OSError) -> str:
    return f"{what} '{path}': {error.strerror or error}"
