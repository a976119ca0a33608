"""What a training file says about batches: keys of ``[training]``."""

from __future__ import annotations

from dataclasses import dataclass

from eqcalc.nn.arguments import require_at_least

__all__ = ["BatchOptions"]


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How many frames a step of the optimiser sees.

    batch_size : frames of a batch
    """

    batch_size: int = 5

    def check_batches(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        ConfigError : there is one.
        """
        require_at_least(1, batch_size=self.batch_size)
