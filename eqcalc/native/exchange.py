"""The operator by which the ranks of a host exchange features of atoms between layers.

A host that shares out the atoms of a structure among ranks (an MPI program such as LAMMPS) gives
each rank its owned atoms and, after them, the ghosts within one cutoff. ``eqcalc::exchange`` makes
features of all atoms of those of the owned ones, ``eqcalc::exchange_backward`` sends what ghosts
get in the backward pass home, where it is added to their owners'. Each is the other's derivative.
How that is done is the host's business: ``eqcalc/native/exchange.h`` is what it gives the library.

The calls are collective: every rank has to make the same ones in the same order, or they wait for
each other for ever. They do, because a compiled package is one list of steps, traced once, without
a branch: what a rank's atoms are decides how long its loops are and nothing else, no step is left
out where it has no atom, and none depends on numbers. All ranks have to run the same package (the
same file, not one compiled by each), the same number of times; and where one fails the host has to
stop the others.

Shapes: n_owned atoms of a rank, n_all with its ghosts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Rows", "enable_exchange", "exchange", "exchanged_by"]

Rows = Callable[[np.ndarray, int], None]
"""(rows (n_all, width), n_owned): fills, or adds up, rows in place."""

_TYPES = (ctypes.c_float, ctypes.c_double, ctypes.c_int64)  # by the kinds of exchange.h

_Call = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int64,
    ctypes.c_int,
)

_enabled: list[bool] = []


class _Host(ctypes.Structure):
    """``struct eqcalc_exchange``."""

    _fields_ = (("context", ctypes.c_void_p), ("forward", _Call), ("reverse", _Call))


def enable_exchange() -> bool:
    """Tell torch the operator's shapes and derivatives, if the library is loaded; tell whether."""
    if not _enabled and _is_loaded():
        _register()
        _enabled.append(True)
    return len(_enabled) > 0


def exchange(owned: Tensor, n_all: int) -> Tensor:
    """Return features (n_all, ...) of all atoms of those (n_owned, ...) of a rank's own.

    Raises
    ------
    RuntimeError : there are ghosts and no host, or the host failed.
    """
    return torch.ops.eqcalc.exchange(owned, n_all)


@contextmanager
def exchanged_by(library: Path, forward: Rows, reverse: Rows) -> Iterator[None]:
    """Play a rank of a host in this thread, within the block.

    Parameters
    ----------
    library : the loaded one, see :func:`eqcalc.native.build.find_library`
    forward : fills the rows of ghosts with those of their owners
    reverse : adds the rows of ghosts to those of their owners

    Raises
    ------
    Exception : whatever they raise.
    """
    raised: list[Exception] = []

    def calling(work: Rows) -> Any:
        def call(_: Any, address: int, n_owned: int, n_all: int, width: int, kind: int) -> int:
            try:
                count = n_all * width
                numbers = (_TYPES[kind] * count).from_address(address) if count else ()
                work(np.asarray(numbers).reshape(n_all, width), n_owned)
            except Exception as error:  # Python cannot throw through C
                raised.append(error)
                return 0
            return 1

        return _Call(call)

    functions = ctypes.CDLL(str(library))
    host = _Host(None, calling(forward), calling(reverse))
    functions.eqcalc_set_exchange(ctypes.byref(host))
    try:
        yield
    except RuntimeError as error:
        if raised:
            raise raised[0] from error
        raise
    finally:
        functions.eqcalc_set_exchange(None)


def _is_loaded() -> bool:
    return hasattr(torch.ops.eqcalc, "exchange")


def _register() -> None:
    operators = torch.ops.eqcalc

    @torch.library.register_fake("eqcalc::exchange")
    def _(owned: Tensor, n_all: int) -> Tensor:
        return owned.new_empty((n_all, *owned.shape[1:]))

    @torch.library.register_fake("eqcalc::exchange_backward")
    def _(gradient: Tensor, n_owned: int) -> Tensor:
        return gradient.new_empty((n_owned, *gradient.shape[1:]))

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.n_rows = inputs[0].shape[0]

    def home(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return operators.exchange_backward(gradient, ctx.n_rows), None

    def out(ctx: Any, cotangent: Tensor) -> tuple[Tensor, None]:
        return operators.exchange(cotangent, ctx.n_rows), None

    torch.library.register_autograd("eqcalc::exchange", home, setup_context=keep)
    torch.library.register_autograd("eqcalc::exchange_backward", out, setup_context=keep)
