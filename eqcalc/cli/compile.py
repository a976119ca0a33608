"""``eqcalc compile``: compile a model, or a committee, for this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from eqcalc.cli.console import say
from eqcalc.errors import ConfigError

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
        int, typer.Option(min=1, help="CPU threads to compile for; md takes 1 below 100 atoms.")
    ] = 1,
    file: Annotated[
        Optional[Path],
        typer.Option(help="Python file of the models' architecture, where it is not eqcalc's."),
    ] = None,
) -> None:
    """Compile a model for this machine, so that every later run is faster.

    The result is kept in a cache folder (EQCALC_CACHE, else ~/.cache/eqcalc).
    Calculators, md and relax find it there, if they use as many threads as it
    was compiled for. A C++ compiler is needed.

    Several models are compiled each for itself, and together for
    EqCalculator([...]) of them in this order.

    Example: [bold]eqcalc compile painn-ethanol[/bold]
    """
    import torch

    from eqcalc.architectures import register_file
    from eqcalc.calculator import EqCalculator
    from eqcalc.engines import resolve_device
    from eqcalc.engines.committee import compile_committee_package, find_committee_package
    from eqcalc.engines.devices import resolve_dtype
    from eqcalc.engines.inductor import compile_package, find_package
    from eqcalc.model_file import open_potential

    torch.set_num_threads(threads)
    where = resolve_device(device)
    archives = [open_potential(model) for model in models]
    if file is not None:
        register_file(file, archives[0].card.architecture)
    precisions = {resolve_dtype(dtype or archive.card.dtype) for archive in archives}
    if len(precisions) > 1:
        raise ConfigError("the models differ in dtype; give --dtype float32 or --dtype float64.")
    target = (where, precisions.pop())
    for archive in archives:
        _make(archive.card.name, find_package, compile_package, archive, *target)
    if len(archives) > 1:
        make = find_committee_package, compile_committee_package
        _make("the committee", *make, archives, *target)
    found = EqCalculator(models if len(models) > 1 else models[0], device=device, dtype=dtype)
    say(found.engine_report())


def _make(
    name: str, find: Callable[..., Optional[Path]], compile_it: Callable[..., Path], *target: Any
) -> None:
    """Compile what is not found, and say where it lies."""
    from rich.console import Console

    if find(*target) is None:
        start = time.perf_counter()
        with Console().status(f"compiling {name}, a minute or so ..."):
            compile_it(*target)
        say(f"compiled in {time.perf_counter() - start:.0f} s")
    say(f"package {find(*target)}")
