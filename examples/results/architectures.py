"""Train every potential on rMD17 ethanol with one budget; write a table and learning curves.

    python examples/results/architectures.py [--part 0/2]

Every run makes 10000 steps of 5 frames, whatever the number of training frames, and is
judged on rows 1000 to 2000. The six architectures are trained on 950 frames; NequIP of
degree 0, 1, 2, 3 also on 50, 100, 200 and 400, and with two seeds. A run that was stopped
is resumed, a finished one is not repeated; ``--part k/n`` makes every n-th run, so that n
processes can share the work. All results are kept in architectures.json.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from training_progress import Progress

from eqcalc.files import write_whole
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

HERE = Path(__file__).parent
TABLE, PICTURE, RESULTS = (HERE / f"architectures{suffix}" for suffix in (".md", ".png", ".json"))
DATA = Path("../shared/data/rmd17/npz_data/rmd17_ethanol.npz")

N_STEPS, BATCH_SIZE = 10_000, 5
N_FRAMES = (50, 100, 200, 400, 950)
DEGREES = (0, 1, 2, 3)
SEEDS = (0, 1)
CUTOFF = 4.0

NEQUIP = {
    "name": "nequip",
    "parity": True,
    "num_layers": 3,
    "num_features": 16,
    "cut_off": CUTOFF,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 32,
}
DIRECTIONAL = {"cut_off": CUTOFF, "num_interaction_blocks": 3, "embedding_dim": 64}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "SchNet": {
        "name": "schnet",
        "num_interaction_blocks": 3,
        "hidden_dim": 64,
        "num_filters": 20,
        "cutoff": CUTOFF,
    },
    "DimeNet": {"name": "dimenet", **DIRECTIONAL},
    "DimeNet++": {
        "name": "dimenetpp",
        **DIRECTIONAL,
        "interaction_dim": 32,
        "output_dim": 64,
    },
    "EGNN": {"name": "egnn", "hidden_dim": 64, "num_layers": 4, "cutoff": CUTOFF},
    "GVP": {"name": "gvp", "scalar_dim": 64, "num_layers": 3, "cutoff": CUTOFF},
    "PaiNN": {"name": "painn", "embedding_dim": 64, "num_radial_basis": 6, "cut_off": CUTOFF},
}
LEARNING_RATE, LEARNING_RATES = 2e-3, {"nequip": 1e-2}
COMPILED = ("schnet", "painn", "egnn", "nequip")  # the others take too long to compile


class Run(NamedTuple):
    """One training: what, on how many frames, from which seed."""

    title: str
    architecture: dict[str, Any]
    n_frames: int
    seed: int

    @property
    def name(self) -> str:
        """Name of folder and model."""
        plain = self.title.lower().replace("+", "p").replace(" l=", "-l")
        return f"{plain}-{self.n_frames}-seed{self.seed}"


def main() -> None:
    """Train what is not done yet; rewrite table and picture after every run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--part", default="0/1", help="k/n: every n-th run from k")
    parser.add_argument("--output", type=Path, default=Path("runs/architectures"))
    parser.add_argument("--only", default="", help="runs whose name contains this")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    part, n_parts = (int(word) for word in arguments.part.split("/"))
    arguments.output.mkdir(parents=True, exist_ok=True)
    for run in all_runs()[part::n_parts]:
        result = arguments.output / run.name / "result.json"
        if arguments.only in run.name and not result.exists():
            result.write_text(json.dumps(train_one(run, arguments.output), indent=1) + "\n")
            write_report(arguments.output)
    write_report(arguments.output)


def all_runs() -> list[Run]:
    """Return all runs, the table's first."""
    nequip = {f"NequIP l={l}": {**NEQUIP, "l_max": l} for l in DEGREES}
    runs = [Run(title, options, N_FRAMES[-1], SEEDS[0]) for title, options in nequip.items()]
    runs += [
        Run(title, options, N_FRAMES[-1], SEEDS[0]) for title, options in ARCHITECTURES.items()
    ]
    for seed in SEEDS:
        for n_frames in N_FRAMES:
            runs += [Run(title, options, n_frames, seed) for title, options in nequip.items()]
    return list({run.name: run for run in runs}.values())


def train_one(run: Run, output: Path) -> dict[str, Any]:
    """Train, or go on with it, and return the test errors of the exported model."""
    folder = TrainingFolder(output / run.name)
    resume = folder.last_checkpoint.exists()
    source = output / f"{run.name}.toml"
    source.write_text(training_file(run))
    start = time.perf_counter()
    train(read_config(source), folder.path, resume=resume, progress=Progress(run.name))
    minutes = (time.perf_counter() - start) / 60.0
    finished = export_run(folder, folder.path / "model", overwrite=True)
    weights = load_potential(folder).architecture.parameters()
    return {
        "title": run.title,
        "frames": run.n_frames,
        "seed": run.seed,
        "options": finished.card.config,
        "parameters": sum(weight.numel() for weight in weights),
        "minutes": None if resume else round(minutes, 1),
        "errors": finished.card.errors,
    }


def training_file(run: Run) -> str:
    """Return the training file of a run, TOML."""
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in run.architecture.items())
    name = run.architecture["name"]
    return f"""\
name = "{run.name}"
seed = {run.seed}

[data]
path = "{DATA.resolve()}"
train_rows = "0:{run.n_frames}"
validation_rows = "950:1000"
test_rows = "1000:2000"

[architecture]
{options}
[training]
batch_size = {BATCH_SIZE}
max_epochs = {N_STEPS * BATCH_SIZE // run.n_frames}
learning_rate = {LEARNING_RATES.get(name, LEARNING_RATE)}
weight_decay = 0.01
energy_weight = 4.0
schedule = "cosine"
compile = {json.dumps(name in COMPILED)}
"""


def write_report(output: Path) -> None:
    """Write all results that were ever found, the table and the picture."""
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for path in sorted(output.glob("*/result.json")):
        found[path.parent.name] = json.loads(path.read_text())
    write_whole(RESULTS, (json.dumps(found, indent=1, sort_keys=True) + "\n").encode())
    write_whole(TABLE, table(list(found.values())).encode())
    write_whole(PICTURE, learning_curve(list(found.values())))


def table(results: list[dict[str, Any]]) -> str:
    """Return the results page."""
    lines = [PAGE.format(steps=N_STEPS, batch=BATCH_SIZE, cutoff=CUTOFF)]
    titles = [*ARCHITECTURES, *(f"NequIP l={l}" for l in DEGREES)]
    for title in titles:
        for result in results:
            if (result["title"], result["frames"], result["seed"]) != (title, 950, SEEDS[0]):
                continue
            errors = result["errors"]
            minutes = result["minutes"] or "resumed"
            lines.append(
                f"| {title} | {result['parameters']} | {errors['energy_mae_mev']:.2f} "
                f"| {errors['forces_mae_mev_per_a']:.1f} "
                f"| {errors['forces_rmse_mev_per_a']:.1f} | {minutes} |"
            )
    lines += ["", CURVE, "| training frames | " + " | ".join(f"l = {l}" for l in DEGREES) + " |"]
    lines.append("|---" * (1 + len(DEGREES)) + "|")
    for n_frames in N_FRAMES:
        cells = []
        for degree in DEGREES:
            values = force_errors(results, degree, n_frames)
            cells.append(" / ".join(f"{value:.1f}" for value in values) or "not run")
        lines.append(f"| {n_frames} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def force_errors(results: list[dict[str, Any]], degree: int, n_frames: int) -> list[float]:
    """Return the force errors (meV/Å) of a NequIP, one for each seed."""
    return [
        result["errors"]["forces_mae_mev_per_a"]
        for result in sorted(results, key=lambda result: result["seed"])
        if (result["title"], result["frames"]) == (f"NequIP l={degree}", n_frames)
    ]


def learning_curve(results: list[dict[str, Any]]) -> bytes:
    """Return a PNG of the force errors over the number of training frames."""
    figure = Figure(figsize=(6.0, 4.6), dpi=150)
    figure.set_layout_engine("constrained", h_pad=0.1, w_pad=0.1)
    axes = figure.subplots()
    for degree, colour in zip(DEGREES, ("#c8553d", "#e0a030", "#2a9d6f", "#4059ad"), strict=True):
        found = {n: force_errors(results, degree, n) for n in N_FRAMES}
        found = {n: values for n, values in found.items() if values}
        if not found:
            continue
        means = [np.mean(values) for values in found.values()]
        axes.plot(list(found), means, color=colour, label=f"l = {degree}")
        points = [(n, value) for n, values in found.items() for value in values]
        axes.plot(*zip(*points, strict=True), "o", ms=4, mew=0, color=colour)
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="training frames",
        xticks=N_FRAMES,
        xticklabels=[str(n) for n in N_FRAMES],
        ylabel="test error of the forces, MAE (meV/Å)",
        title=f"NequIP on rMD17 ethanol, {N_STEPS} steps of {BATCH_SIZE} frames",
    )
    ticks = [20, 30, 50, 100, 200, 300]
    axes.set_yticks(ticks, [str(tick) for tick in ticks])
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_minor_locator(NullLocator())
    axes.grid(color="0.9")
    if axes.lines:
        axes.legend(frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


PAGE = """\
# Seven potentials, one budget

    python examples/results/architectures.py

rMD17 ethanol; every training makes {steps} steps of {batch} frames (cosine schedule, AdamW with
weight decay 0.01, cutoff {cutoff} Å, float32, one thread) and is judged on rows 1000 to 2000. Two
trainings ran at a time on two shared cores of an AMD EPYC, so the minutes are only a rough guide.
This is a short budget: none of these models is converged, and a rank in this table says nothing of
a long training (PaiNN of this size comes to 11.4 meV/Å with 133000 steps, see
[painn-ethanol](painn-ethanol.md)). Widths were chosen for equal ground, not tuned; the learning
rate is 0.01 for NequIP, whose weights are normalised, and 0.002 for all others.

## 950 training frames, seed 0

| potential | parameters | energy MAE (meV) | forces MAE (meV/Å) | forces RMSE (meV/Å) | minutes |
|---|---|---|---|---|---|"""

CURVE = """\
## NequIP: degree of the features against the number of frames

Three layers of 16 features, both parities. Test error of the forces (MAE, meV/Å), one number for
each seed:

![learning curve](architectures.png)
"""


if __name__ == "__main__":
    main()
