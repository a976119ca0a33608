"""Model calls in the precision of the model, whatever the process has set for its own networks.

``torch.set_float32_matmul_precision("medium")`` lets every product of float32 matrices round to
bfloat16: energies change by meV per atom. Autocast does the same for one block of code.
"""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

import torch

__all__ = ["FullPrecision"]


class FullPrecision:
    """Products of float32 matrices in float32, no autocast, within a ``with`` block.

    The precision of products belongs to the process: the first of several threads in such a
    block raises it, and the last one that leaves puts it back.

    Parameters
    ----------
    device_type : "cpu" or "cuda"
    """

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        self._autocast: Any = None

    def __enter__(self) -> None:
        _products[self._device_type].enter()
        if torch.is_autocast_enabled(self._device_type):
            self._autocast = torch.autocast(self._device_type, enabled=False)
            self._autocast.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._autocast is not None:
            self._autocast.__exit__(kind, error, traceback)
        _products[self._device_type].leave()


class _Products:
    """The setting of one kind of device, and how many threads want it at its highest."""

    def __init__(self, device_type: str) -> None:
        self._device_type = device_type
        self.reset()

    def reset(self) -> None:
        """Start anew: a forked process has none of the threads that were inside."""
        self._lock = threading.Lock()
        self._n_inside = 0
        self._before: str | None = None

    def enter(self) -> None:
        with self._lock:
            if self._n_inside == 0:
                found = _get(self._device_type)
                self._before = None if found in ("ieee", "none", "highest") else found
                if self._before is not None:
                    _set(self._device_type, "ieee")
            self._n_inside += 1

    def leave(self) -> None:
        with self._lock:
            self._n_inside -= 1
            if self._n_inside == 0 and self._before is not None:
                _set(self._device_type, self._before)


def _backend(device_type: str) -> Any:
    """Return the setting's owner since torch 2.9; before, one setting counts for all."""
    owner = torch.backends.cuda if device_type == "cuda" else torch.backends.mkldnn
    products = getattr(owner, "matmul", None)
    return products if hasattr(products, "fp32_precision") else None


def _get(device_type: str) -> str:
    owner = _backend(device_type)
    return torch.get_float32_matmul_precision() if owner is None else str(owner.fp32_precision)


def _set(device_type: str, precision: str) -> None:
    owner = _backend(device_type)
    if owner is not None:
        owner.fp32_precision = precision
    else:
        torch.set_float32_matmul_precision("highest" if precision == "ieee" else precision)


_products = {device_type: _Products(device_type) for device_type in ("cpu", "cuda")}


def _after_fork() -> None:
    for products in _products.values():
        products.reset()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)
