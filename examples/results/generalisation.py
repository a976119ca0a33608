"""What lets NequIP generalise from few frames, option by option; write generalisation.md, .json.

    python examples/results/generalisation.py [--only NAME ...] [--output runs/generalisation]

Ethanol of rMD17, 200 frames to train on, the recipe of md17.py. Errors are of 100 frames that
md17.py trains or validates on: its test frames play no part in any choice. A run that was stopped
is resumed, a finished one is not repeated; ``--only`` makes some of them, so that several processes
can share the work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from published_training import NETWORKS, RECIPES, ZBL_CUTOFF, rows_of, train_trial

from eqcalc.bench import machine
from eqcalc.files import write_whole
from eqcalc.training.training_folder import TrainingFolder

HERE = Path(__file__).parent
TABLE, RESULTS = HERE / "generalisation.md", HERE / "generalisation.json"
DATA = Path("../shared/data/rmd17/npz_data/rmd17_ethanol.npz")
NETWORK = NETWORKS["nequip-l2-small"]
EPOCHS = 200
TRAIN_ROWS, VALIDATION_ROWS = "0:200", "900:1000"

TRIALS: dict[str, dict[str, Any]] = {
    "base": {},
    "seed 2": {"seed": 2},
    "seed 3": {"seed": 3},
    "cutoff 4 Å": {"cut_off": 4.0},
    "cutoff 6 Å": {"cut_off": 6.0},
    "4 Bessel functions": {"num_bessels": 4},
    "6 Bessel functions": {"num_bessels": 6},
    "12 Bessel functions": {"num_bessels": 12},
    "Bessel functions trained": {"bessel_trainable": True},
    "envelope of p = 3": {"polynomial_cutoff_p": 3},
    "envelope of p = 12": {"polynomial_cutoff_p": 12},
    "one hidden radial layer of 64": {"radial_mlp_depth": 1},
    "two hidden radial layers of 64": {"radial_mlp_depth": 2},
    "three hidden radial layers of 16": {"radial_mlp_width": 16},
    "two hidden radial layers of 128": {"radial_mlp_depth": 2, "radial_mlp_width": 128},
    "weight decay 0.001": {"weight_decay": 0.001},
    "weight decay 0.01": {"weight_decay": 0.01},
    "weight decay 0.1": {"weight_decay": 0.1},
    "l = 1": {"l_max": 1},
    "l = 3": {"l_max": 3},
    "l = 4": {"l_max": 4},
    "natural parities alone": {"parity": False},
    "3 layers": {"num_layers": 3},
    "5 layers": {"num_layers": 5},
    "6 layers": {"num_layers": 6},
    "16 channels, 6 layers": {"num_features": 16, "num_layers": 6},
    "16 channels": {"num_features": 16},
    "64 channels": {"num_features": 64},
    "energies weigh 0.02": {"energy_weight": 0.02},
    "energies weigh 0.1": {"energy_weight": 0.1},
    "energies weigh 5": {"energy_weight": 5.0},
    "weights averaged by 0.999": {"ema_decay": 0.999},
    "batches of 2": {"batch_size": 2},
    "rate 0.01": {"learning_rate": 0.01},
    "ZBL from 1.3 radii": {"zbl_cutoff": None, "zbl_radii": 1.3},
}
"""Name in the table -> what differs from the base."""


def main() -> None:
    """Make the runs that are not done yet; write the page of those that are."""
    arguments = parse()
    torch.set_num_threads(1)
    for name in arguments.only:
        train_trial(folder_of(name, arguments), content(name, arguments))
    kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found = kept.get("forces_mae_mev_per_a", {})
    for name in TRIALS:
        rows = rows_of(folder_of(name, arguments))
        if len(rows) == EPOCHS:
            errors = [float(row["validation_forces_mae_mev_per_a"]) for row in rows]
            found[name] = min(errors)
    where = machine(torch.device("cpu"))
    result = {
        "device": f"1 of {where['cores']} cores, {where['cpu']}",
        "forces_mae_mev_per_a": {name: found[name] for name in TRIALS if name in found},
    }
    write_whole(RESULTS, (json.dumps(result, indent=1) + "\n").encode())
    write_whole(TABLE, page(result).encode())
    print(f"written: {TABLE}")


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", default=list(TRIALS), metavar="NAME")
    parser.add_argument("--output", type=Path, default=Path("runs/generalisation"))
    parser.add_argument("--data", type=Path, default=DATA, help="rMD17's file of ethanol")
    arguments = parser.parse_args()
    for name in arguments.only:
        if name not in TRIALS:
            parser.error(f"there is no trial '{name}'; there are {', '.join(TRIALS)}")
    if not arguments.data.is_file():
        parser.error(f"there is no file {arguments.data}; --data names it")
    return arguments


def folder_of(name: str, arguments: argparse.Namespace) -> TrainingFolder:
    """Return where a trial's run lies."""
    plain = name.lower().replace("å", "a").replace("=", "").split()
    return TrainingFolder(arguments.output / "-".join(plain))


def content(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the training file of a trial."""
    file: dict[str, Any] = {
        "name": "ethanol",
        "seed": 1,
        "data": {
            "path": str(arguments.data.resolve()),
            "train_rows": TRAIN_ROWS,
            "validation_rows": VALIDATION_ROWS,
        },
        "architecture": {**NETWORK.options, "cut_off": 5.0},
        "training": {
            "batch_size": 5,
            "max_epochs": EPOCHS,
            **RECIPES["soap"].options,
            "learning_rate": RECIPES["soap"].rate * NETWORK.learning_rate,
            "schedule": "cosine",
            "ema_decay": NETWORK.ema_decay,
            "zbl_cutoff": ZBL_CUTOFF,
            "compile": True,
        },
    }
    for key, value in TRIALS[name].items():
        if key == "seed":
            file["seed"] = value
        elif value is None:
            del file["training"][key]
        else:
            trained = key in file["training"] or key in ("weight_decay", "zbl_radii")
            file["training" if trained else "architecture"][key] = value
    return file


def page(result: dict[str, Any]) -> str:
    """Return the results page."""
    lines = [PAGE.format(**result)]
    errors = result["forces_mae_mev_per_a"]
    base = errors.get("base")
    for name, error in errors.items():
        beside = "" if base is None or name == "base" else f"{100 * (error / base - 1):+.0f} %"
        lines.append(f"| {name} | {error:.1f} | {beside} |")
    return "\n".join([*lines, ""])


PAGE = """\
# What lets NequIP generalise from few frames

    python examples/results/generalisation.py

Ethanol of rMD17: 200 frames to train on, mean absolute error of the forces of 100 others at the
best of 200 epochs. Base: l = 2, 32 channels, 4 layers, 5 Å, 8 Bessel functions, p = 6, three hidden
radial layers of 64; recipe `soap` of [md17.md](md17.md) with its rate, batches of 5. Each row
differs from it in what it says; the other seeds show how much of a difference is chance, and what
is no larger than between them shows nothing. Trials that are not here have not been made. On
{device}.

| trial | forces MAE (meV/Å) | beside the base |
|---|---|---|"""


if __name__ == "__main__":
    main()
