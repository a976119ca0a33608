"""Does a model of ethanol hold molecular dynamics? 100 ps NVT and 10 ps NVE, in figures.

    python examples/results/check_ethanol.py [MODEL] [FOLDER]

Bonds are those of the start structure (closer than 1.25 times the sum of covalent
radii); "bonded" means that in every frame each of them stays below that length and
no other pair comes closer than it.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.data import covalent_radii
from ase.io import read

from eqcalc import EqCalculator
from eqcalc.simulate import MDSettings, run_md

BOND = 1.25  # in sums of covalent radii


def relative_distances(atoms: Atoms) -> np.ndarray:
    """Return all pair distances in sums of covalent radii, (n_pairs,)."""
    radii = covalent_radii[atoms.numbers]
    first, second = np.triu_indices(len(atoms), k=1)
    distances = atoms.get_all_distances()[first, second]
    return distances / (radii[first] + radii[second])


def main() -> None:
    """Run both simulations and print what they show."""
    model = sys.argv[1] if len(sys.argv) > 1 else "painn-ethanol"
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else f"check-{Path(model).name}")
    torch.set_num_threads(1)
    start = read(Path(__file__).parents[1] / "ethanol.xyz")
    bonds = relative_distances(start) < BOND

    nvt = MDSettings(ensemble="nvt-langevin", n_steps=200_000, log_every=20, seed=1)
    result = run_md(start, EqCalculator(model), nvt, folder / "nvt", overwrite=True)
    frames = read(folder / "nvt" / "trajectory.traj", index=":")
    ratios = np.array([relative_distances(frame) for frame in frames])
    broken = (ratios[:, bonds] >= BOND).any(axis=1) | (ratios[:, ~bonds] < BOND).any(axis=1)
    print(f"NVT 300 K, 100 ps: {len(frames)} frames, {broken.sum()} with a bond broken or formed")
    print(f"  bonds stretch to {ratios[:, bonds].max():.2f} sums of covalent radii at most")
    print(f"  mean temperature {result.mean_temperature_K:.0f} K")
    print(f"  {1e3 * result.wall_s / result.n_steps:.2f} ms/step, {result.ns_per_day:.1f} ns/day")

    nve = MDSettings(ensemble="nve", n_steps=20_000, log_every=10, seed=2)
    warm = frames[-1]
    result = run_md(warm, EqCalculator(model), nve, folder / "nve", overwrite=True)
    print(f"NVE 10 ps: drift {result.drift_mev_per_atom_ps:.2g} meV/atom/ps")
    energy = np.loadtxt(folder / "nve" / "thermo.csv", delimiter=",", skiprows=1)[:, 5]
    print(f"  total energy fluctuates by {1e3 * energy.std() / len(start):.2g} meV/atom (rms)")


if __name__ == "__main__":
    main()
