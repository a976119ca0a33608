"""``eqcalc compile``: compile a model, or a committee, for this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from eqcalc.cli.console import say, working
from eqcalc.cli.options import Quiet, Trust
from eqcalc.errors import ConfigError

if TYPE_CHECKING:
    from eqcalc.engines import Target
    from eqcalc.model_file import ModelFile

__all__ = ["compile"]


def compile(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="A shipped model's name or a model file; several of them are a committee.",
        ),
    ],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    dtype: Annotated[
        Optional[str], typer.Option(help="float32 or float64; the file's own by default.")
    ] = None,
    threads: Annotated[
        Optional[int],
        typer.Option(min=1, hidden=True, help="Without effect: a package serves any number."),
    ] = None,
    file: Annotated[
        Optional[Path],
        typer.Option(help="Python file of the models' architecture, where it is not eqcalc's."),
    ] = None,
    exchange: Annotated[
        bool,
        typer.Option(
            "--exchange",
            help="For the ranks of an MPI host, which exchange features between layers.",
        ),
    ] = False,
    trust: Trust = False,
    quiet: Quiet = False,
) -> None:
    """Compile a model for this machine, so that every later run is faster.

    The result is kept in a cache folder (EQCALC_CACHE, else ~/.cache/eqcalc),
    which nobody else may write to. Calculators, md, relax and evaluate find it
    there, whatever their number of threads. On a CPU a C++ compiler is needed.

    Several models are compiled each for itself, and on a CPU together for
    EqCalculator([...]) of them in this order. With --exchange each is compiled
    for a rank that has only a part of the atoms, on a CPU.

    Example: [bold]eqcalc compile painn-ethanol[/bold]
    """
    from eqcalc.architectures import register_file
    from eqcalc.calculator import EqCalculator
    from eqcalc.devices import resolve_device, resolve_dtype
    from eqcalc.engines import Target
    from eqcalc.model_file import open_potential

    if threads is not None:
        say("note: --threads has no effect, a package serves any number of them.", style="yellow")
    where = resolve_device("cpu" if exchange and device == "auto" else device)
    files = [open_potential(model, trust=trust) for model in models]
    if file is not None:
        register_file(file, files[0].card.architecture)
    precisions = {resolve_dtype(dtype or each.card.dtype) for each in files}
    if len(precisions) > 1:
        raise ConfigError("the models differ in dtype; give --dtype float32 or --dtype float64.")
    target = Target(where, precisions.pop())
    if exchange:
        for each in files:
            _make_exchange(each, target)
        return
    for each in files:
        _make(each.card.name, [each], target)
    if len(files) > 1 and where.type == "cpu":
        _make("the committee", files, target)
    sources = models if len(models) > 1 else models[0]
    found = EqCalculator(sources, device=device, dtype=dtype, trust=trust)
    say(found.engine_report())


def _make(name: str, files: list[ModelFile], target: Target) -> None:
    """Compile what is not found, and say where it lies."""
    from eqcalc.engines.packages import find_package, lacks_library, make_package

    _find_or_make(
        name,
        lambda: find_package(files, target),
        lambda: make_package(files, target),
        lambda: lacks_library(target),
    )


def _make_exchange(file: ModelFile, target: Target) -> None:
    """Do the same for ranks that exchange features."""
    from eqcalc.engines.packages import (
        find_exchange_package,
        lacks_library,
        make_exchange_package,
    )

    _find_or_make(
        f"{file.card.name} for ranks that exchange features",
        lambda: find_exchange_package(file, target),
        lambda: make_exchange_package(file, target),
        lambda: lacks_library(target, exchanges=True),
    )


def _find_or_make(
    name: str,
    find: Callable[[], Optional[Path]],
    make: Callable[[], Path],
    is_incomplete: Callable[[], bool],
) -> None:
    if find() is None or is_incomplete():
        start = time.perf_counter()
        with working(f"compiling {name}, a minute or so"):
            make()
        say(f"compiled in {time.perf_counter() - start:.0f} s")
    package = find()
    if package is not None:  # always, unless another process removed it
        say(f"package {package}, {package.stat().st_size / 1e6:.1f} MB")
