"""What is strange about a structure before its first step, in sentences: units, and reach."""

from __future__ import annotations

import numpy as np
from ase import Atoms

from eqcalc.errors import listing
from eqcalc.neighbours import build_graph

__all__ = ["doubts"]

_CLOSEST = 0.5  # Å; H2 has 0.74, and dense hydrogen hardly less
_MOST_ATOMS = 100_000  # more would take seconds to look at


def doubts(atoms: Atoms, cutoff: float) -> list[str]:
    """Return sentences about lengths that may be in another unit than Å, and lonely atoms.

    Parameters
    ----------
    cutoff : Å; the model's

    Raises
    ------
    GraphError : the structure has no meaningful graph.
    """
    if len(atoms) > _MOST_ATOMS:
        return []
    graph = build_graph(atoms, cutoff)
    senders, receivers = graph.edge_index.numpy()
    found = []
    if len(receivers) > 0:
        distances = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
        closest = int(distances.argmin())
        if distances[closest] < _CLOSEST:
            found.append(
                f"atoms {senders[closest]} and {receivers[closest]} are {distances[closest]:.2g} Å "
                "apart; positions and cell must be in Å."
            )
    lonely = np.setdiff1d(np.arange(len(atoms)), receivers).tolist()
    if len(lonely) == len(atoms):
        found.append(
            f"no atom has a neighbour within the model's cutoff of {cutoff:g} Å, so there are no "
            "forces; positions and cell must be in Å."
        )
    elif lonely:
        found.append(
            f"without a neighbour within the model's cutoff of {cutoff:g} Å: "
            f"atoms {listing(lonely)}."
        )
    return found
