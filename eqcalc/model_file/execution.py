"""How torch.jit runs the program of a model file."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

__all__ = ["as_written"]


def as_written() -> AbstractContextManager[None]:
    """Return a context for this thread in which potentials run as they are written.

    Else torch watches the first two calls and rewrites the program. That takes seconds of each
    process, later calls round otherwise, and on a CPU they are no faster
    (examples/results/torchscript.md). On a GPU torch's fuser cannot fuse some of the networks of
    angles, and its error ("Global alloc not supported yet") comes in the middle of a run. Where
    nothing is differentiated, torch is left to it: steps of a propagator take a seventh less once
    they are rewritten.
    """
    return torch.jit.optimized_execution(False)
