"""The convolutions of tabulated networks in torch operations, and the kernels' derivatives.

First derivatives are kernels of their own. Second and higher ones come from the torch
operations: compiled models never take them, and who does shall not get zeros.

Shapes are those of :mod:`eqcalc.tabulated.convolutions`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from eqcalc.nn.scatter import sum_at_receivers
from eqcalc.nn.so3.tensor_product import PATH_COLUMNS, constants_of
from eqcalc.tabulated.spline import SplineTable

__all__ = ["path_sums", "register_gpu_kernels", "register_kernels", "scalar_sums", "vector_sums"]


def scalar_sums(
    features: Tensor, filters: SplineTable, edge_vectors: Tensor, edge_index: Tensor, n_atoms: int
) -> Tensor:
    """Return the filtered sums (n_atoms, F) of features (n_all, F)."""
    weights = filters(torch.linalg.vector_norm(edge_vectors, dim=1))
    messages = weights * features.index_select(0, edge_index[0])
    return sum_at_receivers(messages, edge_index[1], n_atoms)


def vector_sums(
    features: Tensor, filters: SplineTable, edge_vectors: Tensor, edge_index: Tensor, n_atoms: int
) -> Tensor:
    """Return the filtered sums (n_atoms, 4F) of features (n_all, 5F)."""
    distances = torch.linalg.vector_norm(edge_vectors, dim=1)
    directions = (edge_vectors / distances.unsqueeze(1)).unsqueeze(2)  # (n_edges, 3, 1)
    a, b, *c = features.index_select(0, edge_index[0]).chunk(5, dim=1)
    w_a, w_b, w_c = filters(distances).chunk(3, dim=1)  # (n_edges, F) each
    vectors = directions * (w_b * b).unsqueeze(1) + w_c.unsqueeze(1) * torch.stack(c, dim=1)
    messages = torch.cat([w_a * a, vectors.flatten(1)], dim=1)  # (n_edges, 4F)
    return sum_at_receivers(messages, edge_index[1], n_atoms)


def path_sums(
    features: Tensor,
    harmonics: Tensor,
    constants: Tensor,
    paths: Tensor,
    filters: SplineTable,
    edge_vectors: Tensor,
    edge_index: Tensor,
    width: int,
    n_atoms: int,
) -> Tensor:
    """Return the sums (n_atoms, width) of all paths.

    Parameters
    ----------
    features : (n_all, Σ (2l1+1) C); harmonics : (n_edges, (l_max+1)²)
    constants, paths : see :class:`eqcalc.nn.so3.tensor_product.PathTable`
    """
    rows = paths.tolist()
    weights = filters(torch.linalg.vector_norm(edge_vectors, dim=1))
    neighbours = features.index_select(0, edge_index[0])
    columns: list[Tensor] = []
    messages: list[Tensor] = []
    arange = functools.partial(torch.arange, device=features.device)
    for row in rows:
        first_x, d1, first_y, d2, _, d3, first, stride, n_channels, first_w = row
        w = weights.narrow(1, first_w, n_channels)
        h = neighbours.narrow(1, first_x, d1 * n_channels).unflatten(1, (d1, n_channels))
        y = harmonics.narrow(1, first_y, d2)
        a = (y @ constants_of(row, constants).flatten(1)).unflatten(1, (d3, d1))
        messages.append(((a @ h) * w.unsqueeze(1)).flatten(1))
        columns.append(first + stride * arange(d3).unsqueeze(1) + arange(n_channels))
    sums = sum_at_receivers(torch.cat(messages, dim=1), edge_index[1], n_atoms)
    order = torch.cat([block.flatten() for block in columns])
    return features.new_zeros((n_atoms, width)).index_add(1, order, sums)


def register_kernels() -> None:
    """Tell torch the shapes and the derivatives of the loaded kernels."""
    _register_shapes("scalar", lambda width: width)
    _register_shapes("vector", lambda width: width // 5 * 4)
    _register_path_shapes()
    _register_row_products()
    _register_derivatives("scalar", _scalar_again, [0, 2], 7, n_sizes=1)
    _register_derivatives("vector", _vector_again, [0, 2], 7, n_sizes=1)
    _register_derivatives("path", _path_again, [0, 1, 5], 11, n_sizes=2)


def register_gpu_kernels() -> None:
    """Tell torch the derivatives of the registered operators for a GPU."""
    of_edges = 3  # the order of edges, which the portable sums do without

    def scalar(*inputs: Any) -> Tensor:
        return _scalar_again(*inputs[:4], *inputs[4 + of_edges :])

    def vector(*inputs: Any) -> Tensor:
        return _vector_again(*inputs[:4], *inputs[4 + of_edges :])

    def path(*inputs: Any) -> Tensor:
        features, harmonics, constants, table, vectors, index = inputs[:6]
        ends, counts, paths, width, n_atoms = inputs[6 + of_edges :]
        rows = torch.tensor(paths).view(-1, PATH_COLUMNS)
        return _path_again(
            features,
            harmonics,
            constants,
            rows,
            table,
            vectors,
            index,
            ends,
            counts,
            width,
            n_atoms,
        )

    _register_derivatives("scalar", scalar, [0, 2], 9, library="eqcalc_gpu", n_sizes=0)
    _register_derivatives("vector", vector, [0, 2], 9, library="eqcalc_gpu", n_sizes=0)
    _register_derivatives("path", path, [0, 1, 4], 13, library="eqcalc_gpu", n_sizes=1)


def _scalar_again(
    features: Tensor,
    table: Tensor,
    vectors: Tensor,
    index: Tensor,
    ends: list[float],
    counts: list[int],
    n_atoms: int,
) -> Tensor:
    return scalar_sums(features, _spline(table, ends, counts), vectors, index, n_atoms)


def _vector_again(
    features: Tensor,
    table: Tensor,
    vectors: Tensor,
    index: Tensor,
    ends: list[float],
    counts: list[int],
    n_atoms: int,
) -> Tensor:
    return vector_sums(features, _spline(table, ends, counts), vectors, index, n_atoms)


def _path_again(
    features: Tensor,
    harmonics: Tensor,
    constants: Tensor,
    paths: Tensor,
    table: Tensor,
    vectors: Tensor,
    index: Tensor,
    ends: list[float],
    counts: list[int],
    width: int,
    n_atoms: int,
) -> Tensor:
    filters = _spline(table, ends, counts)
    return path_sums(features, harmonics, constants, paths, filters, vectors, index, width, n_atoms)


def _spline(table: Tensor, ends: list[float], counts: list[int]) -> SplineTable:
    return SplineTable(table.to(torch.float64), ends, counts).to(table.dtype)


def _register_derivatives(
    name: str,
    portable: Callable[..., Tensor],
    differentiable: list[int],
    n_inputs: int,
    *,
    library: str = "eqcalc",
    n_sizes: int,
) -> None:
    """Register the first derivative, a kernel, and higher ones, made of torch operations.

    Parameters
    ----------
    portable : the sums in torch operations, with the operator's own arguments
    differentiable : which of the operator's arguments have a derivative, in the order of the
        results of its derivative
    n_inputs : of the operator; its derivative takes the gradient and all but the last sizes
    n_sizes : so many inputs at the end say how large the result is
    """
    forward, backward = f"{library}::{name}_convolution", f"{library}::{name}_convolution_backward"
    kernel = getattr(getattr(torch.ops, library), f"{name}_convolution_backward")

    def keep(ctx: Any, inputs: Any, output: Any) -> None:
        tensors = [value for value in inputs if isinstance(value, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.numbers = inputs[len(tensors) :]

    def first(ctx: Any, gradient: Tensor) -> Any:
        numbers = ctx.numbers[: len(ctx.numbers) - n_sizes]
        found = iter(kernel(gradient, *ctx.saved_tensors, *numbers))
        return tuple(next(found) if k in differentiable else None for k in range(n_inputs))

    def second(ctx: Any, *cotangents: Tensor) -> Any:
        more = torch.is_grad_enabled()  # derivatives of these derivatives may be asked for
        with torch.enable_grad():
            # Views: an argument that was made of another one is not differentiated by it here.
            gradient, *tensors = (
                tensor.view_as(tensor) if more else tensor.detach() for tensor in ctx.saved_tensors
            )
            gradient.requires_grad_()
            for k in differentiable:
                tensors[k].requires_grad_()
            width = [gradient.shape[1]] if name == "path" else []
            sums = portable(*tensors, *ctx.numbers, *width, gradient.shape[0])
            moving = [tensors[k] for k in differentiable]
            slopes = torch.autograd.grad(sums, moving, gradient, create_graph=True)
            found = iter(
                torch.autograd.grad(
                    slopes,
                    [gradient, *moving],
                    cotangents,
                    create_graph=more,
                    materialize_grads=True,
                )
            )
        n_arguments = 1 + len(tensors) + len(ctx.numbers)
        wanted = {0} | {k + 1 for k in differentiable}
        return tuple(next(found) if k in wanted else None for k in range(n_arguments))

    torch.library.register_autograd(forward, first, setup_context=keep)
    torch.library.register_autograd(backward, second, setup_context=keep)


def _register_shapes(name: str, width_of: Callable[[int], int]) -> None:
    @torch.library.register_fake(f"eqcalc::{name}_convolution")
    def _(
        features: Tensor,
        table: Tensor,
        vectors: Tensor,
        index: Tensor,
        ends: list[float],
        counts: list[int],
        n_atoms: int,
    ) -> Tensor:
        return features.new_empty((n_atoms, width_of(features.shape[1])))

    @torch.library.register_fake(f"eqcalc::{name}_convolution_backward")
    def _(
        gradient: Tensor,
        features: Tensor,
        table: Tensor,
        vectors: Tensor,
        index: Tensor,
        ends: list[float],
        counts: list[int],
    ) -> tuple[Tensor, Tensor]:
        # Rows without gaps, however those of the arguments lie.
        return features.new_empty(features.shape), vectors.new_empty(vectors.shape)


def _register_path_shapes() -> None:
    @torch.library.register_fake("eqcalc::path_convolution")
    def _(
        features: Tensor,
        harmonics: Tensor,
        constants: Tensor,
        paths: Tensor,
        table: Tensor,
        vectors: Tensor,
        index: Tensor,
        ends: list[float],
        counts: list[int],
        width: int,
        n_atoms: int,
    ) -> Tensor:
        return features.new_empty((n_atoms, width))

    @torch.library.register_fake("eqcalc::path_convolution_backward")
    def _(
        gradient: Tensor,
        features: Tensor,
        harmonics: Tensor,
        constants: Tensor,
        paths: Tensor,
        table: Tensor,
        vectors: Tensor,
        index: Tensor,
        ends: list[float],
        counts: list[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (
            features.new_empty(features.shape),
            harmonics.new_empty(harmonics.shape),
            vectors.new_empty(vectors.shape),
        )


def _register_row_products() -> None:
    @torch.library.register_fake("eqcalc::rows_times")
    def _(x: Tensor, w: Tensor, n_out: int) -> Tensor:
        return x.new_empty((*x.shape[:-1], n_out))
