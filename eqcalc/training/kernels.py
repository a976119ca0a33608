"""The C++ kernels of a training on a CPU: where they are used, and built."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator

import torch

from eqcalc.errors import CacheError, EngineError
from eqcalc.native.build import build_library, find_library, load_library
from eqcalc.potential import Potential
from eqcalc.tabulated import has_training_form, training_form
from eqcalc.tabulated.products import enable_products

__all__ = ["build_kernels", "can_use_kernels", "with_kernels"]


def can_use_kernels(potential: Potential, device: torch.device) -> bool:
    """Return whether there are kernels for a network on a device."""
    return device.type == "cpu" and has_training_form(potential.architecture)


def build_kernels() -> Iterator[str]:
    """Build the library, unless that is done, and yield what there is to say.

    A machine without a compiler trains without kernels.
    """
    try:
        is_new, begun = find_library() is None, time.perf_counter()
        if is_new:
            yield "compiling C++ kernels, once on this machine: about a minute ..."
        build_library()
        load_library()
        if is_new:
            yield f"compiled in {time.perf_counter() - begun:.0f} s"
    except (CacheError, EngineError) as error:
        yield f"training goes on without C++ kernels, which make steps faster: {error}"


def with_kernels(potential: Potential) -> Potential:
    """Return a potential with the same parameters that uses the kernels, if the library is there.

    Its mode of training is its own; that of everything in it is the potential's.
    """
    try:
        if not (load_library() and enable_products()):
            return potential
    except (CacheError, EngineError):  # it was said when it could not be built
        return potential
    fast = copy.copy(potential)
    fast._modules = dict(potential._modules)
    fast.architecture = training_form(potential.architecture)
    return fast
