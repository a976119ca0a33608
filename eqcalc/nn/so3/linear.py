"""Equivariant linear maps: they mix channels of one irrep and nothing else.

Schur's lemma leaves no other: y_{m,c'} = Σ_c x_{m,c} W_{c c'} / √n_in for each irrep.
With weights of unit variance the output has the input's variance. Only scalars could carry a
bias; there is none unless it is asked for, because zero features must stay zero.

Source: e3nn, Geiger and Smidt, arXiv:2207.09453.
"""

import math

import torch
from torch import Tensor, nn

from eqcalc.errors import ConfigError
from eqcalc.nn.so3.irreps import Layout

__all__ = ["AddedLinear", "EquivariantLinear", "SpeciesLinear"]


class EquivariantLinear(nn.Module):
    """Map features of one layout to another, irrep by irrep.

    Parameters
    ----------
    layout_in, layout_out : channels of each irrep
    n_constants : further scalar inputs of which one is 1 and the others are 0, such as a
        modality: they count as inputs, and the row of the one is the bias b of scalars,
        y = (x W + b) / √(n_in + n_constants)

    Raises
    ------
    ConfigError : an output irrep is not among the inputs.
    """

    def __init__(self, layout_in: Layout, layout_out: Layout, n_constants: int = 0) -> None:
        super().__init__()
        missing = [str(irrep) for irrep in layout_out if irrep not in layout_in]
        if missing:
            raise ConfigError(
                f"a linear map cannot make {', '.join(missing)} of "
                f"{', '.join(map(str, layout_in))}: it keeps each irrep."
            )
        self.sources = [list(layout_in).index(irrep) for irrep in layout_out]
        self.weights = nn.ParameterList(
            torch.randn(layout_in[irrep], n_out) for irrep, n_out in layout_out.items()
        )
        self.fan_in = [layout_in[irrep] + n_constants * irrep.is_invariant for irrep in layout_out]
        scalar = next((k for k, irrep in enumerate(layout_out) if irrep.is_invariant), -1)
        self.scalar = scalar
        has_bias = n_constants > 0 and scalar >= 0
        self.bias = (
            nn.Parameter(torch.randn(list(layout_out.values())[scalar])) if has_bias else None
        )

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map blocks (n_atoms, 2l+1, n_in) to blocks (n_atoms, 2l+1, n_out)."""
        mixed: list[Tensor] = []
        for k, weight in enumerate(self.weights):
            mixed.append(features[self.sources[k]] @ (weight / math.sqrt(self.fan_in[k])))
        if self.bias is not None:
            mixed[self.scalar] = mixed[self.scalar] + self.bias / math.sqrt(
                self.fan_in[self.scalar]
            )
        return mixed


class AddedLinear(nn.Module):
    """Add an equivariant linear map that is the same for all species.

    Output irreps that the input lacks receive nothing.

    Parameters
    ----------
    layout_in, layout_out : channels of each irrep
    """

    def __init__(self, layout_in: Layout, layout_out: Layout) -> None:
        super().__init__()
        shared = {irrep: n for irrep, n in layout_out.items() if irrep in layout_in}
        self.targets = [list(layout_out).index(irrep) for irrep in shared]
        self.linear = EquivariantLinear(layout_in, shared)

    def forward(
        self, outputs: list[Tensor], features: list[Tensor], species: Tensor
    ) -> list[Tensor]:
        """Return outputs + features · W; as of :class:`SpeciesLinear`, without use of species."""
        total = list(outputs)
        for k, own in enumerate(self.linear(features)):
            total[self.targets[k]] = total[self.targets[k]] + own
        return total


class SpeciesLinear(nn.Module):
    """Add an equivariant linear map with its own weights for each species.

    Output irreps that the input lacks receive nothing.

    Parameters
    ----------
    layout_in, layout_out : channels of each irrep
    n_species : number of weight sets
    """

    def __init__(self, layout_in: Layout, layout_out: Layout, n_species: int) -> None:
        super().__init__()
        self.n_species = n_species
        shared = [irrep for irrep in layout_out if irrep in layout_in]
        self.sources = [list(layout_in).index(irrep) for irrep in shared]
        self.targets = [list(layout_out).index(irrep) for irrep in shared]
        self.weights = nn.ParameterList(
            torch.randn(n_species, layout_in[irrep], layout_out[irrep]) for irrep in shared
        )

    def forward(
        self, outputs: list[Tensor], features: list[Tensor], species: Tensor
    ) -> list[Tensor]:
        """Return outputs + features · W[species].

        Parameters
        ----------
        outputs : blocks (n_atoms, 2l+1, n_out)
        features : blocks (n_atoms, 2l+1, n_in)
        species : (n_atoms,), 0 ... n_species - 1
        """
        total = list(outputs)
        for k, weight in enumerate(self.weights):
            of_atom = weight.index_select(0, species) / math.sqrt(weight.shape[1])
            own = torch.bmm(features[self.sources[k]], of_atom)
            total[self.targets[k]] = total[self.targets[k]] + own
        return total
