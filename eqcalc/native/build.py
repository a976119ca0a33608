"""Build and load the C++ library of compiled models.

It is built once for a machine, with the compiler that AOTInductor uses too, and kept in the
cache of packages.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from eqcalc.cores import usable_cores
from eqcalc.errors import EngineError
from eqcalc.native.operators import load_operators
from eqcalc.native.package_cache import PackageCache, machine_key

__all__ = [
    "build_library",
    "compile_sources",
    "find_compiler",
    "find_library",
    "library_checksum",
    "load_library",
]

_FOLDER = Path(__file__).parent

FLAGS = (
    "-std=c++20",
    "-O3",
    "-march=native",
    # Tuned for AMD, gcc fuses a product with a sum in some loops and not in others, and a row of a
    # matrix product would have other bits in a block of another size.
    "--param=avoid-fma-max-bits=0",
    "-fopenmp",  # else torch's headers make its parallel loops serial ones
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
)

SOURCES: dict[Path, tuple[str, ...]] = {
    _FOLDER / "convolutions.cpp": (),
    # No product is fused with a sum there: numpy and torch round each by itself.
    _FOLDER / "edges.cpp": ("-ffp-contract=off",),
    _FOLDER / "exchange.cpp": (),
    _FOLDER / "library.cpp": (),
    _FOLDER / "path_convolution.cpp": (),
    _FOLDER / "path_products.cpp": (),
    _FOLDER / "products.cpp": (),
}
"""The sources, and the flags that each takes besides."""

_loaded: list[Path] = []


def find_library() -> Path | None:
    """Return where the library lies that is loaded, or would be, or None where it was not built.

    Raises
    ------
    CacheError : it is there, and others could have put it there.
    """
    return _loaded[0] if _loaded else _cache().find(_key())


def load_library() -> bool:
    """Load the library where it was built, and tell whether it is loaded now.

    Raises
    ------
    EngineError : it is there, and torch cannot load it.
    CacheError : it is there, and others could have put it there.
    """
    if not _loaded:
        library = find_library()
        if library is None:
            return False
        try:
            load_operators(library)
        except (OSError, RuntimeError) as error:  # such as a file system mounted noexec
            raise EngineError(
                f"torch cannot load eqcalc's C++ library '{library}': "
                f"{str(error).strip().splitlines()[0]}; set EQCALC_CACHE to a folder from which "
                "code can be run."
            ) from error
        _loaded.append(library)
    return True


def build_library() -> None:
    """Build the library, unless that is done.

    Raises
    ------
    EngineError : there is no C++ compiler, or it fails.
    CacheError : the cache folder cannot be written, or others can write it too.
    """
    _cache().make(_key(), _build)


def library_checksum() -> str:
    """Return what tells one version of the library from another: its files and flags."""
    version = hashlib.sha256(" ".join(FLAGS).encode())
    for path in (*SOURCES, *sorted(_FOLDER.glob("*.h"))):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        version.update(" ".join((path.name, *SOURCES.get(path, ()), content, "")).encode())
    return version.hexdigest()


def _cache() -> PackageCache:
    return PackageCache(suffix=".so")


def _key() -> dict[str, str]:
    return machine_key(torch.device("cpu")) | {"kernels": library_checksum()}


def _build(library: Path) -> None:
    compile_sources(SOURCES, library, FLAGS)


def find_compiler() -> str:
    """Return the C++ compiler: ``CXX`` of the environment, else g++ or clang++.

    Raises
    ------
    EngineError : there is none.
    """
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise EngineError("there is no C++ compiler; install g++ or set CXX.")
    return compiler


def compile_sources(
    sources: Mapping[Path, Sequence[str]],
    library: Path,
    flags: Sequence[str],
    links: Sequence[str] = (),
) -> None:
    """Compile C++ that uses torch into a library, every source at once.

    Parameters
    ----------
    sources : and the flags that each takes besides
    links : what else to link

    Raises
    ------
    EngineError : there is no C++ compiler, or it fails.
    """
    from torch.utils import cpp_extension

    compiler = find_compiler()
    of_torch = [f"-I{folder}" for folder in cpp_extension.include_paths()]
    # Wheels of torch before 2.7 have the strings of the C++ library before C++11.
    of_torch.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    libraries = [f"-L{folder}" for folder in cpp_extension.library_paths()]
    with tempfile.TemporaryDirectory() as folder:  # a new one, of mode 0700
        commands, objects = [], []
        for source, own_flags in sources.items():
            objects.append(str(Path(folder, source.name).with_suffix(".o")))
            commands.append(
                [compiler, *flags, *own_flags, *of_torch, "-c", str(source), "-o", objects[-1]]
            )
        # Most of the time goes into torch's headers, which every source reads.
        with ThreadPoolExecutor(usable_cores()) as pool:
            list(pool.map(_run, commands))
        command = [compiler, "-shared", *objects, "-o", str(library), *libraries]
        # GCC's calls of OpenMP are answered by the library that torch brings: with one of its own
        # there could be two, each with its threads. Clang calls another one.
        own = ["-fopenmp"] if "clang" in Path(compiler).name else []
        _run([*command, "-ltorch", "-ltorch_cpu", "-lc10", *own, *links])


def _run(command: Sequence[str]) -> None:
    compiler = command[0]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        raise EngineError(f"cannot run the C++ compiler '{compiler}': {error}.") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line]
        raise EngineError(f"{compiler} failed: {(lines or ['no message'])[0].strip()}")
