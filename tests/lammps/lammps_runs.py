"""Run inputs of real LAMMPS, and read what they print and dump."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.lammpsdata import write_lammps_data
from numpy.typing import NDArray

from eqcalc.hosts.lammps.build import build_plugin, find_lammps
from eqcalc.hosts.lammps.launch import command_line

__all__ = [
    "BAR",
    "EXCHANGE",
    "EXCHANGING",
    "HALO",
    "Run",
    "frames_of",
    "run_input",
    "run_script",
    "run_text",
]

BAR = 1.6021765e6  # of one eV/Å³ in LAMMPS, which is 8e-8 from that of CODATA

# Options of the pair style: TorchScript, of which several ranks take a wide halo; and a package
# whose ranks exchange features between layers, with the networks that have one.
HALO = "engine torchscript"
EXCHANGE = "engine inductor ranks exchange"
EXCHANGING = ("egnn", "gvp", "nequip", "painn", "schnet")

HEAD = """\
units {units}
atom_style {style}
boundary {boundary}
{before}
read_data {data}
pair_style eqcalc {options}
pair_coeff * * {models} {elements}
compute virial all pressure NULL virial
compute own all pe/atom
compute virials all stress/atom NULL virial
thermo_style custom step pe c_virial[1] c_virial[2] c_virial[3] c_virial[4] c_virial[5] c_virial[6]
thermo_modify format float %.17g
thermo {every}
dump frames all custom {every} frames.dump id type x y z fx fy fz c_own c_virials[*]
dump_modify frames format float %.17g sort id
"""


@dataclass
class Run:
    """A run that has ended: its exit status, what it printed, its thermo rows and its folder."""

    status: int
    text: str
    folder: Path
    thermo: list[NDArray] = field(default_factory=list)


def run_input(
    folder: Path,
    atoms: Atoms,
    models: str,
    elements: str,
    commands: str,
    *,
    ranks: int = 1,
    every: int = 10,
    units: str = "metal",
    style: str = "atomic",
    boundary: str = "p p p",
    options: str = HALO,
    before: str = "",
) -> Run:
    """Run commands on a structure with ``pair_style eqcalc`` and return what came of it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_lammps_data(
        folder / "in.data",
        atoms,
        specorder=elements.split(),  # the order of the types
        masses=True,
        units=units,
        atom_style=style,
    )
    head = HEAD.format(
        units=units,
        style=style,
        boundary=boundary,
        before=before,
        data="in.data",
        options=options,
        models=models,
        elements=elements,
        every=every,
    )
    return run_text(folder, head + commands, ranks)


def run_text(folder: Path, text: str, ranks: int = 1) -> Run:
    """Run an input as it is."""
    (folder / "in.lammps").write_text(text)
    return _run(folder, command_line(find_lammps(), Path("in.lammps"), ranks))


def run_script(folder: Path, text: str) -> Run:
    """Run Python that drives LAMMPS."""
    return _run(folder, [sys.executable, "-c", text])


def _run(folder: Path, command: list[str]) -> Run:
    lammps = find_lammps()
    environment = lammps.environment()
    environment["LAMMPS_PLUGIN_PATH"] = str(build_plugin(lammps).parent)
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=600,  # a rank that hangs is a failure
    )
    return Run(done.returncode, done.stdout, folder, _thermo(done.stdout))


def frames_of(run: Run, elements: str, pbc: bool | list[bool] = True) -> list[Atoms]:
    """Return the dumped frames with forces, atomic energies and virials, in LAMMPS's units."""
    lines = iter((run.folder / "frames.dump").read_text().splitlines())
    symbols = elements.split()
    frames = []
    for line in lines:
        if not line.startswith("ITEM: TIMESTEP"):
            continue
        next(lines), next(lines)
        n_atoms = int(next(lines))
        cell, origin = _cell(next(lines), [next(lines) for _ in range(3)])
        next(lines)
        rows = np.array([next(lines).split() for _ in range(n_atoms)], dtype=float)
        atoms = Atoms(
            [symbols[int(kind) - 1] for kind in rows[:, 1]],
            rows[:, 2:5] - origin,
            cell=cell,
            pbc=pbc,
        )
        atoms.calc = SinglePointCalculator(atoms, forces=rows[:, 5:8], energies=rows[:, 8])
        atoms.arrays["virials"] = rows[:, 9:]
        frames.append(atoms)
    return frames


def _cell(head: str, bounds: list[str]) -> tuple[NDArray, NDArray]:
    numbers = np.array([line.split() for line in bounds], dtype=float)
    low, high = numbers[:, 0].copy(), numbers[:, 1].copy()
    xy = xz = yz = 0.0
    if "xy" in head:
        xy, xz, yz = numbers[:, 2]
        low[0] -= min(0.0, xy, xz, xy + xz)
        high[0] -= max(0.0, xy, xz, xy + xz)
        low[1] -= min(0.0, yz)
        high[1] -= max(0.0, yz)
    lx, ly, lz = high - low
    return np.array([[lx, 0, 0], [xy, ly, 0], [xz, yz, lz]]), low


def _thermo(text: str) -> list[NDArray]:
    rows, inside = [], False
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            inside = True
        elif inside and line.startswith("Loop time"):
            inside = False
        elif inside:
            try:
                rows.append(np.array(words, dtype=float))
            except ValueError:  # a warning between the rows
                continue
    return rows
