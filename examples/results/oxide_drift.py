"""Energy of an oxide over 20 ps without a thermostat: what XPLOR's kink costs.

    python examples/results/oxide_drift.py [--picoseconds 20] [--models sevennet-0,sevennet-l3i5]

216 atoms of MgO at 600 K, steps of 1 and 2 fs. The cutoff function of sevennet-0 has a jump in its
second derivative at 4.5 and 5 Å, that of sevennet-l3i5 has none. Writes oxide_drift.md and .png.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet

from eqcalc import EqCalculator
from eqcalc.files import write_whole

HERE = Path(__file__).parent
LATTICE, TEMPERATURE_K = 4.25, 600
TIMESTEPS_FS = (1.0, 2.0)
EVERY_FS = 20.0


def start() -> Atoms:
    """Return a crystal at rest with the velocities of twice the temperature."""
    atoms = bulk("MgO", "rocksalt", a=LATTICE, cubic=True) * 3
    generator = np.random.default_rng(0)
    MaxwellBoltzmannDistribution(atoms, temperature_K=2 * TEMPERATURE_K, rng=generator)
    Stationary(atoms)
    return atoms


def energies(model: str, timestep_fs: float, picoseconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return times in ps and total energies in meV per atom."""
    atoms = start()
    atoms.calc = EqCalculator(model, device="cpu")
    dynamics = VelocityVerlet(atoms, timestep_fs * units.fs)
    n = round(EVERY_FS / timestep_fs)
    times, found = [], []
    for k in range(round(1000 * picoseconds / EVERY_FS)):
        dynamics.run(n)
        times.append(1e-3 * EVERY_FS * (k + 1))
        found.append(1e3 * atoms.get_total_energy() / len(atoms))
        if k % 50 == 0:
            print(f"{model}, {timestep_fs:g} fs: {times[-1]:.2f} ps, {found[-1]:.3f}", flush=True)
    return np.array(times), np.array(found)


def main() -> None:
    """Run all, write the page and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--picoseconds", type=float, default=20.0)
    parser.add_argument("--models", default="sevennet-0,sevennet-l3i5")
    options = parser.parse_args()
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6.5, 4.0), layout="constrained")
    rows = []
    for model in options.models.split(","):
        for timestep in TIMESTEPS_FS:
            times, found = energies(model, timestep, options.picoseconds)
            settled = times > 0.1 * times[-1]
            slope, offset = np.polyfit(times[settled], found[settled], 1)
            ripple = float(np.std(found[settled] - slope * times[settled] - offset))
            rows.append(f"| {model} | {timestep:g} | {1e3 * slope:+.2f} | {1e3 * ripple:.1f} |")
            axis.plot(times, found - offset, lw=0.8, label=f"{model}, {timestep:g} fs")
    axis.set(xlabel="time (ps)", ylabel="total energy (meV/atom)")
    axis.legend()
    figure.savefig(HERE / "oxide_drift.png", dpi=120)
    lines = [
        "# Energy of an oxide without a thermostat",
        "",
        "    python examples/results/oxide_drift.py",
        "",
        f"MgO, 216 atoms, about {TEMPERATURE_K} K, {options.picoseconds:g} ps of velocity Verlet, "
        "float32, compiled. Drift is the slope of a straight line through the total energy after "
        "the first tenth, ripple the standard deviation from it.",
        "",
        "| model | time step (fs) | drift (µeV/atom/ps) | ripple (µeV/atom) |",
        "|---|---|---|---|",
        *rows,
        "",
        "![energy](oxide_drift.png)",
    ]
    write_whole(HERE / "oxide_drift.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()
