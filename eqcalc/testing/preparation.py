"""The copy of a potential on which the laws are tested, of a size that tolerances can judge."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from eqcalc.elements import atomic_number
from eqcalc.errors import ContractError
from eqcalc.potential import Potential
from eqcalc.testing import geometries
from eqcalc.testing.subjects import evaluate, potential_subject

__all__ = ["interaction_energy", "perturb", "prepared_copy"]

_REFERENCE_ENERGIES = (-0.5, -1.5, -2.0, 0.7, -1.1, 0.3)
"""eV; of the size of the interactions, so that no relative tolerance hides behind them."""


def perturb(module: nn.Module, size: float = 0.05, seed: int = 3) -> None:
    """Add a little noise to every trainable parameter, the same at every call."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            if parameter.requires_grad:
                parameter.add_((size * noise).to(parameter.dtype))


def prepared_copy(
    potential: Potential, elements: Sequence[str], *, with_noise: bool = True
) -> Potential:
    """Return a copy on the CPU, in evaluation mode, that shows its mistakes.

    Its reference energies are small numbers, and its scale is such that interactions are of
    1 eV, because tolerances are in eV: tiny interactions would obey laws that they break. A law
    that holds for E holds for every multiple of E.

    Parameters
    ----------
    elements : symbols that get a reference energy
    with_noise : move parameters off special values, such as a last layer of zeros, by
        :func:`perturb`
    """
    prepared = copy.deepcopy(potential).cpu().eval()
    prepared.zero_grad()
    if with_noise:
        perturb(prepared)
    for k, element in enumerate(elements):
        energy = _REFERENCE_ENERGIES[k % len(_REFERENCE_ENERGIES)]
        prepared.reference_energies[atomic_number(element)] = energy
    try:
        size = interaction_energy(prepared, elements)
    except ContractError:
        return prepared  # the laws will say what is wrong
    if size > 0.0:
        prepared.scale /= size
    return prepared


def interaction_energy(potential: Potential, elements: Sequence[str]) -> float:
    """Return the size of a potential's interactions in eV.

    Of each structure, how much the energy of an atom differs at most from that of the isolated
    atom; the median over structures, since a network of random weights may run wild in one.

    Raises
    ------
    ContractError : it cannot be evaluated.
    """
    subject = potential_subject(copy.deepcopy(potential).double(), elements=elements)
    largest = []
    for case, atoms in geometries.generic().items():
        alone = {
            symbol: evaluate(subject, geometries.isolated(symbol), f"isolated {symbol}").energies
            for symbol in set(atoms.symbols)
        }
        apart = torch.cat([alone[symbol] for symbol in atoms.symbols])
        largest.append(float((evaluate(subject, atoms, case).energies - apart).abs().max()))
    return float(np.median(largest))
