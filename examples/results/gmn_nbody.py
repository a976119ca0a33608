"""Train the shipped propagator gmn-nbody and write models/gmn-nbody.

    python examples/results/gmn_nbody.py [--epochs 60] [--output models/gmn-nbody]

Three free particles, two sticks and a hinge; from frames 0, 5, ..., 40 to the frame one
unit of time later, by the mean squared error of positions and velocities, so that the
propagator can make one step after the other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from eqcalc.dynamics import (
    DynamicsOptions,
    NBodyData,
    NBodySystem,
    Propagator,
    build_dynamics,
    evaluate_dynamics,
    export_propagator,
    simulate,
    train_dynamics,
)

SYSTEM = NBodySystem(3, 2, 1)
N_TRAIN, N_VALIDATION, N_TEST = 500, 100, 200
SEED = 7
START_FRAMES = tuple(range(0, 41, 5))
DESCRIPTION = (
    "A learned dynamics (GMN) of charged particles, rigid sticks and hinges: one step is one unit "
    "of time, 1000 steps of the integrator that made its data."
)


def main() -> None:
    """Simulate, train, export and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--output", type=Path, default=Path("models/gmn-nbody"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = simulate(SYSTEM, N_TRAIN + N_VALIDATION + N_TEST, seed=SEED)
    train = data.samples(slice(0, N_TRAIN))
    validation = data.samples(slice(N_TRAIN, N_TRAIN + N_VALIDATION))
    test = data.samples(slice(N_TRAIN + N_VALIDATION, None))
    torch.manual_seed(SEED)
    dynamics = build_dynamics("gmn")
    options = DynamicsOptions(
        start_frames=START_FRAMES, n_epochs=arguments.epochs, velocity_weight=1.0, seed=SEED
    )
    best = train_dynamics(
        dynamics, train, validation, options, lambda now: print(now, flush=True)
    )
    errors = errors_of(dynamics.double(), test, options)
    path = arguments.output / "model.pt"
    card = export_propagator(
        dynamics, path, timestep=options.horizon * data.frame_time, description=DESCRIPTION,
        licence="MIT", errors=errors, overwrite=True,
        training_data={
            "made by": "eqcalc.dynamics.simulate",
            "system": "3 isolated particles, 2 sticks, 1 hinge",
            "samples": N_TRAIN, "start frames": list(START_FRAMES), "seed": SEED,
            "epochs": best.epoch,
        },
    )  # fmt: skip
    errors |= rollout_errors(Propagator(path, device="cpu"), test)
    (arguments.output / "card.md").write_text(card.to_markdown())
    (arguments.output / "metrics.json").write_text(json.dumps(errors, indent=1) + "\n")
    print(json.dumps(errors, indent=1))


def errors_of(
    dynamics: torch.nn.Module, test: NBodyData, options: DynamicsOptions
) -> dict[str, float]:
    """Return the errors of one step on the test samples, and of motion at constant velocity."""
    found = evaluate_dynamics(dynamics, test, options)
    start, end = np.array(START_FRAMES), np.array(START_FRAMES) + options.horizon
    straight = test.positions[:, start] + test.velocities[:, start]  # one unit of time
    return {
        "position_mse": found.position_mse,
        "velocity_mse": found.velocity_mse,
        "rod_error": found.rod_error,
        "position_mse_at_constant_velocity": float(
            np.square(straight - test.positions[:, end]).mean()
        ),
    }


def rollout_errors(propagator: Propagator, test: NBodyData) -> dict[str, float]:
    """Return the position MSE after 1, 2, 3 and 4 steps from frame 0, over 50 samples."""
    squares = []
    for sample in range(50):
        atoms = test.atoms(sample, 0)
        found = [atoms.positions.copy() for _ in propagator.irun(atoms, 4)]
        squares.append(np.square(np.array(found) - test.positions[sample, :50:10]).mean((1, 2)))
    means = np.mean(squares, axis=0)
    return {f"position_mse_after_{k}_steps": float(means[k]) for k in range(1, 5)}


if __name__ == "__main__":
    main()
