"""The simulation of in.lammps and script.py as an ASE script: the same numbers."""

from pathlib import Path

from ase import Atoms, units
from ase.io.lammpsdata import read_lammps_data
from ase.md.verlet import VelocityVerlet

from eqcalc import EqCalculator
from eqcalc.simulate import MDRun, MDSettings


def report(atoms: Atoms, step: int) -> None:
    """Print step and energies in eV, as LAMMPS lays them out."""
    potential, kinetic = atoms.get_potential_energy(), atoms.get_kinetic_energy()
    print(f"{step:>10d} {potential:.4f} {kinetic:.4f} {potential + kinetic:.4f}")


atoms = read_lammps_data(Path(__file__).parent / "ethanol.data", atom_style="atomic")
atoms.calc = EqCalculator("painn-ethanol", dtype="float64")

verlet = VelocityVerlet(atoms, timestep=0.5 * units.fs)
verlet.attach(lambda: report(atoms, verlet.nsteps), interval=10)
verlet.run(50)

# ASE's NoseHooverChainNVT, with a chain for the 3 n_atoms - 3 degrees of freedom of a box at rest.
settings = MDSettings(ensemble="nvt-nhc", temperature_K=300, thermostat_time_fs=100)
chain = MDRun(atoms, atoms.calc, settings)
chain.dynamics.attach(lambda: report(chain.atoms, 50 + chain.dynamics.nsteps), interval=10)
chain.dynamics.run(50)
