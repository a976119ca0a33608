"""The operators of the C++ library (``native/library.cpp``) that others can do without.

The library is built by ``eqcalc compile`` and loaded with the first compiled model. Vectors are
those of the portable code in every bit. Lengths and sums agree to rounding: an edge as long
as the cutoff to the last digit, which has no effect, may be in one list and not in the other.
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
