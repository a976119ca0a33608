"""Elastic constants of silicon: stress over strain, the atoms relaxed at each strain.

Measured at 298 K: McSkimin and Andreatch, J. Appl. Phys. 35, 2161 (1964), doi:10.1063/1.1702809.
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eqcalc import EqCalculator

MEASURED = {"C11": 165.8, "C12": 63.9, "C44": 79.6}  # GPa
STRAINS = np.linspace(-0.01, 0.01, 9)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sevennet-l3i5")
parser.add_argument("--picture", type=Path, default=Path("elastic_constants.png"))
options = parser.parse_args()
if not options.picture.parent.is_dir() or options.picture.suffix not in (".png", ".pdf", ".svg"):
    parser.error(f"--picture wants .png, .pdf or .svg in an existing folder, not {options.picture}")

calculator = EqCalculator(options.model, dtype="float64")
crystal = bulk("Si", a=5.47, cubic=True)  # its axes are those of the strains
crystal.calc = calculator
if not BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-4, steps=200):
    raise SystemExit("the crystal does not relax within 200 steps")
print(f"relaxed: a = {crystal.cell.lengths()[0]:.4f} Å")


def stress(strain: NDArray) -> NDArray:
    """Return the stress (6,) in GPa, order xx yy zz yz xz xy, of a strain (3, 3)."""
    atoms = Atoms(crystal)
    atoms.set_cell(crystal.cell @ (np.eye(3) + strain), scale_atoms=True)
    atoms.calc = calculator
    # Under shear the two sublattices move against each other: without this C44 is too stiff.
    if not BFGS(atoms, logfile=None).run(fmax=1e-4, steps=100):
        raise SystemExit("the atoms of a strained crystal do not come to rest: smaller strains?")
    return atoms.get_stress() / units.GPa


stretch, shear = np.zeros((3, 3)), np.zeros((3, 3))
stretch[0, 0] = 1.0
shear[1, 2] = shear[2, 1] = 0.5  # an engineering strain of 1
along = np.array([stress(e * stretch) for e in STRAINS])  # (n_strains, 6)
across = np.array([stress(e * shear) for e in STRAINS])
curves = {"C11": along[:, 0], "C12": along[:, 1:3].mean(axis=1), "C44": across[:, 3]}

found, fits = {}, {}
print(f"{'GPa':4s}{'model':>17s}{'measured':>10s}")
for name, values in curves.items():
    # The slope at zero strain; the square takes up what is not linear within a percent.
    fits[name], covariance = np.polyfit(STRAINS, values, 2, cov=True)
    found[name] = fits[name][1]
    error = np.sqrt(covariance[1, 1])
    print(f"{name:4s}{found[name]:10.1f} ± {error:4.1f}{MEASURED[name]:10.1f}")
modulus = (found["C11"] + 2 * found["C12"]) / 3
print(f"bulk modulus (C11 + 2 C12) / 3: {modulus:.1f} GPa")
if found["C11"] <= abs(found["C12"]) or modulus <= 0 or found["C44"] <= 0:
    raise SystemExit("Born's conditions are broken: this crystal is not stable")
print("± is the standard error of the fit, not of the model")

figure = Figure(figsize=(5.2, 3.6), layout="constrained")
axes = figure.subplots()
for name, values in curves.items():
    (line,) = axes.plot(100 * STRAINS, np.polyval(fits[name], STRAINS))
    axes.plot(100 * STRAINS, values, "o", color=line.get_color(), label=name)
    axes.plot(100 * STRAINS, MEASURED[name] * STRAINS, ":", color=line.get_color())
axes.plot([], [], ":", color="grey", label="measured slope")
axes.set(xlabel="strain (%)", ylabel="stress (GPa)", title=f"silicon, {options.model}")
axes.legend(frameon=False)
figure.savefig(options.picture, dpi=150)
print(f"picture: {options.picture}")
