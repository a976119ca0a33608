"""The same potential for fewer elements, with fewer parameters where its network has some of each.

A network whose Config has ``elements`` keeps rows of parameters for each of them. Which axes of
which parameters these are need not be known: they are those whose length changes with the
number of elements. That nothing else changed is then shown by energies.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import torch
from ase.data import chemical_symbols
from torch import Tensor, nn

from eqcalc import architectures
from eqcalc.elements import N_ELEMENTS, atomic_number
from eqcalc.errors import ModelFileError
from eqcalc.export.frames import element_clusters
from eqcalc.model_file import ModelCard
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.training.randomness import seeded

__all__ = ["restrict"]

_TOLERANCE = 1e-9  # relative, in float64: the same operations on the same numbers


def restrict(potential: Potential, card: ModelCard, symbols: Sequence[str]) -> Potential:
    """Return a potential for some of its elements; the one given is not changed.

    Parameters
    ----------
    card : of the potential's file: its architecture and options
    symbols : of the elements to keep, all of them among the card's

    Raises
    ------
    ModelFileError : the network cannot be taken apart by elements.
    """
    numbers = sorted(atomic_number(symbol) for symbol in symbols)
    smaller = copy.deepcopy(potential)
    energies = torch.full_like(potential.reference_energies, torch.nan)
    energies[numbers] = potential.reference_energies[numbers]
    smaller.reference_energies = energies
    old = _elements_of(card.config)
    if "elements" not in card.config or old == numbers:
        return smaller
    rows = [old.index(number) for number in numbers]
    options = _options_of(card, rows, numbers, len(old))
    try:
        with seeded(0):  # weights that are drawn, to be replaced
            whole = architectures.build_of_card(card.architecture, card.config)
            network = architectures.build_of_card(card.architecture, options)
        smaller.architecture = _take(potential.architecture, whole, network, rows, len(old))
    except (RuntimeError, ValueError) as error:  # a ConfigError is one, too
        raise _impossible(card, numbers, str(error).strip().splitlines()[0]) from error
    _require_same_energies(potential, smaller, card, numbers)
    return smaller


def _elements_of(config: dict[str, Any]) -> list[int]:
    elements = config.get("elements")
    if elements is None:
        return list(range(1, N_ELEMENTS))
    return sorted(atomic_number(element) for element in elements)


def _options_of(card: ModelCard, rows: list[int], numbers: list[int], n_old: int) -> dict[str, Any]:
    """Return the options of a card for fewer elements."""
    module = sys.modules.get(architectures.config_class(card.architecture).__module__)
    options = {**card.config, "elements": [chemical_symbols[number] for number in numbers]}
    for name in getattr(module, "PER_ELEMENT", ()):
        options[name] = _rows_of(options.get(name), rows, n_old)
    return options


def _rows_of(value: Any, rows: list[int], n_old: int) -> Any:
    """Return the entries of some elements, along every axis that has one for each."""
    if not isinstance(value, (list, tuple)):
        return value
    taken = [value[row] for row in rows] if len(value) == n_old else list(value)
    return [_rows_of(entry, rows, n_old) for entry in taken]


def _take(
    source: nn.Module, whole: nn.Module, network: nn.Module, rows: list[int], n_old: int
) -> nn.Module:
    """Give a network of fewer elements what the source has of them.

    whole : an untrained network with the elements of the source
    """
    network = network.to(next(source.parameters()).dtype)
    whole = whole.to(next(source.parameters()).dtype)
    for name, parameter in network.named_parameters():
        parameter.data = _slice(source.get_parameter(name), parameter.shape, rows, n_old)
    by_default, given = dict(whole.named_buffers()), dict(source.named_buffers())
    kept = set(network.state_dict())
    for name, buffer in network.named_buffers():
        if name in kept:
            value = _slice(given[name], buffer.shape, rows, n_old)
        elif buffer.shape == given[name].shape and torch.equal(buffer, by_default[name]):
            value = given[name]  # the same for any elements; the file may have rounded it
        else:
            continue  # it follows from the elements, or from options of each
        owner, _, last = name.rpartition(".")
        network.get_submodule(owner)._buffers[last] = value.clone()
    return network.eval().requires_grad_(False)


def _slice(tensor: Tensor, shape: torch.Size, rows: list[int], n_old: int) -> Tensor:
    if tensor.dim() != len(shape):
        raise ValueError(f"a tensor has {tensor.dim()} axes, and {len(shape)} for fewer elements")
    index = torch.tensor(rows)
    for axis, (length, wanted) in enumerate(zip(tensor.shape, shape, strict=True)):
        if length == wanted:
            continue
        if (length, wanted) != (n_old, len(rows)):
            raise ValueError(f"{length} rows cannot be those of {n_old} elements")
        tensor = tensor.index_select(axis, index)
    return tensor.detach().clone()


def _require_same_energies(
    whole: Potential, smaller: Potential, card: ModelCard, numbers: list[int]
) -> None:
    both = [copy.deepcopy(each).double() for each in (whole, smaller)]
    for atoms in element_clusters(numbers):
        graph = build_graph(atoms, whole.cutoff)
        expected, found = (each.evaluate(graph) for each in both)
        for name in ("energies", "forces"):
            a, b = getattr(expected, name), getattr(found, name)
            if not torch.allclose(a, b, rtol=_TOLERANCE, atol=_TOLERANCE):
                raise _impossible(
                    card, numbers, f"its {name} change by {float((a - b).abs().max()):.1e}"
                )


def _impossible(card: ModelCard, numbers: list[int], reason: str) -> ModelFileError:
    wanted = ", ".join(chemical_symbols[number] for number in numbers)
    return ModelFileError(
        f"'{card.name}' cannot be restricted to {wanted}: {reason}. Its options that have an entry "
        "per element must stand in PER_ELEMENT of the architecture's file; or keep all elements: "
        "elements = [...] in [architecture]."
    )
