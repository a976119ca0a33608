"""Compiled packages: how one is found, made and named, for a model or a committee.

What compiles is not here and is not imported: it needs networks, and whoever runs a model
does not. It is found as the entry point ``model`` of the group ``eqcalc.compilers``, which
eqcalc's own :mod:`eqcalc.compiling` registers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import torch

from eqcalc import __version__
from eqcalc.engines.engine import Target
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.build import library_checksum
from eqcalc.native.package_cache import PackageCache, machine_key

__all__ = ["Compiler", "compile_command", "find_package", "make_package", "target_name"]

Compiler = Callable[[Sequence[ModelFile], Path, Target], None]
"""Write the package of a model, or of a committee in its order, to a path."""

_LAYOUT = 1  # of the compiled function's arguments; another one must not find old packages


def find_package(files: Sequence[ModelFile], target: Target) -> Path | None:
    """Return the path of the package that runs these models in this order, or None."""
    return PackageCache().find(_key(files, target))


def make_package(files: Sequence[ModelFile], target: Target) -> Path:
    """Compile models for this machine, unless that is done, and return the package's path.

    Raises
    ------
    EngineError : they cannot be compiled.
    OutputError : the cache folder cannot be written.
    """

    def compile_to(package: Path) -> None:
        _compiler()(files, package, target)

    return PackageCache().make(_key(files, target), compile_to)


def target_name(target: Target) -> str:
    """Return what a package is compiled for, in words."""
    n = torch.get_num_threads()
    threads = f", {n} thread{'s' * (n > 1)}" if target.device.type == "cpu" else ""
    return f"{target.device}, {target.precision}{threads}"


def compile_command(files: Sequence[ModelFile], target: Target) -> str:
    """Return the command that makes the package."""
    n_threads = torch.get_num_threads()
    words = ["eqcalc compile", *(str(file.path) for file in files)]
    words += [f"--dtype {target.precision}"] * (target.precision != files[0].card.dtype)
    words += [f"--device {target.device}"] * (target.device.type != "cpu")
    words += [f"--threads {n_threads}"] * (n_threads != 1)
    return " ".join(words)


def _key(files: Sequence[ModelFile], target: Target) -> dict[str, str]:
    """Return all that a package depends on; the order of a committee is that of its results."""
    key = {
        "model": ",".join(file.sha256 for file in files),
        "eqcalc": f"{__version__}, layout {_LAYOUT}",
        "dtype": target.precision,
    }
    if target.device.type == "cpu":  # the number of threads is compiled in
        key |= {"threads": str(torch.get_num_threads()), "kernels": library_checksum()}
    return key | machine_key(target.device)


def _compiler() -> Compiler:
    found = list(entry_points(group="eqcalc.compilers", name="model"))
    if not found:
        raise EngineError(
            "this installation of eqcalc has not registered its compiler; install eqcalc again "
            "(pip install -e . in a checkout)."
        )
    return found[0].load()
