"""Train the shipped propagator gmn-nbody and write models/gmn-nbody.

    python examples/results/gmn_nbody.py [--epochs 10] [--output models/gmn-nbody]

Three free particles, two sticks and a hinge; from frames 0, 4, ..., 48 to the frame 0.2
units of time later, by the mean squared error of positions and velocities, so that the
propagator can make one step after the other. One thread of a busy 2-core CPU takes about
five minutes.

The errors on the card are those of the exported file, run by Propagator in the file's own
precision, on samples of another seed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch

from eqcalc.dynamics import (
    DynamicsOptions,
    NBodyData,
    NBodySystem,
    Propagator,
    build_dynamics,
    export_propagator,
    simulate,
    train_dynamics,
)
from eqcalc.model_file import ModelCard

SYSTEM = NBodySystem(3, 2, 1)
N_TRAIN, N_VALIDATION, N_TEST = 1000, 100, 100
SEED, TEST_SEED = 7, 8
HORIZON = 2  # frames, 0.1 of time each
TIMESTEP = 0.2
START_FRAMES = tuple(range(0, 50 - HORIZON + 1, 4))
RATES = {1e-3: 0.6, 3e-4: 0.2, 1e-4: 0.2}
"""Learning rate: share of the epochs."""
TIMES = (1, 2, 5)
"""Of a run from frame 0, where its error is measured."""
DESCRIPTION = (
    "A learned dynamics (GMN) of charged particles, rigid sticks and hinges: one step is 0.2 units "
    "of time, 200 steps of the integrator that made its data. A demonstration, good for about 1 "
    "unit of time: there it halves the mean squared error of straight motion; after 2 units a "
    "particle is typically 0.5 away from where it belongs, and after 5 the run is no forecast."
)


def main() -> None:
    """Simulate, train, export and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--output", type=Path, default=Path("models/gmn-nbody"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    dynamics = build_dynamics("gmn", {"num_layers": 4, "layer_time": TIMESTEP / 4})
    n_epochs = train(dynamics, arguments.epochs)
    with tempfile.TemporaryDirectory() as folder:
        export(dynamics, Path(folder) / "model.pt", n_epochs, {})
        propagator = Propagator(Path(folder) / "model.pt", device="cpu")
        errors = errors_of(propagator, simulate(SYSTEM, N_TEST, seed=TEST_SEED))
    path = arguments.output / "model.pt"
    card = export(dynamics, path, n_epochs, errors)
    (arguments.output / "card.md").write_text(card.to_markdown())
    (arguments.output / "metrics.json").write_text(json.dumps(errors, indent=1) + "\n")
    print(card.to_markdown())


def train(dynamics: torch.nn.Module, n_epochs: int) -> int:
    """Train in place with falling learning rates; return the number of epochs."""
    data = simulate(SYSTEM, N_TRAIN + N_VALIDATION, seed=SEED)
    samples, validation = data.samples(slice(N_TRAIN)), data.samples(slice(N_TRAIN, None))
    done = 0
    for rate, share in RATES.items():
        options = DynamicsOptions(
            start_frames=START_FRAMES,
            horizon=HORIZON,
            n_epochs=max(1, round(share * n_epochs)),
            learning_rate=rate,
            velocity_weight=1.0,
            gradient_clip=1.0,
            validate_every=1,
            seed=SEED + done,
        )
        print(f"learning rate {rate:g}", flush=True)
        train_dynamics(dynamics, samples, validation, options, lambda now: print(now, flush=True))
        done += options.n_epochs
    return done


def export(
    dynamics: torch.nn.Module, path: Path, n_epochs: int, errors: dict[str, float]
) -> ModelCard:
    """Write the file, float32 as trained."""
    return export_propagator(
        dynamics,
        path,
        name="gmn-nbody",
        timestep=TIMESTEP,
        description=DESCRIPTION,
        licence="MIT",
        errors=errors,
        overwrite=True,
        training_data={
            "made by": "python examples/results/gmn_nbody.py",
            "system": "3 isolated particles, 2 sticks, 1 hinge (eqcalc.dynamics.simulate)",
            "samples": N_TRAIN,
            "start frames": list(START_FRAMES),
            "seed": SEED,
            "epochs": n_epochs,
        },
    )


def errors_of(propagator: Propagator, data: NBodyData) -> dict[str, float]:
    """Return the errors of one step, and of runs from frame 0; of straight motion beside them.

    MSE: mean over samples, particles and the three directions. A few close encounters make most
    of it, so a run's median distance of a particle from where it belongs is given too.
    """
    return one_step_errors(propagator, data) | run_errors(propagator, data)


def one_step_errors(propagator: Propagator, data: NBodyData) -> dict[str, float]:
    """Return the errors of a step from each of the start frames."""
    start, end = np.array(START_FRAMES), np.array(START_FRAMES) + HORIZON
    x, v, rod_error = data.positions[:, end].copy(), data.velocities[:, end].copy(), 0.0
    i, j = data.system.rods
    for sample in range(len(data)):
        for row, frame in enumerate(START_FRAMES):
            atoms = data.atoms(sample, frame)
            before = atoms.positions[i] - atoms.positions[j]
            propagator.run(atoms, 1)
            x[sample, row], v[sample, row] = atoms.positions, atoms.get_velocities()
            after = atoms.positions[i] - atoms.positions[j]
            change = np.linalg.norm(after, axis=1) - np.linalg.norm(before, axis=1)
            rod_error = max(rod_error, float(np.abs(change).max()))
    step = HORIZON * data.frame_time
    straight = data.positions[:, start] + step * data.velocities[:, start]
    return {
        "position_mse": _mse(x, data.positions[:, end]),
        "position_mse_at_constant_velocity": _mse(straight, data.positions[:, end]),
        "velocity_mse": _mse(v, data.velocities[:, end]),
        "velocity_mse_at_constant_velocity": _mse(
            data.velocities[:, start], data.velocities[:, end]
        ),
        "rod_error": rod_error,
    }


def run_errors(propagator: Propagator, data: NBodyData) -> dict[str, float]:
    """Return the errors of runs from frame 0 after some times."""
    frames = [round(time / data.frame_time) for time in TIMES]
    expected = data.positions[:, frames]
    found = np.empty_like(expected)
    for sample in range(len(data)):
        atoms = data.atoms(sample, 0)
        run = [atoms.positions.copy() for _ in propagator.irun(atoms, frames[-1] // HORIZON)]
        found[sample] = [run[frame // HORIZON] for frame in frames]
    elapsed = np.array(TIMES)[:, np.newaxis, np.newaxis]
    straight = data.positions[:, :1] + elapsed * data.velocities[:, :1]
    errors = {}
    for k, time in enumerate(TIMES):
        for values, ending in ((found, ""), (straight, "_at_constant_velocity")):
            apart = np.linalg.norm(values[:, k] - expected[:, k], axis=-1)
            errors[f"position_mse_at_time_{time}{ending}"] = _mse(values[:, k], expected[:, k])
            errors[f"median_distance_at_time_{time}{ending}"] = float(np.median(apart))
    return errors


def _mse(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.square(found - expected).mean())


if __name__ == "__main__":
    main()
