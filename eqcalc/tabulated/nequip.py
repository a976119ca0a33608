"""NequIP for inference and for training: each convolution in one fused sum.

For inference the radial networks are tables; for training they are what is trained.
"""

from __future__ import annotations

import copy
import functools
import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqcalc.architectures.nequip import Interaction, NequIP
from eqcalc.graph import AtomicGraph
from eqcalc.nn.so3 import SpeciesLinear, UnitVarianceLinear, UnitVarianceSiLU
from eqcalc.nn.so3.tensor_product import path_table
from eqcalc.tabulated.activations import silu
from eqcalc.tabulated.convolutions import PathConvolution, edge_order
from eqcalc.tabulated.pairs import pair_distances
from eqcalc.tabulated.products import PathProducts
from eqcalc.tabulated.spline import SplineTable, fit_table

__all__ = ["TabulatedNequIP", "TrainedNequIP", "tabulated_form", "training_form"]

_FEW_SPECIES = 4
_SHARP = 0.7
"""Å, below which radial networks turn sharply. With knots as close everywhere the tables of
SevenNet-l3i5 would be almost three times as large."""


def tabulated_form(network: NequIP, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the tabulated network; see :func:`eqcalc.tabulated.tabulated_form`."""
    return TabulatedNequIP(network, dtype, tolerance)


def training_form(network: NequIP) -> nn.Module:
    """Return the network with fused sums; see :func:`eqcalc.tabulated.training_form`."""
    return TrainedNequIP(network)


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
            return fit_table(of_layer, self.cutoff, dtype, tolerance, bends, joints=[_SHARP])

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
        order = edge_order(graph.edge_index, graph.atomic_numbers.shape[0])
        features = network.first_features(species)
        for layer, convolution in zip(network.interactions, self.convolutions, strict=True):
            interaction = cast(Interaction, layer)
            mixed = interaction.senders(features, species)
            messages = convolution(
                mixed, harmonics, couplings, edge_vectors, graph.edge_index, order
            )
            features = interaction.update(messages, features, species)
        return network.species_energies(features[0], species, graph.atomic_numbers)


class TrainedNequIP(nn.Module):
    """NequIP with each convolution in one fused sum, and each self-connection in few products."""

    def __init__(self, network: NequIP) -> None:
        super().__init__()
        self.cutoff, self.n_hops = network.cutoff, network.n_hops
        self.network = network
        products = [cast(Interaction, each).product for each in network.interactions]
        tables = [path_table(each, network.edge_couplings) for each in products]
        dtype = network.embedding.weight.dtype
        self.products = nn.ModuleList(PathProducts(table, dtype) for table in tables)
        self.shapes = [table.shapes for table in tables]

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        network = self.network
        species = network.known_species(graph.atomic_numbers)
        edge_vectors = network.vectors(graph, species)
        distances, of_edges = pair_distances(graph.edge_index, edge_vectors)
        radial = network.radial(distances)  # (n_pairs, num_bessels)
        harmonics = network.edge_couplings.harmonics(edge_vectors)
        features = network.first_features(species)
        layers = zip(network.interactions, self.products, self.shapes, strict=True)
        for layer, products, shapes in layers:
            interaction = cast(Interaction, layer)
            mixed = interaction.senders(features, species)
            rows = torch.cat([block.flatten(1) for block in mixed], dim=1)
            weights = path_weights(interaction, radial, distances)
            sums = products(rows, harmonics, weights, graph.edge_index, of_edges)
            parts = sums.split([dim * channels for dim, channels in shapes], dim=1)
            messages = [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]
            features = updated(interaction, messages, features, species)
        return network.species_energies(features[0], species, graph.atomic_numbers)


def path_weights(interaction: Interaction, radial: Tensor, distances: Tensor) -> Tensor:
    """Return ``interaction.weights``, with its factors on the maps of the radial network.

    The maps have fewer numbers than what they map for all edges.
    """
    layers = list(interaction.radial_network)
    has_factors = interaction.solid_harmonics  # each path's own
    if has_factors or not all(_is_plain(layer) for layer in layers):
        return interaction.weights(radial, distances)
    factor = 1.0
    for layer in layers[:-1]:
        if isinstance(layer, UnitVarianceSiLU):
            radial, factor = silu(radial), factor * layer.factor
        else:
            radial, factor = radial @ _scaled(layer, factor), 1.0
    return radial @ _scaled(layers[-1], factor * interaction.message_factor)


def _is_plain(layer: nn.Module) -> bool:
    """Whether a layer is silu, or a linear map without bias."""
    is_linear = isinstance(layer, UnitVarianceLinear) and layer.bias is None
    return is_linear or isinstance(layer, UnitVarianceSiLU)


def _scaled(layer: nn.Module, factor: float) -> Tensor:
    """Return the matrix of a linear map, times a factor."""
    linear = cast(UnitVarianceLinear, layer)
    return linear.weight * (factor / math.sqrt(linear.fan_in))


def updated(
    interaction: Interaction, messages: list[Tensor], features: list[Tensor], species: Tensor
) -> list[Tensor]:
    """Return ``interaction.update``.

    The self-connection of few species is one product with the maps of all of them, of features
    that are zero for all but the atom's own: the map of each atom would be a copy, and its
    gradient a sum over copies.
    """
    connection = interaction.self_connection
    if not isinstance(connection, SpeciesLinear) or connection.n_species > _FEW_SPECIES:
        return interaction.update(messages, features, species)
    own = functional.one_hot(species, connection.n_species).to(features[0].dtype)
    own = own.unsqueeze(1).unsqueeze(3)  # (n_atoms, 1, n_species, 1)
    mixed = interaction.mix_after(messages)
    places = zip(connection.sources, connection.targets, connection.weights, strict=True)
    for source, target, weight in places:
        spread = (features[source].unsqueeze(2) * own).flatten(2)
        scaled = weight.flatten(0, 1) / math.sqrt(weight.shape[1])
        mixed[target] = mixed[target] + spread @ scaled
    return interaction.gate(mixed)
