"""The Hessian by central differences of the forces, many displacements per model call.

from ase.vibrations import VibrationsData

calculator = EqCalculator("painn-ethanol", dtype="float64")
modes = VibrationsData.from_2d(atoms, calculator.get_hessian(atoms))
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import ConfigError, listing

if TYPE_CHECKING:
    from eqcalc.calculator.calculator import EqCalculator

__all__ = ["hessian"]


def hessian(
    atoms: Atoms,
    calculator: EqCalculator,
    *,
    indices: Optional[Sequence[int]] = None,
    displacement: float = 0.01,
    max_edges: Optional[int] = None,
) -> NDArray:
    """Return ∂²E/∂r∂r (3n, 3n) in eV/Å², the mean with its transpose, as ``ase.vibrations`` does.

    Constraints are ignored, fixed atoms too: name the atoms that move instead, which leaves the
    others where they are and their rows and columns out. Of a committee: of its mean energy.

    Parameters
    ----------
    indices : of the n atoms that move, in the order of rows and columns; all by default
    displacement : Å, to either side. The error of the differences falls with its square, and
        rounding grows with its inverse: below 0.01 take a model in float64 (``dtype="float64"``).
        In float32 painn-ethanol's Hessian of ethanol is off by 5e-4 eV/Å² at 0.01 Å and by 2e-3 at
        0.003 Å, compiled, whose filters are tables, by 1.4e-3 and 6.5e-3.
    max_edges : see :meth:`eqcalc.EqCalculator.calculate_many`

    Raises
    ------
    ConfigError : an index that is not there or stands twice, a displacement that is not
        positive and finite.
    GraphError, UnsupportedElementError, NonFiniteError : see ``calculate_many``.
    """
    given = np.arange(len(atoms)) if indices is None else np.asarray(indices)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ConfigError(
            f"indices must be integers, found {given.dtype} of shape {given.shape}; of a mask, "
            "give numpy.flatnonzero(mask)."
        )
    moving = given.tolist()
    strange = [k for k in moving if not 0 <= k < len(atoms)]
    if strange or len(set(moving)) < len(moving):
        raise ConfigError(
            f"indices must be different and lie in 0..{len(atoms) - 1}, found {listing(moving)}."
        )
    if not 0.0 < displacement < np.inf:
        raise ConfigError(f"displacement must be positive and finite (Å), found {displacement}.")
    # Read from an iterator: the displaced structures of a large system never exist together.
    found = calculator.calculate_many(_displaced(atoms, moving, displacement), max_edges=max_edges)
    forces = np.array([results["forces"][moving].ravel() for results in found])
    n = 3 * len(moving)
    forces = forces.reshape(n, 2, n)  # (coordinate, side, force)
    slopes = (forces[:, 0] - forces[:, 1]) / (2.0 * displacement)
    return 0.5 * (slopes + slopes.T)


def _displaced(atoms: Atoms, moving: list[int], displacement: float) -> Iterator[Atoms]:
    """Yield the structures with each coordinate below, then above its value."""
    for k in moving:
        for axis in range(3):
            for step in (-displacement, displacement):
                moved = Atoms(atoms.numbers, atoms.positions.copy(), cell=atoms.cell, pbc=atoms.pbc)
                moved.positions[k, axis] += step
                yield moved
