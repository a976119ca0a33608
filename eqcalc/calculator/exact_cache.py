"""An ASE calculator's memory of what its results belong to: exact, and quick to compare."""

from __future__ import annotations

from typing import NamedTuple, Optional

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes
from ase.outputs import Properties

from eqcalc.neighbours.structure import check_structure

__all__ = ["ExactCache", "State"]


class State(NamedTuple):
    """What the results depend on, as bytes: copied and compared in a microsecond."""

    numbers: bytes
    positions: bytes
    cell: bytes
    pbc: bytes

    @classmethod
    def of(cls, atoms: Atoms) -> State:
        """Return the state of a structure.

        Raises
        ------
        GraphError : numbers or positions of another kind, which are refused: see
            :func:`eqcalc.neighbours.structure.check_structure`.
        """
        if atoms.numbers.dtype.kind not in "iu" or atoms.positions.dtype.kind != "f":
            check_structure(atoms)  # a cast would make those of 8.9 and 8+1j those of 8
        return cls(
            np.asarray(atoms.numbers, dtype=int).tobytes(),
            np.asarray(atoms.positions, dtype=np.float64).tobytes(),
            atoms.cell.array.tobytes(),
            atoms.pbc.tobytes(),
        )

    def atoms(self) -> Atoms:
        """Return a structure in this state."""
        return Atoms(
            np.frombuffer(self.numbers, dtype=int),
            np.frombuffer(self.positions).reshape(-1, 3),
            cell=np.frombuffer(self.cell).reshape(3, 3),
            pbc=np.frombuffer(self.pbc, dtype=bool),
        )


class ExactCache(Calculator):
    """A calculator whose results depend on numbers, positions, cell and pbc alone.

    A subclass sets ``_last`` beside ``results``.
    """

    _last: Optional[State] = None

    @property
    def atoms(self) -> Optional[Atoms]:
        """The structure of the present results: numbers, positions, cell and pbc.

        Made when asked for: a copy at every step is a fifth of the calculator's overhead.
        """
        return None if self._last is None else self._last.atoms()

    @atoms.setter
    def atoms(self, atoms: Optional[Atoms]) -> None:
        self._last = None if atoms is None else State.of(atoms)

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last calculation, exactly.

        ASE's own check costs as much as a small model. These models depend on
        numbers, positions, cell and pbc and on nothing else.
        """
        last, now = self._last, State.of(atoms)
        if last is None or len(last.numbers) != len(now.numbers):
            return list(all_changes)
        return [name for name, a, b in zip(now._fields, last, now, strict=True) if a != b]

    def export_properties(self) -> Properties:
        """Return the results that ASE has a name for."""
        known = {k: v for k, v in self.results.items() if k in self.implemented_properties}
        return Properties(known)
