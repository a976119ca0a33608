"""SchNet for inference: filters in tables, each convolution in one fused sum."""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import Tensor, nn

from eqcalc.architectures.schnet import Interaction, SchNet
from eqcalc.graph import AtomicGraph
from eqcalc.nn.envelope import Envelope
from eqcalc.tabulated.convolutions import scalar_convolution
from eqcalc.tabulated.spline import SplineTable, fit_table

__all__ = ["TabulatedSchNet", "tabulated_form"]


def tabulated_form(network: SchNet, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the tabulated network; see :func:`eqcalc.tabulated.tabulated_form`."""
    return TabulatedSchNet(network, dtype, tolerance)


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
        for table, layer in zip(self.tables, self.interactions, strict=True):
            interaction = cast(Interaction, layer)
            summed = scalar_convolution(
                interaction.to_filter_space(features),
                cast(SplineTable, table),
                graph.edge_vectors,
                graph.edge_index,
            )
            features = features + interaction.mix(summed)
        return self.readout(features).squeeze(1)
