"""Liquid water at 330 K by a universal potential: the distribution of O-O distances.

    python examples/results/liquid_water.py [--model sevennet-0] [--picoseconds 10]

64 molecules at 997 kg/m³, heavy hydrogen (classical averages do not depend on masses, and the
step may be 1 fs). A run that lies in the folder is not repeated. Writes liquid_water.md and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms

from eqcalc import EqCalculator
from eqcalc.bench.structures import load_structure
from eqcalc.files import write_whole
from eqcalc.simulate import MDProgress, MDSettings, run_md

HERE = Path(__file__).parent
EQUILIBRATION_PS = 3.0
SOURCES = """\
Experiment: first maximum 2.57 at 2.80 Å, first minimum 0.84 at 3.45 Å, second maximum 1.12 at
4.5 Å at 295 K (Skinner et al., J. Chem. Phys. 138, 074506 (2013), doi:10.1063/1.4790861). PBE
itself over-structures water: a first maximum of 3 and more at 300 K (Gillan, Alfè, Michaelides,
J. Chem. Phys. 144, 130901 (2016), doi:10.1063/1.4944633), which is why 330 K is usual.
"""


def start() -> Atoms:
    """Return 64 molecules of heavy water."""
    atoms = load_structure("water192")
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = 2.014
    atoms.set_masses(masses)
    return atoms


def distances_between_oxygens(frames: list[Atoms], n_bins: int = 120):
    """Return the centres of bins up to half the cell (Å), and g(r)."""
    side = float(min(frames[0].cell.lengths()))
    edges = np.linspace(0.0, side / 2, n_bins + 1)
    counts = np.zeros(n_bins)
    oxygens = np.flatnonzero(frames[0].numbers == 8)
    for atoms in frames:
        positions = atoms.positions[oxygens]
        difference = positions[:, None] - positions[None]
        difference -= np.round(difference / atoms.cell.lengths()) * atoms.cell.lengths()
        found = np.linalg.norm(difference, axis=2)[np.triu_indices(len(oxygens), 1)]
        counts += np.histogram(found, edges)[0]
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    density = len(oxygens) / frames[0].get_volume()
    return 0.5 * (edges[1:] + edges[:-1]), 2.0 * counts / (
        len(frames) * len(oxygens) * density * shells
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="sevennet-0")
    parser.add_argument("--picoseconds", type=float, default=10.0)
    parser.add_argument("--folder", type=Path, default=Path("runs/liquid_water"))
    options = parser.parse_args()
    settings = MDSettings(
        ensemble="nvt-langevin",
        n_steps=round(1000 * options.picoseconds),
        timestep_fs=1.0,
        temperature_K=330,
        log_every=20,
        seed=1,
    )
    trajectory = options.folder / "trajectory.traj"
    if not trajectory.exists():
        calculator = EqCalculator(options.model, device="cpu", engine="inductor")
        run_md(start(), calculator, settings, options.folder, progress=show)
    frames = ase.io.read(trajectory, index=":")
    frames = frames[round(1000 * EQUILIBRATION_PS / settings.log_every) :]
    write(frames, options)


def show(now: MDProgress) -> None:
    """Print where the run is, every 500 steps."""
    if now.thermo.step % 500 == 0 and now.left_s is not None:
        print(
            f"step {now.thermo.step} of {now.n_steps}: {now.thermo.temperature_K:.0f} K, "
            f"{now.ns_per_day:.3f} ns/day, {now.left_s / 60:.0f} min left",
            flush=True,
        )


def write(frames: list[Atoms], options: argparse.Namespace) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    r, g = distances_between_oxygens(frames)
    middle = len(frames) // 2
    halves = [distances_between_oxygens(part)[1] for part in (frames[:middle], frames[middle:])]
    figure, axis = plt.subplots(figsize=(6.0, 3.8), layout="constrained")
    axis.fill_between(r, *halves, alpha=0.3, label="two halves of the run")
    axis.plot(r, g, label="sevennet-0, 330 K")
    axis.plot(
        [2.80, 3.45, 4.5], [2.57, 0.84, 1.12], "d", color="tab:red", label="experiment, 295 K"
    )
    axis.set(xlabel="O-O distance (Å)", ylabel="g(r)")
    axis.legend()
    figure.savefig(HERE / "liquid_water.png", dpi=120)
    k = int(np.argmax(g))
    lines = [
        "# Liquid water by sevennet-0",
        "",
        "    python examples/results/liquid_water.py",
        "",
        f"64 molecules, 330 K, {options.picoseconds:g} ps of which the first {EQUILIBRATION_PS:g} "
        f"are left out; {len(frames)} frames. First maximum {g[k]:.2f} at {r[k]:.2f} Å "
        f"({', '.join(f'{half.max():.2f}' for half in halves)} in the halves).",
        "",
        "![g(r)](liquid_water.png)",
        "",
        SOURCES,
    ]
    write_whole(HERE / "liquid_water.md", "\n".join(lines).encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
