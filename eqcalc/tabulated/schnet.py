"""SchNet for inference and for training: each convolution in one fused sum.

For inference the filters are tables; for training they are what is trained.
"""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import Tensor, nn

from eqcalc.architectures.schnet import Interaction, SchNet
from eqcalc.graph import AtomicGraph
from eqcalc.nn.envelope import Envelope
from eqcalc.nn.so3.tensor_product import PathTable, filled_up
from eqcalc.tabulated.convolutions import edge_order, scalar_convolution
from eqcalc.tabulated.pairs import pair_distances
from eqcalc.tabulated.products import PathProducts
from eqcalc.tabulated.spline import SplineTable, fit_table

__all__ = ["TabulatedSchNet", "TrainedSchNet", "tabulated_form", "training_form"]


def tabulated_form(network: SchNet, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the tabulated network; see :func:`eqcalc.tabulated.tabulated_form`."""
    return TabulatedSchNet(network, dtype, tolerance)


def training_form(network: SchNet) -> nn.Module:
    """Return the network with fused sums; see :func:`eqcalc.tabulated.training_form`."""
    return TrainedSchNet(network)


class TabulatedSchNet(nn.Module):
    """SchNet with its filters in tables and each convolution in one fused sum."""

    def __init__(self, network: SchNet, dtype: torch.dtype, tolerance: float) -> None:
        super().__init__()
        self.cutoff, self.n_hops = float(network.cutoff or 0.0), network.n_hops
        exact = copy.deepcopy(network).double()

        def filters(distances: Tensor, block: int) -> Tensor:
            interaction = cast(Interaction, exact.interactions[block])
            radial, envelope = exact.radial(distances), cast(Envelope, exact.envelope)
            return interaction.filter_network(radial) * envelope(distances)

        self.tables = nn.ModuleList(
            fit_table(functools.partial(filters, block=k), self.cutoff, dtype, tolerance)
            for k in range(self.n_hops)
        )
        network = copy.deepcopy(network).to(dtype)
        self.embedding, self.readout = network.embedding, network.readout
        self.interactions = network.interactions

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        features = self.embedding(graph.atomic_numbers)  # (n_atoms, hidden_dim)
        order = edge_order(graph.edge_index, features.shape[0])
        for table, layer in zip(self.tables, self.interactions, strict=True):
            interaction = cast(Interaction, layer)
            summed = scalar_convolution(
                interaction.to_filter_space(features),
                cast(SplineTable, table),
                graph.edge_vectors,
                graph.edge_index,
                order,
            )
            features = features + interaction.mix(summed)
        return self.readout(features).squeeze(1)


class TrainedSchNet(nn.Module):
    """SchNet with each convolution in one fused sum, of one path from scalars to scalars."""

    def __init__(self, network: SchNet) -> None:
        super().__init__()
        self.cutoff, self.n_hops = float(network.cutoff or 0.0), network.n_hops
        self.network = network
        n, dtype = network.config.hidden_dim, network.embedding.weight.dtype
        one = filled_up(torch.ones(1, 1, 1, dtype=torch.float64)).flatten()
        self.product = PathProducts(
            PathTable([(0, 1, 0, 1, 0, 1, 0, n, n, 0)], one, [(1, n)]), dtype
        )

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        network = self.network
        distances, of_edges = pair_distances(graph.edge_index, graph.edge_vectors)
        ones = torch.ones_like(graph.edge_vectors[:, :1])  # in place of harmonics
        radial, envelope = network.radial(distances), cast(Envelope, network.envelope)(distances)
        features = network.embedding(graph.atomic_numbers)  # (n_atoms, hidden_dim)
        for layer in network.interactions:
            interaction = cast(Interaction, layer)
            filters = interaction.filter_network(radial) * envelope
            sent = interaction.to_filter_space(features)
            features = features + interaction.mix(
                self.product(sent, ones, filters, graph.edge_index, of_edges)
            )
        return network.readout(features).squeeze(1)
