"""Files of frames of which some lack labels, for tests of what reads them."""

from __future__ import annotations

from pathlib import Path

import ase.io
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator


def without(atoms: Atoms, *labels: str) -> Atoms:
    """Return a frame that lacks some labels."""
    bare = atoms.copy()
    left = {key: value for key, value in atoms.calc.results.items() if key not in labels}
    bare.calc = SinglePointCalculator(bare, **left)
    return bare


def write(path: Path, frames: list[Atoms]) -> Path:
    """Write frames as ASE does, and return where."""
    ase.io.write(path, frames)
    return path
