"""The tensors of a foreign checkpoint: each is taken once, and none is left over."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Optional

import torch
from torch import Tensor

from eqcalc.errors import ModelFileError

__all__ = ["Tensors"]


class Tensors:
    """Hand out tensors by name, checked; what nobody asked for is an error at the end.

    Parameters
    ----------
    state : tensors by name
    ignored : of names that carry no trained number: masks, and tensors of length zero
    where : what holds them, for messages

    Raises
    ------
    ModelFileError : a bias is not empty.
    """

    def __init__(self, state: Mapping[str, Tensor], ignored: re.Pattern[str], where: str) -> None:
        self.where = where
        self.left = {k: v for k, v in state.items() if not ignored.search(k)}
        for name, tensor in state.items():
            if name.endswith(".bias") and tensor.numel() > 0:
                raise ModelFileError(
                    f"{where}['{name}'] is not empty: biases of linear maps are not imported."
                )

    def take(self, name: str, *shape: Optional[int]) -> Tensor:
        """Return a tensor, viewed with the shape (one entry None: as many as there are).

        Raises
        ------
        ModelFileError : it is missing, of another size, not finite, or not float32 or float64.
        """
        if name not in self.left:
            raise ModelFileError(
                f"{self.where} has no '{name}': the checkpoint is incomplete, or of a network "
                "that is not known here."
            )
        tensor = self.left.pop(name)
        if tensor.dtype not in (torch.float32, torch.float64):
            raise ModelFileError(
                f"{self.where}['{name}'] is of {tensor.dtype}; weights must be float32 or float64."
            )
        if not bool(torch.isfinite(tensor).all()):
            raise ModelFileError(f"{self.where}['{name}'] holds NaN or infinity.")
        if not shape:
            return tensor
        known = math.prod(n for n in shape if n is not None)
        if tensor.numel() % known != 0 or (None not in shape and tensor.numel() != known):
            raise ModelFileError(
                f"{self.where}['{name}'] holds {tensor.numel()} numbers, which are no "
                f"{' × '.join('n' if n is None else str(n) for n in shape)}."
            )
        return tensor.reshape([-1 if n is None else n for n in shape])

    def couplings(self, prefix: str) -> dict[tuple[int, int, int], Tensor]:
        """Return the Wigner 3j symbols under a prefix by their degrees."""
        found = {}
        for name in list(self.left):
            match = _COUPLINGS.search(name) if name.startswith(prefix) else None
            if match:
                l1, l2, l3 = map(int, match.groups())
                found[l1, l2, l3] = self.take(name)
        return found

    def require_empty(self) -> None:
        """Refuse tensors that nobody took.

        Raises
        ------
        ModelFileError : there are some.
        """
        if self.left:
            raise ModelFileError(
                f"{self.where} has '{next(iter(self.left))}' ({len(self.left)} such entries in "
                "all), which no network known here has."
            )


_COUPLINGS = re.compile(r"\._w3j_(\d+)_(\d+)_(\d+)$")
