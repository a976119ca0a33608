"""What a step moves between the processor's memory and a device: one transfer each way."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Transfers"]


class Transfers:
    """Transfers to and from one device.

    Attributes
    ----------
    device : where tensors live
    needed : whether that is another memory than the processor's
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.needed = device.type != "cpu"

    def upload(self, positions: NDArray, lattice: NDArray) -> tuple[Tensor, Tensor]:
        """Return positions (n_atoms, 3) and lattice (3, 3), float64, on the device."""
        table = torch.from_numpy(np.concatenate([positions, lattice], dtype=np.float64))
        table = _sent(table, self.device)
        return table[:-3], table[-3:]

    def sent(self, tensor: Tensor) -> Tensor:
        """Return a tensor of the processor's memory on the device."""
        return _sent(tensor, self.device)

    def download(self, energies: Tensor, forces: Tensor) -> tuple[NDArray, NDArray]:
        """Return energies (n_atoms,) and forces (n_atoms, 3), float64, as arrays."""
        together = torch.cat([energies.to(torch.float64).unsqueeze(1), forces], dim=1)
        table = together.cpu().numpy()
        # Copies: a result that is kept shall not keep the others.
        return table[:, 0].copy(), table[:, 1:].copy()


def _sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Send from pinned memory, which the processor need not wait for; torch keeps it meanwhile."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
