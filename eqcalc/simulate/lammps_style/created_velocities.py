"""The velocities that LAMMPS's ``velocity all create`` draws, number for number.

LAMMPS (``loop all``, its default) goes through the atoms by their ids and takes three numbers
for each from a generator of Park and Miller, Commun. ACM 31, 1192 (1988),
doi 10.1145/63039.63042: s -> 16807 s mod (2^31 - 1), of which s / (2^31 - 1) is a uniform
number. Then the momentum of the whole is taken out, and the rest scaled to the temperature.
"""

from __future__ import annotations

import numpy as np
from ase import Atoms
from numpy.typing import NDArray

from eqcalc.errors import ConfigError
from eqcalc.simulate.thermo import temperature_of

__all__ = ["create_velocities"]

_MULTIPLIER = 16807
_MODULUS = 2**31 - 1
_DISTRIBUTIONS = ("uniform", "gaussian")


def create_velocities(
    atoms: Atoms, temperature_K: float, seed: int, n_dof: int, *, dist: str, mom: bool
) -> None:
    """Set the velocities of all atoms, in place, in the order of the atoms.

    Parameters
    ----------
    temperature_K : exact, for ``n_dof`` degrees of freedom
    seed : 1 to 2^31 - 2
    dist : "uniform" or "gaussian"
    mom : take out the momentum of the whole

    Raises
    ------
    ConfigError : a value is out of range or unknown, or there is no motion to scale.
    """
    if not (np.isfinite(temperature_K) and temperature_K >= 0):
        raise ConfigError(f"the temperature must be 0 K or more, not {temperature_K} K.")
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 < seed < _MODULUS:
        raise ConfigError(
            f"the seed of velocity create must be a whole number from 1 to {_MODULUS - 1}, not "
            f"{seed!r}."
        )
    if dist not in _DISTRIBUTIONS:
        raise ConfigError(
            f"unknown distribution '{dist}' of velocity create; known: {', '.join(_DISTRIBUTIONS)}."
        )
    draw = _uniform if dist == "uniform" else _gaussian
    masses = atoms.get_masses()[:, None]
    velocities = draw(seed, 3 * len(atoms)).reshape(-1, 3) / np.sqrt(masses)  # (n_atoms, 3)
    if mom:
        velocities -= (masses * velocities).sum(axis=0) / masses.sum()
    atoms.set_velocities(velocities)
    now = temperature_of(atoms, n_dof)
    atoms.set_momenta(atoms.get_momenta() * np.sqrt(temperature_K / now))


def _stream(seed: int, count: int) -> NDArray[np.float64]:
    """Return uniform numbers in (0, 1)."""
    numbers = np.empty(count)
    for index in range(count):
        seed = _MULTIPLIER * seed % _MODULUS
        numbers[index] = seed / _MODULUS
    return numbers


def _uniform(seed: int, count: int) -> NDArray[np.float64]:
    return _stream(seed, count) - 0.5


def _gaussian(seed: int, count: int) -> NDArray[np.float64]:
    """Return normal numbers by Marsaglia's polar method, both of each pair, as LAMMPS does."""
    numbers: list[float] = []
    while len(numbers) < count:
        while True:
            pair = []
            for _ in range(2):
                seed = _MULTIPLIER * seed % _MODULUS
                pair.append(2.0 * seed / _MODULUS - 1.0)
            square = pair[0] ** 2 + pair[1] ** 2
            if 0.0 < square < 1.0:
                break
        factor = np.sqrt(-2.0 * np.log(square) / square)
        numbers += [pair[1] * factor, pair[0] * factor]
    return np.array(numbers[:count])
