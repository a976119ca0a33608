"""Energy over volume of silicon: lattice constant and bulk modulus.

PBE (all-electron, WIEN2k) and measured values, corrected for zero-point motion, are those of
Lejaeghere et al., Crit. Rev. Solid State Mater. Sci. 39, 1 (2014),
doi:10.1080/10408436.2013.772503, as ASE carries them (ase.collections.dcdft).
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.build import bulk
from ase.collections import dcdft
from ase.eos import EquationOfState
from matplotlib.figure import Figure

from eqcalc import EqCalculator

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sevennet-l3i5")
parser.add_argument("--picture", type=Path, default=Path("equation_of_state.png"))
options = parser.parse_args()
if not options.picture.parent.is_dir() or options.picture.suffix not in (".png", ".pdf", ".svg"):
    parser.error(f"--picture wants .png, .pdf or .svg in an existing folder, not {options.picture}")

crystal = bulk("Si", a=5.47)
calculator = EqCalculator(options.model, dtype="float64")
strained = []
for factor in np.linspace(0.94, 1.06, 13):  # of the volume
    atoms = crystal.copy()
    # By symmetry the atoms stay where they are in the cell. Where they need not, relax each.
    atoms.set_cell(crystal.cell * factor ** (1 / 3), scale_atoms=True)
    strained.append(atoms)
volumes = np.array([atoms.get_volume() for atoms in strained]) / len(crystal)  # Å³ an atom
energies = np.array([found["energy"] for found in calculator.calculate_many(strained)])
energies /= len(crystal)  # eV an atom

fit = EquationOfState(volumes, energies, eos="birchmurnaghan")
volume, energy, modulus = fit.fit()
residual = np.abs(energies - fit.func(volumes, *fit.eos_parameters)).max()
if not volumes[0] < volume < volumes[-1]:
    raise SystemExit(f"the minimum, {volume:.2f} Å³, lies outside the volumes: choose others")

reference = dcdft.data["Si"]


def lattice_constant(volume_per_atom: float) -> float:
    """Return a (Å) of diamond, which has eight atoms in a cube."""
    return (8 * volume_per_atom) ** (1 / 3)


print(f"{'':12s}{'model':>12s}{'PBE':>9s}{'measured':>10s}")
of_pbe, measured = reference["wien2k_volume"], reference["exp_volume"]
print(
    f"a (Å)       {lattice_constant(volume):12.4f}{lattice_constant(of_pbe):9.4f}"
    f"{lattice_constant(measured):10.4f}"
)
print(
    f"B (GPa)     {modulus / units.GPa:12.1f}{reference['wien2k_B']:9.1f}{reference['exp_B']:10.1f}"
)
print(f"largest distance of a point from the fit: {1e3 * residual:.2f} meV an atom")

figure = Figure(figsize=(5.2, 3.6), layout="constrained")
axes = figure.subplots()
curve = np.linspace(volumes[0], volumes[-1], 200)
axes.plot(curve, 1e3 * (fit.func(curve, *fit.eos_parameters) - energy), label="Birch-Murnaghan")
axes.plot(volumes, 1e3 * (energies - energy), "o", label=options.model)
for value, name, style in ((of_pbe, "PBE", "--"), (measured, "measured", ":")):
    axes.axvline(value, color="grey", linestyle=style, label=f"{name}: minimum")
axes.set(xlabel="volume (Å³ an atom)", ylabel="energy (meV an atom)", title="silicon")
axes.legend(loc="upper center", framealpha=1, edgecolor="none")  # over the lines
figure.savefig(options.picture, dpi=150)
print(f"picture: {options.picture}")
