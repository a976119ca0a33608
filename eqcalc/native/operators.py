"""The operators of the C++ library (``native/edges.cpp``) that others can do without.

The library is built by ``eqcalc compile`` and loaded with the first compiled model; from then
on every calculator of the process uses these operators. What they return is what the portable
code returns in every bit: the same edges, those as long as the cutoff included, the same
vectors, forces and virials. Each takes the steps of the portable code in the same order, so
who changes one side changes the other (tests compare the bits).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["find_operator", "load_operators"]

_NAMES = ("edge_forces", "edge_vectors", "edge_virial")

_operators: dict[str, Callable[..., Any]] = {}


def load_operators(library: Path) -> None:
    """Load the library.

    Raises
    ------
    OSError : it is no library that this torch can load.
    """
    torch.ops.load_library(str(library))
    _operators.update({name: getattr(torch.ops.eqcalc, name).default for name in _NAMES})


def find_operator(name: str) -> Callable[..., Any] | None:
    """Return an operator, or None while the library is not loaded."""
    return _operators.get(name)
