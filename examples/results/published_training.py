"""Networks that are trained on published benchmarks, and how; what their scripts share."""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from training_progress import Progress

from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.overrides import to_toml
from eqcalc.training.reports import Report
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

ZBL_CUTOFF = 0.8  # Å, below every distance of these molecules: nothing that is learnt changes


class Network(NamedTuple):
    """A network and how it is trained.

    learning_rate : of AdamW, that a cosine begins with; NequIP's weights are normalised
    ema_decay : of the averaged weights
    """

    title: str
    options: dict[str, Any]
    learning_rate: float
    ema_decay: float


_NEQUIP = {
    "name": "nequip",
    "parity": True,
    "num_layers": 5,
    "num_features": 64,
    "cut_off": 4.0,
    "num_bessels": 8,
    "radial_mlp_depth": 3,
    "radial_mlp_width": 64,
}
_FOUR = {**_NEQUIP, "num_layers": 4}
_SMALL = {**_FOUR, "num_features": 32}
NETWORKS = {
    **{
        f"nequip-l{l}": Network(f"NequIP l={l}, 64×5", {**_NEQUIP, "l_max": l}, 1e-2, 0.99)
        for l in (1, 2, 3)
    },
    **{
        f"nequip-l{l}-small": Network(f"NequIP l={l}, 32×4", {**_SMALL, "l_max": l}, 1e-2, 0.99)
        for l in (1, 2, 3)
    },
    "nequip-l3-64x4": Network("NequIP l=3, 64×4", {**_FOUR, "l_max": 3}, 1e-2, 0.99),
    "painn": Network(
        "PaiNN 128×3",
        {"name": "painn", "embedding_dim": 128, "num_blocks": 3, "cut_off": 5.0},
        1e-3,
        0.999,
    ),
}


class Recipe(NamedTuple):
    """An optimiser and a loss; ``optimizers.py`` compares them.

    options : of ``[training]``: optimiser, loss, weight of energies per atom beside forces
    rate : of learning, in those of AdamW
    """

    options: dict[str, Any]
    rate: float


RECIPES = {
    "soap": Recipe({"optimizer": "soap", "loss": "mae", "energy_weight": 0.5}, 2.0),
    "adamw": Recipe({"optimizer": "adamw", "loss": "mse", "energy_weight": 4.0}, 1.0),
}


def add_options(parser: argparse.ArgumentParser, output: Path, data: Path) -> None:
    """Add what every script of a benchmark takes, with the folders of its runs and data."""
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="soap")
    parser.add_argument("--cutoff", type=float, default=5.0, metavar="R", help="Å (default 5)")
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="do not compile loss and gradients")
    parser.add_argument("--output", type=Path, default=output)
    parser.add_argument("--data", type=Path, default=data, help="folder of the data")


def training_file(name: str, arguments: argparse.Namespace, data: str, batch_size: int) -> str:
    """Return the training file of a run, TOML."""
    network, recipe = NETWORKS[arguments.network], RECIPES[arguments.recipe]
    options = {**network.options, "cut_off": arguments.cutoff}
    return f"""\
name = "{name}"
seed = {arguments.seed}

[data]
{data}

[architecture]
{_lines(options)}

[training]
batch_size = {batch_size}
max_epochs = {arguments.epochs}
{_lines(recipe.options)}
learning_rate = {recipe.rate * network.learning_rate}
schedule = "cosine"
ema_decay = {network.ema_decay}
zbl_cutoff = {ZBL_CUTOFF}
compile = {json.dumps(not arguments.eager)}
"""


def length_of(arguments: argparse.Namespace) -> str:
    """Return the last part of a run's name: what else it differs in from others of its network."""
    return f"{arguments.cutoff:g}A-{arguments.epochs}epochs-seed{arguments.seed}-{arguments.recipe}"


def _lines(keys: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in keys.items())


def record(
    name: str,
    arguments: argparse.Namespace,
    text: str,
    table: Path,
    page: Callable[[list[dict[str, Any]]], str],
    **labels: str,
) -> None:
    """Train as a file says, or go on with it, and write the page of all results ever found.

    A run that was stopped is resumed, a finished one is not repeated.

    Parameters
    ----------
    name : of the run and its folder
    text : of the training file
    table : the page's file; results are kept in a json file beside it
    page : what makes it of the results
    labels : of this result
    """
    torch.set_num_threads(arguments.threads)
    place = arguments.output / name
    found = place / "result.json"
    if not found.exists():
        result = _trained(name, place, text)
        result |= {
            "network": arguments.network,
            "cutoff": arguments.cutoff,
            "recipe": arguments.recipe,
            "epochs": arguments.epochs,
            "seed": arguments.seed,
            "device": f"{arguments.threads} of {result['device']}",
        }
        write_whole(found, (json.dumps(result, indent=1) + "\n").encode())
    numbers = table.with_suffix(".json")
    kept = json.loads(numbers.read_text()) if numbers.exists() else {}
    kept[name] = json.loads(found.read_text()) | labels
    write_whole(numbers, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
    write_whole(table, page(list(kept.values())).encode())
    print(f"written: {table}")


def rows_of(folder: TrainingFolder) -> list[dict[str, str]]:
    """Return the rows of a run's metrics.csv."""
    path = folder.path / "metrics.csv"
    if not path.exists():
        return []
    with open(path) as file:
        return list(csv.DictReader(file))


def train_trial(folder: TrainingFolder, content: dict[str, Any]) -> None:
    """Train as the tables of a training file say, or go on with it; a finished run is left."""
    if len(rows_of(folder)) == content["training"]["max_epochs"]:
        return
    source = folder.path.with_name(f"{folder.path.name}.toml")  # a name may hold a dot
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(to_toml(content))
    resume, progress = folder.last_checkpoint.exists(), Progress(folder.path.name)
    # What ended within its first epoch has nothing to go on with.
    train(read_config(source), folder.path, resume=resume, overwrite=not resume, progress=progress)


def _trained(name: str, place: Path, text: str) -> dict[str, Any]:
    folder = TrainingFolder(place / "run")
    source = place / "train.toml"
    place.mkdir(parents=True, exist_ok=True)
    source.write_text(text)
    resume = folder.last_checkpoint.exists()
    spent = place / "seconds.json"
    seconds = json.loads(spent.read_text()) if resume and spent.exists() else 0.0
    begun, progress = time.monotonic(), Progress(name)

    def note(report: Report) -> None:
        progress(report)
        if report.batch == 0:  # a run that is interrupted goes on with its time
            spent.write_text(json.dumps(seconds + time.monotonic() - begun))

    train(read_config(source), folder.path, resume=resume, overwrite=not resume, progress=note)
    finished = export_run(folder, place / "model", overwrite=True)
    weights = load_potential(folder).architecture.parameters()
    checkpoint = torch.load(folder.last_checkpoint, weights_only=True)
    where = machine(torch.device("cpu"))
    return {
        "steps": checkpoint["global_step"],
        "parameters": sum(weight.numel() for weight in weights),
        "hours": (seconds + time.monotonic() - begun) / 3600.0,
        "device": f"{where['cores']} cores, {where['cpu']}",
        "errors": finished.card.errors,
    }


def cells_of(result: dict[str, Any]) -> list[str]:
    """Return the last cells of a row: the cutoff, how long a training was, how, and where."""
    hours = result["hours"]
    return [
        f"{result['cutoff']:g}",
        result["recipe"],
        f"{result['epochs']}",
        f"{result['steps']}",
        f"{result['seed']}",
        "not kept" if hours is None else f"{hours:.1f}",
        result["device"],
    ]
