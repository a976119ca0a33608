"""The channel-wise tensor product of neighbours' features with spherical harmonics.

For every path (l1, p1) ⊗ l2 -> (l3, p3) and channel c, with weights w of each edge,

    M_{i, m3 c} = Σ_j w_{ij,c} Σ_{m1} A_{ij, m3 m1} h_{j, m1 c}
    A_{ij, m3 m1} = √(2 l3 + 1) Σ_{m2} C_{m1 m2 m3} Y_{l2 m2}(r̂_ij)

The coupling A depends on the edge alone: it is made once, by one matrix product, and
shared by all channels and layers. The paths of one input irrep are one batched matrix
product, weighted and summed at the receivers before the next irrep's turn, so that no
tensor holds all paths, channels and components of every edge.

The factor √(2 l3 + 1) is e3nn's component normalisation: with h, Y and w of unit
variance so is every component of a path (its instruction "uvu").

=============  ==========================================================
symbol         variable
=============  ==========================================================
Y              ``harmonics`` (n_edges, (l_max+1)²)
A              ``couplings``, one (n_edges, rows, 2l1+1) for each group
h              ``features``, one (n_atoms, 2l1+1, C) per irrep
w              ``weights`` (n_edges, n_weights)
M              the result, one (n_atoms, 2l3+1, Σ_paths C) per irrep
=============  ==========================================================

Shapes: n_atoms, n_edges, C channels, of each input irrep its own number. A group is all paths
from one l1 for which l1 + l2 + l3 is even (they keep natural parity natural) or odd; its rows
are (l3, m3, path).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from eqcalc.arguments import require_at_least
from eqcalc.errors import ConfigError
from eqcalc.nn.constants import Constants
from eqcalc.nn.scatter import of_all_atoms, sum_at_receivers
from eqcalc.nn.so3.coupling import clebsch_gordan
from eqcalc.nn.so3.harmonics import spherical_harmonics
from eqcalc.nn.so3.irreps import Irrep, Layout

__all__ = [
    "PATH_COLUMNS",
    "EdgeCouplings",
    "PathTable",
    "TensorProduct",
    "constants_of",
    "filled_up",
    "path_constants",
    "path_filters",
    "path_layout",
    "path_table",
]

_BLOCK = 16  # the numbers of the widest vectors of float32


class EdgeCouplings(Constants):
    """Contract the harmonics of each edge with the Clebsch-Gordan coefficients.

    Parameters
    ----------
    l_max : largest degree of features and harmonics
    parity : couple to both parities (odd l1 + l2 + l3 as well)

    Raises
    ------
    ConfigError : ``l_max`` is not an integer ≥ 0.
    """

    def __init__(self, l_max: int, parity: bool) -> None:
        require_at_least(0, l_max=l_max)
        both = (False, True) if parity else (False,)
        groups = [(l1, odd) for l1 in range(l_max + 1) for odd in both if l1 > 0 or not odd]
        blocks = [_group_table(l1, odd, l_max) for l1, odd in groups]
        super().__init__(torch.cat([block.flatten(1) for block in blocks], dim=1))
        self.l_max = l_max
        self.groups = groups
        self.source_dims = [2 * l1 + 1 for l1, _ in groups]
        self.sizes = [block[0].numel() for block in blocks]

    def forward(self, vectors: Tensor) -> list[Tensor]:
        """Map edge vectors (n_edges, 3) to A, one (n_edges, rows, 2l1+1) for each group."""
        return self.of_harmonics(self.harmonics(vectors))

    def harmonics(self, vectors: Tensor) -> Tensor:
        """Return Y (n_edges, (l_max+1)²) of edge vectors (n_edges, 3)."""
        return spherical_harmonics(self.l_max, vectors)

    def of_harmonics(self, harmonics: Tensor) -> list[Tensor]:
        """Return A, one (n_edges, rows, 2l1+1) for each group, of Y."""
        products = harmonics @ self.constants(harmonics.dtype)
        couplings: list[Tensor] = []
        for k, part in enumerate(products.split(self.sizes, dim=1)):
            dim = self.source_dims[k]
            couplings.append(part.view(part.shape[0], self.sizes[k] // dim, dim))
        return couplings


class TensorProduct(nn.Module):
    """Multiply neighbours' features with couplings and weights, and sum at the receivers.

    Parameters
    ----------
    layout_in : channels of each irrep of the features
    irreps_out : of the result
    edge_couplings : the module whose output ``forward`` will be given

    Attributes
    ----------
    n_weights : weights of each edge: by input irrep, output irrep (those that keep
        naturalness first, by degree), l2, channel

    Raises
    ------
    ConfigError : no path leads to an output irrep.
    """

    def __init__(
        self,
        layout_in: Layout,
        irreps_out: list[Irrep],
        edge_couplings: EdgeCouplings,
    ) -> None:
        super().__init__()
        l_max = edge_couplings.l_max
        self.n_targets = len(path_layout(layout_in, irreps_out, l_max))
        self.channels = list(layout_in.values())
        groups, sources, couplings, targets = [], [], [], []
        for s, source in enumerate(layout_in):
            for odd in (False, True):
                degrees = _degrees(source.l, odd, l_max)
                found = {
                    target.l: t
                    for t, target in enumerate(irreps_out)
                    if target.l in degrees and _keeps(source, target, odd)
                }
                if found:
                    groups.append(PathGroup(degrees, sorted(found), self.channels[s]))
                    sources.append(s)
                    couplings.append(edge_couplings.groups.index((source.l, odd)))
                    targets.append([found[l3] for l3 in sorted(found)])
        self.groups = nn.ModuleList(groups)
        # Of each group the positions of its input irrep, its couplings and its results.
        self.sources, self.couplings, self.targets = sources, couplings, targets
        self.weight_sizes = [group.n_weights for group in groups]
        self.n_weights = sum(self.weight_sizes)

    def forward(
        self,
        features: list[Tensor],
        couplings: list[Tensor],
        weights: Tensor,
        edge_index: Tensor,
    ) -> list[Tensor]:
        """Return M, one tensor (n_atoms, 2l3+1, Σ_paths C) for each output irrep.

        Parameters
        ----------
        features : one tensor (n_atoms, 2l1+1, C) for each input irrep
        couplings : A, from :class:`EdgeCouplings`
        weights : (n_edges, n_weights)
        edge_index : (2, n_edges); row 0 sender j, row 1 receiver i
        """
        n_atoms = features[0].shape[0]
        sums: list[list[Tensor]] = [[] for _ in range(self.n_targets)]
        parts = weights.split(self.weight_sizes, dim=1)
        sent = of_all_atoms(features)
        for k, group in enumerate(self.groups):
            neighbours = sent[self.sources[k]].index_select(0, edge_index[0])
            messages = group(neighbours, couplings[self.couplings[k]], parts[k])
            for target, message in zip(self.targets[k], messages):  # noqa: B905
                sums[target].append(sum_at_receivers(message, edge_index[1], n_atoms))
        return [torch.cat(blocks, dim=2) for blocks in sums]


PATH_COLUMNS = 10
"""Numbers of a row of a :class:`PathTable`."""


class PathTable(NamedTuple):
    """Every path of a tensor product, for kernels that go through them one by one.

    Features, couplings and results are taken as one row of numbers each: the features of
    all input irreps one after the other, as are the couplings of all groups, and the results.

    rows : of each path, in the order of the weights: where its features begin, 2l1+1; where its
        harmonics begin, 2l2+1; where its constants begin; 2l3+1, where its results begin and
        their stride in m3; C, where its weights begin
    constants : float64; √(2l3+1) C of a path as (m2, (m3, m1)), the numbers of each m2 filled
        up with zeros to a multiple of 16 (:func:`filled_up`, :func:`constants_of`)
    shapes : (2l3+1, n_paths · C) of each result
    """

    rows: list[tuple[int, ...]]
    constants: Tensor
    shapes: list[tuple[int, int]]


def path_table(product: TensorProduct, couplings: EdgeCouplings) -> PathTable:
    """Return the paths of a product."""
    groups = [cast("PathGroup", group) for group in product.groups]
    sizes_in = [0] * len(product.channels)
    shapes = [(0, 0)] * product.n_targets
    for k, group in enumerate(groups):
        source = product.sources[k]
        sizes_in[source] = couplings.source_dims[product.couplings[k]] * product.channels[source]
        for position, target in enumerate(product.targets[k]):
            width = shapes[target][1] + group.weight_sizes[position]
            shapes[target] = (group.target_dims[position], width)
    first_x = [sum(sizes_in[:source]) for source in range(len(sizes_in))]
    first_out = [sum(d * n for d, n in shapes[:t]) for t in range(len(shapes))]
    seen = [0] * product.n_targets
    rows: list[tuple[int, ...]] = []
    blocks: dict[tuple[int, int, int], Tensor] = {}  # paths of the same degrees share theirs
    begins: dict[tuple[int, int, int], int] = {}
    first_w = size = 0
    for k, group in enumerate(groups):
        source, (l1, odd) = product.sources[k], couplings.groups[product.couplings[k]]
        c, degrees = product.channels[source], _degrees(l1, odd, couplings.l_max)
        for position, target in enumerate(product.targets[k]):
            d3 = group.target_dims[position]
            l3 = d3 // 2
            for l2 in degrees[l3]:
                if (l1, l2, l3) not in blocks:
                    blocks[l1, l2, l3] = filled_up(path_constants(l1, l2, l3))
                    begins[l1, l2, l3] = size
                    size += blocks[l1, l2, l3].numel()
                rows.append(
                    (
                        first_x[source],
                        2 * l1 + 1,
                        l2 * l2,
                        2 * l2 + 1,
                        begins[l1, l2, l3],
                        d3,
                        first_out[target] + seen[target],
                        shapes[target][1],
                        c,
                        first_w,
                    )
                )
                seen[target] += c
                first_w += c
    return PathTable(rows, torch.cat([block.flatten() for block in blocks.values()]), shapes)


def constants_of(row: Sequence[int], constants: Tensor) -> Tensor:
    """Return √(2l3+1) C (2l2+1, 2l3+1, 2l1+1) of a path of a :class:`PathTable`."""
    d1, d2, begin, d3 = row[1], row[3], row[4], row[5]
    block = -(-d1 * d3 // _BLOCK) * _BLOCK
    filled_up = constants.narrow(0, begin, d2 * block).view(d2, block)
    return filled_up.narrow(1, 0, d1 * d3).reshape(d2, d3, d1)


def filled_up(block: Tensor) -> Tensor:
    """Return coefficients (m2, m3, m1) as a :class:`PathTable` has them, (m2, (m3, m1), 0 ...)."""
    numbers = block.flatten(1)
    return nn.functional.pad(numbers, (0, -numbers.shape[1] % _BLOCK))


class PathGroup(nn.Module):
    """All paths from one input irrep to the output irreps of one naturalness.

    Parameters
    ----------
    degrees : the group's l2, by l3
    kept : the l3 wanted, ascending
    n_channels : of the input irrep
    """

    def __init__(self, degrees: dict[int, list[int]], kept: list[int], n_channels: int) -> None:
        super().__init__()
        rows = {l3: (2 * l3 + 1) * len(l2) for l3, l2 in degrees.items()}
        used = [l3 for l3 in rows if kept[0] <= l3 <= kept[-1]]
        self.first_row = sum(n for l3, n in rows.items() if l3 < kept[0])
        self.row_sizes = [rows[l3] for l3 in used]
        self.n_rows = sum(self.row_sizes)
        self.kept = [used.index(l3) for l3 in kept]
        self.target_dims = [2 * l3 + 1 for l3 in kept]
        self.weight_sizes = [len(degrees[l3]) * n_channels for l3 in kept]
        self.n_weights = sum(self.weight_sizes)

    def forward(self, neighbours: Tensor, coupling: Tensor, weights: Tensor) -> list[Tensor]:
        """Return messages (n_edges, 2l3+1, n_paths · C), one for each l3."""
        if self.n_rows < coupling.shape[1]:
            coupling = coupling.narrow(1, self.first_row, self.n_rows)
        weight_parts = weights.split(self.weight_sizes, dim=1)
        messages: list[Tensor] = []
        if coupling.shape[2] == 1:
            # One path to each l3: weights act on one row, before the product makes 2l3+1.
            parts = coupling.split(self.row_sizes, dim=1)  # (n_edges, 2l3+1, 1) each
            for k, part in enumerate(self.kept):
                messages.append(parts[part] * (neighbours * weight_parts[k].unsqueeze(1)))
            return messages
        products = torch.bmm(coupling, neighbours).split(self.row_sizes, dim=1)
        for k, part in enumerate(self.kept):
            shape = [neighbours.shape[0], self.target_dims[k], self.weight_sizes[k]]
            messages.append(products[part].view(shape) * weight_parts[k].unsqueeze(1))
        return messages


def path_layout(layout_in: Layout, irreps_out: list[Irrep], l_max: int) -> Layout:
    """Return the channels of a tensor product's result: for every path those of its input.

    Raises
    ------
    ConfigError : no path leads to an output irrep.
    """
    layout: Layout = {}
    for target in irreps_out:
        width = sum(len(s.filters_to(target, l_max)) * n for s, n in layout_in.items())
        if width == 0:
            raise ConfigError(
                f"no path from {', '.join(map(str, layout_in))} with harmonics up to "
                f"l = {l_max} leads to {target}."
            )
        layout[target] = width
    return layout


def path_filters(layout_in: Layout, irreps_out: list[Irrep], l_max: int) -> list[tuple[int, int]]:
    """Return (l2, channels) of every path, in the order of a tensor product's weights."""
    filters = []
    for source, n in layout_in.items():
        for odd in (False, True):
            for l3, degrees in _degrees(source.l, odd, l_max).items():
                if any(t.l == l3 and _keeps(source, t, odd) for t in irreps_out):
                    filters += [(l2, n) for l2 in degrees]
    return filters


def _keeps(source: Irrep, target: Irrep, odd: bool) -> bool:
    """Whether paths with odd (even) l1 + l2 + l3 lead from one irrep to another."""
    return source.parity == 0 or odd == (source.is_natural != target.is_natural)


def _degrees(l1: int, odd: bool, l_max: int) -> dict[int, list[int]]:
    """Return the l2 of all paths from l1, by l3; l1 + l2 + l3 is odd or even."""
    source = Irrep(l1, (-1) ** l1)
    targets = [Irrep(l3, (-1) ** (l3 + odd)) for l3 in range(l_max + 1)]
    degrees = {target.l: source.filters_to(target, l_max) for target in targets}
    return {l3: l2 for l3, l2 in degrees.items() if l2}


def _group_table(l1: int, odd: bool, l_max: int) -> Tensor:
    """Return √(2l3+1) C as ((l2, m2), (l3, m3, path), m1), float64."""
    blocks = []
    for l3, degrees in _degrees(l1, odd, l_max).items():
        block = torch.zeros(
            (l_max + 1) ** 2, 2 * l3 + 1, len(degrees), 2 * l1 + 1, dtype=torch.float64
        )
        for path, l2 in enumerate(degrees):
            block[l2 * l2 : (l2 + 1) ** 2, :, path, :] = path_constants(l1, l2, l3)
        blocks.append(block.flatten(1, 2))
    return torch.cat(blocks, dim=1)


def path_constants(l1: int, l2: int, l3: int) -> Tensor:
    """Return √(2l3+1) C as (2l2+1, 2l3+1, 2l1+1), float64."""
    return math.sqrt(2 * l3 + 1) * clebsch_gordan(l1, l2, l3).permute(1, 2, 0)
