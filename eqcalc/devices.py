"""Names of devices and precisions, refused where they mean nothing."""

from __future__ import annotations

import importlib.util

import torch

from eqcalc.errors import ConfigError, DeviceError, did_you_mean, listing

__all__ = ["has_triton", "resolve_device", "resolve_dtype"]

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve_device(name: str | torch.device) -> torch.device:
    """Return the device of "auto", "cpu", "cuda" or "cuda:N".

    Raises
    ------
    ConfigError : another name.
    DeviceError : a CUDA device that is not there.
    """
    name = str(name)  # a torch.device says the same
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise ConfigError(
            f"unknown device '{name}'; known: auto, cpu, cuda, cuda:N."
            # "cpu" resembles "gpu", and is the opposite of what was meant.
            + did_you_mean("cuda" if name == "gpu" else name, ["auto", "cpu", "cuda"])
        )
    if kind == "cuda":
        n_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(index or 0) >= n_devices:
            raise DeviceError(
                f"device '{name}' was asked for, but torch {torch.__version__} sees "
                f"{n_devices} CUDA device{'s' * (n_devices != 1)} here. {_advice(n_devices)}"
            )
    return torch.device(name)


def _advice(n_devices: int) -> str:
    if n_devices == 0:
        return "Use device='cpu', or install a torch build with CUDA and check nvidia-smi."
    known = listing([f"'cuda:{index}'" for index in range(n_devices)])
    return f"Use one of {known}; CUDA_VISIBLE_DEVICES may hide others."


def resolve_dtype(name: str) -> torch.dtype:
    """Return the dtype of "float32" or "float64".

    Raises
    ------
    ConfigError : another name.
    """
    if name not in _DTYPES:
        raise ConfigError(
            f"unknown dtype '{name}'; known: {', '.join(_DTYPES)}."
            + did_you_mean(str(name), _DTYPES)
        )
    return _DTYPES[name]


def has_triton() -> bool:
    """Return whether Triton is installed, in which kernels for GPUs are written."""
    return importlib.util.find_spec("triton") is not None
