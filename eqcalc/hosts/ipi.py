"""A client of i-PI: i-PI moves the atoms (path integrals, barostats, ...), a model drives them.

    from ase.io import read
    from eqcalc import EqCalculator
    from eqcalc.hosts.ipi import serve

    serve(EqCalculator("painn-ethanol"), read("ethanol.xyz"), socket="ethanol")

i-PI's protocol says where atoms are and not what they are. Elements, their order and the open
directions are those of the structure that is given here; :mod:`eqcalc.hosts.identity` compares.

Units and signs are converted here: Bohr and Hartree outside; the virial is -dE/dε. For a molecule
it is sym Σ r ⊗ F, whatever cell i-PI has; for a slab or a wire it is not defined by a volume, and
i-PI gets NaN, so that a pressure of it is no number.

ASE has a client too (``ase.calculators.socketio``). It takes a lost connection for the end of the
run, sends zero for a virial that nobody asked for, one atom's position for all where numbers of
atoms differ, and reads a batched request as a structure; hence this one.

Shapes: n_atoms, n_structures of a request (one, or i-PI's ``batch_size``).
"""

from __future__ import annotations

import glob
import json
import re
import socket as sockets
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Optional

import numpy as np
from ase import Atoms
from numpy.typing import DTypeLike, NDArray

from eqcalc.calculator import EqCalculator
from eqcalc.errors import ConfigError, DataWarning, HostError
from eqcalc.hosts.identity import refuse_other_atoms, refuse_torn
from eqcalc.units import energy_unit, force_unit, length_unit

__all__ = ["Address", "serve"]

_HEADER = 12  # bytes of a message
_PREFIX = "/tmp/ipi_"  # i-PI's own
_BATCH = re.compile(r"batch_size\s*:\s*(\d+)")
_HARTREE, _BOHR = energy_unit("Hartree"), length_unit("Bohr")
_HARTREE_PER_BOHR = force_unit("Hartree/Bohr")
_PAUSE = 0.1  # s between two attempts to connect
_NOT_YET = (FileNotFoundError, ConnectionRefusedError)  # what may pass while i-PI starts
_LEAVE = 2.0  # s for i-PI to see that the client ends


class Address(NamedTuple):
    """Where i-PI listens.

    socket : the <address> of a unix socket, or the socket's path; None for the network
    host, port : of a socket of the network

    >>> print(Address("ethanol"))
    the unix socket /tmp/ipi_ethanol
    >>> print(Address(None, "localhost", 31415))
    localhost, port 31415
    """

    socket: Optional[str] = None
    host: str = "localhost"
    port: int = 31415

    @property
    def path(self) -> str:
        """The path of a unix socket."""
        name = str(self.socket)
        return name if "/" in name else _PREFIX + name

    def __str__(self) -> str:
        if self.socket is None:
            return f"{self.host}, port {self.port}"
        return f"the unix socket {self.path}"


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
    with _connected(address, wait) as connection:
        try:
            session.answer(_Wire(connection, str(address)))
        except BaseException:
            _take_leave(connection)
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
        self.answers: Optional[list[_Answer]] = None
        self._last: Optional[NDArray] = None  # positions of the request before
        self._cell: Optional[NDArray] = None

    def answer(self, wire: _Wire) -> None:
        """Answer messages until EXIT."""
        while True:
            message = wire.message()
            if message == "EXIT":
                return
            if message == "STATUS":
                wire.say(self.status)
            elif message == "INIT":
                self.n_structures = _batch_size(wire)
            elif message == "POSDATA" and self.n_structures is not None:
                self.answers = self._evaluate(_request(wire, self.n_structures, len(self.atoms)))
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

    def _evaluate(self, request: list[tuple[NDArray, NDArray]]) -> list[_Answer]:
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


class _Answer(NamedTuple):
    """What i-PI gets for a structure, in Hartree and Bohr.

    virial : (3, 3), -dE/dε
    extras : JSON, or nothing
    """

    energy: float
    forces: NDArray
    virial: NDArray
    extras: str


def _answer(atoms: Atoms, results: dict[str, Any]) -> _Answer:
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
    return _Answer(
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


def _batch_size(wire: _Wire) -> int:
    """Read INIT; return how many structures i-PI will send together."""
    wire.numbers(1, np.int32)  # the number of the request
    n_bytes = wire.count("the length of the parameters")
    found = _BATCH.search(wire.raw(n_bytes).decode(errors="replace"))
    return int(found.group(1)) if found else 1


def _request(wire: _Wire, n_structures: int, n_atoms: int) -> list[tuple[NDArray, NDArray]]:
    """Return cell (3, 3) and positions (n_atoms, 3) of each structure, in Å.

    Raises
    ------
    HostError : another number of atoms, or what is no cell.
    """
    if n_structures == 1:
        cells = [_cell(wire)]
        _require_n_atoms(wire, n_atoms)
    else:
        _require_n_atoms(wire, n_atoms)
        cells = [_cell(wire) for _ in range(n_structures)]
    positions = wire.numbers((n_structures, n_atoms, 3), np.float64) * _BOHR
    return list(zip(cells, positions, strict=True))


def _cell(wire: _Wire) -> NDArray:
    """Read a cell and its inverse, whose product tells whether they are what they should be."""
    columns, inverse = wire.numbers((2, 3, 3), np.float64)
    with np.errstate(all="ignore"):  # other bytes are numbers of any size
        belong = np.allclose(columns @ inverse, np.eye(3), rtol=0.0, atol=1e-6)
    if not belong:
        raise HostError(
            f"{wire.address} sent a cell and an inverse that do not belong together: expected "
            "i-PI's socket protocol. With mode='shm' in <ffsocket>, take mode='unix'."
        )
    return columns.T * _BOHR


def _require_n_atoms(wire: _Wire, n_atoms: int) -> None:
    found = wire.count("the number of atoms")
    if found != n_atoms:
        raise HostError(
            f"i-PI sends {found} atoms, the structure given here has {n_atoms}. Start both from "
            "the same file."
        )


class _Wire:
    """Messages and numbers on a connection."""

    def __init__(self, connection: sockets.socket, address: str) -> None:
        self._connection, self.address = connection, address

    def message(self) -> str:
        """Return the next message."""
        return self.raw(_HEADER).decode("ascii", errors="replace").strip()

    def say(self, message: str) -> None:
        """Send a message."""
        self._send(message.ljust(_HEADER).encode("ascii"))

    def raw(self, n: int) -> bytes:
        """Return the next bytes.

        Raises
        ------
        HostError : the connection ended.
        """
        found = bytearray()
        while len(found) < n:
            try:
                part = self._connection.recv(n - len(found))
            except OSError as error:
                raise self._lost(f" ({error.strerror})") from error
            if not part:
                raise self._lost()
            found += part
        return bytes(found)

    def numbers(self, shape: int | tuple[int, ...], dtype: DTypeLike) -> NDArray:
        """Return the next numbers."""
        n = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer(self.raw(n), dtype).reshape(shape)

    def count(self, what: str) -> int:
        """Return the next number, which counts something."""
        number = int(self.numbers(1, np.int32)[0])
        if number < 0:
            raise HostError(
                f"{self.address} sent {number} for {what}: expected i-PI's socket protocol."
            )
        return number

    def send_answers(self, answers: Sequence[_Answer]) -> None:
        """Send energies, forces, virials and extras, as i-PI orders those of a batch."""
        forces = np.array([answer.forces for answer in answers], dtype=np.float64)
        parts = [
            b"FORCEREADY".ljust(_HEADER),
            np.array([answer.energy for answer in answers], dtype=np.float64).tobytes(),
            np.int32(forces.shape[1]).tobytes(),
            forces.tobytes(),
            np.array([answer.virial for answer in answers], dtype=np.float64).tobytes(),
        ]
        for answer in answers:
            extras = answer.extras.encode()
            parts += [np.int32(len(extras)).tobytes(), extras]
        self._send(b"".join(parts))

    def _send(self, content: bytes) -> None:
        try:
            self._connection.sendall(content)
        except OSError as error:
            raise self._lost(f" ({error.strerror})") from error

    def _lost(self, why: str = "") -> HostError:
        return HostError(
            f"the connection to {self.address} ended before i-PI said EXIT{why}: i-PI was stopped "
            "or broke down; see its output."
        )


def _connected(address: Address, wait: float) -> sockets.socket:
    """Return a connection to i-PI, which may not have begun to listen yet.

    Raises
    ------
    HostError : nobody listens there, after ``wait`` seconds; or nobody ever could.
    """
    end = time.monotonic() + wait
    while True:
        try:
            return _connect(address)
        except OSError as error:
            if time.monotonic() >= end or not isinstance(error, _NOT_YET):
                there = sorted(glob.glob(f"{_PREFIX}*")) if address.socket is not None else []
                known = f" Unix sockets of i-PI here: {', '.join(there)}." if there else ""
                raise HostError(
                    f"no i-PI at {address} within {wait:g} s ({error.strerror or error}). Start "
                    f"i-PI first, and give the <address> of its <ffsocket>.{known}"
                ) from error
            time.sleep(min(_PAUSE, max(0.0, end - time.monotonic())))


def _take_leave(connection: sockets.socket) -> None:
    """Let i-PI read the end of the connection.

    A connection that is closed before all was read is reset, and i-PI's thread breaks down on
    that: the run hangs, whatever its ``exit_on_disconnect`` says.
    """
    connection.settimeout(_LEAVE)
    with suppress(OSError):
        connection.shutdown(sockets.SHUT_WR)
        end = time.monotonic() + _LEAVE
        while time.monotonic() < end and connection.recv(1 << 16):
            pass


def _connect(address: Address) -> sockets.socket:
    if address.socket is None:
        connection = sockets.create_connection((address.host, address.port))
        connection.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        # Else a computer that goes down leaves the client waiting for ever.
        connection.setsockopt(sockets.SOL_SOCKET, sockets.SO_KEEPALIVE, 1)
        return connection
    connection = sockets.socket(sockets.AF_UNIX)
    try:
        connection.connect(address.path)
    except OSError:
        connection.close()
        raise
    return connection
