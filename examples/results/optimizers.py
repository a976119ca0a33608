"""Optimisers, losses and cutoffs on ethanol, epoch by epoch; write optimizers.md, .json and .png.

    python examples/results/optimizers.py [--only FOLDER] [--epochs 60] [--output runs/optimizers]

Two networks, 950 frames of MD17's own labels, a cosine schedule, the same seed.
Errors are of the 50 validation frames alone: the test frames that md17.py judges models on play no
part in any choice. A run that was stopped is resumed, a finished one is not repeated; ``--only``
makes one of them, so that several processes can share the work.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from published_training import NETWORKS, RECIPES, ZBL_CUTOFF, rows_of, train_trial

from eqcalc import architectures
from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.potential import Potential
from eqcalc.training.config import TrainingOptions
from eqcalc.training.module import PotentialModule
from eqcalc.training.training_folder import TrainingFolder

HERE = Path(__file__).parent
TABLE, PICTURE, RESULTS = (HERE / f"optimizers{suffix}" for suffix in (".md", ".png", ".json"))
DATA = Path("../shared/data/rmd17/npz_data/rmd17_ethanol.npz")

SQUARES, ABSOLUTE = RECIPES["adamw"].options, RECIPES["soap"].options
FAST = {**ABSOLUTE, "learning_rate": 0.02}
RUNS = {
    "nequip-l2-small": {
        "AdamW, squares": SQUARES,
        "AdamW, absolute": {**ABSOLUTE, "optimizer": "adamw"},
        "SOAP, squares": {**SQUARES, "optimizer": "soap"},
        "SOAP, absolute": ABSOLUTE,
        "SOAP, absolute, rate 0.02": FAST,
        "SOAP, absolute, rate 0.04": {**ABSOLUTE, "learning_rate": 0.04},
        "SOAP, absolute, rate 0.02, batches of 2": {**FAST, "batch_size": 2},
        "SOAP, absolute, rate 0.02, cutoff 5": {**FAST, "cut_off": 5.0},
        "SOAP, absolute, rate 0.02, cutoff 6": {**FAST, "cut_off": 6.0},
    },
    "painn": {
        "AdamW, squares": SQUARES,
        "SOAP, absolute": ABSOLUTE,
        "SOAP, absolute, rate 0.003": {**ABSOLUTE, "learning_rate": 0.003},
    },
}
NAMES = [(network, name) for network, runs in RUNS.items() for name in runs]
N_STEPS_TIMED = 100
SHOWN = ("validation_energy_mae_mev", "validation_forces_mae_mev_per_a")  # kept in the json file


def main() -> None:
    """Make the runs that are not done yet; write the page of those that are."""
    arguments = parse()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for network, runs in RUNS.items():
        found[network] = {}
        for name, options in runs.items():
            folder = TrainingFolder(folder_of(network, name, arguments))
            if not arguments.page and arguments.only in (None, folder.path.name):
                make(folder, network, options, arguments)
            if len(rows := rows_of(folder)) == arguments.epochs:
                found[network][name] = {key: [float(row[key]) for row in rows] for key in SHOWN}
    result = {
        "epochs": arguments.epochs,
        "device": "1 of {cores} cores, {cpu}".format(**machine(torch.device("cpu"))),
        "step_ms": {
            network: {name: step_ms(network, name) for name in ("adamw", "soap")}
            for network in RUNS
        },
        "runs": found,
    }
    write_whole(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    write_whole(TABLE, page(result).encode())
    draw(found)
    print(f"written: {TABLE}, {PICTURE}")


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="FOLDER", help="the run of this folder alone")
    parser.add_argument("--page", action="store_true", help="write the page of what is done")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("runs/optimizers"))
    parser.add_argument("--data", type=Path, default=DATA, help="rMD17's file of ethanol")
    arguments = parser.parse_args()
    names = [folder_of(*each, arguments).name for each in NAMES]
    if arguments.only is not None and arguments.only not in names:
        parser.error(f"there is no run '{arguments.only}'; --only takes one of {', '.join(names)}")
    if not arguments.data.is_file():
        parser.error(f"there is no file {arguments.data}; --data names it")
    return arguments


def folder_of(network: str, name: str, arguments: argparse.Namespace) -> Path:
    """Return where a run lies."""
    path: Path = arguments.output / f"{network}-{name.lower().replace(', ', '-')}".replace(" ", "-")
    return path


def make(
    folder: TrainingFolder, name: str, options: dict[str, Any], arguments: argparse.Namespace
) -> None:
    """Train, or go on with it."""
    network, options = NETWORKS[name], dict(options)
    cutoff = options.pop("cut_off", network.options["cut_off"])
    training = {
        "batch_size": 5,
        "max_epochs": arguments.epochs,
        "schedule": "cosine",
        "learning_rate": network.learning_rate,
        "ema_decay": network.ema_decay,
        "zbl_cutoff": ZBL_CUTOFF,
        "compile": True,
        **options,
    }
    content = {
        "name": "ethanol",
        "seed": 1,
        "data": {
            "path": str(arguments.data.resolve()),
            "energy_key": "old_energies",
            "forces_key": "old_forces",
            "energy_unit": "kcal/mol",
            "length_unit": "Angstrom",
            "train_rows": "0:950",
            "validation_rows": "950:1000",
        },
        "architecture": {**network.options, "cut_off": cutoff},
        "training": training,
    }
    train_trial(folder, content)


def step_ms(name: str, optimizer: str) -> float:
    """Return the time of the optimiser's part of a step, ms."""
    options = dict(NETWORKS[name].options)
    if options["name"] == "nequip":
        options["elements"] = (1, 6, 8)
    potential = Potential(architectures.build(**options), {"H": 0.0, "C": 0.0, "O": 0.0})
    module = PotentialModule(potential, TrainingOptions(optimizer=optimizer), {}, seed=1)
    stepper = module.configure_optimizers()[0][0]
    times = []
    for _ in range(N_STEPS_TIMED):
        for weight in potential.parameters():
            weight.grad = torch.randn_like(weight)
        begun = time.perf_counter()
        stepper.step()
        times.append(time.perf_counter() - begun)
    # Every tenth step of SOAP turns its bases: the mean, not the median, but for the first steps.
    return 1e3 * statistics.fmean(times[20:])


def page(result: dict[str, Any]) -> str:
    """Return the results page."""
    lines = [PAGE.format(**result)]
    n = result["epochs"]
    marks = [n // 6, n // 3, n // 2, n]
    for network, runs in result["runs"].items():
        times = result["step_ms"][network]
        lines += [
            f"## {NETWORKS[network].title}",
            "",
            f"Learning rate {NETWORKS[network].learning_rate:g}, cutoff "
            f"{NETWORKS[network].options['cut_off']:g} Å unless said otherwise. Of a step "
            f"{times['adamw']:.1f} ms are AdamW's, or {times['soap']:.1f} ms SOAP's.",
            "",
            "| optimiser, loss | " + " | ".join(f"{mark} epochs" for mark in marks) + " |",
            "|---" * (len(marks) + 1) + "|",
        ]
        for name, found in runs.items():
            errors = found["validation_forces_mae_mev_per_a"]
            cells = [name, *(f"{errors[mark - 1]:.1f}" for mark in marks)]
            lines.append(f"| {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


def draw(results: dict[str, dict[str, dict[str, list[float]]]]) -> None:
    """Draw the errors of the forces over epochs, a panel for each network."""
    figure = Figure(figsize=(10.0, 4.2), layout="constrained")
    for axes, (network, runs) in zip(
        figure.subplots(1, len(results)), results.items(), strict=True
    ):
        for name, found in runs.items():
            errors = found["validation_forces_mae_mev_per_a"]
            axes.plot(range(1, len(errors) + 1), errors, label=name, lw=1.5)
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
        axes.set_title(NETWORKS[network].title)
        axes.set(xlabel="epoch", ylabel="validation MAE of forces (meV/Å)")
        axes.grid(which="both", alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(PICTURE, dpi=150)


PAGE = """\
# Optimisers, losses and cutoffs

    python examples/results/optimizers.py --epochs {epochs}

Ethanol with MD17's own labels, 950 frames, batches of 5 unless said otherwise, a cosine schedule
over {epochs} epochs: mean absolute error of the forces of the 50 validation frames, meV/Å.
'Squares' and 'absolute' say what the loss is the mean of. Times are means over steps, on
{device}.

![errors over epochs](optimizers.png)
"""


if __name__ == "__main__":
    main()
