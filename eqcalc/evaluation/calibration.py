"""Whether the spread of a committee says how large its errors are.

Of every component the mean of the members has an error, and the members a spread (sample standard
deviation, n_members - 1 degrees of freedom). A committee is called calibrated if the error is drawn
from a normal distribution of that width of which the members' spread is a sample: error/spread then
follows Student's t with these degrees of freedom, so much is the spread of a few networks itself
uncertain. Networks agree more than they are right, since they see the same data, and the factor by
which their spread is too small is estimated here. (Had the truth itself the distribution of a
member, the factor would be sqrt(1 + 1/n_members): the mean has an error of its own.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import rankdata
from scipy.stats import t as student

from eqcalc.data.frames import LabelledFrame
from eqcalc.engines import Model
from eqcalc.errors import ConfigError
from eqcalc.evaluation.comparison import Comparison, Quantity, evaluate
from eqcalc.model_file import refuse_twins

__all__ = ["Bin", "Calibration", "Calibrations", "evaluate_committee"]

_MOST_BINS, _FEWEST_IN_A_BIN = 16, 20
# A force that symmetry forbids is a sum of dozens of terms of some eV/Å that cancel: what remains
# is up to a hundred times the precision of one, 1e-5 eV/Å in float32. Such a component is nearly
# zero in every member; a spread alone may be as small by chance, and says something.
_FORBIDDEN = 100.0
# Atoms alone have the same reference energy in every member; float32 changes it by some 1e-7 eV.
_THE_SAME = 10.0
_SUFFIX = {"eV": "mev", "eV/atom": "mev", "eV/Å": "mev_per_a", "eV/Å³": "mev_per_a3"}


@dataclass(frozen=True)
class Bin:
    """Components of neighbouring spreads: root mean squares of both, in the quantity's unit."""

    n: int
    spread: float
    error: float


@dataclass(frozen=True)
class Calibration:
    """Spreads and errors of the mean, of one quantity: flat arrays of equal length.

    error : mean of the members minus the label, each component
    n_members : at least 2
    left_out : components whose spread is rounding, not disagreement, such as forces that symmetry
        forbids, as a flat array of bool; whatever is said of spreads leaves them out
    """

    name: str
    unit: str
    spread: NDArray
    error: NDArray
    n_members: int
    left_out: Optional[NDArray] = None

    @property
    def has_spread(self) -> NDArray:
        """Which components have a spread beyond rounding, as a flat array of bool."""
        has_spread = self.spread > 0
        return has_spread if self.left_out is None else has_spread & ~self.left_out

    @property
    def n_without_spread(self) -> int:
        """How many components have no spread beyond rounding."""
        return int((~self.has_spread).sum())

    @property
    def correlation(self) -> float:
        """Pearson's correlation of spread and absolute error; NaN where one of them is constant."""
        return _correlation(self.spread[self.has_spread], np.abs(self.error[self.has_spread]))

    @property
    def rank_correlation(self) -> float:
        """Spearman's correlation of spread and absolute error; NaN where one is constant."""
        spread, error = self.spread[self.has_spread], np.abs(self.error[self.has_spread])
        return _correlation(rankdata(spread), rankdata(error))

    @property
    def scale(self) -> float:
        """Factor by which spreads are to be multiplied: the most likely one under Student's t.

        NaN where fewer than two components have a spread and an error.
        """
        z2 = np.square(self._ratios)
        z2 = z2[z2 > 0]
        if len(z2) < 2:
            return math.nan
        dof = self.n_members - 1

        def slope(log_s2: float) -> float:  # of the log-likelihood, which has one maximum
            share = z2 * math.exp(-log_s2)
            return float(((dof + 1) * share / (dof + share)).mean() - 1.0)

        low, high = math.log(z2.min()) - 50.0, math.log(z2.max()) + 50.0
        return math.exp(0.5 * brentq(slope, low, high))

    def share_within(self, n_spreads: float, *, scaled: bool = False) -> float:
        """Return the share of errors within so many spreads, as they are or times the scale.

        NaN where there is no spread, or no scale.
        """
        factor = self.scale if scaled else 1.0
        if not self.has_spread.any() or math.isnan(factor):
            return math.nan
        return float((np.abs(self._ratios) <= n_spreads * factor).mean())

    def expected_share(self, n_spreads: float) -> float:
        """Return what the share would be of a calibrated committee of so many members."""
        return float(2.0 * student.cdf(n_spreads, self.n_members - 1) - 1.0)

    def bins(self) -> list[Bin]:
        """Return components with a spread by rising spread, in bins of as many each."""
        order = np.argsort(self.spread, kind="stable")
        order = order[self.has_spread[order]]
        n_bins = max(1, min(_MOST_BINS, len(order) // _FEWEST_IN_A_BIN))
        return [
            Bin(len(part), _rms(self.spread[part]), _rms(self.error[part]))
            for part in np.array_split(order, n_bins)
            if len(part) > 0
        ]

    def summary(self) -> dict[str, float | None]:
        """Return the numbers of a table: None where they are not defined."""
        suffix = _SUFFIX[self.unit]
        found = {
            f"rms_spread_{suffix}": 1e3 * _rms(self.spread),
            f"rms_error_{suffix}": 1e3 * _rms(self.error),
            "correlation": self.correlation,
            "rank_correlation": self.rank_correlation,
            "scale": self.scale,
        }
        for n in (1, 2):
            found[f"within_{n}"] = self.share_within(n)
            found[f"within_{n}_scaled"] = self.share_within(n, scaled=True)
            found[f"within_{n}_expected"] = self.expected_share(n)
        rounded = {k: round(v, 5) if math.isfinite(v) else None for k, v in found.items()}
        return {"n": len(self.error), "n_without_spread": self.n_without_spread, **rounded}

    @property
    def _ratios(self) -> NDArray:
        return np.asarray(self.error[self.has_spread] / self.spread[self.has_spread])


@dataclass(frozen=True)
class Calibrations:
    """The mean of a committee beside labels, its members' comparisons, and the calibrations.

    quantities : of energy per atom, forces and stress, those that the data have
    """

    mean: Comparison
    members: tuple[Comparison, ...]
    quantities: tuple[Calibration, ...]


def evaluate_committee(
    models: Sequence[Model],
    frames: Sequence[LabelledFrame],
    progress: Optional[Callable[[int], None]] = None,
    **options: Any,
) -> Calibrations:
    """Run several models on labelled frames; compare their mean, and its error with the spread.

    Parameters
    ----------
    progress : called with the number of frames done, of n_models times as many
    options : as :func:`evaluate` takes them

    Raises
    ------
    ConfigError : fewer than two models, or one of them twice.
    And what :func:`evaluate` raises.
    """
    if len(models) < 2:
        raise ConfigError(
            f"a calibration needs a committee of two models at least, found {len(models)}."
        )
    refuse_twins([model.file for model in models])
    precision = max(float(torch.finfo(model.dtype).eps) for model in models)

    def shifted(first: int) -> Optional[Callable[[int], None]]:
        return None if progress is None else lambda done: progress(first + done)

    members = tuple(
        evaluate(model, frames, progress=shifted(k * len(frames)), **options)
        for k, model in enumerate(models)
    )
    found = {
        quantity.name: _calibration([_of(each, quantity.name) for each in members], precision)
        for quantity in members[0].quantities
    }
    mean = Comparison(
        n_frames=len(frames),
        energy=found["energy"][0],
        energy_per_atom=found["energy_per_atom"][0],
        forces=found["forces"][0] if "forces" in found else None,
        stress=found["stress"][0] if "stress" in found else None,
        one_size=members[0].one_size,
    )
    shown = tuple(each for name, (_, each) in found.items() if name != "energy")
    return Calibrations(mean, members, shown)


def _of(comparison: Comparison, name: str) -> Quantity:
    quantity: Quantity = getattr(comparison, name)
    return quantity


def _calibration(members: Sequence[Quantity], precision: float) -> tuple[Quantity, Calibration]:
    first = members[0]
    predicted = np.array([member.predicted for member in members])
    mean = predicted.mean(axis=0)
    # As eqcalc.calculator has it, which this layer does not know.
    spread = predicted.std(axis=0, ddof=1)
    left_out = np.abs(predicted).max(axis=0) <= _FORBIDDEN * precision
    if first.name in ("energy", "energy_per_atom"):
        left_out |= spread <= _THE_SAME * precision
    return (
        Quantity(first.name, first.unit, first.expected, mean),
        Calibration(first.name, first.unit, spread, mean - first.expected, len(members), left_out),
    )


def _rms(values: NDArray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def _correlation(one: NDArray, other: NDArray) -> float:
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return math.nan
    return float(np.corrcoef(one, other)[0, 1])
