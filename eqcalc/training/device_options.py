"""What a training file says about devices: keys of ``[training]``."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from eqcalc.arguments import require_at_least, require_choice
from eqcalc.cores import usable_cores
from eqcalc.errors import DeviceError

__all__ = ["DeviceOptions"]

ACCELERATORS = ("auto", "cpu", "cuda")


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Where to train.

    accelerator : "cpu", "cuda", or "auto", which is "cuda" where there is one
    devices : processes that share the frames of every batch: one per GPU, or on the cores of the
        CPU. The batch bounds are those of all processes together, so that the result is that of
        one process, up to rounding
    kernels : on a CPU, sum over neighbours by C++ kernels, where there are some for the network
        and a C++ compiler: several times faster steps, equal up to rounding
    """

    accelerator: str = "auto"
    devices: int = 1
    kernels: bool = True

    def check_devices(self) -> None:
        """Refuse values out of range.

        Raises
        ------
        ConfigError : there is one.
        """
        require_choice(ACCELERATORS, accelerator=self.accelerator)
        require_at_least(1, devices=self.devices)

    def device_of(self, rank: int) -> torch.device:
        """Return the device of a process, from 0.

        Raises
        ------
        DeviceError : this machine has no such device, or not so many.
        """
        there = torch.cuda.is_available()
        if self.accelerator == "cuda" and not there:
            raise DeviceError(
                'accelerator = "cuda" in [training], but torch finds no CUDA device here; say '
                'accelerator = "cpu", or install a torch that is built for CUDA.'
            )
        on_gpu = there and self.accelerator != "cpu"
        n_there = torch.cuda.device_count() if on_gpu else usable_cores()
        if self.devices > n_there:
            what = "CUDA devices" if on_gpu else "processor cores"
            raise DeviceError(
                f"devices = {self.devices} in [training], but this machine has {n_there} {what}; "
                f"set devices = {n_there} or less."
            )
        return torch.device("cuda", rank) if on_gpu else torch.device("cpu")
