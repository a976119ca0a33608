"""Where torch's compiler keeps its own files while eqcalc calls it.

By default that is ``torchinductor_USER`` in the folder for temporary files: a name that can be
foreseen, and what lies there is loaded (shared libraries, pickles, headers). Here it is a folder
in eqcalc's own cache, unless the user has named one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from eqcalc.errors import CacheError
from eqcalc.native.package_cache import cache_folder
from eqcalc.native.private_folder import make_private

__all__ = ["private_compiler_folder"]

_VARIABLE, _TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"


@contextmanager
def private_compiler_folder() -> Iterator[Path]:
    """Let torch's compiler use a folder that nobody else can write to, within the block.

    Afterwards the environment is as it was. The folder may be deleted whenever nothing is
    being compiled.

    Raises
    ------
    CacheError : there is no such folder, and none can be made; or the one that the user named
        (``TORCHINDUCTOR_CACHE_DIR``, ``TRITON_CACHE_DIR``) can be written by others.
    """
    named = _named_by_the_user()
    folder = _made(cache_folder() / "compiler" if named is None else Path(named), named is not None)
    variables = {_VARIABLE: str(folder), _TRITON: os.environ.get(_TRITON) or f"{folder}/triton"}
    _made(Path(variables[_TRITON]), _TRITON in os.environ)
    before = {name: os.environ.get(name) for name in variables}
    # Some files have no variable: torch asks for the folder of temporary ones.
    temporary, tempfile.tempdir = tempfile.tempdir, str(folder)
    os.environ.update(variables)
    try:
        with ExitStack() as stack:
            _leave_out_foreign_headers(folder, stack)
            yield folder
    finally:
        tempfile.tempdir = temporary
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _named_by_the_user() -> str | None:
    """Return the folder that the user chose; torch enters its own default there too."""
    named = os.environ.get(_VARIABLE)
    if not named:
        return None
    path = Path(os.path.abspath(named))
    is_default = path.name.startswith("torchinductor_") and str(path.parent) in (
        os.path.abspath(tempfile.gettempdir()),
        "/tmp",
        "/var/tmp",
    )
    return None if is_default else str(path)


def _made(folder: Path, is_users: bool) -> Path:
    folder = folder.absolute()
    try:
        if not is_users and folder.is_symlink():
            raise CacheError(f"'{folder}' is a link; remove it, eqcalc makes a folder there.")
        make_private(folder)
    except CacheError:
        raise
    except OSError as error:
        raise CacheError(
            f"torch's compiler needs a folder of its own, and '{folder}' cannot be made: "
            f"{error.strerror or error}; set EQCALC_CACHE to a folder that can be written."
        ) from error
    return folder


def _leave_out_foreign_headers(folder: Path, stack: ExitStack) -> None:
    """Do without precompiled headers where torch, imported earlier, keeps them elsewhere."""
    from torch._inductor import codecache, config

    headers = getattr(codecache, "_HEADER_DIR", None)  # not in every torch
    if headers is None or Path(headers).is_relative_to(folder):
        return
    off = {"cpp_cache_precompile_headers": False, "aot_inductor.precompile_headers": False}
    known = {name: value for name, value in off.items() if name in config.get_config_copy()}
    stack.enter_context(config.patch(known))
