"""The unit in which a network speaks: how large what it shall learn is.

It is the root mean square of the forces. Perfect crystals have none, and what a relaxation leaves
of them is noise: there the energies say it, or else the stress.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from eqcalc.data import Dataset, LabelledFrame, force_rms
from eqcalc.errors import DataError
from eqcalc.training.loss_options import LossOptions

__all__ = ["Scale", "scale_of"]

_NOISE = 1e-5  # eV, eV/Å: what calculations converge to
_SMALLEST_SHARE = 1e-2  # of what energies or stress say; a network hardly learns 100 of its units


class Scale(NamedTuple):
    """The unit in which a network speaks.

    value : eV
    note : why it is not that of the forces; empty where it is
    """

    value: float
    note: str = ""


def scale_of(train: Dataset, references: Mapping[int, float], options: LossOptions) -> Scale:
    """Return the scale of a potential for some training frames.

    Parameters
    ----------
    references : reference energies in eV by atomic number
    options : what the loss consists of; labels without a weight in it say nothing

    Raises
    ------
    DataError : forces, energies and stress are zero, the same in all frames, or noise.
    """
    forces = force_rms(train.frames)
    others = _others(train.frames, references, options)
    if forces >= max([_NOISE, *(_SMALLEST_SHARE * value for value in others.values())]):
        return Scale(forces)
    found = f"the forces of the training frames of {train.source} are zero or noise"
    for name, value in others.items():
        if value >= _NOISE:
            return Scale(
                value,
                f"{found} (RMS {forces:.2g} eV/Å): the scale of the network is the {name}, "
                f"{value:.3g} eV/atom.",
            )
    said = "".join(f", {name} {value:.2g} eV/atom" for name, value in others.items())
    raise DataError(
        f"{found}, and nothing else with a weight in the loss is more (forces {forces:.2g} eV/Å"
        f"{said}): there is nothing to learn. Add frames with displaced atoms or strained cells, "
        "or weigh the labels that differ (energy_weight, stress_weight in [training])."
    )


def _others(
    frames: Sequence[LabelledFrame], references: Mapping[int, float], options: LossOptions
) -> dict[str, float]:
    """Return what energies and stress say, in eV/atom, the better one first."""
    others: dict[str, float] = {}
    stages = (options.loss_of_epoch(0), options.validation_function)
    if any(stage.weights.energy > 0 for stage in stages):
        residuals = [
            (f.energy - sum(references[z] for z in f.atoms.numbers.tolist())) / len(f.atoms)
            for f in frames
        ]
        others["spread of energies"] = float(np.std(residuals))
    virials = [
        frame.stress * frame.atoms.get_volume() / len(frame.atoms)
        for frame in frames
        if frame.stress is not None
    ]
    if virials and options.needs_stress:
        others["RMS of virials"] = float(np.sqrt(np.mean(np.square(virials))))
    return others
