"""Numbers of a network that are no weights, exact in whatever precision the network has."""

import torch
from torch import Tensor, nn

__all__ = ["Constants"]


class Constants(nn.Module):
    """A float64 tensor that a cast of its module to float32 and back leaves as it was.

    A buffer of float64 would be rounded for good by the first cast; here it is kept as a
    float32 tensor and what is left of it, together exact to 48 bits.

    Parameters
    ----------
    values : of any shape
    """

    table: Tensor
    table_remainder: Tensor

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        values = values.to(torch.float64)
        self.register_buffer("table", values.float(), persistent=False)
        remainder = (values - values.float().double()).float()
        self.register_buffer("table_remainder", remainder, persistent=False)

    def constants(self, dtype: torch.dtype) -> Tensor:
        """Return the values in a precision."""
        exact = self.table.to(torch.float64) + self.table_remainder.to(torch.float64)
        return exact.to(dtype)
