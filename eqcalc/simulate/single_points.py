"""Energy, forces and stress of structures as they are, without a step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ase import Atoms
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator

if TYPE_CHECKING:
    from eqcalc.calculator import EqCalculator

__all__ = ["single_points"]

_AT_ONCE = 32  # structures between two reports of progress
_LABELS = ("energy", "forces", "stress")


def single_points(
    structures: Sequence[Atoms],
    calculator: EqCalculator,
    *,
    source: str | Path = "structures",
    progress: Callable[[int], None] | None = None,
) -> list[Atoms]:
    """Return copies of structures that hold energy, forces and, where periodic, stress.

    Of a committee a copy also has ``info["energy_spread"]`` (eV) and the array ``forces_spread``
    ((n_atoms, 3), eV/Å), the members' sample standard deviations. What a structure brought under
    these names, another method's say, is not in its copy; constraints are, and take nothing from
    the forces that are written.

    Parameters
    ----------
    source : what messages call the file
    progress : called with the number of structures done

    Raises
    ------
    See :meth:`eqcalc.EqCalculator.calculate_many`; the message names the frame.
    """
    frames: list[Atoms] = []
    for first in range(0, len(structures), _AT_ONCE):
        here = structures[first : first + _AT_ONCE]
        names = [f"frame {first + k} of {source}" for k in range(len(here))]
        found = calculator.calculate_many(here, names=names)
        frames += [_labelled(atoms, results) for atoms, results in zip(here, found, strict=True)]
        if progress is not None:
            progress(len(frames))
    return frames


def _labelled(atoms: Atoms, results: dict[str, Any]) -> Atoms:
    frame = atoms.copy()
    for name in (*all_properties, "energy_spread", "forces_spread"):
        frame.info.pop(name, None)
        frame.arrays.pop(name, None)
    labels = {name: results[name] for name in _LABELS if name in results}
    if "forces_spread" in results:
        frame.info["energy_spread"] = results["energy_spread"]
        frame.set_array("forces_spread", results["forces_spread"])
    frame.calc = SinglePointCalculator(frame, **labels)
    return frame
