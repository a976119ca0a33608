"""A model in LAMMPS through ``fix external``: pure Python, nothing to compile.

LAMMPS keeps its time step, fixes, output and ranks. At every step the atoms of all ranks are
gathered on the first, one :class:`eqcalc.EqCalculator` computes them as one structure, and each
rank gets the forces of its own atoms. So the numbers are the calculator's on any number of ranks,
and so is the speed: more ranks make the model no faster. The pair style of eqcalc's plugin shares
the model among ranks.

>>> from mpi4py import MPI  # doctest: +SKIP
>>> from lammps import lammps  # doctest: +SKIP
>>> lmp = lammps()  # doctest: +SKIP
>>> lmp.file("in.water")  # up to the fixes; pair_style zero 5.0  # doctest: +SKIP
>>> attach(lmp, "sevennet-0", ["O", "H"])  # doctest: +SKIP
>>> lmp.command("run 50")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from numpy.typing import NDArray

from eqcalc.errors import (
    ConfigError,
    EqcalcError,
    HostError,
    MissingDependencyError,
    NonFiniteError,
)
from eqcalc.simulate.lammps_style.type_elements import require_masses
from eqcalc.simulate.lammps_style.unit_system import UnitSystem, unit_system

__all__ = ["ExternalModel", "attach"]

# LAMMPS's order xx yy zz xy xz yz, in positions of Voigt's xx yy zz yz xz xy.
_LAMMPS_ORDER = [0, 1, 2, 5, 4, 3]
_ERROR_ALL = 2  # of LAMMPS's error(): every rank has called it


def attach(
    lmp: Any,
    model: str | Path | Calculator,
    elements: Sequence[str],
    *,
    fix_id: str = "eqcalc",
    **options: Any,
) -> ExternalModel:
    """Let a model give energy, forces and virial to LAMMPS; on all ranks, after the box is there.

    It defines ``fix FIX_ID all external pf/callback 1 1`` and ``fix_modify FIX_ID energy yes virial
    yes``, beside whatever pair style there is (``pair_style zero`` where the model is all).
    Energies of atoms are there for ``compute pe/atom ... fix``; virials of atoms are not. Where the
    box is not periodic in three directions no stress is defined, and LAMMPS prints nan for its
    pressure.

    Parameters
    ----------
    lmp : an instance of ``lammps.lammps``, with units metal or real
    model : a shipped model's name, a path, or any ASE calculator
    elements : symbols of the atom types, in their order
    options : of :class:`eqcalc.EqCalculator`

    Raises
    ------
    ConfigError : no box, another unit system or dimension, or elements that are not those of the
        masses.
    MissingDependencyError : several ranks without mpi4py.
    ModelFileError, DeviceError : see :class:`eqcalc.EqCalculator`.
    """
    return ExternalModel(lmp, model, elements, fix_id=fix_id, **options)


class _Share(NamedTuple):
    """What one rank sends to the first."""

    tags: NDArray[np.int64]  # (n_local,)
    types: NDArray[np.int64]  # (n_local,)
    positions: NDArray[np.float64]  # (n_local, 3)


class _Answer(NamedTuple):
    """What the first rank sends to all, in eV and Å; atoms by growing tags."""

    tags: NDArray[np.int64]
    energy: float
    energies: NDArray[np.float64]  # (n_atoms,)
    forces: NDArray[np.float64]  # (n_atoms, 3)
    virial: NDArray[np.float64]  # (6,), LAMMPS's order; NaN where it is not defined


class ExternalModel:
    """The callback of a ``fix external``; see :func:`attach`.

    An error in a callback would pass unseen, and LAMMPS would go on without forces. So any error
    ends LAMMPS on all ranks with its text, as an error of its own does.

    Attributes
    ----------
    calculator : on the first rank; None on the others
    """

    def __init__(
        self,
        lmp: Any,
        model: str | Path | Calculator,
        elements: Sequence[str],
        *,
        fix_id: str = "eqcalc",
        **options: Any,
    ):
        self._lmp = lmp
        self._fix_id = fix_id
        self._system = _require_units(lmp)
        self._comm = _communicator(lmp)
        masses = np.array(lmp.numpy.extract_atom("mass"))[1:]
        require_masses(elements, masses)
        self._symbols = np.array(["X", *elements])
        self._atoms = Atoms()
        self._tags = np.empty(0, dtype=np.int64)
        self.calculator = self._on_first(lambda: _calculator(model, options))
        lmp.command(f"fix {fix_id} all external pf/callback 1 1")
        lmp.command(f"fix_modify {fix_id} energy yes virial yes")
        lmp.set_fix_external_callback(fix_id, self._callback, None)

    @property
    def _is_first(self) -> bool:
        return self._comm is None or self._comm.Get_rank() == 0

    def _on_first(self, make: Callable[[], Any]) -> Any:
        """Return what the first rank makes, or None on others; its error is one on all ranks."""
        made, error = None, None
        if self._is_first:
            try:
                made = make()
            except BaseException as raised:  # Ctrl-C too: the other ranks must not wait for ever
                error = raised
        # The text alone: not every exception survives being sent.
        text = None if error is None else _words(error)
        if self._comm is not None:
            text = self._comm.bcast(text)
        if error is not None:
            raise error
        if text is not None:
            raise EqcalcError(f"the first rank failed: {text}")
        return made

    def _callback(
        self,
        caller: Any,
        step: int,
        n_local: int,
        tags: NDArray[Any],
        positions: NDArray[np.float64],
        forces: NDArray[np.float64],
    ) -> None:
        try:
            self._answer(n_local, tags, positions, forces)
        except BaseException as error:  # Ctrl-C too: ctypes would print it, and LAMMPS go on
            forces[:] = np.nan
            self._lmp.error(_ERROR_ALL, f"eqcalc at step {step}: {_words(error)}")

    def _answer(
        self,
        n_local: int,
        tags: NDArray[Any],
        positions: NDArray[np.float64],
        forces: NDArray[np.float64],
    ) -> None:
        types = np.array(self._lmp.numpy.extract_atom("type"))[:n_local]
        own = np.array(tags[:n_local], dtype=np.int64).reshape(-1)
        share = _Share(own, types, np.array(positions))
        shares = [share] if self._comm is None else self._comm.gather(share)
        answer = self._on_first(lambda: self._compute(shares))
        if self._comm is not None:
            answer = self._comm.bcast(answer)
        here = np.searchsorted(answer.tags, own)
        lmp, energy_unit = self._lmp, self._system.energy
        forces[:] = answer.forces[here] / energy_unit
        lmp.fix_external_set_energy_global(self._fix_id, answer.energy / energy_unit)
        lmp.fix_external_set_virial_global(self._fix_id, list(answer.virial / energy_unit))
        if n_local > 0:
            each = list(answer.energies[here] / energy_unit)
            lmp.fix_external_set_energy_peratom(self._fix_id, each)

    def _compute(self, shares: list[_Share]) -> _Answer:
        """Compute all atoms as one structure."""
        tags = np.concatenate([share.tags for share in shares])
        order = np.argsort(tags)
        tags = tags[order]
        if not (np.diff(tags, prepend=0) > 0).all():  # 0 where atoms have none
            raise HostError(
                "atoms are told apart by their IDs, and those of LAMMPS are not unique numbers "
                "from 1 on; remove 'atom_modify id no'"
            )
        types = np.concatenate([share.types for share in shares])[order]
        positions = np.concatenate([share.positions for share in shares])[order]
        if not np.isfinite(positions).all():
            raise NonFiniteError("positions are NaN or infinite; take a shorter timestep")
        if not np.array_equal(tags, self._tags):
            self._tags = tags
            self._atoms = Atoms(list(self._symbols[types]), calculator=self.calculator)
        atoms = self._atoms
        atoms.set_chemical_symbols(list(self._symbols[types]))
        atoms.positions = positions
        atoms.cell[:], atoms.pbc = _box(self._lmp)
        virial = np.full(6, np.nan)
        if atoms.pbc.all() and "stress" in atoms.calc.implemented_properties:
            virial = -atoms.get_stress()[_LAMMPS_ORDER] * atoms.get_volume()
        forces = atoms.get_forces()
        if not np.isfinite(forces).all():
            raise NonFiniteError("the forces are NaN or infinite")
        energies = np.full(len(atoms), np.nan)
        if "energies" in atoms.calc.implemented_properties:
            energies = atoms.get_potential_energies()
        energy = float(atoms.get_potential_energy())
        return _Answer(tags, energy, energies, forces, virial)


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _calculator(model: str | Path | Calculator, options: dict[str, Any]) -> Calculator:
    if not isinstance(model, (str, Path)):
        if options:
            raise ConfigError(
                f"{', '.join(options)}: options of EqCalculator, and the calculator that was given "
                "has its own; leave them out, or give a model."
            )
        return model
    from eqcalc.calculator import EqCalculator  # torch takes a second to import

    return EqCalculator(model, **options)


def _require_units(lmp: Any) -> UnitSystem:
    if not lmp.extract_setting("box_exist"):
        raise ConfigError("LAMMPS has no box yet; call read_data or create_box before attach().")
    if lmp.extract_setting("dimension") != 3:
        raise ConfigError("the model needs three dimensions, and LAMMPS has dimension 2.")
    return unit_system(lmp.extract_global("units"))


def _communicator(lmp: Any) -> Any:
    """Return LAMMPS's communicator, or None where it runs alone without mpi4py."""
    comm = lmp.get_mpi_comm()
    if comm is None and lmp.extract_setting("world_size") > 1:
        raise MissingDependencyError(
            f"LAMMPS runs on {lmp.extract_setting('world_size')} ranks, and mpi4py is not "
            "installed; run pip install 'eqcalc[lammps]'."
        )
    return comm


def _box(lmp: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return cell (3, 3), Å, and periodicity (3,)."""
    low, high, xy, yz, xz, periodic, _ = lmp.extract_box()
    length = np.subtract(high, low)
    cell = np.array([[length[0], 0, 0], [xy, length[1], 0], [xz, yz, length[2]]])
    return cell, np.array(periodic, dtype=bool)
