"""The hydroxyl group of ethanol turns from trans to gauche: the path by a nudged elastic band.

All images are evaluated in one call of the model a step (share_calculator). Measured: the torsion's
potential V1/2 (1 - cos t) + V2/2 (1 - cos 2t) + V3/2 (1 - cos 3t) with V1 = 57.0, V2 = 0.8,
V3 = 395.0 /cm, t = 0 at trans; Kakar and Quade, J. Chem. Phys. 72, 4300 (1980), as CCCBDB has it
(https://cccbdb.nist.gov/exp2x.asp?casno=64175&charge=0).
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.mep import NEB
from ase.optimize import BFGS, FIRE
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eqcalc import EqCalculator
from eqcalc.simulate import share_calculator

TORSION = (1, 0, 2, 8)  # C-C-O-H in ethanol.xyz
FMAX = 0.01  # eV/Å


def turn(atoms: Atoms) -> float:
    """Return the turn of the hydroxyl group from trans, -60° ... 300°."""
    return (240.0 - atoms.get_dihedral(*TORSION)) % 360.0 - 60.0


def measured(torsions: NDArray) -> NDArray:
    """Return the measured potential in meV, of torsions in degrees from trans."""
    t = np.deg2rad(torsions)
    terms = zip((57.0, 0.8, 395.0), (1, 2, 3), strict=True)
    return 1e3 * units.invcm * sum(v / 2 * (1 - np.cos(n * t)) for v, n in terms)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--picture", type=Path, default=Path("neb.png"))
picture = parser.parse_args().picture
if not picture.parent.is_dir() or picture.suffix not in (".png", ".pdf", ".svg"):
    parser.error(f"--picture wants .png, .pdf or .svg in an existing folder, not {picture}")

calculator = EqCalculator("painn-ethanol", dtype="float64")
trans = read(Path(__file__).parents[1] / "ethanol.xyz")
gauche = trans.copy()
gauche.set_dihedral(*TORSION, 60.0, indices=[TORSION[-1]])
for end in (trans, gauche):
    end.calc = calculator
    if not BFGS(end, logfile=None).run(fmax=1e-3, steps=500):
        raise SystemExit("an end of the path does not relax")
print(f"relaxed ends: {turn(trans):.1f}° and {turn(gauche):.1f}° from trans")

images = [trans.copy(), *(trans.copy() for _ in range(9)), gauche.copy()]
band = NEB(images, method="improvedtangent", climb=True, remove_rotation_and_translation=True)
band.interpolate("idpp")
share_calculator(images, calculator)
optimizer = FIRE(band, logfile=None)
if not optimizer.run(fmax=FMAX, steps=500):
    raise SystemExit(f"the band has not converged to {FMAX} eV/Å; more steps, or a better guess?")
print(f"converged to {FMAX} eV/Å after {optimizer.nsteps} steps")

energies = 1e3 * np.array([image.get_potential_energy() for image in images])
energies -= energies[0]
turns = np.array([turn(image) for image in images])
top = int(np.argmax(energies))
grid = np.linspace(turns.min() - 5, turns.max() + 5, 200)
best = grid[np.argmax(measured(grid))]
print(f"{'':22s}{'model':>7s}{'measured':>10s}")
print(f"barrier (meV)         {energies[top]:7.1f}{measured(best):10.1f}")
print(f"at (° from trans)     {turns[top]:7.1f}{best:10.1f}")
print(f"gauche - trans (meV)  {energies[-1]:7.1f}{measured(turns[-1]):10.1f}")

figure = Figure(figsize=(5.2, 3.6), layout="constrained")
axes = figure.subplots()
axes.plot(turns, energies, "o-", label="painn-ethanol (PBE), along the path")
axes.plot(grid, measured(grid), ":", color="grey", label="measured potential of the torsion")
axes.set(xlabel="turn of the hydroxyl group from trans (°)", ylabel="energy (meV)")
axes.set_ylim(None, 1.35 * max(energies[top], measured(best)))
axes.legend(frameon=False, loc="upper left")
figure.savefig(picture, dpi=150)
print(f"picture: {picture}")
