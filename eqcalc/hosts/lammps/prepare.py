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
    elements    symbols that all members know; numbers of the same
    all         symbols of all elements, from H on; masses of the same, amu
    metal, real the energy of one eV in LAMMPS's units of this name; both have Å
    say         a line for the log
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from ase.data import atomic_masses, atomic_numbers, chemical_symbols

from eqcalc.devices import resolve_dtype
from eqcalc.elements import N_ELEMENTS
from eqcalc.engines import Target, load_committee, load_model
from eqcalc.engines.exchange import ExchangePackage
from eqcalc.engines.packages import make_exchange_package, make_package
from eqcalc.errors import EngineError, ModelFileError
from eqcalc.model_file import ModelFile, open_potential, refuse_twins
from eqcalc.model_file.exchange_proof import verify_exchange
from eqcalc.native.build import find_library
from eqcalc.units import ENERGY_UNITS

__all__ = ["ticket"]


class Way(NamedTuple):
    """How models run: files that the plugin loads, and why they do not run faster."""

    engine: str
    ranks: str
    files: list[Path]
    said: list[str]


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
    ConfigError : a committee holds a model twice.
    EngineError : the engine cannot run the model here.
    """
    files = [open_potential(model) for model in models]
    refuse_twins(files)
    cards = [file.card for file in files]
    precisions = {card.dtype if dtype == "model" else dtype for card in cards}
    if len(precisions) > 1:
        raise ModelFileError(
            "the members of a committee differ in precision; write precision float32 or float64."
        )
    elements = [s for s in cards[0].elements if all(s in card.elements for card in cards)]
    if not elements:
        raise ModelFileError("the members of a committee have no element in common.")
    target = Target(torch.device("cpu"), resolve_dtype(precisions.pop()))
    way = _way(models, files, target, engine, ranks)
    yield f"engine {way.engine}"
    yield f"ranks {way.ranks}"
    kind = "package" if way.engine == "inductor" else "program"
    yield from (f"{kind} {path.resolve()}" for path in way.files)
    library = find_library()
    if way.engine == "inductor" and library is not None:
        yield f"library {library}"
    yield f"dtype {target.precision}"
    yield f"cutoff {max(card.cutoff for card in cards)!r}"
    yield f"hops {max(card.n_hops for card in cards)}"
    yield f"members {len(cards)}"
    numbers = [atomic_numbers[symbol] for symbol in elements]
    yield f"elements {' '.join(elements)}"
    yield f"numbers {' '.join(map(str, numbers))}"
    yield f"all {' '.join(chemical_symbols[1:N_ELEMENTS])}"
    yield f"masses {' '.join(f'{mass:.6g}' for mass in atomic_masses[1:N_ELEMENTS])}"
    yield "metal 1.0"
    yield f"real {1.0 / ENERGY_UNITS['kcal/mol']!r}"
    for card in cards:
        yield (
            f"say {card.name}: {card.architecture}, {card.cutoff:g} Å × {card.n_hops}, "
            f"{way.engine} in {target.precision}, passport reproduced"
        )
    yield from (f"say {' '.join(line.split())}" for line in way.said)


def _way(
    models: Sequence[str], files: Sequence[ModelFile], target: Target, engine: str, ranks: str
) -> Way:
    """Prepare the fastest way that is allowed and possible; each has reproduced the passport."""
    said = []
    if ranks in ("exchange", "auto"):
        try:
            return _exchange(files, target, engine)
        except EngineError as error:
            if ranks == "exchange":
                raise
            said.append(f"ranks repeat the work of a wide halo, because {error}")
    ranks = "one" if ranks == "one" else "halo"
    if engine != "torchscript":
        try:
            _load(models, target, "inductor")
            return Way("inductor", ranks, [make_package(files, target)], said)
        except EngineError as error:
            if engine == "inductor":
                raise
            said.append(f"not compiled: {error}")
    _load(models, target, "torchscript")
    return Way("torchscript", ranks, [file.path for file in files], said)


def _exchange(files: Sequence[ModelFile], target: Target, engine: str) -> Way:
    """Prepare the packages of ranks that exchange features, one of each member."""
    if engine == "torchscript":
        raise EngineError("TorchScript cannot exchange features between ranks.")
    packages = []
    for file in files:
        file.require_checked()  # a package that was compiled from it is its program too
        packages.append(make_exchange_package(file, target))
        package = ExchangePackage.load(file, target)
        verify_exchange(file, package, target.dtype, "compiled")
    return Way("inductor", "exchange", packages, ["ranks exchange features between layers"])


def _load(models: Sequence[str], target: Target, engine: str) -> None:
    """Load models as a calculator does, which replays their passports."""
    loaded = [
        load_model(model, device="cpu", dtype=target.precision, engine=engine, threads=1)
        for model in models
    ]
    if len(loaded) > 1 and engine == "inductor":
        load_committee(loaded, engine)
