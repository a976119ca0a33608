"""Time a step of dynamics with any ASE calculator; imports nothing of eqcalc.

Used by the scripts beside it, each of which runs in the environment of one package.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from ase import units
from ase.io import read
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from ase.md.verlet import VelocityVerlet

N_BLOCKS, SECONDS = 7, 0.7  # blocks, and about how long one takes


def report(calculator: Any, structure: str) -> None:
    """Print ms per VelocityVerlet step of a structure file as one line of JSON."""
    atoms = read(structure)
    atoms.calc = calculator
    MaxwellBoltzmannDistribution(atoms, temperature_K=10, rng=np.random.default_rng(0))
    dynamics = VelocityVerlet(atoms, timestep=0.05 * units.fs)
    dynamics.run(5)  # compilers and caches warm up
    start = time.perf_counter()
    dynamics.run(2)
    per_step = (time.perf_counter() - start) / 2
    n_steps = int(np.clip(SECONDS / per_step, 2, 500))
    values = []
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(N_BLOCKS):
        start = time.perf_counter()
        dynamics.run(n_steps)
        values.append(1e3 * (time.perf_counter() - start) / n_steps)
    share = (time.process_time() - cpu) / (time.perf_counter() - wall)
    print(json.dumps({"ms": values, "cpu_share": share}))
