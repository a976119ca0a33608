"""What the client of i-PI answers and refuses, against a stand-in that says what i-PI says."""

from __future__ import annotations

import socket
import struct
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from small_models import crystal, ethanol, slab

from eqcalc import EqCalculator
from eqcalc.cli import main
from eqcalc.errors import (
    ConfigError,
    DataWarning,
    GraphError,
    HostError,
    UnsupportedElementError,
)
from eqcalc.hosts.identity import refuse_other_atoms, refuse_torn
from eqcalc.hosts.ipi import serve
from eqcalc.hosts.ipi_protocol import Address

BOX = 20.0 * np.eye(3)


class Server(threading.Thread):
    """Speaks i-PI's side of the protocol with one client, as a function says."""

    def __init__(self, path: Path, talk: Callable[[Server], None]) -> None:
        super().__init__(daemon=True)
        self.path, self.talk = str(path), talk
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.start()

    def run(self) -> None:
        self.connection, _ = self.listener.accept()
        self.connection.settimeout(600)
        with self.connection, self.listener:
            self.talk(self)

    def say(self, message: str, content: bytes = b"") -> None:
        self.connection.sendall(message.ljust(12).encode() + content)

    def read(self, n_bytes: int) -> bytes:
        found = b""
        while len(found) < n_bytes:
            part = self.connection.recv(n_bytes - len(found))
            if not part:
                raise EOFError
            found += part
        return found

    def status(self) -> str:
        self.say("STATUS")
        return self.read(12).decode().strip()

    def initialize(self, parameters: str = "") -> None:
        assert self.status() == "NEEDINIT"
        self.say("INIT", struct.pack("ii", 0, len(parameters)) + parameters.encode())
        assert self.status() == "READY"

    def positions(self, positions: np.ndarray, cell: np.ndarray) -> None:
        self.say("POSDATA", in_bohr(cell) + struct.pack("i", len(positions)))
        self.connection.sendall((positions / units.Bohr).tobytes())

    def forces(self, n_structures: int, n_atoms: int) -> tuple[np.ndarray, ...]:
        """Return energies, forces and virials in atomic units, and the extras."""
        self.say("GETFORCE")
        assert self.read(12).decode().strip() == "FORCEREADY"
        energies = np.frombuffer(self.read(8 * n_structures))
        assert struct.unpack("i", self.read(4)) == (n_atoms,)
        forces = np.frombuffer(self.read(24 * n_atoms * n_structures))
        virials = np.frombuffer(self.read(72 * n_structures))
        extras = [self.read(struct.unpack("i", self.read(4))[0]) for _ in range(n_structures)]
        shape = (n_structures, n_atoms, 3)
        return energies, forces.reshape(shape), virials.reshape(n_structures, 3, 3), extras


def in_bohr(cell: np.ndarray) -> bytes:
    columns = cell.T / units.Bohr
    inverse = np.linalg.inv(columns)
    return columns.tobytes() + np.ascontiguousarray(inverse).tobytes()


@pytest.fixture
def path(tmp_path) -> Path:
    # A unix socket's path has 107 characters at most; pytest's folders can be longer.
    place = Path("/tmp") / f"eqcalc-{uuid.uuid4().hex[:12]}"
    yield place
    place.unlink(missing_ok=True)


@pytest.fixture
def calculator(model) -> EqCalculator:
    return EqCalculator(model, device="cpu", engine="torchscript")


def serve_to(path: Path, calculator: EqCalculator, atoms: Atoms, talk: Callable) -> int:
    """Serve a stand-in; fail with what it found wrong."""
    wrong = []

    def guarded(server: Server) -> None:
        try:
            talk(server)
        except EOFError:
            wrong.append("the client closed the connection")
        except AssertionError as error:
            wrong.append(error)

    server = Server(path, guarded)
    try:
        return serve(calculator, atoms, socket=str(path), wait=5.0)
    finally:
        server.join(600)
        if wrong and not isinstance(wrong[0], str):
            raise wrong[0]


def once(positions: np.ndarray, cell: np.ndarray) -> Callable[[Server], None]:
    """Return a talk of one structure, after which the client says no more."""

    def talk(server: Server) -> None:
        server.initialize()
        server.positions(positions, cell)
        server.read(1)

    return talk


def test_one_structure_is_answered_in_atomic_units(path, calculator):
    atoms = crystal()
    found = []

    def talk(server):
        server.initialize("no parameters")
        server.positions(atoms.positions, atoms.cell.array)
        assert server.status() == "HAVEDATA"
        found.extend(server.forces(1, len(atoms)))
        assert server.status() == "READY"
        server.say("EXIT")

    assert serve_to(path, calculator, atoms, talk) == 1
    expected = calculator.calculate_many([atoms])[0]
    energy, forces, virial, extras = found
    assert energy[0] * units.Hartree == pytest.approx(expected["energy"], rel=1e-12)
    ev_per_a = units.Hartree / units.Bohr
    np.testing.assert_allclose(forces[0] * ev_per_a, expected["forces"], rtol=0, atol=1e-10)
    xx, yy, zz, yz, xz, xy = -expected["stress"] * atoms.get_volume()
    tensor = [[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]]
    np.testing.assert_allclose(virial[0] * units.Hartree, tensor, rtol=0, atol=1e-10)
    assert extras == [b""]


def test_batch_is_answered_in_the_order_of_i_pi(path, calculator):
    first, second = ethanol(), ethanol()
    second.rattle(0.05, seed=1)
    found = []

    def talk(server):
        server.initialize("x, batch_size:2")
        server.say("POSDATA", struct.pack("i", 9) + 2 * in_bohr(BOX))
        both = np.array([first.positions, second.positions]) / units.Bohr
        server.connection.sendall(both.tobytes())
        found.extend(server.forces(2, 9))
        server.say("EXIT")

    assert serve_to(path, calculator, first, talk) == 2
    expected = calculator.calculate_many([first, second])
    np.testing.assert_allclose(
        found[0] * units.Hartree, [result["energy"] for result in expected], rtol=1e-12
    )
    for forces, result in zip(found[1], expected, strict=True):
        np.testing.assert_allclose(
            forces * units.Hartree / units.Bohr, result["forces"], rtol=0, atol=1e-10
        )
    for virial, atoms, result in zip(found[2], (first, second), expected, strict=True):
        products = atoms.positions.T @ result["forces"]
        np.testing.assert_allclose(virial * units.Hartree, products, rtol=0, atol=1e-4)
        assert np.abs(products).max() > 0.1


def test_virial_of_a_slab_is_no_number(path, calculator):
    atoms = slab()
    found = []

    def talk(server):
        server.initialize()
        server.positions(atoms.positions, atoms.cell.array)
        found.extend(server.forces(1, len(atoms)))
        server.say("EXIT")

    serve_to(path, calculator, atoms, talk)
    assert np.isnan(found[2]).all()
    assert np.isfinite(found[1]).all()


def test_constraints_of_the_structure_change_no_force(path, calculator):
    from ase.constraints import FixAtoms

    atoms = ethanol()
    atoms.set_constraint(FixAtoms([0, 1]))
    found = []

    def talk(server):
        server.initialize()
        server.positions(atoms.positions, BOX)
        found.extend(server.forces(1, 9))
        server.say("EXIT")

    serve_to(path, calculator, atoms, talk)
    assert np.abs(found[1][0, :2]).min() > 1e-4


def test_end_without_exit_is_an_error(path, calculator):
    with pytest.raises(HostError, match="ended before i-PI said EXIT"):
        serve_to(path, calculator, ethanol(), lambda server: server.initialize())


def test_connection_that_is_reset_is_an_error(path, calculator):
    def talk(server):
        server.initialize()
        server.positions(ethanol().positions, BOX)
        server.say("STATUS")
        # Closed with an answer unread: the client's next call finds a broken connection.
        server.connection.shutdown(socket.SHUT_RD)

    with pytest.raises(HostError, match="ended before i-PI said EXIT"):
        serve_to(path, calculator, ethanol(), talk)


def test_another_number_of_atoms_is_refused(path, calculator):
    with pytest.raises(HostError, match="i-PI sends 1 atoms, the structure given here has 9"):
        serve_to(path, calculator, ethanol(), once(np.zeros((1, 3)), BOX))


def test_negative_number_of_atoms_is_refused(path, calculator):
    def talk(server):
        server.initialize()
        server.say("POSDATA", in_bohr(BOX) + struct.pack("i", -9))
        server.read(1)

    with pytest.raises(HostError, match="sent -9 for the number of atoms"):
        serve_to(path, calculator, ethanol(), talk)


def test_shared_memory_is_refused_by_its_first_bytes(path, calculator):
    def talk(server):
        server.initialize()
        names = [f"ipi_shm_1234_5_{kind}".encode() for kind in ("pos", "h", "ih", "pot")]
        content = b"".join(struct.pack("i", len(name)) + name for name in [*names, *names])
        server.say("POSDATA", struct.pack("i", 9) + content)
        server.read(1)

    with pytest.raises(HostError, match=r"do not belong together.*mode='shm'"):
        serve_to(path, calculator, ethanol(), talk)


def test_message_out_of_turn_is_refused(path, calculator):
    def talk(server):
        server.initialize()
        server.say("GETFORCE")
        server.read(1)

    with pytest.raises(HostError, match="sent 'GETFORCE' while the client was READY"):
        serve_to(path, calculator, ethanol(), talk)


def test_positions_before_the_start_are_refused(path, calculator):
    def talk(server):
        server.positions(ethanol().positions, BOX)
        server.read(1)

    with pytest.raises(HostError, match="sent 'POSDATA' while the client was NEEDINIT"):
        serve_to(path, calculator, ethanol(), talk)


def test_positions_that_are_not_finite_are_refused_by_their_atom(path, calculator):
    positions = ethanol().positions
    positions[4] = np.nan
    with pytest.raises(GraphError, match="NaN or inf on atoms 4"):
        serve_to(path, calculator, ethanol(), once(positions, BOX))


def test_cell_that_changes_around_a_molecule_is_refused(path, calculator):
    def talk(server):
        server.initialize()
        server.positions(ethanol().positions, BOX)
        server.forces(1, 9)
        server.positions(ethanol().positions, 1.01 * BOX)
        server.read(1)

    with pytest.raises(HostError, match=r"i-PI changes the cell.*without a barostat"):
        serve_to(path, calculator, ethanol(), talk)


def test_positions_far_from_the_file_are_said(path, calculator):
    turned = ethanol()
    turned.rotate(100.0, "x")

    def talk(server):
        server.initialize()
        server.positions(turned.positions, BOX)
        server.forces(1, 9)
        server.say("EXIT")

    with pytest.warns(DataWarning, match="from those of the file; i-PI sends no elements"):
        serve_to(path, calculator, ethanol(), talk)


def test_nobody_there_is_said_with_the_sockets_that_are(calculator):
    with pytest.raises(HostError, match=r"no i-PI at the unix socket /tmp/ipi_absent-.* within 0"):
        serve(calculator, ethanol(), socket=f"absent-{uuid.uuid4().hex}", wait=0.2)


def test_host_without_a_name_is_not_waited_for(calculator):
    with pytest.raises(HostError, match="no i-PI at no such host, port 31415"):
        serve(calculator, ethanol(), host="no such host", wait=60.0)


def test_path_that_no_socket_can_have_is_not_waited_for(calculator):
    with pytest.raises(HostError, match="path too long"):
        serve(calculator, ethanol(), socket="x" * 200, wait=60.0)


def test_port_of_the_network_is_served(calculator):
    listener = socket.create_server(("localhost", 0))

    def talk():
        connection, _ = listener.accept()
        connection.sendall(b"EXIT".ljust(12))
        connection.close()

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    assert serve(calculator, ethanol(), port=listener.getsockname()[1], wait=5.0) == 0
    thread.join()
    listener.close()


@pytest.mark.parametrize("wait", [-1.0, float("nan")])
def test_negative_wait_is_refused(calculator, wait):
    with pytest.raises(ConfigError, match="wait must be zero or positive"):
        serve(calculator, ethanol(), socket="x", wait=wait)


@pytest.mark.parametrize("port", [0, 65536])
def test_port_out_of_range_is_refused(calculator, port):
    with pytest.raises(ConfigError, match=r"port must lie in 1..65535"):
        serve(calculator, ethanol(), port=port)


def test_unknown_element_is_refused_before_i_pi_is_looked_for(calculator):
    with pytest.raises(UnsupportedElementError, match=r"does not know Na \(atoms 0\)"):
        serve(calculator, Atoms("NaH", [[0, 0, 0], [0, 0, 2.0]]), socket="absent", wait=60.0)


# --- the same atoms


def test_atoms_of_the_file_are_taken():
    atoms = crystal()
    moved = atoms.positions + np.array([[0.1, 0.0, 0.0]]) + 3.0 * atoms.cell.array[0]
    assert refuse_other_atoms(atoms, moved, atoms.cell.array) == ""
    assert refuse_other_atoms(ethanol(), ethanol().positions + 7.0, BOX) == ""


def test_atoms_in_another_order_are_refused():
    atoms = ethanol()
    order = [8, *range(1, 8), 0]
    with pytest.raises(HostError, match=r"atom 0 of i-PI stands where the file has atom 8 \(H\)"):
        refuse_other_atoms(atoms, atoms.positions[order], BOX)
    bonded = [0, 1, 8, *range(3, 8), 2]  # O and its H, nearer to one another than atoms move
    assert atoms.get_distance(2, 8) < 1.0
    with pytest.raises(HostError, match=r"atom 2 of i-PI stands where the file has atom 8 \(H\)"):
        refuse_other_atoms(atoms, atoms.positions[bonded], BOX)
    periodic = crystal()
    order = [2, 1, 0, 3, 4, 5, 6, 7]
    with pytest.raises(HostError, match="but atom 0 of the file is C"):
        refuse_other_atoms(periodic, periodic.positions[order], periodic.cell.array)


def test_atoms_of_one_element_may_be_in_any_order():
    atoms = ethanol()
    order = [0, 1, 2, 8, 4, 5, 6, 7, 3]
    assert set(atoms.symbols[[3, 8]]) == {"H"}
    assert "in the order of the file" in refuse_other_atoms(atoms, atoms.positions[order], BOX)


@pytest.mark.parametrize(
    ("scale", "message"), [(units.Bohr, "Å for Bohr"), (1 / units.Bohr, "Bohr for Å")]
)
@pytest.mark.parametrize("make", [ethanol, crystal])
def test_lengths_in_another_unit_are_refused(make, scale, message):
    atoms = make()
    cell = scale * atoms.cell.array if atoms.pbc.any() else BOX
    with pytest.raises(HostError, match=f"it took numbers in {message}"):
        refuse_other_atoms(atoms, scale * atoms.positions, cell)


def test_atom_alone_has_no_scale():
    atom = Atoms("H", [[1.0, 2.0, 3.0]])
    assert refuse_other_atoms(atom, atom.positions, BOX) == ""


def test_cell_that_was_turned_without_its_atoms_is_refused():
    atoms = crystal()
    turned = crystal()
    turned.rotate(90.0, (1.0, 1.0, 0.0), rotate_cell=True)
    assert refuse_other_atoms(atoms, turned.positions, turned.cell.array) == ""
    with pytest.raises(HostError, match="turned the cell but not the atoms"):
        refuse_other_atoms(atoms, atoms.positions, turned.cell.array)


@pytest.mark.parametrize("pbc", [(False, False, False), (True, True, False)])
def test_molecule_wrapped_along_an_open_direction_is_refused(pbc):
    atoms = ethanol()
    atoms.translate([0.0, 0.0, 10.0] - atoms.get_center_of_mass())
    wrapped = atoms.positions - np.rint(atoms.positions @ np.linalg.inv(BOX)) @ BOX
    assert np.ptp(wrapped[:, 2]) > 10.0
    with pytest.raises(HostError, match=r"torn apart.*pbc='false' in <ffsocket>"):
        refuse_torn(atoms.positions, wrapped + 0.1, BOX, np.array(pbc))


def test_molecule_that_moves_as_a_whole_is_taken():
    positions = ethanol().positions
    nowhere = np.zeros(3, dtype=bool)
    refuse_torn(positions, positions + BOX[0], BOX, nowhere)
    refuse_torn(positions, positions + 0.5 * BOX[0] + 1e-9 * np.arange(9)[:, None], BOX, nowhere)
    refuse_torn(positions, positions, np.zeros((3, 3)), nowhere)
    shaken = ethanol()
    shaken.rattle(0.3, seed=1)
    refuse_torn(positions, shaken.positions, -units.Bohr * np.eye(3), nowhere)  # i-PI's for none
    wrapped = positions - np.rint(positions @ np.linalg.inv(BOX)) @ BOX
    refuse_torn(positions, wrapped, BOX, np.ones(3, dtype=bool))


def test_address_is_a_name_or_a_path():
    assert Address("name").path == "/tmp/ipi_name"
    assert Address("/somewhere/else").path == "/somewhere/else"


# --- the command


@pytest.fixture
def command(model, capsys):
    """Return a function that runs ``eqcalc ipi`` and returns its exit code and stderr."""

    def run(*words: object) -> tuple[int, str]:
        with pytest.raises(SystemExit) as left:
            main(["ipi", str(model), *map(str, words)])
        return left.value.code, " ".join(capsys.readouterr().err.split())

    return run


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "ethanol.xyz"
    ethanol().write(path)
    return path


def test_command_needs_a_place(command, file):
    code, error = command(file)
    assert code == 2
    assert "give --socket NAME" in error


def test_command_takes_a_socket_or_a_host(command, file):
    code, error = command(file, "--socket", "x", "--host", "localhost")
    assert code == 2
    assert "needs neither --host nor --port" in error


def test_command_takes_a_cell_of_i_pi(command, file):
    lines = file.read_text().splitlines()
    lines[1] = "# CELL(abcABC): 20 20 20 90 90 90 positions{angstrom} cell{angstrom}"
    file.write_text("\n".join(lines) + "\n")
    for option in ((), ("--open",), ("--periodic",)):
        code, error = command(file, "--socket", "absent", "--wait", "0", *option)
        assert (code, "no i-PI at the unix socket /tmp/ipi_absent" in error) == (2, True)


def test_command_needs_a_cell_of_what_is_periodic(command, file):
    file.write_text(file.read_text().replace('pbc="F F F"', ""))
    code, error = command(file, "--socket", "absent", "--wait", "0", "--periodic")
    assert code == 2
    assert "--periodic needs a structure with a cell" in error


def test_command_refuses_a_file_that_is_not_there(command, tmp_path):
    code, error = command(tmp_path / "absent.xyz", "--socket", "x")
    assert code == 2
    assert "absent.xyz" in error


def test_command_takes_frames_of_the_same_atoms(command, model, tmp_path, capsys):
    path = tmp_path / "beads.xyz"
    moved, turned = ethanol(), ethanol()
    moved.positions += 0.1
    ase.io.write(path, [ethanol(), moved])
    with pytest.raises(SystemExit):
        main(["ipi", str(model), str(path), "--socket", "absent", "--wait", "0"])
    assert "elements of the 2 frames in beads.xyz; cell of the first" in capsys.readouterr().out
    turned.numbers = turned.numbers[::-1]
    ase.io.write(path, [ethanol(), moved, turned])
    code, error = command(path, "--socket", "absent", "--wait", "0")
    assert code == 2
    assert "frame 2 of" in error
    assert "has other atoms, or another order, than frame 0" in error
