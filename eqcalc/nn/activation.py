"""Activation functions, by name or as the caller's own."""

import math
from collections.abc import Callable
from typing import Any, Optional, Union

from torch import Tensor, nn
from torch.nn import functional

from eqcalc.errors import ConfigError, did_you_mean

__all__ = ["ACTIVATIONS", "ShiftedSoftplus", "Swish", "activation_name", "build_activation"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
}
"""Classes by the name that a configuration stores."""

_CUSTOM = "custom:"


class ShiftedSoftplus(nn.Module):
    """ssp(x) = softplus(x) - ln 2, so that ssp(0) = 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function elementwise."""
        return functional.softplus(x) - math.log(2.0)


class Swish(nn.Module):
    """swish(x) = x σ(β x)."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        self.beta = float(beta)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function elementwise."""
        if self.beta == 1.0:
            return functional.silu(x)
        return x * (self.beta * x).sigmoid()


class _Function(nn.Module):
    """Hold a plain function, so that it can stand where a module is expected."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def activation_name(activation: Union[str, Callable[..., Any], None]) -> Optional[str]:
    """Return what a configuration stores: a known name, None, or ``custom:`` and a name.

    >>> activation_name(nn.Tanh()), activation_name(None), activation_name(abs)
    ('tanh', None, 'custom:abs')

    Raises
    ------
    ConfigError : an unknown name, or something that cannot be called.
    """
    if activation is None:
        return None
    if isinstance(activation, str):
        if activation not in ACTIVATIONS and not activation.startswith(_CUSTOM):
            raise ConfigError(
                f"unknown activation '{activation}'; known: {', '.join(ACTIVATIONS)}."
                + did_you_mean(activation, ACTIVATIONS)
            )
        return activation
    if not callable(activation) or isinstance(activation, type):
        raise ConfigError(
            "activation must be None, a name, a module or a function of one tensor, "
            f"found {activation!r}."
        )
    for name, known in ACTIVATIONS.items():
        # The text tells nn.Softplus() from nn.Softplus(beta=2).
        if type(activation) is known and repr(activation) == repr(known()):
            return name
    return _CUSTOM + getattr(activation, "__name__", type(activation).__name__)


def build_activation(activation: Union[str, Callable[..., Any], None]) -> nn.Module:
    """Return the activation as a module; None means SiLU.

    Raises
    ------
    ConfigError : an unknown name, or the name of a caller's own function, which only
        the caller has.
    """
    name = activation_name(activation)
    if activation is None:
        return nn.SiLU()
    if isinstance(activation, nn.Module):
        return activation
    if not isinstance(activation, str):
        return _Function(activation)
    if name not in ACTIVATIONS:
        raise ConfigError(
            f"activation '{activation}' is not known by name: pass the function itself, or one "
            f"of {', '.join(ACTIVATIONS)}."
        )
    return ACTIVATIONS[activation]()
