"""Random numbers that depend on the training file alone, and leave those of the caller.

Networks draw from the global generators: weights when they are built, dropout in every step.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ["seed_of_batch", "seeded"]

_CPU = torch.device("cpu")
_N_NUMPY_SEEDS = 2**32


@contextmanager
def seeded(seed: int, device: torch.device = _CPU) -> Iterator[None]:
    """Seed the global generators of torch, numpy and Python inside; put them back after.

    Parameters
    ----------
    device : of the network; its generator and that of the CPU are seeded, no other device's
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        for generator in generators:
            generator.manual_seed(seed)
        np.random.seed(seed % _N_NUMPY_SEEDS)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def seed_of_batch(seed: int, epoch: int, batch: int) -> int:
    """Return the seed of one batch: another one for every run, epoch and batch."""
    words = np.random.SeedSequence((seed, epoch, batch)).generate_state(1, np.uint64)
    return int(words[0])
