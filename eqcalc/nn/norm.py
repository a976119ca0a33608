"""Lengths of vector features that stay differentiable at zero.

At a site of high symmetry the vectors at an atom cancel, and a length has its kink there. The
published form √(Σ v² + 1e-8) only rounds the kink off, over vectors of 1e-4: a force constant
there is a hundred times what it is a tenth of an Å away. The smooth form is rounded over
vectors of 1, which is the size that features have.
"""

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_choice

__all__ = ["NORMS", "ChannelNorm", "channel_norm", "smooth_channel_norm"]

NORMS = ("smooth", "published")
"""Forms of the length, by the name that a configuration stores."""


class ChannelNorm(nn.Module):
    """The length of the vectors of every channel.

    Parameters
    ----------
    form : "smooth", or "published" for weights that were trained with it elsewhere

    Raises
    ------
    ConfigError : another form.
    """

    def __init__(self, form: str = "smooth") -> None:
        super().__init__()
        require_choice(NORMS, vector_norm=form)
        self.is_smooth = form == "smooth"

    def forward(self, vectors: Tensor) -> Tensor:
        """Return lengths: (n_rows, 3, n_channels) -> (n_rows, n_channels)."""
        return smooth_channel_norm(vectors) if self.is_smooth else channel_norm(vectors)


def smooth_channel_norm(vectors: Tensor) -> Tensor:
    """Return √(Σ_x v_x² + 1) - 1: (n_rows, 3, n_channels) -> (n_rows, n_channels).

    |v|²/2 for short vectors, |v| - 1 for long ones.
    """
    squares = vectors.square().sum(dim=1)
    return squares / (torch.sqrt(squares + 1.0) + 1.0)  # no digits lost where it is small


def channel_norm(vectors: Tensor, epsilon: float = 1e-8) -> Tensor:
    """Return √(Σ_x v_x² + epsilon): (n_rows, 3, n_channels) -> (n_rows, n_channels).

    The form of published networks; a new one takes :func:`smooth_channel_norm`, or squares.
    Without epsilon the first derivative at v = 0 is NaN; torch's own norm has a
    NaN second derivative there, which force training would meet.
    """
    return torch.sqrt(vectors.square().sum(dim=1) + epsilon)
