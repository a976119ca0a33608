"""Errors over all validation frames, whatever batches they came in."""

from __future__ import annotations

import torch
from torch import Tensor

from eqcalc.training.loss import LossFunction, Residuals, error_sums, known_counts, mean_loss

__all__ = ["ErrorTotals"]


class ErrorTotals:
    """Sums of errors over batches, and the means that they come to: each frame counts once.

    function : the loss
    one_size : all frames have as many atoms; else the error of total energies says nothing, and
        that per atom is reported
    """

    def __init__(self, function: LossFunction, one_size: bool) -> None:
        self.function, self.one_size = function, one_size
        self.sums: Tensor = torch.zeros(0)
        """(9,), float64: of f(error), of absolute errors and of counts, three each."""

    def add(self, found: Residuals) -> None:
        """Add the errors of a batch."""
        energy = found.energy if self.one_size else found.energy_per_atom
        absolute = (energy, found.forces, torch.nan_to_num(found.stress))
        parts = [
            error_sums(found, self.function),
            torch.stack([each.abs().sum() for each in absolute]),
            known_counts(found),
        ]
        sums = torch.cat(parts).detach()
        self.sums = self.sums + sums if len(self.sums) > 0 else sums

    def metrics(self) -> dict[str, float]:
        """Return loss and mean absolute errors, by the ends of the names in metrics.csv."""
        sums, absolute, counts = self.sums.split(3)
        maes = (1e3 * absolute / counts).tolist()
        energy = "energy" if self.one_size else "energy_per_atom"
        found = {
            "loss": float(mean_loss(sums, counts, self.function.weights)),
            f"{energy}_mae_mev": maes[0],
            "forces_mae_mev_per_a": maes[1],
        }
        if counts[2] > 0:  # molecules have none
            found["stress_mae_mev_per_a3"] = maes[2]
        return found
