"""Frames per second of a training, from the times at which its batches ended.

Used by the scripts beside it, each of which runs in the environment of one package; imports
nothing of any of them. Between two ends of one epoch lies all that a step costs: the batch
taken from its frames, the neighbour list where it is made anew, loss, gradients, optimiser,
averaged weights. Validation and the first epoch, in which compilers work, lie outside. On a GPU a
batch has ended when the card is done with it.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import defaultdict

import torch

__all__ = ["BatchClock"]


class BatchClock:
    """Call :meth:`note` after every batch and :meth:`report` at the end.

    batch_size : frames in each batch; the last of an epoch must be as large as the others
    """

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._made = time.perf_counter()
        self._wall: dict[int, list[float]] = defaultdict(list)
        self._core: dict[int, list[float]] = defaultdict(list)
        self._memory: dict[int, float] = {}

    def note(self, epoch: int) -> None:
        """Note that a batch of an epoch has ended."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        self._wall[epoch].append(time.perf_counter())
        self._core[epoch].append(time.process_time())
        unit = 1e6 if sys.platform == "darwin" else 1e3  # bytes there, kB elsewhere
        self._memory[epoch] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

    def report(self) -> None:
        """Print one line of JSON.

        frames_per_s : of every epoch but the first
        frames_per_core_s : of the time that the process had a core
        memory_mb : the process's largest memory, at the end of every epoch
        first_step_s : from the making of this clock, before the network's, to the first end
        """
        epochs = sorted(self._wall)[1:]
        print(
            json.dumps(
                {
                    "frames_per_s": [self._rate(self._wall[each]) for each in epochs],
                    "frames_per_core_s": [self._rate(self._core[each]) for each in epochs],
                    "memory_mb": [self._memory[each] for each in sorted(self._memory)],
                    "first_step_s": min(self._wall.values())[0] - self._made,
                }
            )
        )

    def _rate(self, ends: list[float]) -> float:
        return self.batch_size * (len(ends) - 1) / (ends[-1] - ends[0])
