"""``eqcalc compile``: compile a model for this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Optional

import typer

from eqcalc.cli.console import say

__all__ = ["compile"]


def compile(
    model: Annotated[str, typer.Argument(help="A shipped model's name or a model file.")],
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N or auto.")] = "auto",
    dtype: Annotated[
        Optional[str], typer.Option(help="float32 or float64; the file's own by default.")
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads to compile for; md takes 1 below 100 atoms.")
    ] = 1,
    file: Annotated[
        Optional[Path],
        typer.Option(help="Python file of the model's architecture, where it is not eqcalc's."),
    ] = None,
) -> None:
    """Compile a model for this machine, so that every later run is faster.

    The result is kept in a cache folder (EQCALC_CACHE, else ~/.cache/eqcalc) and used by
    calculators, md and relax by themselves, with as many threads as it was compiled for.
    A C++ compiler is needed.

    Example: [bold]eqcalc compile painn-ethanol[/bold]
    """
    import torch
    from rich.console import Console

    from eqcalc.architectures import register_file
    from eqcalc.engines import load_model, resolve_device
    from eqcalc.engines.devices import resolve_dtype
    from eqcalc.engines.inductor import compile_package, find_package
    from eqcalc.model_file import open_potential

    torch.set_num_threads(threads)
    where = resolve_device(device)
    archive = open_potential(model)
    card = archive.card
    if file is not None:
        register_file(file, card.architecture)
    precision = resolve_dtype(dtype or card.dtype)
    if find_package(archive, where, precision) is None:
        start = time.perf_counter()
        with Console().status(f"compiling {card.name} for {where}, a minute or so ..."):
            compile_package(archive, where, precision)
        say(f"compiled in {time.perf_counter() - start:.0f} s")
    say(f"package {find_package(archive, where, precision)}")
    say(load_model(model, device=device, dtype=dtype).engine_report())
