"""Train a network on a molecule of MD17 as its paper does; write md17.md and md17.json.

    python examples/results/md17.py ethanol nequip-l3 --labels old [--epochs 600] [--seed 1]

Frames 0 to 949 are trained on, 950 to 999 choose the best epoch, and 1000 to 1999 judge it.
``old`` labels are those of the original MD17, ``new`` those of rMD17 for the same frames. A
run that was stopped is resumed, a finished one is not repeated; the table is rewritten after
every run, and holds all results that were ever found. Learning rate, schedule, loss and weights
were chosen on ethanol's validation frames and are the same for every molecule.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from published_training import NETWORKS, add_options, cells_of, length_of, record, training_file

HERE = Path(__file__).parent
TABLE = HERE / "md17.md"
DATA = Path("../shared/data/rmd17/npz_data")

BATCH_SIZE = 5
N_TRAIN = 950
LABELS = {
    "new": "",
    "old": 'energy_key = "old_energies"\nforces_key = "old_forces"\n'
    'energy_unit = "kcal/mol"\nlength_unit = "Angstrom"\n',
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
    of_this = {"molecule": arguments.molecule, "labels": arguments.labels}
    name = f"{arguments.molecule}-{arguments.labels}-{arguments.network}-{length_of(arguments)}"
    data = f"""\
path = "{data_file(arguments)}"
{LABELS[arguments.labels]}train_rows = "0:{N_TRAIN}"
validation_rows = "{N_TRAIN}:1000"
test_rows = "1000:2000\""""
    text = training_file(name, arguments, data, BATCH_SIZE)
    record(name, arguments, text, TABLE, page, **of_this)


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("molecule", help="as the files of rMD17 are called; salicylic-acid")
    add_options(parser, Path("runs/md17"), DATA)
    parser.add_argument("--labels", choices=sorted(LABELS), default="new")
    arguments = parser.parse_args()
    if not data_file(arguments).is_file():
        parser.error(f"there is no file {data_file(arguments)}; --data names the folder")
    return arguments


def data_file(arguments: argparse.Namespace) -> Path:
    """Return rMD17's file of the molecule."""
    molecule = FILES.get(arguments.molecule, arguments.molecule)
    path: Path = arguments.data / f"rmd17_{molecule}.npz"
    return path.resolve()


def page(results: list[dict[str, Any]]) -> str:
    """Return the results page."""
    lines = [PAGE]
    order = ("labels", "molecule", "recipe", "cutoff", "epochs", "network")
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
            *cells_of(each),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


PAGE = """\
# Molecules of MD17

    python examples/results/md17.py MOLECULE NETWORK --labels {old,new} --epochs N --recipe R

950 frames to train on, 50 to choose the best epoch, 1000 others to judge it; batches of 5, cosine
schedule, float32. Recipe `soap` is the optimiser SOAP with a loss of absolute errors, `adamw` AdamW
(AMSGrad) with one of squares; [optimizers.md](optimizers.md) compares them. Rows of ethanol say why
the cutoff is 5 Å, [generalisation.md](generalisation.md) what else helps. 'Published' is NequIP
with l = 3, 64 channels and 5 layers (Batzner et al., Nature Communications 13, 2453, 2022), whose
trainings took many more steps: a row of few epochs says what that time is good for, not what the
network can. Hours are wall time, beside other work on the machine.

| labels | molecule | network (parameters) | energy MAE (meV) | forces MAE (meV/Å) | published | \
published | cutoff (Å) | recipe | epochs | steps | seed | hours | device |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
