"""Train EGNN and GMN on constrained n-body systems; write a table beside the published one.

    python examples/results/nbody.py [--epochs 600] [--data FOLDER]

Published figures: Huang et al., ICLR (2022), arXiv:2203.06442 (500 training
samples). One thread is used; on two shared CPU cores the whole takes an hour or two.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from eqcalc.dynamics.learned import build_dynamics
from eqcalc.dynamics.nbody import simulate
from eqcalc.dynamics.nbody_data import NBodyData, NBodySystem, read_nbody, write_nbody
from eqcalc.dynamics.training import (
    DynamicsErrors,
    DynamicsOptions,
    Epoch,
    evaluate_dynamics,
    train_dynamics,
)

PUBLISHED = {
    (1, 2, 0): {"egnn": 2.81, "gmn": 1.84},
    (2, 0, 1): {"egnn": 2.27, "gmn": 2.02},
    (3, 2, 1): {"egnn": 4.67, "gmn": 2.48},
}
"""Position MSE times 100 by (isolated, sticks, hinges)."""

N_TRAIN, N_VALIDATION, N_TEST = 500, 2000, 2000
SEED = 0
TABLE = Path(__file__).with_suffix(".md")


@dataclass
class Row:
    """One trained network."""

    counts: tuple[int, int, int]
    network: str
    errors: DynamicsErrors
    best: Epoch
    minutes: float


def main() -> None:
    """Make the data, train, and rewrite the table after every network."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=600)
    parser.add_argument("--data", type=Path, help="folder to keep the trajectories in")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[Row] = []
    for counts in PUBLISHED:
        data = trajectories(NBodySystem(*counts), arguments.data)
        for network in ("egnn", "gmn"):
            rows.append(train_one(counts, network, data, arguments.epochs))
            TABLE.write_text(table(rows, arguments.epochs))
    print(TABLE.read_text())


def trajectories(system: NBodySystem, folder: Path | None) -> NBodyData:
    """Simulate up to frame 40, or read what an earlier run kept."""
    counts = (system.n_isolated, system.n_sticks, system.n_hinges)
    kept = folder / "nbody-{}-{}-{}.npz".format(*counts) if folder is not None else None
    if kept is not None and kept.exists():
        return read_nbody(kept)
    print(f"simulating {counts}", flush=True)
    data = simulate(system, N_TRAIN + N_VALIDATION + N_TEST, n_steps=4000, seed=SEED)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_nbody(kept, data)
    return data


def train_one(counts: tuple[int, int, int], network: str, data: NBodyData, n_epochs: int) -> Row:
    """Train with the paper's settings and test the epoch of the best validation."""
    train = data.samples(slice(0, N_TRAIN))
    validation = data.samples(slice(N_TRAIN, N_TRAIN + N_VALIDATION))
    test = data.samples(slice(N_TRAIN + N_VALIDATION, None))
    torch.manual_seed(SEED)
    dynamics = build_dynamics(network)
    options = DynamicsOptions(n_epochs=n_epochs, seed=SEED)

    def show(now: Epoch) -> None:
        if now.epoch % 50 == 0:
            print(
                f"{counts} {network} epoch {now.epoch}: train {now.train_loss:.5f} "
                f"validation {now.validation_loss:.5f}",
                flush=True,
            )

    start = time.perf_counter()
    best = train_dynamics(dynamics, train, validation, options, show)
    minutes = (time.perf_counter() - start) / 60
    return Row(counts, network, evaluate_dynamics(dynamics, test, options), best, minutes)


def table(rows: list[Row], n_epochs: int) -> str:
    """Return the page."""
    lines = [
        "# EGNN and GMN on constrained n-body systems",
        "",
        f"Frame 30 to 40, {N_TRAIN} training, {N_VALIDATION} validation and {N_TEST} test samples, "
        f"{n_epochs} epochs, seed {SEED} (data and weights), float32, one thread of a 2-core CPU "
        "that others used too. Position MSE × 100 on the test samples, at the epoch of the lowest "
        "validation error. 'Published' is Huang et al. (2022), arXiv:2203.06442, on their own draw "
        "of the data. 'Rod error' is the largest change of any rod's length in one step.",
        "",
        "| isolated, sticks, hinges | network | MSE × 100 | published | rod error | best epoch "
        "| minutes |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.counts} | {row.network.upper()} | {100 * row.errors.position_mse:.2f} "
            f"| {PUBLISHED[row.counts][row.network]:.2f} | {row.errors.rod_error:.1e} "
            f"| {row.best.epoch} | {row.minutes:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
