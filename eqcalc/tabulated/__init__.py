"""Forms of networks for speed: the paper's network is elsewhere, here is what computes the same.

The form of an architecture in ``eqcalc/architectures/x.py`` is a function in
``eqcalc/tabulated/x.py``; a network of a user's own may have methods of the names of the first two.

``exact_form(network)``
    Equal to rounding, differentiable as often as the network, with the same names of
    parameters and buffers: what is trained, exported and compiled.
``tabulated_form(network, dtype, tolerance)``
    For inference in float32, with functions of the distance in tables of that accuracy: what
    is compiled. Its gradients are right to the same accuracy.
``training_form(network)``
    Equal to rounding, differentiable as often, with the network's own parameters and the
    kernels of the C++ library, which has to be loaded: what is trained on a CPU.

Each may be missing; then the network is taken as it is. Whatever a form gives up shows in
the model's passport, which every compiled package has to reproduce.
"""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType
from typing import Optional

import torch
from torch import nn

__all__ = [
    "exact_form",
    "has_tabulated_form",
    "has_training_form",
    "tabulated_form",
    "training_form",
]


def exact_form(network: nn.Module) -> nn.Module:
    """Return the fastest form of a network with equal numbers: itself where there is no other."""
    module = _module_of(network)
    if module is not None and hasattr(module, "exact_form"):
        return module.exact_form(network)
    own = getattr(network, "exact_form", None)
    return network if own is None else own()


def tabulated_form(network: nn.Module, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the form of a network for inference: :func:`exact_form` where there is no other.

    Parameters
    ----------
    dtype : of the form's parameters and tables
    tolerance : of every table, see :func:`eqcalc.tabulated.spline.fit_table`
    """
    module = _module_of(network)
    if module is not None and hasattr(module, "tabulated_form"):
        return module.tabulated_form(network, dtype, tolerance)
    own = getattr(network, "tabulated_form", None)
    return exact_form(network) if own is None else own(dtype, tolerance)


def training_form(network: nn.Module) -> nn.Module:
    """Return the form of a network for training on a CPU: itself where there is no other.

    It holds the network's own parameters, not copies. It needs the C++ library
    (:func:`eqcalc.tabulated.products.enable_products`).
    """
    module = _module_of(network)
    form = getattr(module, "training_form", None)
    return network if form is None else form(network)


def has_tabulated_form(network: nn.Module) -> bool:
    """Return whether a network has a :func:`tabulated_form` of its own."""
    return hasattr(_module_of(network), "tabulated_form") or hasattr(network, "tabulated_form")


def has_training_form(network: nn.Module) -> bool:
    """Return whether there is a :func:`training_form` of a network."""
    return hasattr(_module_of(network), "training_form")


def _module_of(network: nn.Module) -> Optional[ModuleType]:
    """Return the module of forms of one of eqcalc's own architectures."""
    package, _, name = type(network).__module__.rpartition(".")
    if package != "eqcalc.architectures":
        return None
    path = f"{__name__}.{name}"
    return importlib.import_module(path) if importlib.util.find_spec(path) else None
