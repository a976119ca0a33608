"""Phonons of silicon by phonopy (extra [phonons]): dispersion and density of states.

Measured by neutrons at room temperature, as collected by Giannozzi et al., Phys. Rev. B 43, 7231
(1991), doi:10.1103/PhysRevB.43.7231, from Dolling (1963) and Nilsson and Nelin, Phys. Rev. B 6,
3777 (1972).
"""

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS
from matplotlib.figure import Figure
from phonopy import Phonopy
from phonopy.structure.atoms import PhonopyAtoms

from eqcalc import EqCalculator

# THz; from the lowest branch to the highest
MEASURED = {
    "G": {"LTO": (5, 15.53)},
    "X": {"TA": (0, 4.49), "LAO": (2, 12.32), "TO": (4, 13.90)},
    "L": {"TA": (0, 3.43), "LA": (2, 11.35), "LO": (3, 12.60), "TO": (4, 14.68)},
}


def size(text: str) -> int:
    """Return a number of cells, at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1, 2, ... primitive cells, found '{text}'")
    return int(text)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sevennet-l3i5")
parser.add_argument("--supercell", type=size, default=2, help="primitive cells along each vector")
parser.add_argument("--picture", type=Path, default=Path("phonons.png"))
options = parser.parse_args()
if not options.picture.parent.is_dir() or options.picture.suffix not in (".png", ".pdf", ".svg"):
    parser.error(f"--picture wants .png, .pdf or .svg in an existing folder, not {options.picture}")

calculator = EqCalculator(options.model, dtype="float64")
crystal = bulk("Si", a=5.47)
crystal.calc = calculator
if not BFGS(FrechetCellFilter(crystal), logfile=None).run(fmax=1e-4, steps=200):
    raise SystemExit("the crystal does not relax within 200 steps")
print(f"relaxed: a = {np.sqrt(2) * crystal.cell.lengths()[0]:.4f} Å")

cell = PhonopyAtoms(
    symbols=crystal.get_chemical_symbols(),
    cell=crystal.cell.array,
    scaled_positions=crystal.get_scaled_positions(),
)
phonons = Phonopy(
    cell, supercell_matrix=np.diag([options.supercell] * 3), primitive_matrix=np.eye(3)
)
phonons.generate_displacements(distance=0.01)  # Å; as few as symmetry asks for
displaced = [
    Atoms(s.symbols, scaled_positions=s.scaled_positions, cell=s.cell, pbc=True)
    for s in phonons.supercells_with_displacements
]
phonons.forces = [found["forces"] for found in calculator.calculate_many(displaced)]
phonons.produce_force_constants()
phonons.symmetrize_force_constants()
n_atoms = len(phonons.supercell)
print(f"{len(displaced)} displaced structure(s) of {n_atoms} atoms")


def frequencies(points: np.ndarray) -> np.ndarray:
    """Return frequencies (n_points, 6) in THz, ascending; negative where imaginary."""
    phonons.run_qpoints(points)
    return phonons.qpoints.frequencies


path = crystal.cell.bandpath("GXU,KGL", npoints=200)
bands = frequencies(path.kpts)
print(f"{'':9s}{'model':>10s}{'measured':>10s}  THz")
for name, branches in MEASURED.items():
    at_point = frequencies([path.special_points[name]])[0]
    for branch, (index, measured) in branches.items():
        print(f"{name} {branch:7s}{at_point[index]:10.2f}{measured:10.2f}")
if bands.min() < -0.1:
    print(f"imaginary frequencies down to {bands.min():.2f} THz: this structure is not a minimum")

phonons.run_mesh([20, 20, 20], is_gamma_center=True)
phonons.run_total_dos(sigma=0.2)

figure = Figure(figsize=(7.0, 3.8), layout="constrained")
axes, dos = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
distances, ticks, labels = path.get_linear_kpoint_axis()
axes.plot(distances, bands, color="tab:blue", linewidth=1)
named: dict[float, str] = {}
for tick, label in zip(ticks, labels, strict=True):
    named[tick] = f"{named[tick]}|{label}" if tick in named else label.replace("G", "Γ")
    axes.axvline(tick, color="grey", linewidth=0.5)
    for _, measured in MEASURED.get(label, {}).values():
        axes.plot(tick, measured, "o", color="tab:orange", clip_on=False)
axes.plot([], [], color="tab:blue", label=options.model)
axes.plot([], [], "o", color="tab:orange", label="measured")
axes.set_xticks(list(named), list(named.values()))
axes.set(xlim=(0, distances[-1]), ylabel="frequency (THz)")
axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
dos.plot(phonons.total_dos.dos, phonons.total_dos.frequency_points, color="tab:blue")
dos.set(xlabel="states (1/THz)", xlim=(0, None), ylim=(min(0, bands.min()), None))
figure.savefig(options.picture, dpi=150)
print(f"picture: {options.picture}")
