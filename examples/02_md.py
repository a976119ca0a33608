"""Molecular dynamics in an ordinary ASE script: 1 ps at 300 K."""

from pathlib import Path

import numpy as np
from ase import units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution

from eqcalc import EqCalculator

atoms = read(Path(__file__).parent / "ethanol.xyz")
atoms.calc = EqCalculator("painn-ethanol")

rng = np.random.default_rng(0)
MaxwellBoltzmannDistribution(atoms, temperature_K=300, rng=rng)
dynamics = Langevin(
    atoms, timestep=0.5 * units.fs, temperature_K=300, friction=0.01 / units.fs, rng=rng
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
