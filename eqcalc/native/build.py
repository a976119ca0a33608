"""Build and load the C++ kernels of compiled models (``library.cpp``).

They are built once for a machine, with the compiler that AOTInductor uses too, and kept in
the cache of packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import torch

from eqcalc.errors import EngineError
from eqcalc.native.operators import load_operators
from eqcalc.native.package_cache import PackageCache, machine_key

__all__ = ["build_library", "library_checksum", "load_library"]

SOURCE = Path(__file__).with_name("library.cpp")

_loaded: list[Path] = []


def load_library() -> bool:
    """Load the kernels where they were built, and tell whether they are loaded now."""
    if not _loaded:
        library = _cache().find(_key())
        if library is None:
            return False
        load_operators(library)
        _loaded.append(library)
    return True


def build_library() -> None:
    """Build the kernels, unless that is done.

    Raises
    ------
    EngineError : there is no C++ compiler, or it fails.
    OutputError : the cache folder cannot be written.
    """
    _cache().make(_key(), _build)


def library_checksum() -> str:
    """Return what tells one version of the kernels from another."""
    return hashlib.sha256(SOURCE.read_bytes()).hexdigest()


def _cache() -> PackageCache:
    return PackageCache(suffix=".so")


def _key() -> dict[str, str]:
    return machine_key(torch.device("cpu")) | {"kernels": library_checksum()}


def _build(library: Path) -> None:
    from torch.utils import cpp_extension

    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise EngineError("there is no C++ compiler; install g++ or set CXX.")
    command = [
        compiler,
        "-std=c++20",
        "-O3",
        "-march=native",
        "-fopenmp-simd",
        "-fno-math-errno",
        "-fno-trapping-math",
        "-shared",
        "-fPIC",
        str(SOURCE),
        "-o",
        str(library),
        *(f"-I{folder}" for folder in cpp_extension.include_paths()),
        *(f"-L{folder}" for folder in cpp_extension.library_paths()),
        "-ltorch",
        "-ltorch_cpu",
        "-lc10",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise EngineError(f"cannot run the C++ compiler '{compiler}': {error}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise EngineError(f"{compiler} failed: {(lines or ['no message'])[0].strip()}")
