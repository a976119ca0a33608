"""What a training file says about batches: keys of ``[training]``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from eqcalc.arguments import require_at_least
from eqcalc.data.batches import LabelledGraph
from eqcalc.errors import ConfigError

__all__ = ["BatchOptions"]

_BATCH_SIZE = 5


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How many frames a step of the optimiser sees.

    batch_size : frames of a batch; 5 by default, where no other bound is given
    batch_atoms : in its place, atoms of a batch at most, for frames of very different sizes
    batch_edges : in its place, edges of a batch at most, which are what memory and time go by
    """

    batch_size: Optional[int] = None
    batch_atoms: Optional[int] = None
    batch_edges: Optional[int] = None

    @property
    def batch_bound(self) -> tuple[str, int]:
        """Which of the three is given, by its name, and its value."""
        for name in ("batch_atoms", "batch_edges", "batch_size"):
            value = getattr(self, name)
            if value is not None:
                return name, value
        return "batch_size", _BATCH_SIZE

    def batch_weights(self, graphs: Sequence[LabelledGraph]) -> list[int]:
        """Return how much of the bound each frame takes."""
        name, _ = self.batch_bound
        if name == "batch_atoms":
            return [each.graph.atomic_numbers.shape[0] for each in graphs]
        if name == "batch_edges":
            return [each.graph.edge_index.shape[1] for each in graphs]
        return [1] * len(graphs)

    def check_batches(self) -> None:
        """Refuse values out of range, and two bounds at once; fill in the size of a batch.

        Raises
        ------
        ConfigError : there is one.
        """
        bounds = ("batch_size", "batch_atoms", "batch_edges")
        given = {name: getattr(self, name) for name in bounds if getattr(self, name) is not None}
        require_at_least(1, **given)
        if len(given) > 1:
            raise ConfigError(
                f"a batch has one bound, found {' and '.join(given)}; leave all but one out."
            )
        if not given:
            object.__setattr__(self, "batch_size", _BATCH_SIZE)
