"""Melting by coexistence: at constant energy, a crystal beside its melt goes to the melting point.

Above the melting point the crystal melts, which takes up heat; below it the melt freezes, which
gives heat: Morris et al., Phys. Rev. B 49, 3109 (1994), doi:10.1103/PhysRevB.49.3109; Morris and
Song, J. Chem. Phys. 116, 9352 (2002), doi:10.1063/1.1474581. Without options this is a short run,
which shows how; ``--full`` is one that begins on both sides of the melting point. Atoms are told
apart by the averaged bond order q6 of Lechner and Dellago, J. Chem. Phys. 129, 114707 (2008),
doi:10.1063/1.2977970.
"""

import argparse
import atexit
import json
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.constraints import FixAtoms
from ase.data import atomic_numbers, reference_states
from ase.neighborlist import neighbor_list
from matplotlib.figure import Figure
from numpy.typing import NDArray

from eqcalc import EqCalculator
from eqcalc.analysis import Trajectory, block_error
from eqcalc.nn.so3 import spherical_harmonics
from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.thermo import read_table

# K at normal pressure: CRC Handbook of Chemistry and Physics, 97th edition, section 4.
MEASURED = {"Na": 370.94, "K": 336.65, "Al": 933.47, "Cu": 1357.77, "Ag": 1234.93, "Pb": 600.61}
# Neighbours end, in lattice constants, midway between two shells: after 14 and after 12 of them.
SHELL_END = {"bcc": (1 + np.sqrt(2)) / 2, "fcc": (np.sqrt(0.5) + 1) / 2}
OVERHEATING = 3.0  # of the highest temperature: without a surface a crystal survives 1.2
FEWEST = 0.1  # share of the atoms, below which a phase counts as gone
WRONG_AT_MOST = 0.05  # share of the atoms of either phase that q6 takes for the other


@dataclass(frozen=True)
class Lengths:
    """Picoseconds: each phase by itself, melting, both at a temperature, both left alone."""

    alone: float
    overheated: float
    settle: float
    coexist: float


SHORT = Lengths(alone=1.6, overheated=1.2, settle=0.24, coexist=0.8)
FULL = Lengths(alone=1.6, overheated=0.8, settle=0.48, coexist=5.12)


def bond_order(atoms: Atoms, cutoff: float) -> NDArray:
    """Return the averaged bond order q6 (n_atoms,): near 0.4 in crystals, below 0.25 in melts.

    Parameters
    ----------
    cutoff : Å, where an atom's neighbours end
    """
    i, j, vectors = neighbor_list("ijD", atoms, cutoff)
    harmonics = spherical_harmonics(6, torch.from_numpy(vectors))[:, 36:].numpy()  # (n_pairs, 13)
    n_neighbours = np.bincount(i, minlength=len(atoms))[:, None]
    of_atom = np.zeros((len(atoms), 13))
    np.add.at(of_atom, i, harmonics)
    of_atom /= np.maximum(n_neighbours, 1)
    around = of_atom.copy()  # the mean over an atom and its neighbours: heat moves it less
    np.add.at(around, i, of_atom[j])
    around /= n_neighbours + 1
    return np.sqrt((around**2).sum(axis=1) / 13)  # 1 for a single bond


def two_phase_cell(
    cube: Atoms, n_across: int, n_along: int, stretch: float
) -> tuple[Atoms, NDArray]:
    """Return a crystal that is long along z, and which of its atoms (n_atoms,) are to melt.

    Parameters
    ----------
    cube : one cubic cell of the crystal
    stretch : of the half that is to melt, along z: the volume of the melt over the crystal's
    """
    atoms = cube * (n_across, n_across, n_along)
    a = cube.cell.lengths()[0]
    middle = n_along // 2 * a
    z = atoms.positions[:, 2]
    melts = z > middle - a / 8  # the plane at the middle, whatever rounding does
    atoms.positions[melts, 2] = middle + (z[melts] - middle) * stretch
    atoms.cell[2, 2] = middle + (n_along * a - middle) * stretch
    return atoms, melts


def positive(text: str) -> float:
    """Return a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < np.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found '{text}'")
    return number


def size(text: str) -> int:
    """Return a number of cells, at least 2."""
    if not text.isdecimal() or int(text) < 2:
        raise argparse.ArgumentTypeError(f"expected 2, 3, ... cubic cells, found '{text}'")
    return int(text)


parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--model", default="sevennet-0")
parser.add_argument("--element", default="Na", help="one whose crystal is bcc or fcc")
parser.add_argument("--temperatures", type=positive, nargs="+", help="to start from, K")
parser.add_argument("--cells", type=size, nargs=2, default=[3, 8], metavar=("ACROSS", "ALONG"))
parser.add_argument("--timestep", type=positive, default=8.0, help="fs; 8 suits sodium, 3 copper")
parser.add_argument("--full", action="store_true", help="a long run from two temperatures")
parser.add_argument("--engine", default="inductor", help="compiles at first, then is the fastest")
parser.add_argument("--runs", type=Path, help="folder to keep; what is complete there is not rerun")
parser.add_argument("--picture", type=Path, default=Path("coexistence.png"))
options = parser.parse_args()
if not options.picture.parent.is_dir() or options.picture.suffix not in (".png", ".pdf", ".svg"):
    parser.error(f"--picture wants .png, .pdf or .svg in an existing folder, not {options.picture}")
if options.element not in atomic_numbers:
    parser.error(f"--element wants the symbol of an element, not '{options.element}'")
reference = reference_states[atomic_numbers[options.element]] or {}
structure = reference.get("symmetry")
if structure not in SHELL_END:
    parser.error(f"--element wants one whose crystal is bcc or fcc; {options.element}: {structure}")
measured = MEASURED.get(options.element)
if options.temperatures is None and measured is None:
    parser.error(f"no melting point of {options.element} is known here: give --temperatures")
n_across, n_along = options.cells
lengths = FULL if options.full else SHORT
# Universal potentials are too soft, and melt early.
guessed = [0.84, 1.0] if options.full else [0.84]
temperatures = options.temperatures or [round(share * measured, -1) for share in guessed]

calculator = EqCalculator(options.model, engine=options.engine)
folder = options.runs
if folder is None:
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)


def run(name: str, atoms: Atoms, ensemble: str, temperature: float, ps: float) -> Atoms:
    """Run a stage with the guard rails of every run; return its last frame.

    Atoms with velocities keep them; others get those of the temperature.
    """
    settings = MDSettings(
        ensemble=ensemble,
        temperature_K=temperature,
        timestep_fs=options.timestep,
        n_steps=round(1000 * ps / options.timestep),
        friction_per_fs=0.02,
        barostat_time_fs=300.0,
        log_every=10 if options.full else 5,
    )
    manifest = folder / name / "manifest.json"
    done = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {}
    if done.get("status") != "complete":
        result = run_md(atoms, calculator, settings, folder / name, overwrite=True)
        n_steps, pace = result.n_steps, result.ms_per_step
        print(f"{name}: {len(atoms)} atoms, {n_steps} steps of {pace:.0f} ms", flush=True)
    elif done["settings"] != asdict(settings) or done["n_atoms"] != len(atoms):
        raise SystemExit(f"{folder / name} holds a run with other settings: give another --runs")
    else:
        print(f"{name}: taken from {folder / name}")
    with Trajectory(folder / name) as frames:
        return frames[len(frames) - 1]


def at_rest(atoms: Atoms) -> Atoms:
    """Return a copy for which the next stage draws new velocities."""
    atoms = atoms.copy()
    atoms.set_momenta(np.zeros((len(atoms), 3)), apply_constraint=False)
    return atoms


def mean(name: str, column: str) -> float:
    """Return the mean of a column of a stage's table over its second half."""
    values = read_table(folder / name / "thermo.csv")[column]
    return float(values[len(values) // 2 :].mean())


def bond_orders(name: str) -> NDArray:
    """Return the averaged bond order of every atom in every frame of a stage: (frames, atoms)."""
    with Trajectory(folder / name) as frames:
        return np.array([bond_order(frames[k], cutoff) for k in range(len(frames))])


# Both phases by themselves: their volumes, the heat of melting, and what q6 is in either.
middle, hot = float(np.mean(temperatures)), OVERHEATING * max(temperatures)
cube = bulk(options.element, structure, a=reference["a"], cubic=True) * ((n_across,) * 3)
n_atoms = len(cube)
crystal = run("crystal", cube, "npt", middle, lengths.alone)
melt = run("overheated", crystal, "nvt-langevin", hot, lengths.overheated)
run("melt", at_rest(melt), "npt", middle, lengths.alone)
volumes = [mean(name, "volume_A3") / n_atoms for name in ("crystal", "melt")]
energies = [mean(name, "potential_energy_eV") / n_atoms for name in ("crystal", "melt")]
stretch, heat = volumes[1] / volumes[0], energies[1] - energies[0]
a = float(np.cbrt(volumes[0] * n_atoms)) / n_across
cutoff = SHELL_END[structure] * a
in_crystal, in_melt = (q[len(q) // 2 :] for q in map(bond_orders, ("crystal", "melt")))
limit = (in_crystal.mean() + in_melt.mean()) / 2
wrong = [(in_crystal <= limit).mean(), (in_melt > limit).mean()]
print(f"at {middle:.0f} K: a = {a:.3f} Å; the melt's volume is {100 * (stretch - 1):+.1f} %")
print(f"heat of melting: {1e3 * heat:.0f} meV an atom")
print(
    f"q6: crystal {in_crystal.mean():.3f}, melt {in_melt.mean():.3f}; on the wrong side of "
    f"{limit:.3f} are {100 * wrong[0]:.1f} and {100 * wrong[1]:.1f} % of the atoms"
)
if heat <= 0 or max(wrong) > WRONG_AT_MOST:
    raise SystemExit(
        "crystal and melt, each by itself, cannot be told apart: one has turned into the other. "
        "Give other --temperatures, or --full, whose stages are longer."
    )

# Half a crystal, melted; then at each temperature both halves, and both left to themselves.
atoms, melts = two_phase_cell(
    bulk(options.element, structure, a=a, cubic=True), n_across, n_along, stretch
)
atoms.set_constraint(FixAtoms(mask=~melts))
half = at_rest(run("half-melted", atoms, "nvt-langevin", hot, lengths.overheated))
half.set_constraint()
slope = middle * (stretch - 1) * volumes[0] / heat * units.GPa  # K/GPa, Clapeyron's equation
tables: dict[float, dict[str, NDArray]] = {}
found: dict[float, tuple[float, float]] = {}
for start in temperatures:
    name = f"coexist-{start:g}"
    both = run(f"settle-{start:g}", half, "nvt-langevin", start, lengths.settle)
    run(name, both, "nve", start, lengths.coexist)
    orders = bond_orders(name)
    crystalline = (orders > limit).mean(axis=1)  # (n_frames,)
    last = float(crystalline[-len(crystalline) // 4 :].mean())
    table = read_table(folder / name / "thermo.csv")
    temperature, pressure = mean(name, "temperature_K"), mean(name, "pressure_gpa")
    error = block_error(table["temperature_K"][len(orders) // 2 :]) or np.inf
    at_zero = temperature - slope * pressure
    print(
        f"   second half: {temperature:.0f} ± {error:.0f} K at {1e3 * pressure:.0f} MPa, "
        f"{at_zero:.0f} K at none; crystalline {crystalline[0]:.2f}, in the end {last:.2f}"
    )
    tables[start] = table
    if FEWEST < last < 1 - FEWEST:
        found[start] = (at_zero, error)
    else:
        happened, side = ("melted", "below") if last <= FEWEST else ("frozen", "above")
        print(f"   everything has {happened}: the melting point lies {side}, and this is not it")
if not found:
    raise SystemExit(
        "no run has two phases left, and the temperature of one says nothing of melting. Start "
        "nearer to the melting point (--temperatures), or take more --cells."
    )

points = np.array([point for point, _ in found.values()])
errors = np.array([error for _, error in found.values()])
melting = float(points.mean())
doubt = max(float(np.sqrt((errors**2).sum())) / len(errors), float(np.ptp(points)) / 2)
print(f"melting point of {options.element}, {options.model}: {melting:.0f} ± {doubt:.0f} K", end="")
print(f"; measured {measured:.1f} K" if measured else "")
if not options.full:
    print("   (a short run, which has not settled: --full)")

figure = Figure(figsize=(8.0, 3.6), layout="constrained")
over_time, along = figure.subplots(1, 2)
for start, table in tables.items():
    ps = table["time_fs"] / 1000
    width = max(1, len(ps) // 20)  # a running mean, since small cells fluctuate
    smooth = np.convolve(table["temperature_K"], np.ones(width) / width, mode="valid")
    (line,) = over_time.plot(ps[width // 2 :][: len(smooth)], smooth, label=f"from {start:g} K")
    over_time.plot(ps, table["temperature_K"], color=line.get_color(), alpha=0.25, linewidth=0.7)
over_time.axhspan(melting - doubt, melting + doubt, color="grey", alpha=0.2, label="melting point")
if measured:
    over_time.axhline(measured, color="grey", linestyle=":", label="measured")
over_time.set(xlabel="time (ps)", ylabel="temperature (K)", title="constant energy")
over_time.legend(
    loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize="small"
)
shown = next(iter(found))
orders = bond_orders(f"coexist-{shown:g}")
with Trajectory(folder / f"coexist-{shown:g}") as frames:
    for k, label in ((0, "at the start"), (len(frames) - 1, "at the end")):
        z = frames[k].get_scaled_positions()[:, 2] * atoms.cell.lengths()[2]
        along.plot(z, orders[k], "o", markersize=3, label=label)
along.axhline(limit, color="grey", linestyle=":", label="limit")
along.set(xlabel="z (Å)", ylabel="averaged bond order q6", title=f"atoms, from {shown:g} K")
along.legend(frameon=False, fontsize="small")
figure.suptitle(f"{options.element}, {options.model}")
figure.savefig(options.picture, dpi=150)
print(f"picture: {options.picture}")
