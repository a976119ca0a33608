"""The operators on a GPU: from tensors to launches of kernels.

Arguments are those of the schemas in :mod:`eqcalc.triton_kernels.operators`; of tables see
:class:`eqcalc.tabulated.spline.SplineTable`. Kernels start on the present stream and wait for
nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional

import torch
from torch import Tensor

from eqcalc.triton_kernels.edges import stretches_on
from eqcalc.triton_kernels.paths import path_kernels
from eqcalc.triton_kernels.rows import TILE, few_rows
from eqcalc.triton_kernels.sums import scalar_gradient, scalar_sum, vector_gradient, vector_sum

__all__ = ["OPERATORS"]

_MOST_ROWS = 256
"""Up to so many rows a product is the kernel's; on more the library is faster."""


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


def _sums(kernel: Any, n_in: int, n_out: int) -> Callable[..., Tensor]:
    """Return the operator from features (n_atoms, n_in F) to sums (n_atoms, n_out F)."""

    def convolution(
        features: Tensor,
        table: Tensor,
        vectors: Tensor,
        edge_index: Tensor,
        starts: Tensor,
        order: Tensor,
        sender_starts: Tensor,
        ends: Sequence[float],
        counts: Sequence[int],
    ) -> Tensor:
        features, table, vectors, edge_index = _contiguous(features, table, vectors, edge_index)
        n_atoms, n = features.shape[0], features.shape[1] // n_in
        sums = features.new_empty((n_atoms, n_out * n))
        with torch.cuda.device_of(features):
            kernel[(n_atoms,)](
                features,
                table,
                vectors,
                edge_index[0],
                starts,
                stretches_on(tuple(ends), tuple(counts), features.device),
                sums,
                ends[-1],
                n_stretches=len(ends),
                n=n,
                block=_block(n),
                num_warps=_warps(_block(n)),
            )
        return sums

    return convolution


def _gradients(kernel: Any, n_in: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the operator of the derivatives by features (n_atoms, n_in F) and vectors."""

    def backward(
        gradient: Tensor,
        features: Tensor,
        table: Tensor,
        vectors: Tensor,
        edge_index: Tensor,
        starts: Tensor,
        order: Tensor,
        sender_starts: Tensor,
        ends: Sequence[float],
        counts: Sequence[int],
    ) -> tuple[Tensor, Tensor]:
        gradient, features, table, vectors, edge_index = _contiguous(
            gradient, features, table, vectors, edge_index
        )
        n_atoms, n = features.shape[0], features.shape[1] // n_in
        by_features, by_vectors = torch.empty_like(features), torch.empty_like(vectors)
        with torch.cuda.device_of(features):
            kernel[(n_atoms,)](
                gradient,
                features,
                table,
                vectors,
                edge_index[1],
                order,
                sender_starts,
                stretches_on(tuple(ends), tuple(counts), features.device),
                by_features,
                by_vectors,
                ends[-1],
                n_stretches=len(ends),
                n=n,
                block=_block(n),
                num_warps=_warps(_block(n)),
            )
        return by_features, by_vectors

    return backward


def path_convolution(
    features: Tensor,
    harmonics: Tensor,
    constants: Tensor,
    table: Tensor,
    vectors: Tensor,
    edge_index: Tensor,
    starts: Tensor,
    order: Tensor,
    sender_starts: Tensor,
    ends: Sequence[float],
    counts: Sequence[int],
    paths: Sequence[int],
    width: int,
) -> Tensor:
    """Return the sums (n_atoms, width) of all paths; their constants stand in the kernels."""
    features, harmonics, table, vectors, edge_index = _contiguous(
        features, harmonics, table, vectors, edge_index
    )
    sums = features.new_empty((features.shape[0], width))
    stretches = stretches_on(tuple(ends), tuple(counts), features.device)
    for kernel in path_kernels(tuple(paths))[0]:
        with torch.cuda.device_of(features):
            kernel.function[(features.shape[0],)](
                features,
                harmonics,
                table,
                vectors,
                edge_index[0],
                starts,
                stretches,
                sums,
                ends[-1],
                features.shape[1],
                harmonics.shape[1],
                table.shape[1],
                width,
                n_stretches=len(ends),
                n=kernel.n_channels,
                block=kernel.block,
                num_warps=_warps(kernel.block),
            )
    return sums


def path_convolution_backward(
    gradient: Tensor,
    features: Tensor,
    harmonics: Tensor,
    constants: Tensor,
    table: Tensor,
    vectors: Tensor,
    edge_index: Tensor,
    starts: Tensor,
    order: Tensor,
    sender_starts: Tensor,
    ends: Sequence[float],
    counts: Sequence[int],
    paths: Sequence[int],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivatives by features, harmonics and vectors, of the shapes of these."""
    gradient, features, harmonics, table, vectors, edge_index = _contiguous(
        gradient, features, harmonics, table, vectors, edge_index
    )
    (n_atoms, n_features), (n_edges, n_harmonics) = features.shape, harmonics.shape
    kernels = path_kernels(tuple(paths))[1]
    # What no path of a kernel takes, such as an irrep that leads to no result, keeps its zeros.
    by_features = torch.zeros_like(features)
    by_edges = features.new_zeros((len(kernels), n_edges, n_harmonics + 1))
    stretches = stretches_on(tuple(ends), tuple(counts), features.device)
    for number, kernel in enumerate(kernels):
        with torch.cuda.device_of(features):
            kernel.function[(n_atoms,)](
                gradient,
                features,
                harmonics,
                table,
                vectors,
                edge_index[1],
                order,
                sender_starts,
                stretches,
                by_features,
                by_edges[number],
                ends[-1],
                n_features,
                n_harmonics,
                table.shape[1],
                gradient.shape[1],
                n_stretches=len(ends),
                n=kernel.n_channels,
                block=kernel.block,
                num_warps=_warps(kernel.block),
            )
    together = by_edges[0] if len(kernels) == 1 else by_edges.sum(dim=0)
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    by_vectors = together[:, n_harmonics:] * torch.where(lengths > 0.0, vectors / lengths, 0.0)
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


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _block(n: int) -> int:
    """Return the power of two that holds n channels, a warp's lanes at least."""
    return max(1 << (n - 1).bit_length(), 32)


def _warps(block: int) -> int:
    """Return warps of a program: a lane takes up to four channels, which it reads at once."""
    return max(block // 128, 1)


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
