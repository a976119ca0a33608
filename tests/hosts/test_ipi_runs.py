"""Runs of the real i-PI, which eqcalc drives through a socket."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from small_models import crystal, ethanol, export_small

from eqcalc import EqCalculator
from eqcalc.errors import HostError
from eqcalc.hosts.ipi import serve

pytestmark = pytest.mark.hosts

WAIT = 600.0  # s; on a machine that others use too what starts imports for a minute

INPUT = """
<simulation verbosity='low'>
  <output prefix='run'>
    <properties stride='1' filename='out'> [ step, conserved, potential, volume,
      virial_md, bead_potentials ] </properties>
    <trajectory filename='pos' stride='1' format='ase'> positions </trajectory>
    <trajectory filename='for' stride='1' format='ase'> forces </trajectory>
    {more}
  </output>
  <total_steps>{steps}</total_steps>
  <prng><seed>1</seed></prng>
  <ffsocket name='eq' mode='{socket}' pbc='{wraps}'>
    <address>{address}</address> <port>{port}</port> <latency>1e-4</latency> {options}
    <offset> {offset} </offset>
    <exit_on_disconnect>true</exit_on_disconnect>
  </ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase'> init.xyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces><force forcefield='eq'/></forces>
    <motion mode='dynamics'>
      <dynamics mode='{mode}'>
        {barostat}
        <timestep units='femtosecond'> 0.25 </timestep>
        <thermostat mode='pile_l'><tau units='femtosecond'> 100 </tau></thermostat>
      </dynamics>
    </motion>
    <ensemble><temperature units='kelvin'> 300 </temperature>{pressure}</ensemble>
  </system>
</simulation>
"""
OFFSET = -153.5  # Hartree, near ethanol's energy; i-PI prints eight digits of what is left
BAROSTAT = """<barostat mode='isotropic'><tau units='femtosecond'> 200 </tau>
  <thermostat mode='langevin'><tau units='femtosecond'> 200 </tau></thermostat></barostat>"""


class Run:
    """i-PI in a folder of its own, listening."""

    def __init__(self, folder: Path, atoms: Atoms, **options: object) -> None:
        self.folder, self.address = folder, f"eqcalc-{uuid.uuid4().hex[:12]}"
        ase.io.write(folder / "init.xyz", atoms, format="extxyz")
        choices = {
            "socket": "unix",
            "address": self.address,
            "port": 31415,
            "steps": 4,
            "beads": 4,
            "wraps": "false",
            "options": "",
            "offset": OFFSET,
            "mode": "nvt",
            "barostat": "",
            "pressure": "",
            "more": "",
        }
        text = INPUT.format(**choices | options)
        (folder / "input.xml").write_text(text)
        program = Path(sys.executable).with_name("i-pi")
        with (folder / "log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(program), "input.xml"],
                cwd=folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def listen(self) -> None:
        """Wait until i-PI has its unix socket."""
        end = time.monotonic() + WAIT
        while not Path(f"/tmp/ipi_{self.address}").exists():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < end, "i-PI does not listen"
            time.sleep(0.05)

    def end(self) -> str:
        """Wait until i-PI has ended well; return what it printed."""
        code = self.process.wait(timeout=WAIT)
        log = (self.folder / "log").read_text()
        assert code == 0, log
        return log

    def table(self) -> np.ndarray:
        """Return step, conserved, potential, volume, virial (6) and bead potentials."""
        return np.loadtxt(self.folder / "run.out", ndmin=2)

    def n_rows(self) -> int:
        """Return how many rows of properties there are so far."""
        path = self.folder / "run.out"
        lines = path.read_text().splitlines() if path.exists() else []
        return sum(not line.startswith("#") for line in lines)

    def frames(self, what: str, bead: int) -> list[Atoms]:
        """Return a bead's frames, as i-PI writes them for ASE."""
        name = sorted(self.folder.glob(f"run.{what}_*.extxyz"))[bead]
        return ase.io.read(name, index=":", format="extxyz")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Run]]:
    """Return what starts i-PI; it is ended with the test."""
    runs = []

    def begin(atoms: Atoms, **options: object) -> Run:
        folder = tmp_path / str(len(runs))
        folder.mkdir()
        runs.append(Run(folder, atoms, **options))
        if options.get("socket") != "inet":  # there a look would be a client
            runs[-1].listen()
        return runs[-1]

    yield begin
    for run in runs:
        run.process.kill()
        run.process.wait()
        Path(f"/tmp/ipi_{run.address}").unlink(missing_ok=True)


@pytest.fixture
def calculator(model) -> EqCalculator:
    return EqCalculator(model, device="cpu", engine="torchscript")


def ethanol_in_a_box() -> Atoms:
    atoms = ethanol()
    atoms.cell = [20.0, 20.0, 20.0]
    return atoms


def stretched_energies(calculator: EqCalculator, atoms: Atoms) -> np.ndarray:
    """Return -dE/dε (6) of a molecule in eV, by differences, in i-PI's order xx yy zz xy xz yz."""
    step, found = 1e-4, []
    for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2)):
        energies = []
        for sign in (1.0, -1.0):
            strain = np.eye(3)
            strain[a, b] += sign * step / 2
            strain[b, a] += sign * step / 2
            stretched = Atoms(atoms.numbers, atoms.positions @ strain)
            energies.append(calculator.calculate_many([stretched])[0]["energy"])
        found.append(-(energies[0] - energies[1]) / (2 * step))
    return np.array(found)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_beads_have_the_energies_and_forces_of_the_calculator(start, calculator, batch_size):
    run = start(ethanol_in_a_box(), options=f"<batch_size>{batch_size}</batch_size>")
    n_evaluated = serve(calculator, ethanol(), socket=run.address)
    run.end()
    assert n_evaluated == 5 * 4  # steps 0 to 4, four beads
    table = run.table()
    assert table.shape == (5, 10 + 4)
    for bead in range(4):
        frames = run.frames("pos", bead)
        expected = calculator.calculate_many([Atoms(f.numbers, f.positions) for f in frames])
        # i-PI's units agree with CODATA to eight digits, its files have eight decimals.
        energies = (table[:, 10 + bead] + OFFSET) * units.Hartree
        np.testing.assert_allclose(energies, [r["energy"] for r in expected], rtol=0, atol=5e-6)
        for frame, result in zip(run.frames("for", bead), expected, strict=True):
            found = frame.get_forces()
            np.testing.assert_allclose(found, result["forces"], rtol=1e-6, atol=1e-5)
    assert np.ptp(table[-1, 10:]) > 1e-3  # Hartree; the beads have gone their own ways


def test_beads_that_come_together_go_through_one_call(start, calculator, monkeypatch):
    run = start(ethanol_in_a_box(), options="<batch_size>4</batch_size>")
    sizes = []
    many = calculator.calculate_many

    def counted(structures, **options):
        sizes.append(len(structures))
        return many(structures, **options)

    monkeypatch.setattr(calculator, "calculate_many", counted)
    serve(calculator, ethanol(), socket=run.address)
    run.end()
    assert sizes == [1] + 5 * [4]  # first the structure of the file


def test_virial_of_a_molecule_is_that_of_its_strain(start, calculator):
    run = start(ethanol_in_a_box(), beads=1, steps=1)
    serve(calculator, ethanol(), socket=run.address)
    run.end()
    table = run.table()
    virial = table[0, 4:10] * table[0, 3] * units.Hartree  # pressure times volume
    expected = stretched_energies(calculator, ethanol())
    np.testing.assert_allclose(virial, expected, rtol=0, atol=1e-5)
    assert np.abs(expected).min() > 1e-2


def test_crystal_under_pressure_has_the_stress_of_the_calculator(start, calculator):
    pressure = "<pressure units='megapascal'> 1000 </pressure>"
    barostat = {"mode": "npt", "barostat": BAROSTAT, "pressure": pressure}
    run = start(crystal(), beads=1, steps=20, offset=0.0, wraps="true", **barostat)
    serve(calculator, crystal(), socket=run.address)
    run.end()
    table, frames = run.table(), run.frames("pos", 0)
    volumes = table[:, 3] * units.Bohr**3
    assert abs(volumes[-1] / volumes[0] - 1.0) > 1e-4
    for row, volume, frame in zip(table, volumes, frames, strict=True):
        expected = calculator.calculate_many(
            [Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)]
        )[0]
        assert frame.get_volume() == pytest.approx(volume, rel=1e-6)
        assert row[10] * units.Hartree == pytest.approx(expected["energy"], abs=2e-5)
        virial = row[4:10] * units.Hartree / units.Bohr**3
        stress = expected["stress"][[0, 1, 2, 5, 4, 3]]
        np.testing.assert_allclose(virial, -stress, rtol=0, atol=1e-6)
    assert np.abs(stress).max() > 1e-3


def test_crystal_that_ipi_turns_has_the_energy_of_the_file(start, calculator):
    turned = crystal()
    turned.rotate(50.0, (1.0, 2.0, -1.0), rotate_cell=True)
    run = start(turned, beads=1, steps=1, offset=0.0, wraps="true")
    serve(calculator, turned, socket=run.address)
    run.end()
    expected = calculator.calculate_many([turned])[0]["energy"]
    assert run.table()[0, 10] * units.Hartree == pytest.approx(expected, abs=2e-5)


def test_molecule_that_ipi_wraps_is_refused_and_ends_the_run(start, calculator):
    atoms = ethanol_in_a_box()
    atoms.translate([10.0, 10.0, 10.0])  # onto the corner of the cell that i-PI wraps into
    run = start(atoms, wraps="true")
    with pytest.raises(HostError, match=r"torn apart.*pbc='false'"):
        serve(calculator, atoms_without_a_cell(atoms), socket=run.address)
    assert "Client shutdown" in run.end()


def test_run_that_is_killed_is_no_end(start, calculator):
    run = start(ethanol_in_a_box(), steps=100_000)
    evaluated = []

    def kill(n_evaluated: int) -> None:
        evaluated.append(n_evaluated)
        if n_evaluated == 10:
            run.process.kill()

    with pytest.raises(HostError, match="ended before i-PI said EXIT"):
        serve(calculator, ethanol(), socket=run.address, progress=kill)
    assert 10 <= evaluated[-1] < 20


def test_spread_of_a_committee_reaches_the_output_of_ipi(start, model, tmp_path):
    other = export_small(tmp_path / "other.pt", seed=1)
    committee = EqCalculator([model, other], device="cpu", engine="torchscript")
    extras = (
        "<trajectory filename='spread' stride='1' extra_type='energy_spread_eV'> extras "
        "</trajectory>"
    )
    run = start(ethanol_in_a_box(), beads=1, steps=1, more=extras)
    serve(committee, ethanol(), socket=run.address)
    run.end()
    expected = committee.calculate_many([ethanol()])[0]
    energy = (run.table()[0, 10] + OFFSET) * units.Hartree
    assert energy == pytest.approx(expected["energy"], abs=5e-6)
    lines = next(run.folder.glob("run.spread*")).read_text().splitlines()
    assert float(lines[1]) == pytest.approx(expected["energy_spread"], rel=1e-5)


def free_port() -> int:
    """Return a port that is free, and that no system gives to others before i-PI takes it."""
    for port in random.SystemRandom().sample(range(10_000, 30_000), 100):
        with suppress(OSError), socket.create_server(("localhost", port)):
            return port
    raise AssertionError("a hundred ports are all taken")


def test_network_serves_a_run(start, calculator):
    port = free_port()
    run = start(ethanol_in_a_box(), socket="inet", address="localhost", port=port)
    assert serve(calculator, ethanol(), port=port, wait=WAIT) == 20
    run.end()


def test_command_that_is_interrupted_ends_the_run(start, model):
    run = start(ethanol_in_a_box(), steps=100_000)
    command = [sys.executable, "-m", "eqcalc", "ipi", str(model), str(run.folder / "init.xyz")]
    with subprocess.Popen(
        [*command, "--socket", run.address, "--open", "--device", "cpu"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            end = time.monotonic() + WAIT
            while run.n_rows() < 3:  # before it serves, Ctrl-C ends it in another way
                assert process.poll() is None, process.communicate()
                assert time.monotonic() < end, (run.folder / "log").read_text()
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
            output, error = process.communicate(timeout=WAIT)
        finally:
            process.kill()  # where it has not ended
    assert process.returncode == 130, error
    assert "Traceback" not in output + error
    assert "Client shutdown" in run.end()


def test_command_serves_a_run(start, model):
    run = start(ethanol_in_a_box())
    command = [sys.executable, "-m", "eqcalc", "ipi", str(model), str(run.folder / "init.xyz")]
    options = ["--socket", run.address, "--open", "--device", "cpu", "--engine", "torchscript"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "no cell: a molecule" in done.stdout
    assert "i-PI ended the run; 20 structures were evaluated" in done.stdout
    run.end()


def atoms_without_a_cell(atoms: Atoms) -> Atoms:
    return Atoms(atoms.numbers, atoms.positions)
