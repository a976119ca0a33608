"""Train the shipped propagator gmn-nbody and write models/gmn-nbody.

    python examples/results/gmn_nbody.py [--epochs 60] [--output models/gmn-nbody]

Three free particles, two sticks and a hinge; from frames 0, 4, ..., 48 to the frame 0.2
units of time later, by the mean squared error of positions and velocities, so that the
propagator can make one step after the other. (Steps of a whole unit, as in the published
task, are less accurate over the same time.)
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
HORIZON = 2
START_FRAMES = tuple(range(0, 50 - HORIZON + 1, 4))
DESCRIPTION = (
    "A learned dynamics (GMN) of charged particles, rigid sticks and hinges: one step is 0.2 units "
    "of time, 200 steps of the integrator that made its data."
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
        start_frames=START_FRAMES, horizon=HORIZON, n_epochs=arguments.epochs,
        velocity_weight=1.0, seed=SEED,
    )  # fmt: skip
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
    start, end = np.array(START_FRAMES), np.array(START_FRAMES) + HORIZON
    step = HORIZON * test.frame_time
    straight = test.positions[:, start] + step * test.velocities[:, start]
    unchanged = test.velocities[:, start] - test.velocities[:, end]
    return {
        "position_mse": found.position_mse,
        "velocity_mse": found.velocity_mse,
        "rod_error": found.rod_error,
        "position_mse_at_constant_velocity": float(
            np.square(straight - test.positions[:, end]).mean()
        ),
        "velocity_mse_at_constant_velocity": float(np.square(unchanged).mean()),
    }


def rollout_errors(propagator: Propagator, test: NBodyData) -> dict[str, float]:
    """Return the position MSE 1, 2 and 4 units of time after frame 0, over 50 samples."""
    per_unit = round(1.0 / propagator.card.timestep)
    squares, straight = [], []
    for sample in range(50):
        atoms = test.atoms(sample, 0)
        expected, v = test.positions[sample, :41:HORIZON], atoms.get_velocities()
        found = [atoms.positions.copy() for _ in propagator.irun(atoms, 4 * per_unit)]
        times = propagator.card.timestep * np.arange(len(found))
        unforced = found[0] + times[:, np.newaxis, np.newaxis] * v
        squares.append(np.square(np.array(found) - expected).mean((1, 2)))
        straight.append(np.square(unforced - expected).mean((1, 2)))
    errors = {}
    for unit in (1, 2, 4):
        errors[f"position_mse_at_time_{unit}"] = float(np.mean(squares, axis=0)[unit * per_unit])
        errors[f"position_mse_at_time_{unit}_at_constant_velocity"] = float(
            np.mean(straight, axis=0)[unit * per_unit]
        )
    return errors


if __name__ == "__main__":
    main()
