"""Compile model files for this machine: the call above engines and export.

Engines find it by its entry point (:mod:`eqcalc.engines.packages`), so that running a model
imports no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eqcalc.engines.committee import ONE_BY_ONE
from eqcalc.engines.engine import Target
from eqcalc.engines.exchange import ExchangePackage
from eqcalc.engines.packages import Traced, target_name
from eqcalc.engines.traced import FusedEngine, started
from eqcalc.errors import EngineError, EqcalcError, ModelFileError, listing
from eqcalc.export import compile_committee, compile_exchange, compile_model, trace_model
from eqcalc.model_file import ModelFile
from eqcalc.model_file.exchange_proof import verify_exchange
from eqcalc.native.build import build_library, load_library
from eqcalc.native.compiler_folder import private_compiler_folder
from eqcalc.threads import UsingThreads

__all__ = ["compile_package", "trace_package"]


def compile_package(
    files: Sequence[ModelFile], package: Path, target: Target, exchanges: bool = False
) -> None:
    """Write the package of a model, or of a committee, to a path.

    Parameters
    ----------
    files : one model, or the members of a committee in the order of the package's first axis
    exchanges : for ranks that exchange features, one model; the package has then reproduced the
        passport with ghosts

    Raises
    ------
    EngineError : they cannot be compiled.
    CacheError : torch's compiler has no folder that is this user's alone.
    EqcalcError : whatever eqcalc itself refuses, such as a file whose network it cannot rebuild.
    """
    try:
        if target.device.type == "cuda":
            _compile_for_gpu(files, package, target, exchanges)
            return
        build_library()  # networks are compiled with its kernels
        load_library()
        # The compiler looks at torch's number of threads; the package shall not depend on it.
        with private_compiler_folder(), UsingThreads(1):
            if exchanges:
                compile_exchange(files[0], package, *target)
            elif len(files) == 1:
                compile_model(files[0], package, *target)
            else:
                compile_committee(files, package, *target)
        if exchanges:
            compiled = ExchangePackage(package, files[0])
            verify_exchange(files[0], compiled, target.dtype, "compiled")
    except EqcalcError:
        raise
    except Exception as error:  # tracer, exporter, C++ compiler: no common class
        names = listing([f"'{file.card.name}'" for file in files])
        together = " together" * (len(files) > 1)
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(
            f"{names} cannot be compiled{together} for {target_name(target)}: {reason}"
        ) from error


def trace_package(file: ModelFile, target: Target, only_tables: bool) -> Traced:
    """Return the program of a network, for a GPU.

    Raises
    ------
    EngineError : the network has no form with tables and shall have one, or cannot be traced, or
        not be rebuilt: one of a user's own may not be registered in this process.
    """
    try:
        return Traced(*trace_model(file, *target, only_tables=only_tables))
    except ModelFileError as error:
        raise EngineError(str(error)) from error
    except EqcalcError:
        raise
    except Exception as error:  # of the tracer: no common class
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise EngineError(f"'{file.card.name}' cannot be traced: {reason}") from error


def _compile_for_gpu(
    files: Sequence[ModelFile], package: Path, target: Target, exchanges: bool
) -> None:
    if exchanges:
        raise EngineError(f"ranks exchange features on a CPU; found the device {target.device}.")
    if len(files) > 1:
        raise EngineError(ONE_BY_ONE)
    started(trace_package(files[0], target, FusedEngine.only_tables), FusedEngine.made_of)
    package.write_text(f"compiled for {target_name(target)}; its kernels are in torch's folder\n")
