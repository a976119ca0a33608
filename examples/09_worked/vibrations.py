"""Vibrations of ethanol and its entropy: relax, one Hessian, ideal-gas thermochemistry.

Experiment, as CCCBDB collects it (https://cccbdb.nist.gov/exp2x.asp?casno=64175&charge=0):
fundamentals of the trans conformer, mostly of Shimanouchi's tables, and the entropy of
Gurvich. The model's wavenumbers are harmonic, which is too high for stretches of hydrogen and
torsions, and its data are PBE's, which is too soft: the two errors partly cancel.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import units
from ase.io import read
from ase.optimize import BFGS
from ase.thermochemistry import IdealGasThermo
from ase.vibrations import VibrationsData
from matplotlib.figure import Figure

from eqcalc import EqCalculator

# 1/cm; A' and A" together, in ascending order
MEASURED = [200, 251, 417, 812, 888, 1028, 1091, 1161, 1256, 1275, 1371]
MEASURED += [1412, 1446, 1464, 1490, 2900, 2910, 2939, 2984, 2991, 3653]
MEASURED_ENTROPY = 281.62  # J/mol/K, 298.15 K, 1 bar
JOULE_PER_MOL = units.J / units.mol

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--picture", type=Path, default=Path("vibrations.png"))
picture = parser.parse_args().picture
if not picture.parent.is_dir() or picture.suffix not in (".png", ".pdf", ".svg"):
    parser.error(f"--picture wants .png, .pdf or .svg in an existing folder, not {picture}")

atoms = read(Path(__file__).parents[1] / "ethanol.xyz")
# Second derivatives by differences want float64, and a minimum that is one.
calculator = EqCalculator("painn-ethanol", dtype="float64")
atoms.calc = calculator
if not BFGS(atoms, logfile=None).run(fmax=1e-5, steps=500):
    raise SystemExit("the molecule does not relax within 500 steps")
torsion = atoms.get_dihedral(1, 0, 2, int(np.argmin(atoms.get_distances(2, range(3, 9)))) + 3)
print(f"relaxed: the torsion C-C-O-H is {torsion:.1f}°, 180° is trans")

modes = VibrationsData.from_2d(atoms, calculator.get_hessian(atoms, displacement=0.003))
energies = modes.get_energies()  # eV; complex where a mode is no vibration
wavenumbers = modes.get_frequencies()  # 1/cm
rigid = " ".join(f"{abs(w):.1f}" for w in wavenumbers[:6])
print(f"rigid motions (0 at a minimum, but for rounding): {rigid} 1/cm")
found = wavenumbers[6:].real
print(f"{'model':>6s} {'measured':>9s}  1/cm")
for ours, theirs in zip(found, MEASURED, strict=True):
    print(f"{ours:6.0f} {theirs:9d}  {100 * (ours / theirs - 1):+5.1f} %")

gas = IdealGasThermo(
    energies, "nonlinear", atoms.get_potential_energy(), atoms, symmetrynumber=1, spin=0
)
entropy = gas.get_entropy(298.15, 1e5, verbose=False) / JOULE_PER_MOL
print(f"zero-point energy {gas.get_ZPE_correction():.3f} eV")
print(f"entropy at 298.15 K and 1 bar: {entropy:.1f} J/mol/K, measured {MEASURED_ENTROPY}")
print("   (one conformer and harmonic; the measured gas has three and turns its methyl group)")

figure = Figure(figsize=(6.4, 3.2), layout="constrained")
axes = figure.subplots()
axes.vlines(found, 0, 1, color="tab:blue", label="painn-ethanol (PBE), harmonic")
axes.vlines(MEASURED, -1, 0, color="tab:orange", label="measured fundamentals")
axes.axhline(0, color="black", linewidth=0.8)
axes.set(xlabel="wavenumber (1/cm)", yticks=[], ylim=(-1.3, 1.5), xlim=(0, 4000))
axes.legend(loc="upper center", ncols=2, frameon=False)
figure.savefig(picture, dpi=150)
print(f"picture: {picture}")
