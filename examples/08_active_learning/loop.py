"""Active learning of ethanol with a real labeller: GFN2-xTB by tblite, the extra [tblite].

A committee of two small PaiNN learns from a few frames near the minimum, runs dynamics at 500 K,
and the frames on which its members disagree most, each unlike the others, are labelled and learnt.
Beside it, as a control, committees learn from as many frames of the same dynamics drawn at random.
The test set is dynamics by xTB itself at 500 K, which neither sees.

    python examples/08_active_learning/loop.py                       # two rounds, two minutes
    python examples/08_active_learning/loop.py --full -o results     # what is recorded there
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import CalculatorError
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from ase.md.langevin import Langevin
from ase.optimize import LBFGS

from eqcalc import EqCalculator
from eqcalc.data import read_dataset
from eqcalc.engines import load_model
from eqcalc.errors import GuardError, NonFiniteError, import_extra
from eqcalc.evaluation import Calibrations, evaluate_committee
from eqcalc.evaluation.plots import calibration_plot
from eqcalc.selection import SelectionSettings, frames_to_label, read_candidates, select_frames
from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.velocities import set_velocities
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

HERE = Path(__file__).parent
TEMPERATURE_K = 500.0
SEEDS = (1, 2)

TRAINING_FILE = """
name = "ethanol-{seed}"
seed = {seed}
[data]
path = "{path}"
train_rows = "0:{n_train}"
validation_rows = "{n_train}:{n}"
[architecture]
name = "painn"
embedding_dim = 32
num_blocks = 2
num_radial_basis = 12
cut_off = 5.0
[training]
batch_size = 4
max_epochs = {epochs}
learning_rate = 2e-3
schedule = "cosine"
ema_decay = 0.99
forces_weight = 10.0
"""


@dataclass(frozen=True)
class Sizes:
    """How much of everything: rounds, draws of the control, frames a round, steps."""

    n_rounds: int
    n_draws: int
    n_frames: int
    training_steps: int
    md_steps: int
    n_test: int


SMALL = Sizes(n_rounds=2, n_draws=1, n_frames=8, training_steps=400, md_steps=400, n_test=40)
FULL = Sizes(n_rounds=4, n_draws=2, n_frames=10, training_steps=1000, md_steps=2000, n_test=100)


def label(atoms: Atoms) -> Atoms | None:
    """Return a copy with xTB's energy and forces, None where xTB finds no solution."""
    from tblite.ase import TBLite

    frame = atoms.copy()
    frame.calc = TBLite(method="GFN2-xTB", verbosity=0)
    try:
        results = {"energy": frame.get_potential_energy(), "forces": frame.get_forces()}
    except CalculatorError as error:
        print(f"  xTB does not converge: {error}")
        return None
    frame.calc = SinglePointCalculator(frame, **results)
    return frame


def dynamics_by_xtb(
    atoms: Atoms, temperature_K: float, n_frames: int, every: int, seed: int
) -> list[Atoms]:
    """Return labelled frames of Langevin dynamics, after as many steps again to settle."""
    from tblite.ase import TBLite

    rng = np.random.default_rng(seed)
    moving = atoms.copy()
    moving.calc = TBLite(method="GFN2-xTB", verbosity=0)
    set_velocities(moving, temperature_K, rng, keep_rotation=True)
    integrator = Langevin(
        moving,
        0.5 * units.fs,
        temperature_K=temperature_K,
        friction=0.02 / units.fs,
        fixcm=False,
        rng=rng,
    )
    integrator.run(n_frames * every // 2)
    frames = []
    for _ in range(n_frames):
        integrator.run(every)
        frame = Atoms(moving.numbers, moving.positions)
        results = {"energy": moving.get_potential_energy(), "forces": moving.get_forces()}
        frame.calc = SinglePointCalculator(frame, **results)
        frames.append(frame)
    return frames


def train_committee(frames: list[Atoms], sizes: Sizes, folder: Path) -> list[Path]:
    """Train a model for each seed on all frames but every fifth, which validates."""
    validation = frames[::5]
    training = [frame for k, frame in enumerate(frames) if k % 5]
    folder.mkdir()
    data = folder / "train.xyz"
    write(data, training + validation)
    models = []
    for seed in SEEDS:
        run, toml = folder / f"run-{seed}", folder / f"train-{seed}.toml"
        toml.write_text(
            TRAINING_FILE.format(
                seed=seed,
                path=data,
                n_train=len(training),
                n=len(frames),
                epochs=max(1, sizes.training_steps * 4 // len(training)),
            )
        )
        train(read_config(toml), run)
        models.append(export_run(TrainingFolder(run), folder / f"model-{seed}").path)
    return models


def judge(models: list[Path], test: Path) -> tuple[dict[str, Any], Calibrations]:
    """Return errors and spreads of a committee on the test set, as a row and in full."""
    loaded = [load_model(path, device="cpu") for path in models]
    found = evaluate_committee(loaded, read_dataset(test).frames)
    forces = next(each for each in found.quantities if each.name == "forces")
    spreads = {f"forces_{name}": value for name, value in forces.summary().items()}
    return {**found.mean.summary(), **spreads}, found


def explore(committee: EqCalculator, start: Atoms, sizes: Sizes, folder: Path, seed: int) -> str:
    """Run dynamics on the committee's mean; return how it ended."""
    settings = MDSettings(
        "nvt-langevin",
        temperature_K=TEMPERATURE_K,
        friction_per_fs=0.02,
        n_steps=sizes.md_steps,
        log_every=5,
        seed=seed,
    )
    try:
        result = run_md(start, committee, settings, folder)
    except (
        GuardError,
        NonFiniteError,
    ) as error:  # a poor model: its frames until then say where it is poor
        return f"fell apart ({error})"
    assert result.spread is not None
    return f"force spread at most {result.spread['max_force_spread_eV_per_A']:.2f} eV/Å"


def draw(run: Path, n_frames: int, rng: np.random.Generator) -> list[Atoms]:
    """Return so many frames of a run, drawn at random and labelled."""
    candidates = read_candidates([run])
    drawn: list[Atoms] = []
    for k in rng.permutation(len(candidates)):
        if len(drawn) == n_frames:
            break
        frame = label(Atoms(candidates[k].atoms.numbers, candidates[k].atoms.positions))
        if frame is not None:
            drawn.append(frame)
    return drawn


def control(sizes: Sizes, folder: Path, rows: list[dict[str, Any]], draws: int) -> None:
    """Give each row of the loop the errors that frames drawn at random lead to.

    They come from the same dynamics, as many in each round, and are learnt in the same way; the
    first frames are the same.
    """
    frames = read(folder / "first.xyz", ":")
    rng = np.random.default_rng([5, draws])
    for row, following in itertools.pairwise(rows):
        frames += draw(folder / f"md-{row['round']}", row["labelled"], rng)
        k = following["round"]
        models = train_committee(frames, sizes, folder / f"random-{draws}-{k}")
        found, _ = judge(models, folder / "test.xyz")
        following.setdefault("at_random", []).append({"frames": len(frames), **found})
        print(
            f"draw {draws + 1}, round {k}: {len(frames)} frames at random, forces "
            f"{found['forces_mae_mev_per_a']:.0f} meV/Å (MAE), energy "
            f"{found['energy_mae_mev']:.0f} meV",
            flush=True,
        )


def loop(sizes: Sizes, folder: Path) -> tuple[list[dict[str, Any]], Calibrations]:
    """Return a row for each round, and the last committee's calibration on the test set."""
    start = read(HERE.parent / "ethanol.xyz")
    start = Atoms(start.numbers, start.positions)
    from tblite.ase import TBLite

    start.calc = TBLite(method="GFN2-xTB", verbosity=0)
    LBFGS(start, logfile=None).run(fmax=0.01, steps=200)
    start = Atoms(start.numbers, start.positions)
    test = folder / "test.xyz"
    write(test, dynamics_by_xtb(start, TEMPERATURE_K, sizes.n_test, 40, seed=11))
    frames = dynamics_by_xtb(start, 150.0, sizes.n_frames, 20, seed=12)
    write(folder / "first.xyz", frames)
    rows: list[dict[str, Any]] = []
    for k in range(sizes.n_rounds + 1):
        begun = time.perf_counter()
        models = train_committee(frames, sizes, folder / f"round-{k}")
        errors, found = judge(models, test)
        row: dict[str, Any] = {"round": k, "frames": len(frames), **errors}
        if k < sizes.n_rounds:
            committee = EqCalculator([str(path) for path in models], device="cpu")
            ended = explore(committee, start, sizes, folder / f"md-{k}", seed=k)
            candidates = read_candidates([folder / f"md-{k}"])
            # Forces that differ by more than this belong to structures that xTB need not know.
            settings = SelectionSettings(sizes.n_frames, min_spread=0.05, max_spread=10.0)
            selection = select_frames(candidates, committee, settings, known=frames)
            labelled = [label(frame) for frame in frames_to_label(selection)]
            new = [frame for frame in labelled if frame is not None]
            frames += new
            row |= {"dynamics": ended, "labelled": len(new)}
        row["seconds"] = round(time.perf_counter() - begun, 1)
        rows.append(row)
        print(_line(row), flush=True)
    for draws in range(sizes.n_draws):
        control(sizes, folder, rows, draws)
    return rows, found


def at_random(row: dict[str, Any], name: str) -> list[float]:
    """Return an error of the control at a round, of each draw; the first round has no choice."""
    return [float(each[name]) for each in row.get("at_random", [row])]


def _line(row: dict[str, Any]) -> str:
    line = (
        f"round {row['round']}: {row['frames']} frames, forces "
        f"{row['forces_mae_mev_per_a']:.0f} meV/Å (MAE), energy {row['energy_mae_mev']:.0f} meV, "
        f"scale of the spread {row['forces_scale']:.2f}"
    )
    if "dynamics" in row:
        line += f"; dynamics: {row['dynamics']}; {row['labelled']} new labels"
    return line


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table of the loop, in Markdown."""
    lines = [
        "| round | labelled frames | forces MAE (meV/Å) | drawn at random | RMSE "
        "| drawn at random | energy MAE (meV) | drawn at random "
        "| force spread, rms | scale | errors within 2 spreads × scale |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row['round']} | {row['frames']} "
            f"| {_beside(row, 'forces_mae_mev_per_a')} "
            f"| {_beside(row, 'forces_rmse_mev_per_a')} "
            f"| {_beside(row, 'energy_mae_mev')} "
            f"| {row['forces_rms_spread_mev_per_a']:.1f} | {row['forces_scale']:.2f} "
            f"| {100 * row['forces_within_2_scaled']:.0f} % |"
        )
    return "\n".join(lines) + "\n"


def _beside(row: dict[str, Any], name: str) -> str:
    """Return two cells: an error of the loop, and those of the control's draws."""
    drawn = ", ".join(f"{value:.1f}" for value in at_random(row, name))
    return f"{row[name]:.1f} | {drawn if 'at_random' in row else 'the same'}"


def picture(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw errors and spreads over the number of labels."""
    from matplotlib.figure import Figure

    n = [row["frames"] for row in rows]
    figure = Figure(figsize=(8.4, 3.9), dpi=150)
    figure.set_layout_engine("constrained")
    left, right = figure.subplots(1, 2)
    chosen, drawn = {"color": "#4059ad"}, {"color": "#b5651d", "ls": "--"}
    errors = {left: ["forces_mae_mev_per_a", "forces_rmse_mev_per_a"], right: ["energy_mae_mev"]}
    for axes, names in errors.items():
        for name, marker in zip(names, "os", strict=False):
            kind = "RMSE" if "rmse" in name else "MAE"
            values = [row[name] for row in rows]
            axes.plot(n, values, f"{marker}-", label=f"{kind}, selected", **chosen)
            for draws, each in enumerate(zip(*_draws(rows, name), strict=True)):
                text = f"{kind}, drawn at random" if draws == 0 else None
                axes.plot(n, each, marker=marker, mfc="white", label=text, **drawn)
        axes.legend(frameon=False)
    spreads = [row["forces_rms_spread_mev_per_a"] for row in rows]
    left.plot(n, spreads, "^:", color="0.5", label="spread, rms")
    left.legend(frameon=False)
    left.set(ylabel="forces (meV/Å)", title="Forces")
    right.set(ylabel="energy (meV)", title="Energy")
    for axes in (left, right):
        axes.set(xlabel="frames labelled by xTB", xticks=n)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25, lw=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Test set: dynamics of ethanol by GFN2-xTB at 500 K", fontsize=10, color="0.3")
    figure.savefig(path)


def _draws(rows: list[dict[str, Any]], name: str) -> list[list[float]]:
    """Return an error of every draw at each round; before the choice it is the loop's."""
    n_draws = max(len(at_random(row, name)) for row in rows)
    return [at_random(row, name) if "at_random" in row else [row[name]] * n_draws for row in rows]


def main() -> None:
    """Run the loop and write table, pictures and numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the sizes that are recorded")
    parser.add_argument("-o", "--output", type=Path, help="folder for table, pictures and json")
    arguments = parser.parse_args()
    import_extra("tblite.ase", "tblite", "this example")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=UserWarning, module="lightning")
    with tempfile.TemporaryDirectory() as folder:
        rows, last = loop(FULL if arguments.full else SMALL, Path(folder))
        output = arguments.output or Path(folder)
        output.mkdir(parents=True, exist_ok=True)
        (output / "loop.json").write_text(json.dumps(rows, indent=2) + "\n")
        (output / "loop.md").write_text(table(rows))
        picture(rows, output / "loop.png")
        (output / "calibration.png").write_bytes(calibration_plot(last, "the last committee"))
    print(table(rows))
    first, end = rows[0]["forces_mae_mev_per_a"], rows[-1]["forces_mae_mev_per_a"]
    if not end < first:
        raise SystemExit(f"the error of the forces did not fall: {first} to {end} meV/Å")
    drawn = ", ".join(f"{value:.0f}" for value in at_random(rows[-1], "forces_mae_mev_per_a"))
    print(
        f"forces on the test set: {first:.0f} to {end:.0f} meV/Å (MAE); with as many frames drawn "
        f"at random: {drawn}"
    )


if __name__ == "__main__":
    main()
