"""Train a learned dynamics on recorded trajectories.

The task of Huang et al., ICLR (2022), arXiv:2203.06442: from a frame predict the frame
``horizon`` later, by the mean squared error of all coordinates.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eqcalc.arguments import require_at_least, require_positive
from eqcalc.dynamics.learned import complete_edges
from eqcalc.dynamics.nbody_data import NBodyData, NBodySystem
from eqcalc.errors import ConfigError, NonFiniteError

__all__ = ["DynamicsErrors", "DynamicsOptions", "Epoch", "evaluate_dynamics", "train_dynamics"]


@dataclass(frozen=True)
class DynamicsOptions:
    """Options of a training run; the defaults are the paper's.

    start_frames : frames to predict from; each sample gives one pair for each
    horizon : frames ahead
    velocity_weight : of the velocities' MSE beside that of the positions; a model
        that shall make more than one step needs it
    gradient_clip : largest norm of the gradient of a batch, None for any; one close
        encounter in the data can otherwise undo all that was learned
    flip_charges : exchange the sign of all charges of a sample at random, which is a
        symmetry of the data; of no effect on a dynamics that knows it
    validate_every : epochs

    Raises
    ------
    ConfigError : a value is out of range.
    """

    start_frames: Sequence[int] = (30,)
    horizon: int = 10
    n_epochs: int = 600
    batch_size: int = 200
    learning_rate: float = 5e-4
    velocity_weight: float = 0.0
    gradient_clip: float | None = None
    flip_charges: bool = True
    validate_every: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        require_at_least(
            1,
            horizon=self.horizon,
            n_epochs=self.n_epochs,
            batch_size=self.batch_size,
            validate_every=self.validate_every,
        )
        require_positive(learning_rate=self.learning_rate)
        if self.gradient_clip is not None:
            require_positive(gradient_clip=self.gradient_clip)
        if not 0.0 <= self.velocity_weight < float("inf"):
            raise ConfigError(
                f"velocity_weight must be 0 or positive, found {self.velocity_weight}."
            )


class Epoch(NamedTuple):
    """What a progress display is told after a validation."""

    epoch: int
    train_loss: float
    validation_loss: float


class DynamicsErrors(NamedTuple):
    """Errors over a data set.

    position_mse, velocity_mse : mean over samples, particles and the three directions
    rod_error : largest change of any rod's length in one step
    """

    position_mse: float
    velocity_mse: float
    rod_error: float


class _Pairs(NamedTuple):
    charges: Tensor  # (n_pairs, n)
    x: Tensor  # (n_pairs, n, 3)
    v: Tensor
    later_x: Tensor
    later_v: Tensor


def train_dynamics(
    dynamics: nn.Module,
    train: NBodyData,
    validation: NBodyData,
    options: DynamicsOptions,
    progress: Callable[[Epoch], None] | None = None,
) -> Epoch:
    """Train in place; the weights left are those of the lowest validation loss.

    Returns
    -------
    the epoch that they are from

    Raises
    ------
    ConfigError : the data do not reach from the start frames over the horizon.
    NonFiniteError : the loss became NaN or infinite.
    """
    dtype = next(dynamics.parameters()).dtype
    pairs, held_out = (_pairs(data, options, dtype) for data in (train, validation))
    optimizer = torch.optim.Adam(dynamics.parameters(), lr=options.learning_rate)
    generator = torch.Generator().manual_seed(options.seed)
    best, best_state = Epoch(0, float("inf"), float("inf")), dynamics.state_dict()
    for epoch in range(1, options.n_epochs + 1):
        losses = []
        for rows in torch.randperm(len(pairs.x), generator=generator).split(options.batch_size):
            batch = _Pairs(*(values[rows] for values in pairs))
            if options.flip_charges:
                signs = torch.randint(0, 2, (len(rows), 1), generator=generator) * 2 - 1
                batch = batch._replace(charges=batch.charges * signs)
            loss = _loss(dynamics, batch, train.system, options.velocity_weight)
            if not torch.isfinite(loss):
                raise NonFiniteError(
                    f"the loss became {loss.item()} in epoch {epoch}; try a learning rate below "
                    f"{options.learning_rate}."
                )
            optimizer.zero_grad()
            loss.backward()
            if options.gradient_clip is not None:
                nn.utils.clip_grad_norm_(dynamics.parameters(), options.gradient_clip)
            optimizer.step()
            losses.append(loss.item())
        if epoch % options.validate_every == 0 or epoch == options.n_epochs:
            x_mse, v_mse = _errors(dynamics, held_out, validation.system, options.batch_size)[:2]
            found = x_mse + options.velocity_weight * v_mse
            now = Epoch(epoch, float(np.mean(losses)), found)
            if found < best.validation_loss:
                best, best_state = now, copy.deepcopy(dynamics.state_dict())
            if progress is not None:
                progress(now)
    dynamics.load_state_dict(best_state)
    return best


def evaluate_dynamics(
    dynamics: nn.Module, data: NBodyData, options: DynamicsOptions
) -> DynamicsErrors:
    """Return the errors of one step.

    Raises
    ------
    ConfigError : the data do not reach from the start frames over the horizon.
    """
    dtype = next(dynamics.parameters()).dtype
    return _errors(dynamics, _pairs(data, options, dtype), data.system, options.batch_size)


def _pairs(data: NBodyData, options: DynamicsOptions, dtype: torch.dtype) -> _Pairs:
    start = np.array(options.start_frames, dtype=np.int64)
    if len(start) == 0 or start.min() < 0 or start.max() + options.horizon >= data.n_frames:
        raise ConfigError(
            f"start_frames {list(options.start_frames)} with horizon {options.horizon} do not fit "
            f"data of {data.n_frames} frames (0..{data.n_frames - 1})."
        )

    def pick(values: np.ndarray, frames: np.ndarray) -> Tensor:
        picked = values[:, frames].reshape(-1, *values.shape[2:])
        return torch.from_numpy(picked).to(dtype)

    later = start + options.horizon
    charges = torch.from_numpy(data.charges).to(dtype).repeat_interleave(len(start), dim=0)
    x, v = data.positions, data.velocities
    return _Pairs(charges, pick(x, start), pick(v, start), pick(x, later), pick(v, later))


def _loss(
    dynamics: nn.Module, batch: _Pairs, system: NBodySystem, velocity_weight: float
) -> Tensor:
    x, v = _step(dynamics, batch, system)
    loss = (x - batch.later_x).square().mean()
    if velocity_weight > 0:
        loss = loss + velocity_weight * (v - batch.later_v).square().mean()
    return loss


@torch.no_grad()
def _errors(
    dynamics: nn.Module, pairs: _Pairs, system: NBodySystem, batch_size: int
) -> DynamicsErrors:
    n_pairs = len(pairs.x)
    position, velocity, rod_error = 0.0, 0.0, 0.0
    for rows in torch.arange(n_pairs).split(batch_size):
        batch = _Pairs(*(values[rows] for values in pairs))
        x, v = _step(dynamics, batch, system)
        weight = len(rows) / n_pairs
        position += weight * float((x - batch.later_x).double().square().mean())
        velocity += weight * float((v - batch.later_v).double().square().mean())
        if system.rods.shape[1] > 0:
            change = _rod_lengths(x, system) - _rod_lengths(batch.x, system)
            rod_error = max(rod_error, float(change.abs().max()))
    return DynamicsErrors(position, velocity, rod_error)


def _step(dynamics: nn.Module, batch: _Pairs, system: NBodySystem) -> tuple[Tensor, Tensor]:
    """Return positions and velocities (n_rows, n, 3) after one step."""
    n_rows, n = len(batch.x), system.n_particles
    offsets = n * torch.arange(n_rows).unsqueeze(1)
    edges = complete_edges(n, torch.device("cpu"))
    edge_index = (edges.unsqueeze(1) + offsets).flatten(1)  # (2, n_rows · n_edges)
    objects = {}
    for kind, index in system.object_index.items():
        local = torch.from_numpy(np.ascontiguousarray(index)).unsqueeze(-2)
        objects[kind] = (local + offsets).flatten(-2)
    x, v = dynamics(
        batch.charges.flatten(), batch.x.flatten(0, 1), batch.v.flatten(0, 1), edge_index, objects
    )
    return x.view(n_rows, n, 3), v.view(n_rows, n, 3)


def _rod_lengths(x: Tensor, system: NBodySystem) -> Tensor:
    first, second = torch.from_numpy(system.rods)
    return torch.linalg.vector_norm(x[:, first].double() - x[:, second].double(), dim=-1)
