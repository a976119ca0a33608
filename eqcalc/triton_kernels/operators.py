"""The operators ``torch.ops.eqcalc_gpu``: what compiled packages and networks call on a GPU.

They are those of the C++ library (``native/library.cpp``) for another device, with the order of
edges as arguments: every convolution of a call shares it. A package holds their names, so whoever
runs one registers them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from eqcalc.devices import has_triton

__all__ = ["register_operators"]

_LIBRARY = "eqcalc_gpu"
_EDGES = "Tensor vectors, Tensor edge_index, Tensor starts, Tensor order, Tensor sender_starts"
_TABLE = "float[] ends, int[] counts"
_SCHEMAS = (
    "edge_order(Tensor edge_index, SymInt n_atoms) -> (Tensor, Tensor, Tensor)",
    f"scalar_convolution(Tensor features, Tensor table, {_EDGES}, {_TABLE}) -> Tensor",
    f"scalar_convolution_backward(Tensor gradient, Tensor features, Tensor table, {_EDGES}, "
    f"{_TABLE}) -> (Tensor, Tensor)",
    f"vector_convolution(Tensor features, Tensor table, {_EDGES}, {_TABLE}) -> Tensor",
    f"vector_convolution_backward(Tensor gradient, Tensor features, Tensor table, {_EDGES}, "
    f"{_TABLE}) -> (Tensor, Tensor)",
    "path_convolution(Tensor features, Tensor harmonics, Tensor constants, Tensor table, "
    f"{_EDGES}, {_TABLE}, int[] paths, int width) -> Tensor",
    "path_convolution_backward(Tensor gradient, Tensor features, Tensor harmonics, "
    f"Tensor constants, Tensor table, {_EDGES}, {_TABLE}, int[] paths) "
    "-> (Tensor, Tensor, Tensor)",
    "rows_times(Tensor x, Tensor weights, Tensor? bias) -> Tensor",
)
_MOST_ROWS = 256
"""Up to so many rows a product is the kernel's; on more the library is faster."""

_registered: list[torch.library.Library] = []


def register_operators() -> bool:
    """Register the operators where Triton is installed, and tell whether they are registered."""
    if not _registered and has_triton():
        library = torch.library.Library(_LIBRARY, "DEF")
        for schema in _SCHEMAS:
            library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for work in (
            edge_order,
            scalar_convolution,
            scalar_convolution_backward,
            vector_convolution,
            vector_convolution_backward,
            path_convolution,
            path_convolution_backward,
            rows_times,
        ):
            library.impl(work.__name__, work, "CUDA")
        _register_shapes()
        _registered.append(library)
    return len(_registered) > 0


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


def scalar_convolution(
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
    """Return the filtered sums (n_atoms, F) of features (n_atoms, F)."""
    from eqcalc.triton_kernels.sums import scalar_sum

    return _sums(scalar_sum, features, 1, 1, table, vectors, edge_index, starts, ends, counts)


def vector_convolution(
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
    """Return the filtered sums (n_atoms, 4F) of features (n_atoms, 5F)."""
    from eqcalc.triton_kernels.sums import vector_sum

    return _sums(vector_sum, features, 5, 4, table, vectors, edge_index, starts, ends, counts)


def scalar_convolution_backward(
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
    """Return the derivatives by features (n_atoms, F) and vectors (n_edges, 3)."""
    from eqcalc.triton_kernels.sums import scalar_gradient

    edges = vectors, edge_index, order, sender_starts
    return _gradients(scalar_gradient, gradient, features, 1, table, edges, ends, counts)


def vector_convolution_backward(
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
    """Return the derivatives by features (n_atoms, 5F) and vectors (n_edges, 3)."""
    from eqcalc.triton_kernels.sums import vector_gradient

    edges = vectors, edge_index, order, sender_starts
    return _gradients(vector_gradient, gradient, features, 5, table, edges, ends, counts)


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
    from eqcalc.triton_kernels.paths import path_kernels

    features, harmonics, table, vectors, edge_index = _contiguous(
        features, harmonics, table, vectors, edge_index
    )
    sums = features.new_empty((features.shape[0], width))
    stretches = _stretches(ends, counts, features)
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
    from eqcalc.triton_kernels.paths import path_kernels

    gradient, features, harmonics, table, vectors, edge_index = _contiguous(
        gradient, features, harmonics, table, vectors, edge_index
    )
    (n_atoms, n_features), (n_edges, n_harmonics) = features.shape, harmonics.shape
    kernels = path_kernels(tuple(paths))[1]
    by_features = torch.empty_like(features)
    # Harmonics that no path of a kernel takes keep their zeros.
    by_edges = features.new_zeros((len(kernels), n_edges, n_harmonics + 1))
    stretches = _stretches(ends, counts, features)
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
    from eqcalc.triton_kernels.rows import TILE, few_rows

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


def _sums(
    kernel: object,
    features: Tensor,
    n_in: int,
    n_out: int,
    table: Tensor,
    vectors: Tensor,
    edge_index: Tensor,
    starts: Tensor,
    ends: Sequence[float],
    counts: Sequence[int],
) -> Tensor:
    features, table, vectors, edge_index = _contiguous(features, table, vectors, edge_index)
    n_atoms, n = features.shape[0], features.shape[1] // n_in
    sums = features.new_empty((n_atoms, n_out * n))
    stretches, block = _stretches(ends, counts, features), _block(n)
    with torch.cuda.device_of(features):
        kernel[(n_atoms,)](  # type: ignore[index]
            features,
            table,
            vectors,
            edge_index[0],
            starts,
            stretches,
            sums,
            ends[-1],
            n_stretches=len(ends),
            n=n,
            block=block,
            num_warps=_warps(block),
        )
    return sums


def _gradients(
    kernel: object,
    gradient: Tensor,
    features: Tensor,
    n_in: int,
    table: Tensor,
    edges: tuple[Tensor, Tensor, Tensor, Tensor],
    ends: Sequence[float],
    counts: Sequence[int],
) -> tuple[Tensor, Tensor]:
    vectors, edge_index, order, sender_starts = edges
    gradient, features, table, vectors, edge_index = _contiguous(
        gradient, features, table, vectors, edge_index
    )
    n_atoms, n = features.shape[0], features.shape[1] // n_in
    by_features, by_vectors = torch.empty_like(features), torch.empty_like(vectors)
    stretches, block = _stretches(ends, counts, features), _block(n)
    with torch.cuda.device_of(features):
        kernel[(n_atoms,)](  # type: ignore[index]
            gradient,
            features,
            table,
            vectors,
            edge_index[1],
            order,
            sender_starts,
            stretches,
            by_features,
            by_vectors,
            ends[-1],
            n_stretches=len(ends),
            n=n,
            block=block,
            num_warps=_warps(block),
        )
    return by_features, by_vectors


def _contiguous(*tensors: Tensor) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]


def _stretches(ends: Sequence[float], counts: Sequence[int], like: Tensor) -> Tensor:
    from eqcalc.triton_kernels.edges import stretches_on

    return stretches_on(tuple(ends), tuple(counts), like.device)


def _block(n: int) -> int:
    """Return the power of two that holds n channels, a warp's lanes at least."""
    return max(1 << (n - 1).bit_length(), 32)


def _warps(block: int) -> int:
    """Return warps of a program: a lane takes up to four channels, which it reads at once."""
    return max(block // 128, 1)


def _register_shapes() -> None:
    @torch.library.register_fake(f"{_LIBRARY}::edge_order")
    def _(edge_index: Tensor, n_atoms: int) -> tuple[Tensor, Tensor, Tensor]:
        starts = edge_index.new_empty((n_atoms + 1,))
        return starts, torch.empty_like(edge_index[0]), torch.empty_like(starts)

    for name, n_in, n_out in (("scalar", 1, 1), ("vector", 5, 4)):

        def sums(features: Tensor, *_: object, n_in: int = n_in, n_out: int = n_out) -> Tensor:
            n = features.shape[1] // n_in
            return features.new_empty((features.shape[0], n_out * n))

        torch.library.register_fake(f"{_LIBRARY}::{name}_convolution", sums)

        def gradients(
            gradient: Tensor, features: Tensor, table: Tensor, vectors: Tensor, *_: object
        ) -> tuple[Tensor, Tensor]:
            return torch.empty_like(features), torch.empty_like(vectors)

        torch.library.register_fake(f"{_LIBRARY}::{name}_convolution_backward", gradients)

    def path_sums(features: Tensor, *rest: object) -> Tensor:
        width = rest[-1]
        return features.new_empty((features.shape[0], width))  # type: ignore[arg-type]

    def path_gradients(
        gradient: Tensor,
        features: Tensor,
        harmonics: Tensor,
        constants: Tensor,
        table: Tensor,
        vectors: Tensor,
        *_: object,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return torch.empty_like(features), torch.empty_like(harmonics), torch.empty_like(vectors)

    def products(x: Tensor, weights: Tensor, bias: Optional[Tensor]) -> Tensor:
        return x.new_empty((*x.shape[:-1], weights.shape[1]))

    torch.library.register_fake(f"{_LIBRARY}::rows_times", products)
    torch.library.register_fake(f"{_LIBRARY}::path_convolution", path_sums)
    torch.library.register_fake(f"{_LIBRARY}::path_convolution_backward", path_gradients)
