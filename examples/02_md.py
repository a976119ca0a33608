"""Molecular dynamics in an ordinary ASE script: 1 ps at 300 K."""

from pathlib import Path

import numpy as np
from ase import units
from ase.constraints import FixCom
from ase.io import read
from ase.md.langevin import Langevin

from eqcalc import EqCalculator

atoms = read(Path(__file__).parent / "ethanol.xyz")
atoms.calc = EqCalculator("painn-ethanol")

atoms.set_constraint(FixCom())  # Langevin's noise would push the molecule away
dynamics = Langevin(
    atoms,
    timestep=0.5 * units.fs,
    temperature_K=300,  # reached from rest within a few hundred fs
    friction=0.01 / units.fs,
    fixcm=False,
    rng=np.random.default_rng(0),
)


def report() -> None:
    """Print where the run is."""
    time_fs = dynamics.get_time() / units.fs
    print(
        f"{time_fs:7.1f} fs   T {atoms.get_temperature():5.0f} K   "
        f"E {atoms.get_total_energy():.4f} eV   C-O {atoms.get_distance(0, 2):.3f} Å"
    )


dynamics.attach(report, interval=200)
dynamics.run(2000)
