"""i-PI's socket protocol, from the client's side: bytes to Å, and answers to bytes.

Lengths become Å where they are read; an :class:`Answer` is in Hartree and Bohr already.

Shapes: n_atoms, n_structures of a request.
"""

from __future__ import annotations

import glob
import re
import socket as sockets
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import DTypeLike, NDArray

from eqcalc.errors import HostError
from eqcalc.units import length_unit

__all__ = [
    "Address",
    "Answer",
    "Wire",
    "connected",
    "read_batch_size",
    "read_request",
    "take_leave",
]

_HEADER = 12  # bytes of a message
_PREFIX = "/tmp/ipi_"  # i-PI's own
_BATCH = re.compile(r"batch_size\s*:\s*(\d+)")
_BOHR = length_unit("Bohr")
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


class Answer(NamedTuple):
    """What i-PI gets for a structure, in Hartree and Bohr.

    virial : (3, 3), -dE/dε
    extras : JSON, or nothing
    """

    energy: float
    forces: NDArray
    virial: NDArray
    extras: str


class Wire:
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

    def send_answers(self, answers: Sequence[Answer]) -> None:
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


def read_batch_size(wire: Wire) -> int:
    """Read INIT; return how many structures i-PI will send together."""
    wire.numbers(1, np.int32)  # the number of the request
    n_bytes = wire.count("the length of the parameters")
    found = _BATCH.search(wire.raw(n_bytes).decode(errors="replace"))
    return int(found.group(1)) if found else 1


def read_request(wire: Wire, n_structures: int, n_atoms: int) -> list[tuple[NDArray, NDArray]]:
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


def _cell(wire: Wire) -> NDArray:
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


def _require_n_atoms(wire: Wire, n_atoms: int) -> None:
    found = wire.count("the number of atoms")
    if found != n_atoms:
        raise HostError(
            f"i-PI sends {found} atoms, the structure given here has {n_atoms}. Start both from "
            "the same file."
        )


def connected(address: Address, wait: float) -> sockets.socket:
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


def take_leave(connection: sockets.socket) -> None:
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
