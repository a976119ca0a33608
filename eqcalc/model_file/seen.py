"""What a model's training data held of pairs, distances and neighbours, and what lies outside.

A network answers for any geometry; between a bond's length and the next neighbours' distance, or
with twice as many neighbours as ever before, it answers out of nothing. So the card keeps, of
the frames of the training, the distances at which each pair of elements was seen within the
cutoff, and how many neighbours atoms of each element had there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray

from eqcalc.neighbours import build_graph

__all__ = ["SeenRanges", "require_seen", "seen_in"]

_BIN = 0.05  # Å, of the distances that are kept
_MARGIN = 0.1  # Å beside a distance that was seen; less than the width of a bond's peak at 300 K
_MARGIN_NEIGHBOURS = 2  # beside a number that was seen, or a fifth of it where that is more
_LARGEST = 100.0  # Å
_MOST_ELEMENTS = len(chemical_symbols)


def seen_in(frames: Iterable[Atoms], cutoff: float) -> dict[str, Any]:
    """Return what a card keeps of training data.

    Returns
    -------
    ``distances``: of each pair of elements ("C-H") the intervals (Å) in which there was one;
    ``neighbours``: of each element the smallest and the largest number within the cutoff.

    Raises
    ------
    GraphError : a frame has no meaningful graph.

    >>> from ase.build import molecule
    >>> seen_in([molecule("N2")], 4.0)
    {'distances': {'N-N': [[1.1, 1.15]]}, 'neighbours': {'N': [1, 1]}}
    """
    bins: dict[tuple[int, int], set[int]] = {}
    counts: dict[int, list[int]] = {}
    for atoms in frames:
        graph = build_graph(atoms, cutoff)
        senders, receivers = graph.edge_index.numpy()
        numbers = atoms.numbers
        distances = np.linalg.norm(graph.edge_vectors.numpy(), axis=1)
        low = np.minimum(numbers[senders], numbers[receivers])
        high = np.maximum(numbers[senders], numbers[receivers])
        found = np.stack([low, high, np.floor(distances / _BIN).astype(int)])
        for first, second, index in np.unique(found, axis=1).T.tolist():
            bins.setdefault((first, second), set()).add(index)
        n_neighbours = np.bincount(receivers, minlength=len(atoms))
        for number in np.unique(numbers).tolist():
            here = n_neighbours[numbers == number]
            known = counts.setdefault(number, [int(here.min()), int(here.max())])
            known[:] = min(known[0], int(here.min())), max(known[1], int(here.max()))
    return {
        "distances": {
            f"{chemical_symbols[first]}-{chemical_symbols[second]}": _intervals(sorted(indices))
            for (first, second), indices in sorted(bins.items())
        },
        "neighbours": {chemical_symbols[number]: counts[number] for number in sorted(counts)},
    }


def require_seen(content: Any) -> None:
    """Refuse what is not of the form of :func:`seen_in`; an empty one is not recorded.

    Raises
    ------
    ValueError : it is not.
    """
    if content == {}:
        return
    if not isinstance(content, dict) or set(content) != {"distances", "neighbours"}:
        raise ValueError("seen: expected tables 'distances' and 'neighbours'")
    distances, neighbours = content["distances"], content["neighbours"]
    if not (isinstance(distances, dict) and isinstance(neighbours, dict)):
        raise ValueError("seen: expected tables of pairs and of elements")
    for pair, intervals in distances.items():
        symbols = pair.split("-") if isinstance(pair, str) else []
        if len(symbols) != 2 or not all(symbol in atomic_numbers for symbol in symbols):
            raise ValueError(f"seen: expected a pair such as 'C-H', found {str(pair)[:40]!r}")
        if not isinstance(intervals, list) or not all(_is_interval(each) for each in intervals):
            raise ValueError(f"seen: the distances of {pair} are no list of intervals in Å")
    for symbol, limits in neighbours.items():
        ok = symbol in atomic_numbers and isinstance(limits, list) and len(limits) == 2
        if not (ok and all(type(n) is int for n in limits) and 0 <= limits[0] <= limits[1]):
            raise ValueError(f"seen: the neighbours of {str(symbol)[:40]!r} are no two numbers")


class SeenRanges:
    """What of a structure lies outside of a card's ``seen``.

    A distance is outside where none within 0.1 Å of it was seen; a number of neighbours where it
    is beyond those seen by more than two, or by more than a fifth of them.

    Parameters
    ----------
    content : as :func:`seen_in` returns it, not empty
    cutoff : Å, of the model
    """

    def __init__(self, content: Mapping[str, Any], cutoff: float):
        self._margin = math.ceil(_MARGIN / _BIN)
        n_bins = math.ceil(cutoff / _BIN) + 1
        pairs: Mapping[str, Any] = content["distances"]
        known = sorted(
            {atomic_numbers[symbol] for pair in pairs for symbol in pair.split("-")}
            | {atomic_numbers[symbol] for symbol in content["neighbours"]}
        )
        self.cutoff = cutoff
        self._place = np.full(_MOST_ELEMENTS + 1, -1)
        self._place[known] = np.arange(len(known))
        self._seen = np.zeros((len(known), len(known), n_bins), dtype=bool)
        for pair, intervals in pairs.items():
            i, j = (self._place[atomic_numbers[symbol]] for symbol in pair.split("-"))
            for begin, end in intervals:
                first = max(0, round(begin / _BIN) - self._margin)
                last = min(n_bins, round(end / _BIN) + self._margin)
                self._seen[i, j, first:last] = self._seen[j, i, first:last] = True
        limits = np.zeros((len(known), 2))
        for symbol, (fewest, most) in content["neighbours"].items():
            slack = max(_MARGIN_NEIGHBOURS, most / 5)
            limits[self._place[atomic_numbers[symbol]]] = fewest - slack, most + slack
        self._limits = limits

    def outside(
        self, numbers: NDArray, senders: NDArray, receivers: NDArray, distances: NDArray
    ) -> tuple[str, list[int]] | None:
        """Return what lies outside and the atoms that it is about; None where all was seen.

        Parameters
        ----------
        numbers : (n_atoms,)
        senders, receivers, distances : (n_edges,), distances in Å, all below the cutoff
        """
        places = self._place[numbers]  # (n_atoms,)
        unknown = np.flatnonzero(places < 0)
        if len(unknown) > 0:
            symbol = chemical_symbols[numbers[unknown[0]]]
            return f"no {symbol} in the training data", [int(unknown[0])]
        bins = np.minimum((distances / _BIN).astype(int), self._seen.shape[2] - 1)
        wrong = np.flatnonzero(~self._seen[places[senders], places[receivers], bins])
        if len(wrong) > 0:
            closest = wrong[distances[wrong].argmin()]
            i, j = int(senders[closest]), int(receivers[closest])
            pair = f"{chemical_symbols[numbers[i]]}-{chemical_symbols[numbers[j]]}"
            return f"no {pair} at {distances[closest]:.2f} Å in the training data", [i, j]
        n_neighbours = np.bincount(receivers, minlength=len(numbers))
        limits = self._limits[places]  # (n_atoms, 2)
        strange = np.flatnonzero((n_neighbours < limits[:, 0]) | (n_neighbours > limits[:, 1]))
        if len(strange) > 0:
            k = int(strange[0])
            symbol = chemical_symbols[numbers[k]]
            return (
                f"no {symbol} with {n_neighbours[k]} neighbours within {self.cutoff:g} Å in the "
                "training data",
                [k],
            )
        return None


def _intervals(indices: list[int]) -> list[list[float]]:
    """Return neighbouring bins as intervals in Å."""
    merged: list[list[int]] = []
    for index in indices:
        if merged and index <= merged[-1][1]:
            merged[-1][1] = index + 1
        else:
            merged.append([index, index + 1])
    return [[round(begin * _BIN, 4), round(end * _BIN, 4)] for begin, end in merged]


def _is_interval(value: Any) -> bool:
    ok = isinstance(value, list) and len(value) == 2
    ok = ok and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)
    return ok and 0 <= value[0] <= value[1] <= _LARGEST
