"""NequIP for inference: radial networks in tables, each convolution in one fused sum."""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import Tensor, nn

from eqcalc.architectures.nequip import Interaction, NequIP
from eqcalc.graph import AtomicGraph
from eqcalc.tabulated.convolutions import PathConvolution
from eqcalc.tabulated.spline import SplineTable, fit_table

__all__ = ["TabulatedNequIP", "tabulated_form"]


def tabulated_form(network: NequIP, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the tabulated network; see :func:`eqcalc.tabulated.tabulated_form`."""
    return TabulatedNequIP(network, dtype, tolerance)


class TabulatedNequIP(nn.Module):
    """NequIP with its radial networks in tables and each convolution in one fused sum."""

    species_of: Tensor

    def __init__(self, network: NequIP, dtype: torch.dtype, tolerance: float) -> None:
        super().__init__()
        exact = copy.deepcopy(network).double()
        self.cutoff, self.n_hops = network.cutoff, network.n_hops

        def weights(distances: Tensor, layer: int) -> Tensor:
            interaction = cast(Interaction, exact.interactions[layer])
            return interaction.weights(exact.radial(distances), distances)

        onset = network.config.xplor_onset
        bends = [] if onset is None else [onset]

        def table(layer: int) -> SplineTable:
            of_layer = functools.partial(weights, layer=layer)
            return fit_table(of_layer, self.cutoff, dtype, tolerance, bends)

        self.network = copy.deepcopy(network).to(dtype)
        self.convolutions = nn.ModuleList(
            PathConvolution(
                cast(Interaction, self.network.interactions[k]).product,
                table(k),
                self.network.edge_couplings,
            )
            for k in range(self.n_hops)
        )

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        network = self.network
        species = network.known_species(graph.atomic_numbers)
        edge_vectors = network.vectors(graph, species)
        harmonics = network.edge_couplings.harmonics(edge_vectors)
        couplings = network.edge_couplings.of_harmonics(harmonics)
        features = network.first_features(species)
        for layer, convolution in zip(network.interactions, self.convolutions, strict=True):
            interaction = cast(Interaction, layer)
            mixed = interaction.senders(features, species)
            messages = convolution(mixed, harmonics, couplings, edge_vectors, graph.edge_index)
            features = interaction.update(messages, features, species)
        return network.species_energies(features[0], species, graph.atomic_numbers)
