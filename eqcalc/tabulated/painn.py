"""PaiNN for inference: filters in tables, the messages of each block in one fused sum."""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import Tensor, nn

from eqcalc.architectures.painn import Message, PaiNN, Update
from eqcalc.graph import AtomicGraph
from eqcalc.tabulated.convolutions import vector_convolution
from eqcalc.tabulated.spline import SplineTable, fit_table

__all__ = ["TabulatedPaiNN", "tabulated_form"]


def tabulated_form(network: PaiNN, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the tabulated network; see :func:`eqcalc.tabulated.tabulated_form`."""
    return TabulatedPaiNN(network, dtype, tolerance)


class TabulatedPaiNN(nn.Module):
    """PaiNN with its filters in tables and each block's messages in one fused sum.

    The products of vectors and their factors are taken on atoms, before the sum: all
    messages are linear in the features of the sender then. What the first block mixes
    depends on the element alone and is a table too; there are no vectors yet. The last
    block makes scalars only, as the readout takes nothing else.
    """

    first_mix: Tensor

    def __init__(self, network: PaiNN, dtype: torch.dtype, tolerance: float) -> None:
        super().__init__()
        self.cutoff, self.n_hops = network.cutoff, network.n_hops
        self.n_channels = network.n_channels
        exact = copy.deepcopy(network).double()

        def filters(distances: Tensor, block: int) -> Tensor:
            return exact.block_filters(distances)[block]

        self.tables = nn.ModuleList(
            fit_table(functools.partial(filters, block=k), self.cutoff, dtype, tolerance)
            for k in range(self.n_hops)
        )
        mixes = [cast(Message, message).mix for message in exact.messages]
        with torch.no_grad():
            first = mixes[0](exact.embedding.weight)[:, : 2 * self.n_channels]
        self.register_buffer("first_mix", first.to(dtype))
        network = copy.deepcopy(network).to(dtype)
        self.embedding, self.readout = network.embedding, network.readout
        self.mixes = nn.ModuleList(cast(Message, m).mix for m in network.messages[1:])
        *updates, last = network.updates
        self.updates = nn.ModuleList([*updates, LastUpdate(cast(Update, last))])

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        scalars = self.embedding(graph.atomic_numbers)  # (n_atoms, F)
        n_atoms, n = scalars.shape
        vectors = scalars.new_zeros((n_atoms, 3, n))
        mixed = self.first_mix.index_select(0, graph.atomic_numbers)  # (n_atoms, 2F)
        features = torch.cat([mixed, vectors.flatten(1)], dim=1)  # (n_atoms, 5F)
        for block, (table, update) in enumerate(zip(self.tables, self.updates, strict=True)):
            sums = vector_convolution(
                features, cast(SplineTable, table), graph.edge_vectors, graph.edge_index
            )
            scalars = scalars + sums[:, :n]
            vectors = vectors + sums[:, n:].reshape(n_atoms, 3, n)
            scalars, vectors = update(scalars, vectors)
            if block < len(self.mixes):
                a, b, c = self.mixes[block](scalars).split(n, dim=1)
                products = vectors * c.unsqueeze(1)
                features = torch.cat([a, b, products.flatten(1)], dim=1)
        return self.readout(scalars).sum(dim=1)


class LastUpdate(nn.Module):
    """An update whose vectors nobody needs: the rows of a_vv are left out of the MLP."""

    def __init__(self, update: Update) -> None:
        super().__init__()
        n = self.n_channels = update.n_channels
        self.norm = update.norm
        self.channel_mix, self.mix = update.channel_mix, copy.deepcopy(update.mix)
        last, rows = self.mix.out, [*range(n), *range(2 * n, 3 * n)]
        last.weight = nn.Parameter(last.weight.detach()[rows])
        last.bias = nn.Parameter(last.bias.detach()[rows])

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        left, right = self.channel_mix(vectors).split(self.n_channels, dim=2)
        mixed = self.mix(torch.cat([scalars, self.norm(left)], dim=1))  # (n_atoms, 2F)
        a_ss, a_sv = mixed.split(self.n_channels, dim=1)
        return scalars + a_ss + a_sv * (left * right).sum(dim=1), vectors
