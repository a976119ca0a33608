"""A client of i-PI: i-PI moves the atoms (path integrals, barostats, ...), a model drives them.

    from ase.io import read
    from eqcalc import EqCalculator
    from eqcalc.hosts.ipi import serve

    serve(EqCalculator("painn-ethanol"), read("ethanol.xyz"), socket="ethanol")

i-PI's protocol says where atoms are and not what they are. Elements, their order and the open
directions are those of the structure that is given here; :mod:`eqcalc.hosts.identity` compares.

Units and signs are converted here: Bohr and Hartree outside; the virial is -dE/dε. For a molecule
it is sym Σ r ⊗ F, whatever cell i-PI has; for a slab or a wire no volume makes a pressure of it,
and i-PI gets NaN.

ASE has a client too (``ase.calculators.socketio``). It takes a lost connection for the end of the
run, sends zero for a virial that nobody asked for, one atom's position for all where numbers of
atoms differ, and reads a batched request as a structure; hence this one.

Shapes: n_atoms, n_structures of a request (one, or i-PI's ``batch_size``).
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from typing import Any, Optional

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.calculator import EqCalculator
from eqcalc.errors import ConfigError, DataWarning, HostError
from eqcalc.hosts.identity import refuse_other_atoms, refuse_torn
from eqcalc.hosts.ipi_protocol import (
    Address,
    Answer,
    Wire,
    connected,
    read_batch_size,
    read_request,
    take_leave,
)
from eqcalc.units import energy_unit, force_unit

__all__ = ["serve"]

_HARTREE = energy_unit("Hartree")
_HARTREE_PER_BOHR = force_unit("Hartree/Bohr")


def serve(
    calculator: EqCalculator,
    atoms: Atoms,
    *,
    socket: Optional[str] = None,
    host: str = "localhost",
    port: int = 31415,
    wait: float = 60.0,
    progress: Optional[Callable[[int], None]] = None,
) -> int:
    """Answer i-PI until it ends the run; return how many structures were evaluated.

    Beads that i-PI sends together (``batch_size`` of its <ffsocket>) go through few model calls.
    A committee answers with its mean; its spread goes to i-PI as the extras ``energy_spread_eV``
    and ``forces_spread_eV_per_A``.

    Parameters
    ----------
    atoms : elements in i-PI's order, and which directions are periodic; positions to compare
    socket : the <address> of i-PI's unix socket, or its path; by default the network is used
    host, port : of i-PI on the network
    wait : s, for i-PI to appear
    progress : called with the number of structures evaluated so far

    Raises
    ------
    HostError : i-PI is not there, went away before its end, or sends other atoms than those of
        the structure (:mod:`eqcalc.hosts.identity`).
    ConfigError : ``wait`` below zero, or a port that is none.
    GraphError, UnsupportedElementError, NonFiniteError, NotEnoughMemoryError : as
        :meth:`~eqcalc.EqCalculator.calculate` does; i-PI sees the connection end.
    """
    address = Address(socket, host, port)
    if not wait >= 0.0:
        raise ConfigError(f"wait must be zero or positive (s), found {wait}.")
    if socket is None and not 0 < port < 65536:
        raise ConfigError(f"port must lie in 1..65535, found {port}.")
    calculator.calculate_many([atoms])  # what the model refuses it refuses before i-PI waits for it
    session = _Session(calculator, atoms, progress)
    with connected(address, wait) as connection:
        try:
            session.answer(Wire(connection, str(address)))
        except BaseException:  # even Ctrl-C: i-PI would wait for an answer
            take_leave(connection)
            raise
    return session.n_evaluated


class _Session:
    """What is known between two messages of i-PI."""

    def __init__(
        self, calculator: EqCalculator, atoms: Atoms, progress: Optional[Callable[[int], None]]
    ) -> None:
        self.calculator, self.reference, self.progress = calculator, atoms, progress
        # A structure of its own: no constraint may change forces, which are i-PI's to constrain.
        self.atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
        self.n_evaluated = 0
        self.n_structures: Optional[int] = None  # of a request; None before i-PI said it
        self.answers: Optional[list[Answer]] = None
        self._last: Optional[NDArray] = None  # positions of the request before
        self._cell: Optional[NDArray] = None

    def answer(self, wire: Wire) -> None:
        """Answer messages until EXIT."""
        while True:
            message = wire.message()
            if message == "EXIT":
                return
            if message == "STATUS":
                wire.say(self.status)
            elif message == "INIT":
                self.n_structures = read_batch_size(wire)
            elif message == "POSDATA" and self.n_structures is not None:
                self.answers = self._evaluate(
                    read_request(wire, self.n_structures, len(self.atoms))
                )
            elif message == "GETFORCE" and self.answers is not None:
                wire.send_answers(self.answers)
                self.answers = None
            else:
                raise HostError(
                    f"{wire.address} sent '{message}' while the client was {self.status}; expected "
                    "i-PI's socket protocol (mode='unix' or 'inet'). Is another program there?"
                )

    @property
    def status(self) -> str:
        if self.n_structures is None:
            return "NEEDINIT"  # i-PI tells only then how many structures it sends together
        return "READY" if self.answers is None else "HAVEDATA"

    def _evaluate(self, request: list[tuple[NDArray, NDArray]]) -> list[Answer]:
        for cell, positions in request:
            self._look(cell, positions)
        structures = [
            Atoms(self.atoms.numbers, positions, cell=cell, pbc=self.atoms.pbc)
            for cell, positions in request
        ]
        if len(structures) == 1:
            self.atoms.cell[:], self.atoms.positions[:] = request[0]
            wanted = ["energy", "forces", *["stress"] * bool(self.atoms.pbc.all())]
            self.calculator.calculate(self.atoms, wanted)
            results = [self.calculator.results]
        else:
            results = self.calculator.calculate_many(structures)
        self.n_evaluated += len(structures)
        if self.progress is not None:
            self.progress(self.n_evaluated)
        return [_answer(*pair) for pair in zip(structures, results, strict=True)]

    def _look(self, cell: NDArray, positions: NDArray) -> None:
        """Compare what i-PI sends with the file, and with what it sent before."""
        pbc = self.reference.pbc
        if not np.isfinite(positions).all():
            return  # the calculator says which
        refuse_torn(
            self.reference.positions if self._last is None else self._last, positions, cell, pbc
        )
        if self._last is None or self._cell is None:
            doubt = refuse_other_atoms(self.reference, positions, cell)
            if doubt:
                warnings.warn(doubt, DataWarning, stacklevel=2)
        elif not pbc.all() and not np.allclose(cell, self._cell, rtol=1e-9, atol=1e-9):
            raise HostError(
                "i-PI changes the cell, but the structure is not periodic in all three directions "
                f"(pbc={pbc.tolist()}), and no stress says how. Run i-PI without a barostat, or "
                "make the structure periodic."
            )
        self._last, self._cell = positions, cell


def _answer(atoms: Atoms, results: dict[str, Any]) -> Answer:
    forces = results["forces"]
    extras = ""
    if "energy_spread" in results:
        spreads = np.asarray(results["forces_spread"])
        extras = json.dumps(
            {
                "energy_spread_eV": results["energy_spread"],
                "forces_spread_eV_per_A": spreads.tolist(),
            }
        )
    return Answer(
        results["energy"] / _HARTREE,
        forces / _HARTREE_PER_BOHR,
        _virial(atoms, results) / _HARTREE,
        extras,
    )


def _virial(atoms: Atoms, results: dict[str, Any]) -> NDArray:
    """Return -dE/dε (3, 3) in eV; NaN for a slab or a wire."""
    if atoms.pbc.all():
        xx, yy, zz, yz, xz, xy = -results["stress"] * atoms.get_volume()
        return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if atoms.pbc.any():
        return np.full((3, 3), np.nan)
    products = (atoms.positions - atoms.positions.mean(axis=0)).T @ results["forces"]
    return 0.5 * (products + products.T)
