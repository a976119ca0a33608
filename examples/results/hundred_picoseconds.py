"""Does a shipped potential hold molecular dynamics? 100 ps NVT and 10 ps NVE, in figures.

    python examples/results/hundred_picoseconds.py MODEL [--output FOLDER]

of ethanol, aspirin or silicon; liquid_water.py does the same for water.

Of molecules the bonds are those of the start structure (closer than 1.25 times the sum of covalent
radii): a frame is as it was where each of them is still below that length and no other pair comes
closer than it. Of a crystal a frame is as it was where every atom is within half a bond of its own
site. A run that lies in the folder is not repeated.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import covalent_radii
from ase.io import read
from numpy.typing import NDArray
from simulation_progress import show

from eqcalc import EqCalculator
from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.thermo import read_table

HERE = Path(__file__).parent
BOND = 1.25  # in sums of covalent radii
SITE = 0.5  # of a bond's length


class System(NamedTuple):
    """What a potential is tried on.

    start : structure of the first frame
    is_crystal : atoms have sites, not bonds
    timestep_fs : of both runs
    log_every : steps between two frames
    """

    start: Callable[[], Atoms]
    is_crystal: bool
    temperature_K: float
    timestep_fs: float
    log_every: int


ETHANOL = System(lambda: read(HERE.parent / "ethanol.xyz"), False, 300.0, 0.5, 20)
SYSTEMS = {
    "painn-ethanol": ETHANOL,
    "nequip-ethanol": ETHANOL,
    "nequip-silicon": System(lambda: bulk("Si", a=5.47, cubic=True) * (2, 2, 2), True, 1000, 1, 50),
    "nequip-aspirin": System(lambda: read(HERE.parent / "aspirin.xyz"), False, 300.0, 0.5, 20),
}


def relative_distances(atoms: Atoms) -> NDArray[np.float64]:
    """Return all pair distances in sums of covalent radii, (n_pairs,)."""
    radii = covalent_radii[atoms.numbers]
    first, second = np.triu_indices(len(atoms), k=1)
    distances = atoms.get_all_distances(mic=bool(atoms.pbc.any()))[first, second]
    return distances / (radii[first] + radii[second])


def about_bonds(start: Atoms, frames: list[Atoms]) -> str:
    """Return in how many frames a bond is broken or formed, and how far bonds stretch."""
    bonds = relative_distances(start) < BOND
    n_changed, longest = 0, 0.0
    for frame in frames:
        ratios = relative_distances(frame)
        n_changed += int((ratios[bonds] >= BOND).any() or (ratios[~bonds] < BOND).any())
        longest = max(longest, float(ratios[bonds].max()))
    return (
        f"{len(frames)} frames, {n_changed} with a bond broken or formed; bonds stretch to "
        f"{longest:.2f} sums of covalent radii at most"
    )


def about_sites(start: Atoms, frames: list[Atoms]) -> str:
    """Return in how many frames an atom has left its site, and how far atoms get from it."""
    bond = float(start.get_all_distances(mic=True)[0, 1:].min())
    moves = np.array([frame.positions - start.positions for frame in frames])
    moves -= moves.mean(axis=1, keepdims=True)  # the crystal as a whole may drift
    lengths = np.linalg.norm(moves, axis=2)
    left = (lengths > SITE * bond).any(axis=1)
    rms = float(np.sqrt((lengths**2).mean()))
    return (
        f"{len(frames)} frames, {left.sum()} with an atom beyond half a bond from its site; "
        f"displacements {rms:.3f} Å (rms), {lengths.max():.2f} at most"
    )


def main() -> None:
    """Run both simulations and print what they show."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", choices=sorted(SYSTEMS))
    parser.add_argument("--output", type=Path, default=Path("runs/hundred_picoseconds"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    system, folder = SYSTEMS[options.model], options.output / options.model
    start = system.start()
    calculator = EqCalculator(options.model, engine="inductor")

    def run(name: str, atoms: Atoms, settings: MDSettings) -> list[Atoms]:
        trajectory = folder / name / "trajectory.traj"
        if not (folder / name / "final.xyz").exists():
            result = run_md(
                atoms, calculator, settings, folder / name, overwrite=True, progress=show
            )
            print(f"{result.ms_per_step:.2f} ms/step, {result.ns_per_day:.2f} ns/day")
        return read(trajectory, index=":")

    nvt = MDSettings(
        "nvt-langevin",
        temperature_K=system.temperature_K,
        timestep_fs=system.timestep_fs,
        n_steps=round(100_000 / system.timestep_fs),
        log_every=system.log_every,
        minimize=not system.is_crystal,
        seed=1,
    )
    frames = run("nvt", start, nvt)
    table = read_table(folder / "nvt" / "thermo.csv")
    print(f"{options.model}, NVT {system.temperature_K:g} K, 100 ps:")
    print("  " + (about_sites if system.is_crystal else about_bonds)(start, frames))
    print(f"  mean temperature {table['temperature_K'][len(frames) // 2 :].mean():.0f} K")

    nve = MDSettings(
        "nve",
        timestep_fs=system.timestep_fs,
        n_steps=round(10_000 / system.timestep_fs),
        log_every=10,
        seed=2,
    )
    run("nve", frames[-1], nve)
    table = read_table(folder / "nve" / "thermo.csv")
    time_ps, energy = table["time_fs"] / 1000.0, 1000.0 * table["total_energy_eV"] / len(start)
    slope, _ = np.polyfit(time_ps, energy, 1)
    print(f"NVE 10 ps: drift {slope:.2g} meV/atom/ps")
    print(f"  total energy fluctuates by {energy.std():.2g} meV/atom (rms)")


if __name__ == "__main__":
    main()
