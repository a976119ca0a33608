"""The operators on a GPU: from tensors to launches of kernels.

Arguments are those of the schemas in :mod:`eqcalc.triton_kernels.operators`; of tables see
:class:`eqcalc.tabulated.spline.SplineTable`. Kernels start on the present stream and wait for
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor

from eqcalc.triton_kernels.edges import stretches_on
from eqcalc.triton_kernels.paths import path_kernels
from eqcalc.triton_kernels.rows import TILE, few_rows
from eqcalc.triton_kernels.sums import scalar_gradient, scalar_sum, vector_gradient, vector_sum

__all__ = ["OPERATORS"]

_MOST_ROWS = 256
"""Up to so many rows a product is the kernel's: those of a molecule. By estimate; not timed."""
_LANES, _PER_LANE = 32, 4  # of a warp; channels of a lane, which reads as many at once


def edge_order(edge_index: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the edges of each receiver begin, and the edges in the order of senders.

    Parameters
    ----------
    edge_index : (2, n_edges) int64; row 0 senders, row 1 receivers, sorted

    Returns
    -------
    starts : (n_atoms + 1,) int64; the edges of receiver i are those from ``starts[i]`` on
    order : (n_edges,) int64; edges by sender, those of one sender in their own order
    sender_starts : (n_atoms + 1,) int64; where in ``order`` those of each sender begin
    """
    senders, receivers = edge_index[0].contiguous(), edge_index[1].contiguous()
    atoms = torch.arange(n_atoms + 1, device=edge_index.device)
    ordered, order = torch.sort(senders, stable=True)
    return torch.searchsorted(receivers, atoms), order, torch.searchsorted(ordered, atoms)


class _Edges(NamedTuple):
    """The arguments that all convolutions share: edges, their order, and the knots of the table."""

    vectors: Tensor
    edge_index: Tensor
    starts: Tensor
    order: Tensor
    sender_starts: Tensor
    ends: Sequence[float]
    counts: Sequence[int]

    @classmethod
    def of(cls, arguments: Sequence[Any]) -> _Edges:
        edges = cls(*arguments)
        return edges._replace(
            vectors=edges.vectors.contiguous(), edge_index=edges.edge_index.contiguous()
        )

    @property
    def of_receivers(self) -> tuple[Tensor, ...]:
        """What a kernel of sums takes: vectors, senders and where the edges of a receiver begin."""
        return self.vectors, self.edge_index[0], self.starts, self._stretches

    @property
    def of_senders(self) -> tuple[Tensor, ...]:
        """What a kernel of derivatives takes: vectors, receivers and the edges of each sender."""
        return (
            self.vectors,
            self.edge_index[1],
            self.order,
            self.sender_starts,
            self._stretches,
        )

    @property
    def _stretches(self) -> Tensor:
        return stretches_on(tuple(self.ends), tuple(self.counts), self.vectors.device)


def _sums(kernel: Any, n_in: int, n_out: int) -> Callable[..., Tensor]:
    """Return the operator from features (n_atoms, n_in F) to sums (n_atoms, n_out F)."""

    def convolution(features: Tensor, table: Tensor, *arguments: Any) -> Tensor:
        edges, n = _Edges.of(arguments), features.shape[1] // n_in
        sums = features.new_empty((features.shape[0], n_out * n))
        tensors = features.contiguous(), table.contiguous(), *edges.of_receivers, sums
        _launch(kernel, sums, tensors, edges.ends, (), n)
        return sums

    return convolution


def _gradients(kernel: Any, n_in: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the operator of the derivatives by features (n_atoms, n_in F) and vectors."""

    def backward(
        gradient: Tensor, features: Tensor, table: Tensor, *arguments: Any
    ) -> tuple[Tensor, Tensor]:
        edges, features = _Edges.of(arguments), features.contiguous()
        found = torch.empty_like(features), torch.empty_like(edges.vectors)
        tensors = gradient.contiguous(), features, table.contiguous(), *edges.of_senders, *found
        _launch(kernel, features, tensors, edges.ends, (), features.shape[1] // n_in)
        return found

    return backward


def path_convolution(
    features: Tensor, harmonics: Tensor, constants: Tensor, table: Tensor, *arguments: Any
) -> Tensor:
    """Return the sums (n_atoms, width) of all paths; their constants stand in the kernels."""
    *of_edges, paths, width = arguments
    edges = _Edges.of(of_edges)
    features, harmonics, table = _contiguous(features, harmonics, table)
    sums = features.new_empty((features.shape[0], width))
    sizes = features.shape[1], harmonics.shape[1], table.shape[1], width
    for kernel in path_kernels(tuple(paths))[0]:
        tensors = features, harmonics, table, *edges.of_receivers, sums
        _launch(kernel.function, sums, tensors, edges.ends, sizes, kernel.n_channels)
    return sums


def path_convolution_backward(
    gradient: Tensor,
    features: Tensor,
    harmonics: Tensor,
    constants: Tensor,
    table: Tensor,
    *arguments: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives by features, harmonics and vectors, of the shapes of these."""
    *of_edges, paths = arguments
    edges = _Edges.of(of_edges)
    inputs = _contiguous(gradient, features, harmonics, table)
    n_edges, n_harmonics = harmonics.shape
    sizes = features.shape[1], n_harmonics, table.shape[1], gradient.shape[1]
    kernels = path_kernels(tuple(paths))[1]
    # What no path of a kernel takes, such as an irrep that leads to no result, keeps its zeros.
    by_features = features.new_zeros(features.shape)
    by_edges = features.new_zeros((len(kernels), n_edges, n_harmonics + 1))
    for kernel, found in zip(kernels, by_edges, strict=True):
        tensors = *inputs, *edges.of_senders, by_features, found
        _launch(kernel.function, by_features, tensors, edges.ends, sizes, kernel.n_channels)
    together = by_edges[0] if len(kernels) == 1 else by_edges.sum(dim=0)
    lengths = torch.linalg.vector_norm(edges.vectors, dim=1, keepdim=True)
    directions = torch.where(lengths > 0.0, edges.vectors / lengths, 0.0)
    by_vectors = together[:, n_harmonics:] * directions
    return by_features, together[:, :n_harmonics].contiguous(), by_vectors


def rows_times(x: Tensor, weights: Tensor, bias: Optional[Tensor]) -> Tensor:
    """Return x (..., n_in) times weights (n_in, n_out), and bias (n_out,) added."""
    n_in, n_out = weights.shape
    rows = x.reshape(-1, n_in)
    n_rows = rows.shape[0]
    if n_rows > _MOST_ROWS:
        products = rows @ weights if bias is None else torch.addmm(bias, rows, weights)
        return products.view(*x.shape[:-1], n_out)
    products = x.new_empty((*x.shape[:-1], n_out))
    with torch.cuda.device_of(x):
        few_rows[(-(-n_rows // TILE[0]), -(-n_out // TILE[1]))](
            rows,
            weights,
            weights if bias is None else bias,
            products,
            n_rows,
            n_in,
            n_out,
            *rows.stride(),
            *weights.stride(),
            has_bias=bias is not None,
            tile_rows=TILE[0],
            tile_out=TILE[1],
            tile_in=TILE[2],
        )
    return products


def _launch(
    kernel: Any,
    of_atoms: Tensor,
    tensors: Sequence[Tensor],
    ends: Sequence[float],
    sizes: Sequence[int],
    n: int,
) -> None:
    """Start a program for each row of ``of_atoms``, of n channels."""
    block = max(1 << (n - 1).bit_length(), _LANES)
    with torch.cuda.device_of(of_atoms):
        kernel[(of_atoms.shape[0],)](
            *tensors,
            ends[-1],
            *sizes,
            n_stretches=len(ends),
            n=n,
            block=block,
            num_warps=max(block // (_PER_LANE * _LANES), 1),
        )


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


OPERATORS: dict[str, Callable[..., Any]] = {
    "edge_order": edge_order,
    "scalar_convolution": _sums(scalar_sum, 1, 1),
    "scalar_convolution_backward": _gradients(scalar_gradient, 1),
    "vector_convolution": _sums(vector_sum, 5, 4),
    "vector_convolution_backward": _gradients(vector_gradient, 5),
    "path_convolution": path_convolution,
    "path_convolution_backward": path_convolution_backward,
    "rows_times": rows_times,
}
"""What each operator runs on a GPU."""
