"""What one frame holds as ASE read it, by name, and in which of three places it stands."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.derivatives import VOIGT
from eqcalc.errors import DataError

__all__ = ["entries_of", "refuse_two_values"]

_SAME = 1e-6  # of a label, and in its unit: what one that is written twice may be rounded by


def entries_of(atoms: Atoms) -> dict[str, object]:
    """Return info, per-atom arrays and results; of one name, what stands in the last of them."""
    return {key: value for held in _places(atoms).values() for key, value in held.items()}


def refuse_two_values(
    atoms: Atoms, key: str, shapes: Collection[tuple[int, ...]], name: str
) -> None:
    """Check that a label stands in a frame once, or everywhere with the same value.

    Parameters
    ----------
    shapes : those that the label can have; an entry of another shape is another thing
    name : of file, label and row, for the message

    Raises
    ------
    DataError : two places have different values.
    """
    found = {}
    for place, held in _places(atoms).items():
        value = np.asarray(held.get(key))
        if value.dtype.kind in "fiu" and value.shape in shapes:
            found[place] = _plain(value)
    (read, one), *others = reversed(found.items())
    for place, other in others:
        if not np.allclose(one, other, rtol=_SAME, atol=_SAME, equal_nan=True):
            worst = np.unravel_index(np.abs(one - other).argmax(), one.shape)
            raise DataError(
                f"{name} stands in two places with different values: {one[worst]:.10g} in {read}, "
                f"{other[worst]:.10g} in {place}. Which is meant is not known: remove one, or "
                "rename the one that is meant and give its name (energy_key, forces_key, "
                "stress_key)."
            )


def _places(atoms: Atoms) -> dict[str, dict[str, object]]:
    arrays: dict[str, object] = {
        key: v for key, v in atoms.arrays.items() if key not in ("numbers", "positions")
    }
    results = {} if atoms.calc is None else dict(atoms.calc.results)
    info: dict[str, object] = {str(key): value for key, value in atoms.info.items()}
    return {"the info": info, "the arrays": arrays, "the calculator's results": results}


def _plain(label: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return a label as floats, a matrix of stress as its six components."""
    value = label.astype(np.float64)
    if value.shape not in ((3, 3), (9,)):
        return value
    full = value.reshape(3, 3)
    return np.array([0.5 * (full[a, b] + full[b, a]) for a, b in VOIGT])
