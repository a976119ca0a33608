"""How torch.jit runs the program of a model file."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

__all__ = ["as_written"]


def as_written(device: torch.device) -> AbstractContextManager[None]:
    """Return a context for this thread in which programs on a CPU run as they are written.

    Else torch watches the first calls and rewrites the program, which takes seconds of each
    process (12 s for a NequIP of default size) and makes later calls no faster on a CPU
    (examples/results/speed.md). On a GPU it fuses operations, and is left to.
    """
    return torch.jit.optimized_execution(device.type != "cpu")
