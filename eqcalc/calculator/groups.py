"""Several structures, evaluated in one call of each model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.blockwise import Blockwise
from eqcalc.blockwise.blocks import box_coordinates, side_by_side
from eqcalc.blockwise.grouping import collect, on_device
from eqcalc.calculator.results import MemberResult, combined, refuse_not_finite, spread
from eqcalc.derivatives import ForceSum
from eqcalc.engines import Model
from eqcalc.errors import ConfigError, GraphError, UnsupportedElementError
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import SkinList

__all__ = ["NamedGraph", "evaluate_group", "named_graphs"]


class NamedGraph(NamedTuple):
    """The graph of a structure and what else is needed: the structure itself may change.

    periodic : whether it has a stress
    coordinates : (n_atoms, 3), see :func:`eqcalc.blockwise.blocks.box_coordinates`
    """

    name: str
    graph: AtomicGraph
    periodic: bool
    coordinates: NDArray


def named_graphs(
    structures: Iterable[Atoms],
    names: Optional[Sequence[str]],
    neighbours: SkinList,
    check: Callable[[Atoms], None],
) -> Iterator[NamedGraph]:
    """Yield the graph of each structure; they are asked for late.

    Parameters
    ----------
    names : what messages call each structure; "structure 0", ... by default
    neighbours : what builds the graphs
    check : refuses a structure by an UnsupportedElementError

    Raises
    ------
    GraphError, UnsupportedElementError : the message begins with the name of the structure.
    ConfigError : something else than structures, or too few names.
    """
    for index, atoms in enumerate(structures):
        if names is not None and index >= len(names):
            raise ConfigError(f"expected a name for each structure, found {len(names)}.")
        name = f"structure {index}" if names is None else names[index]
        if not isinstance(atoms, Atoms):
            raise ConfigError(f"{name}: expected ase.Atoms, found {type(atoms).__name__}.")
        try:
            graph = neighbours.graph(atoms)
            check(atoms)
        except (GraphError, UnsupportedElementError) as error:
            raise type(error)(f"{name}: {error}") from error
        yield NamedGraph(name, graph, bool(atoms.pbc.all()), box_coordinates(atoms))


def evaluate_group(
    group: Sequence[NamedGraph],
    models: Sequence[Model],
    calls: Sequence[Blockwise],
    sum_forces: ForceSum,
) -> list[dict[str, Any]]:
    """Return the results of each structure of a group.

    Parameters
    ----------
    calls : one for each model

    Raises
    ------
    NonFiniteError : a model returned NaN or infinity; the message begins with the name.
    NotEnoughMemoryError, ConfigError : as a :class:`~eqcalc.blockwise.Blockwise` does.
    """
    graph = batch_graphs([named.graph for named in group])
    graph = on_device(graph, models[0].device)

    def coordinates() -> NDArray:
        return side_by_side([named.coordinates for named in group])

    predictions = [
        collect(graph, *call(model, graph, coordinates), sum_forces)
        for model, call in zip(models, calls, strict=True)
    ]
    of_members = np.array([prediction.stress for prediction in predictions])
    stress = of_members.mean(axis=0)
    results = []
    first = 0
    for k, (name, single, periodic, _) in enumerate(group):
        here = slice(first, first + single.n_owned)
        first = here.stop
        # Copies: a result that is kept shall not keep those of all others.
        members = [
            MemberResult(each.energies[here].copy(), each.forces[here].copy())
            for each in predictions
        ]
        for model, member in zip(models, members, strict=True):
            refuse_not_finite(model, member, f"{name}: ")
        found = combined(members)
        if periodic:
            found["stress"] = stress[k].copy()
            if len(models) > 1:
                found["stress_spread"] = spread(of_members[:, k])
        results.append(found)
    return results
