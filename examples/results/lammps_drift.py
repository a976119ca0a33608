"""Energy in LAMMPS over 20 000 steps without a thermostat, on one rank and on two.

    python examples/results/lammps_drift.py [--steps 20000] [--only 2] [--folder ...]

A molecule of ethanol at about 300 K, painn-ethanol compiled in float32; the border between two
ranks, which exchange features between the layers, goes through the molecule. A run that is
finished is kept in the folder and not repeated. Writes lammps_drift.md and .png.
"""

from __future__ import annotations

import argparse
import os
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.build import molecule
from ase.io.lammpsdata import write_lammps_data
from matplotlib.figure import Figure

from eqcalc.files import write_whole
from eqcalc.hosts.lammps.build import build_plugin, find_lammps
from eqcalc.hosts.lammps.launch import command_line

HERE = Path(__file__).parent
MODEL, TEMPERATURE_K = "painn-ethanol", 300
RANKS = {1: "one rank", 2: "two ranks, exchange"}
TIMESTEP_PS, EVERY, BLOCK_PS = 0.0005, 10, 0.5
# A molecule at rest near its minimum, with the velocities of twice the temperature.
INPUT = """\
units metal
atom_style atomic
processors {n_ranks} 1 1
read_data ethanol.data
pair_style eqcalc engine inductor ranks {ranks}
pair_coeff * * {model} H C O
timestep {timestep}
velocity all create {temperature} 4928459 rot yes
fix 1 all nve
thermo {every}
thermo_style custom step etotal temp
thermo_modify format float %.17g
run {steps}
"""


class Fit(NamedTuple):
    """Slope of the total energy and its standard error, µeV/atom/ps; ripple, µeV/atom."""

    drift: float
    error: float
    ripple: float


def run(n_ranks: int, steps: int, folder: Path) -> np.ndarray:
    """Return times in ps, total energies in meV per atom and temperatures, (3, samples)."""
    own = folder / f"ranks-{n_ranks}"
    own.mkdir(exist_ok=True)
    atoms = molecule("CH3CH2OH")
    atoms.center(vacuum=8.0)
    atoms.set_pbc(True)
    write_lammps_data(own / "ethanol.data", atoms, specorder=["H", "C", "O"], masses=True)
    text = INPUT.format(
        ranks="exchange" if n_ranks > 1 else "auto",
        n_ranks=n_ranks,
        model=MODEL,
        timestep=TIMESTEP_PS,
        temperature=2 * TEMPERATURE_K,
        every=EVERY,
        steps=steps,
    )
    (own / "in.lammps").write_text(text)
    lammps = find_lammps()
    environment = lammps.environment()
    environment |= {
        "LAMMPS_PLUGIN_PATH": str(build_plugin(lammps).parent),
        "OMP_NUM_THREADS": "1",
    }
    command = command_line(lammps, Path("in.lammps"), n_ranks)
    done = subprocess.run(
        command, cwd=own, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    exchanges = "ranks exchange features between layers" in done.stdout
    if exchanges != (n_ranks > 1):
        raise SystemExit(f"{n_ranks} ranks ran another way:\n{done.stdout}")
    rows = [line.split() for line in done.stdout.partition("Step")[2].splitlines()[1:]]
    found = np.array(rows[: steps // EVERY + 1], dtype=float).T
    return np.array([TIMESTEP_PS * found[0], 1e3 * found[1] / len(atoms), found[2]])


def settled(found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return times and energies after the first tenth."""
    kept = found[0] > 0.1 * found[0, -1]
    return found[0, kept], found[1, kept]


def block_means(found: np.ndarray) -> np.ndarray:
    """Return mean times and energies of whole blocks, (2, blocks)."""
    times, energies = settled(found)
    blocks = np.floor((times - times[0]) / BLOCK_PS).astype(int)
    means = [
        (times[blocks == k].mean(), energies[blocks == k].mean())
        for k in range(blocks.max())  # the last one is not whole
    ]
    return np.array(means).T


def fit(found: np.ndarray) -> Fit:
    """Fit a straight line; its error is that of the scatter of means over whole blocks.

    Neighbouring samples are alike, and the error of a line through them all would be too small.
    """
    times, energies = settled(found)
    slope, offset = np.polyfit(times, energies, 1)
    ripple = np.std(energies - slope * times - offset)
    _, covariance = np.polyfit(*block_means(found), deg=1, cov=True)
    return Fit(1e3 * slope, 1e3 * np.sqrt(covariance[0, 0]), 1e3 * ripple)


def file_of(n_ranks: int, options: argparse.Namespace) -> Path:
    """Return where the energies of a run are kept."""
    return options.folder / f"{MODEL}-{n_ranks}-{options.steps}.npy"


def parting(options: argparse.Namespace) -> float:
    """Return the time in ps at which the temperatures of the runs first differ by 1 K."""
    one, two = (np.load(file_of(n_ranks, options)) for n_ranks in RANKS)
    return float(one[0, np.argmax(abs(one[2] - two[2]) > 1.0)])


def write(options: argparse.Namespace) -> None:
    """Write the page and the picture of both runs."""
    figure = Figure(figsize=(6.5, 4.0), dpi=120, layout="constrained")
    axis = figure.subplots()
    rows, fits, temperatures = [], {}, []
    for order, (n_ranks, name) in enumerate(RANKS.items()):
        found = np.load(file_of(n_ranks, options))
        drift, error, ripple = fits[n_ranks] = fit(found)
        rows.append(f"| {name} | {drift:+.3f} ± {error:.3f} | {ripple:.2f} |")
        times, energies = settled(found)
        temperatures.append(found[2, found[0] > 0.1 * found[0, -1]].mean())
        shown = {"color": f"C{order}", "zorder": 3 - order}
        axis.plot(times, 1e3 * (energies - energies.mean()), lw=0.4, alpha=0.3, **shown)
        centres, means = block_means(found)
        axis.plot(centres, 1e3 * (means - energies.mean()), "o-", label=name, **shown)
    axis.set(xlabel="time (ps)", ylabel="total energy (µeV/atom)")
    axis.legend()
    figure.savefig(HERE / "lammps_drift.png")
    difference = fits[2].drift - fits[1].drift
    error = np.hypot(fits[1].error, fits[2].error)
    verdict = "no more than" if abs(difference) <= 2 * error else "MORE than"
    lines = [
        "# Energy in LAMMPS without a thermostat, on one rank and on two",
        "",
        "    python examples/results/lammps_drift.py",
        "",
        f"Ethanol, 9 atoms, {np.mean(temperatures):.0f} K, {options.steps} steps of "
        f"{1e3 * TIMESTEP_PS:g} fs, {MODEL}, compiled, float32; one thread for each rank, and the "
        "border between two ranks through the molecule. Drift is "
        "the slope of a straight line through the total energy after the first tenth, with the "
        f"standard error of the same line through means of {BLOCK_PS:g} ps; ripple is the standard "
        "deviation from it. The picture has all samples, and those means.",
        "",
        "| ranks | drift (µeV/atom/ps) | ripple (µeV/atom) |",
        "|---|---|---|",
        *rows,
        "",
        f"The drifts differ by {difference:+.3f} ± {error:.3f} µeV/atom/ps: {verdict} two standard "
        "errors. The runs start alike, and part as trajectories do whose last digits differ: "
        f"their temperatures differ by 1 K after {parting(options):.2g} ps.",
        "",
        "![energy](lammps_drift.png)",
    ]
    write_whole(HERE / "lammps_drift.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def main() -> None:
    """Run what is not done yet; write the page and the picture when both runs are there."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--only", type=int, choices=list(RANKS), help="ranks of the only run")
    parser.add_argument("--folder", type=Path, default=Path("runs/lammps_drift"))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for n_ranks in [options.only] if options.only else RANKS:
        path = file_of(n_ranks, options)
        if not path.exists():
            np.save(path, run(n_ranks, options.steps, options.folder))
    if all(file_of(n_ranks, options).exists() for n_ranks in RANKS):
        write(options)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
