"""Charged particles, rigid sticks and hinges: the constrained n-body systems.

Source: Huang, Han, Rong, Xu, Sun, Huang, ICLR (2022), arXiv:2203.06442, after Kipf et
al., ICML (2018), arXiv:1802.04687. There are no units: masses are 1 and charges ±1.

    F_ij = q_i q_j (x_i - x_j)/r³, its length clipped at 100
    V(r) = q_i q_j / r, and below r_c = 0.1 the straight line q_i q_j (2 - r/r_c)/r_c

so that the clipped force still has an energy. Sticks (two particles) and hinges
(two rods with a common joint) keep their lengths; the force along a rod does no
work and is left out.

Integration is velocity Verlet with RATTLE (Andersen, J. Comput. Phys. 52, 24
(1983), doi:10.1016/0021-9991(83)90014-1): in every step the rods' multipliers
λ_k, μ_k solve

    |R_k + Σ_l G_kl λ_l d_l|² = L_k²          positions; d before, R after the step
    R_k · (u_k + Σ_l G_kl μ_l R_l) = 0        velocities; u_k of rod k

where G_kk = 2 and G_kl = 1 for two rods of one hinge.

Shapes: n_samples, n_frames, n = particles of a sample, n_rods. Inside the
integrator the sample is the last dimension, so that every operation is long.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eqcalc.arguments import require_at_least, require_positive
from eqcalc.dynamics.nbody_data import NBodyData, NBodySystem
from eqcalc.errors import ConfigError, NonFiniteError

__all__ = ["FORCE_CLIP", "simulate", "total_energy"]

Array = NDArray[np.float64]

FORCE_CLIP = 100.0
_SPEED = 0.5
_GROUP = 256  # samples at a time: the pairs of a few hundred fit the cache
_LENGTH_ERROR = 1e-13  # relative, of L²
_MOST_ITERATIONS = 30


def simulate(
    system: NBodySystem,
    n_samples: int,
    *,
    n_steps: int = 5000,
    save_every: int = 100,
    timestep: float = 0.001,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> NBodyData:
    """Draw initial conditions and integrate all samples.

    X ~ N(0, σ²), σ = (n/5)^(1/3) + 0.1; speeds 0.5 in random directions, then
    projected on what the rods allow; charges ±1. Samples do not depend on how many
    there are.

    Parameters
    ----------
    n_steps, save_every : frame k is the state after k · save_every steps
    progress : called as ``progress(done, total)`` in samples · steps

    Raises
    ------
    ConfigError : a count is below 1, n_steps is no multiple of save_every, or the timestep
        is not positive.
    NonFiniteError : a rod so short, or a timestep so long, that the lengths cannot be kept.
    """
    require_at_least(1, n_samples=n_samples, n_steps=n_steps, save_every=save_every)
    require_at_least(0, seed=seed)
    require_positive(timestep=timestep)
    if n_steps % save_every != 0:
        raise ConfigError(
            f"n_steps must be a multiple of save_every ({save_every}), found {n_steps}."
        )
    n_frames = n_steps // save_every + 1
    shape = (n_samples, n_frames, system.n_particles, 3)
    data = NBodyData(
        system=system,
        positions=np.empty(shape),
        velocities=np.empty(shape),
        charges=np.empty(shape[::2]),
        frame_time=timestep * save_every,
        seed=seed,
    )
    x, v, data.charges[:] = _initial(system, n_samples, seed)
    for start in range(0, n_samples, _GROUP):
        group = slice(start, start + _GROUP)
        run = _Integrator(system, x[group], v[group], data.charges[group], timestep)
        for frame in range(n_frames):
            for _ in range(save_every if frame > 0 else 0):
                run.step()
            data.positions[group, frame] = run.x.transpose(2, 0, 1)
            data.velocities[group, frame] = run.v.transpose(2, 0, 1)
            if progress is not None:
                done = start * (n_frames - 1) + frame * len(x[group])
                progress(done * save_every, n_samples * (n_frames - 1) * save_every)
    return data


def total_energy(data: NBodyData) -> Array:
    """Return Σ v²/2 + Σ V (n_samples, n_frames), without the rods' own V, which is constant.

    V belongs to the clipped force, so this is conserved by the exact motion.
    """
    i, j = data.system.pairs
    r = np.linalg.norm(data.positions[:, :, i] - data.positions[:, :, j], axis=-1)
    shortest = FORCE_CLIP**-0.5
    straight = (2.0 - r / shortest) / shortest
    bare = np.where(r < shortest, straight, 1.0 / np.maximum(r, shortest))
    strength = (data.charges[:, i] * data.charges[:, j])[:, np.newaxis]
    kinetic = 0.5 * np.square(data.velocities).sum(axis=(2, 3))
    return kinetic + (strength * bare).sum(axis=-1)


class _Integrator:
    """A batch of samples: x, v (n, 3, n_samples), advanced in place."""

    def __init__(
        self, system: NBodySystem, x: Array, v: Array, charges: Array, timestep: float
    ) -> None:
        self.timestep = timestep
        self.n_sticks = system.n_sticks
        self.senders, self.receivers = system.pairs
        self.rods = system.rods
        self.x = np.ascontiguousarray(x.transpose(1, 2, 0))
        self.v = np.ascontiguousarray(v.transpose(1, 2, 0))
        q = charges.T
        self.strength = q[self.senders] * q[self.receivers]  # (n_pairs, n_samples)
        self.pair_sum = _incidence(self.senders, self.receivers, system.n_particles)
        self.rod_sum = _incidence(self.rods[0], self.rods[1], system.n_particles)
        self.directions = self._along_rods(self.x)
        self.squared_lengths = _dot(self.directions, self.directions)
        self.v += self._spread(self.rod_sum, self._velocity_impulse())
        self.forces = self._forces()

    def step(self) -> None:
        """Advance by one time step."""
        dt = self.timestep
        self.v += (0.5 * dt) * self.forces
        self.x += dt * self.v
        if self.rods.shape[1] > 0:
            correction = self._spread(self.rod_sum, self._position_impulse())
            self.x += correction
            self.v += correction / dt
            self.directions = self._along_rods(self.x)
        self.forces = self._forces()
        self.v += (0.5 * dt) * self.forces
        self.v += self._spread(self.rod_sum, self._velocity_impulse())

    def _forces(self) -> Array:
        apart = self.x[self.senders] - self.x[self.receivers]  # (n_pairs, 3, n_samples)
        squared = _dot(apart, apart)
        factor = self.strength * np.minimum(1.0 / squared, FORCE_CLIP) / np.sqrt(squared)
        apart *= factor[:, np.newaxis]
        return self._spread(self.pair_sum, apart)

    def _position_impulse(self) -> Array:
        """Return Σ λ_l d_l per rod (n_rods, 3, n_samples), by Newton's method."""
        d = self.directions
        r = self._along_rods(self.x)
        total = np.zeros_like(r)
        for _ in range(_MOST_ITERATIONS):
            error = self.squared_lengths - _dot(r, r)
            if np.abs(error / self.squared_lengths).max() < _LENGTH_ERROR:
                return total
            impulse = self._solve(2.0 * r, d, error)[:, np.newaxis] * d
            total += impulse
            r += self._coupled(impulse)
        raise NonFiniteError(
            f"the rods' lengths cannot be kept: after {_MOST_ITERATIONS} iterations some are off "
            f"by {np.abs(error / self.squared_lengths).max():.1g} of L². The shortest rod is "
            f"{np.sqrt(self.squared_lengths.min()):.2g}; use a shorter timestep."
        )

    def _velocity_impulse(self) -> Array:
        d = self.directions
        return self._solve(d, d, -_dot(d, self._along_rods(self.v)))[:, np.newaxis] * d

    def _solve(self, left: Array, right: Array, target: Array) -> Array:
        """Solve Σ_l G_kl (left_k · right_l) y_l = target_k, object by object."""
        y = 0.5 * target / _dot(left, right)  # a stick: one rod alone
        first, second = slice(self.n_sticks, None, 2), slice(self.n_sticks + 1, None, 2)
        a, d = 2.0 * _dot(left[first], right[first]), 2.0 * _dot(left[second], right[second])
        b, c = _dot(left[first], right[second]), _dot(left[second], right[first])
        determinant = a * d - b * c
        y[first] = (d * target[first] - b * target[second]) / determinant
        y[second] = (a * target[second] - c * target[first]) / determinant
        return y

    def _coupled(self, impulse: Array) -> Array:
        """Return Σ_l G_kl impulse_l."""
        coupled = 2.0 * impulse
        first, second = slice(self.n_sticks, None, 2), slice(self.n_sticks + 1, None, 2)
        coupled[first] += impulse[second]
        coupled[second] += impulse[first]
        return coupled

    def _along_rods(self, values: Array) -> Array:
        return values[self.rods[0]] - values[self.rods[1]]

    def _spread(self, incidence: Array, values: Array) -> Array:
        """Add every pair's value to one end and subtract it from the other."""
        return (incidence @ values.reshape(len(values), self.x[0].size)).reshape(self.x.shape)


def _initial(system: NBodySystem, n_samples: int, seed: int) -> tuple[Array, Array, Array]:
    """Draw positions, velocities (n_samples, n, 3) and charges (n_samples, n)."""
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(3)]
    n = system.n_particles
    sigma = (n / 5) ** (1 / 3) + 0.1
    x = sigma * streams[0].standard_normal((n_samples, n, 3))
    v = streams[1].standard_normal((n_samples, n, 3))
    v = v * (_SPEED / np.linalg.norm(v, axis=-1, keepdims=True))
    charges = streams[2].choice([-1.0, 1.0], (n_samples, n))
    return x, v, charges


def _incidence(plus: NDArray[np.int64], minus: NDArray[np.int64], n: int) -> Array:
    columns = np.arange(len(plus))
    matrix = np.zeros((n, len(plus)))
    matrix[plus, columns] = 1.0
    matrix[minus, columns] -= 1.0
    return matrix


def _dot(a: Array, b: Array) -> Array:
    return np.einsum("kcs,kcs->ks", a, b)
