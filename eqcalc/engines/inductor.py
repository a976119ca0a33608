"""The engine that runs what was compiled for this machine: on a CPU a package, ahead of time."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Optional

import torch

from eqcalc.engines.engine import Engine, Target
from eqcalc.engines.packages import find_package, lacks_library, make_package, why_no_package
from eqcalc.engines.program import Call, Program
from eqcalc.engines.traced import FusedEngine
from eqcalc.errors import CacheError, EngineError
from eqcalc.model_file import ModelFile
from eqcalc.native.build import load_library
from eqcalc.native.private_folder import is_noexec

__all__ = ["CompiledPackage", "InductorEngine", "load_package"]

_loaded: dict[str, Call] = {}

_NO_LIBRARY = (
    "eqcalc's C++ library, which the package calls, is not there; run eqcalc compile again"
)


class CompiledPackage(Program):
    """A package for a CPU that torch has loaded, for any number of atoms and edges.

    Parameters
    ----------
    reach : Å; beyond every network's cutoff

    Raises
    ------
    EngineError : torch cannot load the package.
    """

    def __init__(self, path: Path, target: Target, *, reach: float) -> None:
        load_library()
        if lacks_library(target):
            raise EngineError(_NO_LIBRARY)
        super().__init__(load_package(path), target, reach=reach)


class InductorEngine(CompiledPackage, Engine):
    """Run the compiled package of a model."""

    name = "inductor"
    device_types = ("cpu", "cuda")
    takes_weights = True

    @classmethod
    def can_run(cls, file: ModelFile, target: Target) -> Optional[str]:
        """Return why not: another kind of device, or what was compiled for it is not there."""
        why = super().can_run(file, target)
        try:
            if why is None and find_package([file], target) is None:
                why = why_no_package([file], target)
            if why is None and lacks_library(target):
                why = _NO_LIBRARY
        except CacheError as error:
            why = str(error)
        return why

    @classmethod
    def prepare(cls, file: ModelFile, target: Target) -> None:
        """Compile the model, unless that is done."""
        make_package([file], target)

    @classmethod
    def load(cls, file: ModelFile, target: Target) -> Engine:
        """Load the package.

        Raises
        ------
        EngineError : the model was not compiled for this device and precision, or torch
            cannot load the package.
        """
        path = find_package([file], target)
        if path is None:
            raise EngineError(super().can_run(file, target) or why_no_package([file], target))
        if target.device.type == "cuda":
            return FusedEngine.load(file, target)
        return cls(path, target, reach=2.0 * file.card.cutoff)


def load_package(path: Path) -> Call:
    """Return a package, loaded once: what it maps into the process stays there for ever.

    Raises
    ------
    EngineError : torch cannot load it.
    """
    checksum = hashlib.sha256(path.read_bytes()).hexdigest()
    if checksum not in _loaded:
        unpacked_in = tempfile.gettempdir()
        if is_noexec(Path(unpacked_in)):  # torch would fail there, and leave its files behind
            raise EngineError(
                f"packages are unpacked in '{unpacked_in}', whose file system is mounted noexec; "
                "set TMPDIR to a folder from which code can be run"
            )
        try:
            _loaded[checksum] = _loader(str(path)).run
        except (RuntimeError, TypeError, AttributeError) as error:  # the latter of an older torch
            raise EngineError(
                f"torch {torch.__version__} cannot load the compiled package '{path}': "
                f"{str(error).strip().splitlines()[0]}"
            ) from error
    return _loaded[checksum]


def _loader(path: str) -> Any:
    """Return torch's loader of a package.

    Not ``torch._inductor.aoti_load_package``: that imports the compiler, which takes seconds and
    builds and loads libraries of its own. The loader unpacks into a new folder of mode 0700
    among the temporary ones, and removes it at the end of the process.
    """
    loader = torch._C._aoti.AOTIModelPackageLoader
    for options in ((False, 1, -1), (False, 1), ()):  # of torch 2.8, 2.7 and 2.6
        with suppress(TypeError):
            return loader(path, "model", *options)
    raise TypeError("its loader takes other arguments")
