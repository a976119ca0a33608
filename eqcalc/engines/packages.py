"""Compiled packages: how one is found, made and named, for a model or a committee.

What compiles is not here and is not imported: it needs networks, and whoever runs a model
does not. It is found as the entry points ``model`` and ``program`` of the group
``eqcalc.compilers``, which eqcalc's own :mod:`eqcalc.compiling` registers.
"""

from __future__ import annotations

import functools
import hashlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from eqcalc import __version__
from eqcalc.engines.engine import Target
from eqcalc.errors import EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.build import build_library, find_library, library_checksum
from eqcalc.native.package_cache import PackageCache, machine_key

__all__ = [
    "Compiler",
    "Traced",
    "find_exchange_package",
    "find_package",
    "is_stale",
    "lacks_library",
    "make_exchange_package",
    "make_package",
    "target_name",
    "trace_program",
    "why_no_exchange_package",
    "why_no_package",
]

Compiler = Callable[[Sequence[ModelFile], Path, Target, bool], None]
"""Write the package of a model, or of a committee in its order, to a path.

The last argument says whether it is for the ranks of a host, which exchange features.
"""


class Traced(NamedTuple):
    """Energies and edge gradients as a program of tensor operations.

    program : takes atomic numbers, edge vectors, edge index and weights
    example : such inputs
    """

    program: Callable[..., tuple[Tensor, Tensor]]
    example: tuple[Tensor, ...]


_EQCALC = Path(__file__).parents[1]
_MAKE_A_PACKAGE = (
    "architectures",
    "nn",
    "tabulated",
    "triton_kernels",
    "export",
    "potential.py",
    "derivatives.py",
)
"""What a package's arguments and numbers are made by, beside the model file."""

_IN_WORDS = {
    "eqcalc": "with eqcalc {}",
    "torch": "with torch {}",
    "dtype": "for {}",
    "device": "for a {} device",
    "hardware": "for another processor",
    "kernels": "with another version of eqcalc's C++ library",
}
"""What a package depends on -> how one that was made otherwise is told."""


def find_package(files: Sequence[ModelFile], target: Target) -> Path | None:
    """Return the path of the package that runs these models in this order, or None.

    Raises
    ------
    CacheError : there is one, and others could have put it there.
    """
    return PackageCache().find(_key(files, target))


def find_exchange_package(file: ModelFile, target: Target) -> Path | None:
    """Return the path of a model's package for ranks that exchange features, or None.

    Raises
    ------
    CacheError : as :func:`find_package` does.
    """
    return PackageCache().find(_key([file], target, exchanges=True))


def make_package(files: Sequence[ModelFile], target: Target) -> Path:
    """Compile models for this machine, unless that is done, and return the package's path.

    Raises
    ------
    EngineError : they cannot be compiled.
    CacheError : the cache folder cannot be written, or others can write it too.
    """
    return _make(files, target, exchanges=False)


def make_exchange_package(file: ModelFile, target: Target) -> Path:
    """Compile a model for ranks that exchange features, unless that is done; return the path.

    Raises
    ------
    EngineError : it cannot be compiled, or its features cannot be exchanged.
    CacheError : as :func:`make_package` does.
    """
    return _make([file], target, exchanges=True)


def _make(files: Sequence[ModelFile], target: Target, *, exchanges: bool) -> Path:
    def compile_to(package: Path) -> None:
        _compiler()(files, package, target, exchanges)

    path = PackageCache().make(_key(files, target, exchanges=exchanges), compile_to)
    if _calls_library(target, exchanges):  # a package that was there may have lost it
        build_library()
    return path


def lacks_library(target: Target, *, exchanges: bool = False) -> bool:
    """Return whether the C++ library that packages of a target call is gone, or damaged.

    Raises
    ------
    CacheError : others could have put it there.
    """
    return _calls_library(target, exchanges) and find_library() is None


def _calls_library(target: Target, exchanges: bool) -> bool:
    # In float64 networks have no tables, and nothing else is called but the exchange.
    return target.device.type == "cpu" and (exchanges or target.dtype == torch.float32)


def is_stale(key: Mapping[str, str]) -> bool:
    """Return whether a package of the cache was made by what is not here any more.

    By another torch, eqcalc or C++ library, for another processor or a GPU that is not there.
    """
    if key.get("device") == "cpu":
        wanted = [machine_key(torch.device("cpu")) | {"kernels": library_checksum()}]
    else:
        cards = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
        try:
            wanted = [machine_key(card) for card in cards]
        except RuntimeError:  # they do not work
            return True
    return not any({"eqcalc": _maker(), **each}.items() <= key.items() for each in wanted)


def _maker() -> str:
    return f"{__version__}, sources {_sources()}"


@functools.cache
def _sources() -> str:
    """Return what tells one state of the sources from another: a checkout has many of a version."""
    digest = hashlib.sha256()
    for path in [_EQCALC / name for name in _MAKE_A_PACKAGE]:
        for source in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:12]


def target_name(target: Target) -> str:
    """Return what a package is compiled for, in words."""
    return f"{target.device}, {target.precision}"


def why_no_package(files: Sequence[ModelFile], target: Target) -> str:
    """Return why there is no package for a target, and the command that makes it.

    A package that was made otherwise, by an older torch for example, is named.
    """
    return _why_none(files, target, exchanges=False)


def why_no_exchange_package(file: ModelFile, target: Target) -> str:
    """Return what :func:`why_no_package` does, of a model's package for ranks."""
    return _why_none([file], target, exchanges=True)


def _why_none(files: Sequence[ModelFile], target: Target, *, exchanges: bool) -> str:
    together = " together" * (len(files) > 1)
    ranks = " for ranks that exchange features" * exchanges
    why = f"not compiled{together}{ranks} for {target_name(target)}"
    wanted = _key(files, target, exchanges=exchanges)
    others = PackageCache().keys_with(model=wanted["model"])
    if others:
        differences = [
            [name for name in {**wanted, **other} if wanted.get(name) != other.get(name)]
            for other in others
        ]
        nearest = min(range(len(others)), key=lambda number: len(differences[number]))
        made = [
            _IN_WORDS[name].format(others[nearest].get(name))
            for name in differences[nearest]
            if name in _IN_WORDS and name in others[nearest]
        ]
        # Nothing differs where the package itself is damaged.
        why += (
            f" (the package that is there was made {', '.join(made)})"
            if made
            else (" (the package that is there is damaged)")
        )
    return f"{why}; run: {_compile_command(files, target)}{' --exchange' * exchanges}"


def _compile_command(files: Sequence[ModelFile], target: Target) -> str:
    words = ["eqcalc compile", *(shlex.quote(file.lasting_source) for file in files)]
    words += [f"--dtype {target.precision}"] * (target.precision != files[0].card.dtype)
    words += [f"--device {target.device}"] * (target.device.type != "cpu")
    return " ".join(words)


def _key(files: Sequence[ModelFile], target: Target, *, exchanges: bool = False) -> dict[str, str]:
    """Return all that a package depends on; the order of a committee is that of its results."""
    models = ",".join(file.sha256 for file in files)
    key = {
        "model": f"{models}, exchange" if exchanges else models,
        "eqcalc": _maker(),
        "dtype": target.precision,
    }
    if target.device.type == "cpu":
        key |= {"kernels": library_checksum()}
    return key | machine_key(target.device)


def trace_program(file: ModelFile, target: Target, *, only_tables: bool) -> Traced:
    """Return the program of a network, for a GPU.

    Raises
    ------
    EngineError : the network has no form with tables and shall have one, or cannot be rebuilt or
        traced.
    """
    return _registered("program")(file, target, only_tables)


def _compiler() -> Compiler:
    return _registered("model")


def _registered(name: str) -> Any:
    found = list(entry_points(group="eqcalc.compilers", name=name))
    if not found:
        raise EngineError(
            "this installation of eqcalc has not registered its compiler; install eqcalc again "
            "(pip install -e . in a checkout)."
        )
    return found[0].load()
