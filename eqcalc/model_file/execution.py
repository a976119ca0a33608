"""How torch.jit runs the program of a model file."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

__all__ = ["as_written"]


def as_written(device: torch.device) -> AbstractContextManager[None]:
    """Return a context for this thread in which potentials on a CPU run as they are written.

    Else torch watches the first two calls and rewrites the program. That takes seconds of each
    process, later calls round otherwise, and on a CPU they are no faster
    (examples/results/torchscript.md). On a GPU it fuses operations, and is left to. So it is where
    nothing is differentiated: steps of a propagator take a seventh less once they are rewritten.
    """
    return torch.jit.optimized_execution(device.type != "cpu")
