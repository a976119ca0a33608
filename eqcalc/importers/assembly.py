"""From a network with a file's weights to a potential: elements, scales, precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Optional, cast

import torch
from torch import Tensor

from eqcalc.architectures.nequip import NequIP
from eqcalc.elements import atomic_number, symbols_of
from eqcalc.errors import ConfigError, listing
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential

__all__ = ["chosen_elements", "elements_of", "in_precision_of", "scaled_potential"]


def chosen_elements(known: Sequence[str], wanted: Optional[Sequence[str]]) -> list[str]:
    """Return the elements that a model shall have, by atomic number.

    Raises
    ------
    ConfigError : the network does not know one of those wanted, or none is wanted.
    """
    symbols = sorted(known, key=atomic_number)
    if wanted is None:
        return symbols
    unknown = [element for element in wanted if element not in known]
    if unknown or not wanted:
        raise ConfigError(
            f"elements must be among those that the network knows ({listing(symbols)}), found "
            f"{', '.join(unknown) or 'none'}."
        )
    return [symbol for symbol in symbols if symbol in wanted]


def elements_of(potential: Potential) -> list[str]:
    """Return the symbols of the elements that a potential knows."""
    return symbols_of(torch.nonzero(~potential.reference_energies.isnan()).flatten().tolist())


def in_precision_of(potential: Potential, state: Mapping[str, Tensor]) -> Potential:
    """Return a potential in float32 where all trained weights of a file are, else in float64."""
    kinds = {tensor.dtype for name, tensor in state.items() if name.endswith("weight")}
    return potential if torch.float64 in kinds else potential.float()


def scaled_potential(
    network: NequIP,
    symbols: Sequence[str],
    scales: Tensor,
    shifts: Tensor,
    zbl: Optional[ZBL] = None,
) -> Potential:
    """Return a network as a potential with scales and shifts (n_elements,) in eV, float64.

    One scale of all elements is the potential's, which is float64; others are parameters.
    """
    energies = dict(zip(symbols, shifts.tolist(), strict=True))
    if bool((scales == scales[0]).all()):
        return Potential(network, energies, scale=scales[0].item(), zbl=zbl)
    with torch.no_grad():
        cast("Tensor", network.species_scale).copy_(scales)
    return Potential(network, energies, zbl=zbl)
