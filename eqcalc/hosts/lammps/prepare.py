"""Prepare a model for the pair style: check it, compile it, and say what the plugin must know.

The plugin starts ``python -m eqcalc lammps prepare`` and reads lines "key value":

    engine      inductor or torchscript
    ranks       one, halo or exchange: how ranks share the work
    package     compiled package; of a committee one for all members, or where features are
                exchanged one of each
    program     model file of each member, where nothing is compiled
    library     C++ library to be loaded first
    dtype       float32 or float64
    cutoff      Å; hops, the number of times messages are passed; members of a committee
    elements    symbols that all members know; numbers and masses (amu) of the same
    metal, real the energy of one eV in LAMMPS's units of this name; both have Å
    say         a line for the log
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ase.data import atomic_masses, atomic_numbers

from eqcalc.devices import resolve_dtype
from eqcalc.engines import Model, Target, load_committee, load_model
from eqcalc.engines.packages import make_exchange_package, make_package
from eqcalc.errors import EngineError, ModelFileError
from eqcalc.model_file import ModelFile, open_potential
from eqcalc.native.build import find_library
from eqcalc.units import ENERGY_UNITS

__all__ = ["ticket"]


def ticket(
    models: Sequence[str], *, engine: str = "auto", dtype: str = "model", ranks: str = "one"
) -> Iterator[str]:
    """Yield the lines that tell the plugin how to run a model, or a committee.

    Parameters
    ----------
    models : names of shipped models, or model files
    engine : "inductor", compiled where that was not done yet; "torchscript"; or "auto", the
        former where it can be had
    dtype : "float32", "float64", or "model": what the file has
    ranks : "one"; "exchange", of features between layers; "halo", which needs no more than the
        model; or "auto", the former where it can be had

    Raises
    ------
    ModelFileError : a file is missing or damaged, or no two members know the same elements.
    EngineError : the engine cannot run the model here.
    """
    precision = None if dtype == "model" else dtype
    precisions = {precision or open_potential(model).card.dtype for model in models}
    if len(precisions) > 1:
        raise ModelFileError(
            "the members of a committee differ in precision; write precision float32 or float64."
        )
    loaded, why = _load(models, engine, precisions.pop())
    cards = [model.card for model in loaded]
    elements = [s for s in cards[0].elements if all(s in card.elements for card in cards)]
    if not elements:
        raise ModelFileError("the members of a committee have no element in common.")
    target = Target(loaded[0].device, loaded[0].dtype)
    compiled = loaded[0].engine.name == "inductor"
    files = [model.file for model in loaded]
    exchanging, why_halo = _exchange_packages(files, target, ranks, compiled)
    yield f"engine {'inductor' if compiled else 'torchscript'}"
    yield f"ranks {'one' if ranks == 'one' else 'exchange' if exchanging else 'halo'}"
    if compiled:
        packages = exchanging or [make_package(files, target)]
        yield from (f"package {path}" for path in packages)
        library = find_library()
        if library is not None:
            yield f"library {library}"
    else:
        yield from (f"program {file.path.resolve()}" for file in files)
    yield f"dtype {target.precision}"
    yield f"cutoff {max(card.cutoff for card in cards)!r}"
    yield f"hops {max(card.n_hops for card in cards)}"
    yield f"members {len(cards)}"
    numbers = [atomic_numbers[symbol] for symbol in elements]
    yield f"elements {' '.join(elements)}"
    yield f"numbers {' '.join(map(str, numbers))}"
    yield f"masses {' '.join(f'{atomic_masses[z]:.6g}' for z in numbers)}"
    yield "metal 1.0"
    yield f"real {1.0 / ENERGY_UNITS['kcal/mol']!r}"
    for model in loaded:
        card = model.card
        yield (
            f"say {card.name}: {card.architecture}, {card.cutoff:g} Å × {card.n_hops}, "
            f"{model.engine.name} in {target.precision}, passport reproduced"
        )
    if why:
        yield f"say not compiled: {why}"
    if exchanging:
        yield "say ranks exchange features between layers"
    elif ranks != "one":
        yield f"say ranks repeat the work of a wide halo: {why_halo}"


def _exchange_packages(
    files: Sequence[ModelFile], target: Target, ranks: str, compiled: bool
) -> tuple[list[Path], str]:
    """Return the packages of ranks that exchange features, or none and the reason."""
    if ranks in ("one", "halo"):
        return [], "asked for"
    if not compiled:
        if ranks == "exchange":
            raise EngineError(
                "ranks exchange features in compiled packages only; this runs as TorchScript."
            )
        return [], "TorchScript cannot exchange features"
    try:
        return [make_exchange_package(file, target) for file in files], ""
    except EngineError as error:
        if ranks == "exchange":
            raise
        return [], str(error)


def _load(models: Sequence[str], engine: str, dtype: str) -> tuple[list[Model], str]:
    """Return the models on one engine, and why it is not the fastest."""
    if engine == "torchscript":
        return [_loaded(model, "torchscript", dtype) for model in models], ""
    try:
        loaded = [_loaded(model, "inductor", dtype) for model in models]
        if len(loaded) > 1:
            load_committee(loaded, "inductor")
    except EngineError as error:
        if engine == "inductor":
            raise
        return [_loaded(model, "torchscript", dtype) for model in models], str(error)
    return loaded, ""


def _loaded(model: str, engine: str, dtype: str) -> Model:
    resolve_dtype(dtype)
    return load_model(model, device="cpu", dtype=dtype, engine=engine, threads=1)
