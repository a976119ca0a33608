"""Liquid water by a potential: how molecules lie around each other, and the density.

    python examples/results/liquid_water.py [--model sevennet-0] [--picoseconds 10]
    python examples/results/liquid_water.py --model nequip-water --temperature 300
        --picoseconds 100 --density-picoseconds 100

64 molecules of heavy hydrogen (classical averages do not depend on masses, and the step may be
1 fs): at 997 kg/m³ for the distributions of distances, then, where that is asked for, at 1 bar for
the density. A run that lies in the folder is not repeated. Writes liquid_water_MODEL.md and .png.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from hundred_picoseconds import about_bonds
from matplotlib.figure import Figure
from simulation_progress import show

from eqcalc import EqCalculator
from eqcalc.analysis import RDF, AverageSettings, Trajectory, average, block_error
from eqcalc.bench.structures import load_structure
from eqcalc.files import write_whole
from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.thermo import read_table

HERE = Path(__file__).parent
EQUILIBRATION_PS = 3.0
DENSITY_EQUILIBRATION_PS = 10.0
LOG_EVERY = 20
BONDS_EVERY = 10  # frames
ONE_BAR_GPA = 1e-4
N_MOLECULES = 64
MOLAR_MASS = 18.015  # g/mol, of light water, beside whose density the model's is put
ABOVE = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0), "frameon": False}
MEASURED = {"O": ([2.80, 3.45, 4.5], [2.57, 0.84, 1.12])}
SOURCES = """\
Experiment: first maximum 2.57 at 2.80 Å, first minimum 0.84 at 3.45 Å, second maximum 1.12 at
4.5 Å at 295 K (Skinner et al., J. Chem. Phys. 138, 074506 (2013), doi:10.1063/1.4790861).
"""
PBE = """\
PBE itself over-structures water: a first maximum of 3 and more at 300 K (Gillan, Alfè,
Michaelides, J. Chem. Phys. 144, 130901 (2016), doi:10.1063/1.4944633), which is why 330 K is
usual.
"""


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="sevennet-0")
    parser.add_argument("--temperature", type=float, default=330.0, help="K")
    parser.add_argument("--picoseconds", type=float, default=10.0, help="at constant volume")
    parser.add_argument("--density-picoseconds", type=float, default=0.0, help="at 1 bar; 0: none")
    parser.add_argument("--folder", type=Path, default=Path("runs/liquid_water"))
    return parser.parse_args()


def main() -> None:
    """Run what is not done yet, and write page and picture."""
    options = parse()
    frames = run("nvt-langevin", start(), options.picoseconds, options)
    skip = round(1000 * EQUILIBRATION_PS / LOG_EVERY)
    rdf = average(Trajectory(frames), AverageSettings(("rdf",), skip=skip, n_bins=150)).rdf
    density = None
    if options.density_picoseconds:
        last = read(frames, index=-1)
        at_pressure = run("npt", last, options.density_picoseconds, options)
        density = read_table(at_pressure.parent / "thermo.csv")
    assert rdf is not None
    assert rdf.g is not None
    molecules = about_bonds(start(), read(frames, index=f"::{BONDS_EVERY}"))
    write(rdf, molecules, density, options)


def start() -> Atoms:
    """Return 64 molecules of heavy water."""
    atoms = load_structure("water192")
    masses = atoms.get_masses()
    masses[atoms.numbers == 1] = 2.014
    atoms.set_masses(masses)
    return atoms


def run(ensemble: str, atoms: Atoms, picoseconds: float, options: argparse.Namespace) -> Path:
    """Make a run, unless it is there, and return its trajectory."""
    folder = options.folder / options.model / ensemble
    settings = MDSettings(
        ensemble,
        n_steps=round(1000 * picoseconds),
        timestep_fs=1.0,
        temperature_K=options.temperature,
        pressure_gpa=ONE_BAR_GPA if ensemble == "npt" else 0.0,
        log_every=LOG_EVERY,
        minimize=ensemble != "npt",  # molecules were turned at random
        seed=1,
    )
    if not (folder / "final.xyz").exists():
        calculator = EqCalculator(options.model, device="cpu", engine="inductor")
        run_md(atoms, calculator, settings, folder, overwrite=True, progress=show)
    return folder / "trajectory.traj"


def write(
    rdf: RDF, molecules: str, density: dict[str, np.ndarray] | None, options: argparse.Namespace
) -> None:
    """Write the page and the picture."""
    figure = Figure(figsize=(9.0 if density is None else 13.0, 3.8), dpi=120, layout="constrained")
    panels = figure.subplots(1, 2 if density is None else 3)
    name = f"{options.model}, {options.temperature:g} K"
    for axis, other in zip(panels, "OH", strict=False):
        pair = ("O", other) if ("O", other) in rdf.g else (other, "O")
        g, error = rdf.g[pair], rdf.error[pair]
        axis.fill_between(rdf.r, g - error, g + error, alpha=0.3, label="standard error of blocks")
        axis.plot(rdf.r, g, label=name)
        if other in MEASURED:
            axis.plot(*MEASURED[other], "d", color="tab:red", label="experiment, 295 K")
        axis.set(xlabel=f"O-{other} distance (Å)", ylabel="g(r)", xlim=(0.0, 6.0))
        axis.set_ylim(0.0, (rdf.readable_top() or 3.5) if other == "H" else None)
        axis.legend(**ABOVE)
    lines = [
        f"# Liquid water by {options.model}",
        "",
        f"    {command()}",
        "",
        "64 molecules of heavy hydrogen, as closely packed as light ones at 997 kg/m³ (averages of "
        f"classical nuclei do not depend on masses), {options.temperature:g} K, "
        f"{options.picoseconds:g} ps of "
        f"which the first {EQUILIBRATION_PS:g} are left out; {rdf.n_frames} frames.",
        "",
        f"- {molecules}",
        *(f"- {feature}" for feature in features(rdf)),
    ]
    if density is not None:
        lines.append(f"- {draw_density(panels[2], density, options)}")
    picture = HERE / f"liquid_water_{options.model}.png"
    figure.savefig(picture)
    lines += ["", f"![distances and density]({picture.name})", "", SOURCES.rstrip()]
    if options.model.startswith("sevennet"):
        lines.append(PBE.rstrip())
    write_whole(HERE / f"liquid_water_{options.model}.md", ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


def command() -> str:
    """Return what this script was called with, but for the folder of its runs."""
    words = sys.argv[1:]
    if "--folder" in words:
        k = words.index("--folder")
        del words[k : k + 2]
    return shlex.join(["python", "examples/results/liquid_water.py", *words])


def features(rdf: RDF) -> list[str]:
    """Return what the distributions show: maxima, the first minimum, and how many neighbours."""

    def peak(g: np.ndarray, low: float, high: float, sign: int = 1) -> tuple[float, float]:
        inside = np.flatnonzero((rdf.r > low) & (rdf.r < high))
        k = inside[np.argmax(sign * g[inside])]
        return float(rdf.r[k]), float(g[k])

    oo = rdf.g[("O", "O")]
    oh = rdf.g[("O", "H") if ("O", "H") in rdf.g else ("H", "O")]
    first, low, second = peak(oo, 2.0, 3.2), peak(oo, 3.0, 4.0, -1), peak(oo, 3.8, 5.5)
    bonds, hydrogen_bonds = peak(oh, 0.7, 1.3), peak(oh, 1.5, 2.2)
    inside = int(np.searchsorted(rdf.r, low[0]))
    around = rdf.neighbours[("O", "O")][inside]
    return [
        f"O-O: first maximum {first[1]:.2f} at {first[0]:.2f} Å, minimum {low[1]:.2f} at "
        f"{low[0]:.2f} Å, second maximum {second[1]:.2f} at {second[0]:.2f} Å; {around:.1f} "
        "neighbours within the minimum",
        f"O-H: bonds at {bonds[0]:.2f} Å, hydrogen bonds {hydrogen_bonds[1]:.2f} at "
        f"{hydrogen_bonds[0]:.2f} Å",
    ]


def draw_density(axis, table: dict[str, np.ndarray], options: argparse.Namespace) -> str:
    """Draw the density over time, and return its mean with the standard error of blocks."""
    time_ps = table["time_fs"] / 1000.0
    density = N_MOLECULES * MOLAR_MASS / units._Nav / (table["volume_A3"] * 1e-24)
    settled = density[time_ps > DENSITY_EQUILIBRATION_PS]
    mean, error = float(settled.mean()), block_error(settled)
    axis.plot(time_ps, density, lw=0.6, label=f"{options.model}, 1 bar")
    axis.axhline(mean, color="tab:orange", label=f"mean {mean:.3f}")
    axis.axhline(0.997, color="tab:red", ls=":", label="experiment, 298 K")
    axis.set(xlabel="time (ps)", ylabel="density (g/cm³)")
    axis.legend(**ABOVE)
    return (
        f"density at 1 bar, {options.density_picoseconds:g} ps of which the first "
        f"{DENSITY_EQUILIBRATION_PS:g} are left out: **{mean:.3f} ± {error:.3f} g/cm³** "
        "(experiment: 0.997 at 298 K)"
    )


if __name__ == "__main__":
    main()
