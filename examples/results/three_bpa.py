"""Train a network on 3BPA at 300 K as its papers do; write three_bpa.md and three_bpa.json.

    python examples/results/three_bpa.py nequip-l3 [--epochs 600] [--seed 1]

Of the 500 frames 450 are trained on and 50 choose the best epoch; the 1669 test frames at 300 K
judge it. Everything else is as in md17.py.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from published_training import NETWORKS, add_options, cells_of, length_of, record, training_file

HERE = Path(__file__).parent
TABLE = HERE / "three_bpa.md"
DATA = Path("../shared/data/3bpa")
TRAIN, TEST = "train_300K.xyz", "test_300K.xyz"

BATCH_SIZE = 5
N_ISOLATED = 4  # atoms, the first frames of the file
N_TRAIN, N_FRAMES = 450, 500


def main() -> None:
    """Train what is not done yet and rewrite the table."""
    arguments = parse()
    name = f"3bpa-{arguments.network}-{length_of(arguments)}"
    folder = arguments.data.resolve()
    begin, end = N_ISOLATED + N_TRAIN, N_ISOLATED + N_FRAMES
    data = f"""\
path = "{folder / TRAIN}"
train_rows = "{N_ISOLATED}:{begin}"
validation_rows = "{begin}:{end}"
test_path = "{folder / TEST}\""""
    text = training_file(name, arguments, data, BATCH_SIZE)
    record(name, arguments, text, TABLE, page)


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_options(parser, Path("runs/three_bpa"), DATA)
    arguments = parser.parse_args()
    if not (arguments.data / TRAIN).is_file():
        parser.error(f"there is no file {arguments.data / TRAIN}; --data names the folder")
    return arguments


def page(results: list[dict[str, Any]]) -> str:
    """Return the results page."""
    lines = [PAGE]
    for each in sorted(results, key=lambda each: (each["recipe"], each["epochs"])):
        errors = each["errors"]
        cells = [
            f"{NETWORKS[each['network']].title} ({each['parameters']:,})",
            f"{errors['energy_rmse_mev']:.2f}",
            f"{errors['forces_rmse_mev_per_a']:.2f}",
            f"{errors['forces_mae_mev_per_a']:.2f}",
            *cells_of(each),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


PAGE = """\
# 3BPA at 300 K

    python examples/results/three_bpa.py NETWORK --epochs N --recipe R

450 frames to train on, 50 to choose the best epoch, 1669 others to judge it; batches of 5, cosine
schedule, float32; the recipes are those of [md17.md](md17.md). Published: NequIP, l = 3, 64
channels and 5 layers, 500 frames: energy RMSE 3.3 meV, forces RMSE 10.8 meV/Å (Batatia et al.,
arXiv:2206.07697).

| network (parameters) | energy RMSE (meV) | forces RMSE (meV/Å) | forces MAE (meV/Å) | \
cutoff (Å) | recipe | epochs | steps | seed | hours | device |
|---|---|---|---|---|---|---|---|---|---|---|"""


if __name__ == "__main__":
    main()
