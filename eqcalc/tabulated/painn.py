"""PaiNN for inference and for training: the messages of each block in one fused sum.

For inference the filters are tables; for training they are what is trained.
"""

from __future__ import annotations

import copy
import functools
from typing import cast

import torch
from torch import Tensor, nn

from eqcalc.architectures.painn import Message, PaiNN, Update
from eqcalc.graph import AtomicGraph
from eqcalc.nn.so3.tensor_product import PathTable, filled_up
from eqcalc.tabulated.convolutions import edge_order, vector_convolution
from eqcalc.tabulated.pairs import pair_distances
from eqcalc.tabulated.products import PathProducts
from eqcalc.tabulated.spline import SplineTable, fit_table

__all__ = ["TabulatedPaiNN", "TrainedPaiNN", "tabulated_form", "training_form"]


def tabulated_form(network: PaiNN, dtype: torch.dtype, tolerance: float) -> nn.Module:
    """Return the tabulated network; see :func:`eqcalc.tabulated.tabulated_form`."""
    return TabulatedPaiNN(network, dtype, tolerance)


def training_form(network: PaiNN) -> nn.Module:
    """Return the network with fused sums; see :func:`eqcalc.tabulated.training_form`."""
    return TrainedPaiNN(network)


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
        order = edge_order(graph.edge_index, n_atoms)
        vectors = scalars.new_zeros((n_atoms, 3, n))
        mixed = self.first_mix.index_select(0, graph.atomic_numbers)  # (n_atoms, 2F)
        features = torch.cat([mixed, vectors.flatten(1)], dim=1)  # (n_atoms, 5F)
        for block, (table, update) in enumerate(zip(self.tables, self.updates, strict=True)):
            sums = vector_convolution(
                features, cast(SplineTable, table), graph.edge_vectors, graph.edge_index, order
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


class TrainedPaiNN(nn.Module):
    """PaiNN with the messages of each block in one fused sum.

    As in :class:`TabulatedPaiNN` the products of vectors and their factors are taken on atoms,
    and the first block has no vectors to send.
    """

    def __init__(self, network: PaiNN) -> None:
        super().__init__()
        self.cutoff, self.n_hops = network.cutoff, network.n_hops
        self.network = network
        self.n_channels = network.n_channels
        dtype = network.embedding.weight.dtype
        tables = [message_paths(self.n_channels, k > 0) for k in range(self.n_hops)]
        self.products = nn.ModuleList(PathProducts(table, dtype) for table in tables)

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        """Return energies (n_atoms,) in the potential's scaled units."""
        network, n = self.network, self.n_channels
        lengths = torch.linalg.vector_norm(graph.edge_vectors, dim=1)  # (n_edges,)
        directions = graph.edge_vectors / lengths.unsqueeze(1)
        harmonics = torch.cat([torch.ones_like(directions[:, :1]), directions], dim=1)
        distances, of_edges = pair_distances(graph.edge_index, graph.edge_vectors)
        filters = self.filters(distances)  # (n_pairs, 2F), then (n_pairs, 3F) each
        scalars = network.embedding(graph.atomic_numbers)  # (n_atoms, F)
        vectors = scalars.new_zeros((scalars.shape[0], 3, n))
        blocks = zip(network.messages, network.updates, self.products, filters, strict=True)
        for block, (message, update, products, weights) in enumerate(blocks):
            mixed = cast(Message, message).mix(scalars)  # (n_atoms, 3F)
            rows, c = mixed.split([2 * n, n], dim=1)
            if block > 0:
                rows = torch.cat([rows, (vectors * c.unsqueeze(1)).flatten(1)], dim=1)
            sums = products(rows, harmonics, weights, graph.edge_index, of_edges)  # (n_atoms, 4F)
            scalars = scalars + sums[:, :n]
            vectors = vectors + sums[:, n:].unflatten(1, (3, n))
            scalars, vectors = update(scalars, vectors)
        return network.readout(scalars).sum(dim=1)

    def filters(self, distances: Tensor) -> list[Tensor]:
        """Return the filters of every block: (n_pairs, 2F), then (n_pairs, 3F) each.

        The envelope multiplies what they are made of, which is less than they are.
        """
        network, n = self.network, self.n_channels
        envelope = network.envelope(distances)  # (n_edges, 1)
        radial = torch.cat([network.radial_basis(distances) * envelope, envelope], dim=1)
        weights = torch.cat([network.filters.weight, network.filters.bias.unsqueeze(1)], dim=1)
        blocks = weights.split(3 * n)
        return [radial @ block.t() for block in (blocks[0][: 2 * n], *blocks[1:])]


def message_paths(n_channels: int, has_vectors: bool) -> PathTable:
    """Return a message's paths from [a, b, c_x, c_y, c_z] to [s, v_x, v_y, v_z].

    (1, r̂) stands in place of harmonics: a W_a counts for s, and b r̂ W_b and c W_c for v.
    """
    n, same = n_channels, torch.eye(3, dtype=torch.float64)
    couplings = [same[:1, :1, None], same.unsqueeze(2), same.unsqueeze(0)]  # (m2, m3, m1)
    blocks = [filled_up(block).flatten() for block in couplings]
    first, second = blocks[0].numel(), blocks[0].numel() + blocks[1].numel()
    rows: list[tuple[int, ...]] = [
        (0, 1, 0, 1, 0, 1, 0, n, n, 0),
        (n, 1, 1, 3, first, 3, n, n, n, n),
        (2 * n, 3, 0, 1, second, 3, n, n, n, 2 * n),
    ]
    return PathTable(rows if has_vectors else rows[:2], torch.cat(blocks), [(1, n), (3, n)])
