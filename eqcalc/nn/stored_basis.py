"""Radial bases whose numbers are stored with the weights, as they were trained elsewhere.

Other packages keep centres, widths and frequencies rounded to float32, in their own unit of
length; with the exact ones a network would give other numbers in the seventh digit. Here they
stay as they are, and distances are taken in that unit.

Shapes: n_edges, n_radial.
"""

import math

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_choice
from eqcalc.errors import ConfigError

__all__ = ["STORED", "StoredGaussians", "StoredSines", "require_basis", "stored_basis"]

STORED = ("stored_gaussian", "stored_sine")
"""Names of these bases in a configuration."""


class StoredGaussians(nn.Module):
    """Expand distances as exp(-(x - μ_k)² / 2σ_k²), x = d/unit.

    Parameters
    ----------
    n_radial : functions; centres μ and widths σ are spread evenly before they are loaded
    cutoff : Å
    unit : Å; of the stored numbers
    """

    centres: Tensor
    widths: Tensor

    def __init__(self, n_radial: int, cutoff: float, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = float(unit)
        last = cutoff / unit
        self.register_buffer("centres", torch.linspace(0.0, last, n_radial))
        self.register_buffer("widths", torch.full((n_radial,), last / max(n_radial - 1, 1)))

    def forward(self, distances: Tensor) -> Tensor:
        """Return (n_edges, n_radial) of distances (n_edges,), Å."""
        x = (distances / self.unit).unsqueeze(1)  # (n_edges, 1)
        return torch.exp(-0.5 * ((x - self.centres) / self.widths).square())


class StoredSines(nn.Module):
    """Expand distances as sin(ω_n x) / x, x = d/unit.

    Parameters
    ----------
    n_radial : functions; ω_n is nπ/cutoff before it is loaded
    cutoff : Å
    unit : Å; of the stored numbers
    """

    frequencies: Tensor

    def __init__(self, n_radial: int, cutoff: float, unit: float = 1.0) -> None:
        super().__init__()
        self.unit = float(unit)
        n = torch.arange(1.0, n_radial + 1.0)
        self.register_buffer("frequencies", n * (math.pi * unit / cutoff))

    def forward(self, distances: Tensor) -> Tensor:
        """Return (n_edges, n_radial) of distances (n_edges,), Å."""
        x = (distances / self.unit).unsqueeze(1)  # (n_edges, 1)
        return torch.sin(x * self.frequencies) / x


def stored_basis(form: str, n_radial: int, cutoff: float, unit: float) -> nn.Module:
    """Return the basis of one of the names in ``STORED``."""
    kind = StoredGaussians if form == "stored_gaussian" else StoredSines
    return kind(n_radial, cutoff, unit)


def require_basis(own: str, form: str, unit: float) -> None:
    """Refuse a basis that there is not, and a unit that nothing is stored in.

    Parameters
    ----------
    own : name of the network's own basis

    Raises
    ------
    ConfigError : the message names the option.
    """
    known = (own, *STORED)
    require_choice(known, radial_basis=form)
    if form == own and unit != 1.0:
        raise ConfigError(
            f"radial_unit = {unit} belongs to a stored basis ({', '.join(STORED)}); {own} has none."
        )
