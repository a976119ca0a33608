"""Train a network on a molecule of MD17 as its paper does; write md17.md and md17.json.

    python examples/results/md17.py ethanol nequip-l3 --labels old [--epochs 1500] [--seed 1]

Frames 0 to 949 are trained on, 950 to 999 choose the best epoch, and 1000 to 1999 judge it.
``old`` labels are those of the original MD17, ``new`` those of rMD17 for the same frames. A
run that was stopped is resumed, a finished one is not repeated; the table is rewritten after
every run, and holds all results that were ever found. Learning rate, schedule and weights were
chosen on ethanol's validation frames and are the same for every molecule.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from training_progress import Progress

from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.training.config import read_config
from eqcalc.training.finish import export_run, load_potential
from eqcalc.training.reports import Report
from eqcalc.training.run import train
from eqcalc.training.training_folder import TrainingFolder

HERE = Path(__file__).parent
TABLE, RESULTS = HERE / "md17.md", HERE / "md17.json"
DATA = Path("../shared/data/rmd17/npz_data")

BATCH_SIZE = 5
ZBL_CUTOFF = 0.8  # Å, below every distance of these molecules: nothing that is learnt changes
N_TRAIN = 950
LABELS = {
    "new": "",
    "old": 'energy_key = "old_energies"\nforces_key = "old_forces"\n'
    'energy_unit = "kcal/mol"\nlength_unit = "Angstrom"\n',
}


class Network(NamedTuple):
    """A network and how it is trained.

    learning_rate : that a cosine begins with; NequIP's weights are normalised
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
_SMALL = {**_NEQUIP, "num_layers": 4, "num_features": 32}
NETWORKS = {
    **{
        f"nequip-l{l}": Network(f"NequIP l={l}, 64×5", {**_NEQUIP, "l_max": l}, 1e-2, 0.99)
        for l in (1, 2, 3)
    },
    **{
        f"nequip-l{l}-small": Network(f"NequIP l={l}, 32×4", {**_SMALL, "l_max": l}, 1e-2, 0.99)
        for l in (1, 2, 3)
    },
    "painn": Network(
        "PaiNN 128×3",
        {"name": "painn", "embedding_dim": 128, "num_blocks": 3, "cut_off": 5.0},
        1e-3,
        0.999,
    ),
}
FILES = {"salicylic-acid": "salicylic"}

PUBLISHED = {
    "old": {
        "aspirin": (5.7, 8.0),
        "ethanol": (2.2, 3.1),
        "malonaldehyde": (3.3, 5.6),
        "naphthalene": (4.9, 1.7),
        "salicylic-acid": (4.6, 3.9),
        "toluene": (4.0, 2.0),
        "uracil": (4.5, 3.3),
    },
    "new": {
        "aspirin": (2.3, 8.2),
        "ethanol": (0.4, 2.8),
        "toluene": (0.3, 1.6),
        "uracil": (0.4, 3.1),
    },
}
"""NequIP of l = 3, MAE of energies (meV) and forces (meV/Å): Batzner et al., Nature
Communications 13, 2453 (2022), for the original labels with 1000 frames and for rMD17 with 950."""


def main() -> None:
    """Train what is not done yet and rewrite the table."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    length = f"{arguments.epochs}epochs-seed{arguments.seed}"
    name = f"{arguments.molecule}-{arguments.network}-{arguments.labels}-{length}"
    result = arguments.output / name / "result.json"
    if not result.exists():
        found = make(name, arguments)
        write_whole(result, (json.dumps(found, indent=1) + "\n").encode())
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    kept[name] = json.loads(result.read_text())
    write_whole(RESULTS, (json.dumps(kept, indent=1, sort_keys=True) + "\n").encode())
    write_whole(TABLE, page(list(kept.values())).encode())
    print(f"written: {TABLE}")


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecule", help="as the files of rMD17 are called; salicylic-acid")
    parser.add_argument("network", choices=sorted(NETWORKS))
    parser.add_argument("--labels", choices=sorted(LABELS), default="new")
    parser.add_argument("--epochs", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="do not compile loss and gradients")
    parser.add_argument("--output", type=Path, default=Path("runs/md17"))
    parser.add_argument("--data", type=Path, default=DATA, help="folder of rMD17's npz files")
    arguments = parser.parse_args()
    if not data_file(arguments).is_file():
        parser.error(f"there is no file {data_file(arguments)}; --data names the folder")
    return arguments


def data_file(arguments: argparse.Namespace) -> Path:
    """Return rMD17's file of the molecule."""
    molecule = FILES.get(arguments.molecule, arguments.molecule)
    path: Path = arguments.data / f"rmd17_{molecule}.npz"
    return path.resolve()


def make(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with it, and return the errors of the exported model."""
    folder = TrainingFolder(arguments.output / name / "run")
    source = arguments.output / name / "train.toml"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(training_file(name, arguments))
    resume = folder.last_checkpoint.exists()
    spent = arguments.output / name / "seconds.json"
    seconds = json.loads(spent.read_text()) if resume and spent.exists() else 0.0
    begun, progress = time.monotonic(), Progress(name)

    def note(report: Report) -> None:
        progress(report)
        if report.batch == 0:  # a run that is interrupted goes on with its time
            spent.write_text(json.dumps(seconds + time.monotonic() - begun))

    train(read_config(source), folder.path, resume=resume, progress=note)
    finished = export_run(folder, arguments.output / name / "model", overwrite=True)
    weights = load_potential(folder).architecture.parameters()
    where = machine(torch.device("cpu"))
    return {
        "molecule": arguments.molecule,
        "network": arguments.network,
        "labels": arguments.labels,
        "epochs": arguments.epochs,
        "steps": arguments.epochs * N_TRAIN // BATCH_SIZE,
        "seed": arguments.seed,
        "parameters": sum(weight.numel() for weight in weights),
        "hours": (seconds + time.monotonic() - begun) / 3600.0,
        "device": f"{arguments.threads} of {where['cores']} cores, {where['cpu']}",
        "errors": finished.card.errors,
    }


def training_file(name: str, arguments: argparse.Namespace) -> str:
    """Return the training file of a run, TOML."""
    network = NETWORKS[arguments.network]
    options = "".join(f"{key} = {json.dumps(value)}\n" for key, value in network.options.items())
    return f"""\
name = "{name}"
seed = {arguments.seed}

[data]
path = "{data_file(arguments)}"
{LABELS[arguments.labels]}train_rows = "0:{N_TRAIN}"
validation_rows = "{N_TRAIN}:1000"
test_rows = "1000:2000"

[architecture]
{options}
[training]
batch_size = {BATCH_SIZE}
max_epochs = {arguments.epochs}
learning_rate = {network.learning_rate}
energy_weight = 4.0
schedule = "cosine"
ema_decay = {network.ema_decay}
zbl_cutoff = {ZBL_CUTOFF}
compile = {json.dumps(not arguments.eager)}
"""


def page(results: list[dict[str, Any]]) -> str:
    """Return the results page."""
    lines = [PAGE]
    order = ("labels", "molecule", "epochs")
    for each in sorted(results, key=lambda each: tuple(each[key] for key in order)):
        published = PUBLISHED[each["labels"]].get(each["molecule"], ("", ""))
        errors = each["errors"]
        cells = [
            {"old": "MD17", "new": "rMD17"}[each["labels"]],
            each["molecule"],
            f"{NETWORKS[each['network']].title} ({each['parameters']:,})",
            f"{errors['energy_mae_mev']:.2f}",
            f"{errors['forces_mae_mev_per_a']:.2f}",
            *(str(value) for value in published),
            f"{each['epochs']}",
            f"{each['steps']}",
            f"{each['seed']}",
            "not kept" if each["hours"] is None else f"{each['hours']:.1f}",
            each["device"],
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


PAGE = """\
# Molecules of MD17

    python examples/results/md17.py MOLECULE NETWORK --labels {old,new} --epochs N --seed N

950 frames to train on, 50 to choose the best epoch, 1000 others to judge it; batches of 5, AdamW
with AMSGrad, cosine schedule, float32. 'Published' is NequIP with l = 3, 64 channels and 5 layers
(Batzner et al., Nature Communications 13, 2453, 2022), whose trainings took many more steps than
the short ones here: a row of few epochs says what that time is good for, not what the network can.

| labels | molecule | network (parameters) | energy MAE (meV) | forces MAE (meV/Å) | published | \
published | epochs | steps | seed | hours | device |
|---|---|---|---|---|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
