"""Sums of neighbour features under tabulated filters, fused where the kernels are loaded.

    scalar    out_i = Σ_j W(d_ij) x_j
    vector    s_i = Σ_j W_a(d_ij) a_j
              v_i = Σ_j r̂_ij W_b(d_ij) b_j + W_c(d_ij) c_j
    paths     M_i = Σ_j W_p(d_ij) Σ_m1 A_{ij, m3 m1} h_{j, m1}    of :mod:`eqcalc.nn.so3`

The C++ kernels (``eqcalc/engines/fused.cpp``) make every filter where it is used; the same
sums in torch operations run everywhere and are what the kernels are tested against. For
inference: a derivative of a derivative is not defined in the kernels.

Shapes: n_atoms, n_edges, F channels. Vector features are [a, b, c_x, c_y, c_z] (n_atoms, 5F),
their sums [s, v_x, v_y, v_z] (n_atoms, 4F); the filters of one table are [W_a, W_b, W_c].
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from eqcalc.nn.scatter import sum_at_receivers
from eqcalc.nn.so3.tensor_product import EdgeCouplings, TensorProduct, path_table
from eqcalc.nn.spline import SplineTable

__all__ = ["PathConvolution", "enable_kernels", "scalar_convolution", "vector_convolution"]

_enabled: list[bool] = []


def enable_kernels() -> bool:
    """Use the kernels if their library is loaded, and tell whether they are used."""
    if not _enabled and hasattr(torch.ops.eqcalc, "vector_convolution_backward"):
        for name, n_out, n_in in (("scalar", 1, 1), ("vector", 4, 5)):
            _register(name, n_out, n_in)
        _register_paths()
        _register_row_products()
        _enabled.append(True)
    return len(_enabled) > 0


def scalar_convolution(
    features: Tensor, filters: SplineTable, edge_vectors: Tensor, edge_index: Tensor
) -> Tensor:
    """Return the filtered sums (n_atoms, F) of features (n_atoms, F)."""
    if _usable(features):
        return torch.ops.eqcalc.scalar_convolution(
            features, filters.table, edge_vectors, edge_index, filters.per_h
        )
    weights = filters(torch.linalg.vector_norm(edge_vectors, dim=1))
    messages = weights * features.index_select(0, edge_index[0])
    return sum_at_receivers(messages, edge_index[1], features.shape[0])


def vector_convolution(
    features: Tensor, filters: SplineTable, edge_vectors: Tensor, edge_index: Tensor
) -> Tensor:
    """Return the filtered sums (n_atoms, 4F) of features (n_atoms, 5F)."""
    if _usable(features):
        return torch.ops.eqcalc.vector_convolution(
            features, filters.table, edge_vectors, edge_index, filters.per_h
        )
    distances = torch.linalg.vector_norm(edge_vectors, dim=1)
    directions = (edge_vectors / distances.unsqueeze(1)).unsqueeze(2)  # (n_edges, 3, 1)
    a, b, *c = features.index_select(0, edge_index[0]).chunk(5, dim=1)
    w_a, w_b, w_c = filters(distances).chunk(3, dim=1)  # (n_edges, F) each
    vectors = directions * (w_b * b).unsqueeze(1) + w_c.unsqueeze(1) * torch.stack(c, dim=1)
    messages = torch.cat([w_a * a, vectors.flatten(1)], dim=1)  # (n_edges, 4F)
    return sum_at_receivers(messages, edge_index[1], features.shape[0])


class PathConvolution(nn.Module):
    """A tensor product whose weights are functions of the distance in one table.

    Parameters
    ----------
    product : the tensor product with weights of any kind
    filters : the weights' table, in the order of ``product.n_weights``
    n_channels : of every input irrep
    """

    paths: Tensor

    def __init__(
        self, product: TensorProduct, filters: SplineTable, couplings: EdgeCouplings,
        n_channels: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.product, self.filters = product, filters
        table = path_table(product, couplings, n_channels)
        self.register_buffer("paths", torch.tensor(table.rows, dtype=torch.int64))
        self.shapes = table.shapes
        self.sizes = [rows * channels for rows, channels in self.shapes]

    def forward(
        self, features: list[Tensor], couplings: list[Tensor], edge_vectors: Tensor,
        edge_index: Tensor,
    ) -> list[Tensor]:  # fmt: skip
        """Return what ``product`` returns, one (n_atoms, 2l3+1, n_paths · C) per irrep."""
        if not _usable(features[0]):
            weights = self.filters(torch.linalg.vector_norm(edge_vectors, dim=1))
            return self.product(features, couplings, weights, edge_index)
        sums = torch.ops.eqcalc.path_convolution(
            torch.cat([h.flatten(1) for h in features], dim=1),
            torch.cat([a.flatten(1) for a in couplings], dim=1),
            self.paths, self.filters.table, edge_vectors, edge_index, self.filters.per_h,
            sum(self.sizes),
        )  # fmt: skip
        parts = sums.split(self.sizes, dim=1)
        return [
            part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)
        ]


def _usable(features: Tensor) -> bool:
    return len(_enabled) > 0 and features.device.type == "cpu"


def _register(name: str, n_out: int, n_in: int) -> None:
    """Tell torch the shapes and the derivative of a kernel."""
    forward, backward = f"eqcalc::{name}_convolution", f"eqcalc::{name}_convolution_backward"

    @torch.library.register_fake(forward)
    def _(features: Tensor, table: Tensor, vectors: Tensor, index: Tensor, per_h: float) -> Tensor:
        return features.new_empty((features.shape[0], features.shape[1] // n_in * n_out))

    @torch.library.register_fake(backward)
    def _(
        gradient: Tensor, features: Tensor, table: Tensor, vectors: Tensor, index: Tensor,
        per_h: float,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        return torch.empty_like(features), torch.empty_like(vectors)

    operator = getattr(torch.ops.eqcalc, f"{name}_convolution_backward")

    def keep(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.per_h = inputs
        ctx.save_for_backward(*tensors)

    def differentiate(ctx: Any, gradient: Tensor) -> Any:
        features, vectors = operator(gradient, *ctx.saved_tensors, ctx.per_h)
        return features, None, vectors, None, None

    torch.library.register_autograd(forward, differentiate, setup_context=keep)


def _register_paths() -> None:
    forward, backward = "eqcalc::path_convolution", "eqcalc::path_convolution_backward"

    @torch.library.register_fake(forward)
    def _(
        features: Tensor, couplings: Tensor, paths: Tensor, table: Tensor, vectors: Tensor,
        index: Tensor, per_h: float, width: int,
    ) -> Tensor:  # fmt: skip
        return features.new_empty((features.shape[0], width))

    @torch.library.register_fake(backward)
    def _(
        gradient: Tensor, features: Tensor, couplings: Tensor, paths: Tensor, table: Tensor,
        vectors: Tensor, index: Tensor, per_h: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        return torch.empty_like(features), torch.empty_like(couplings), torch.empty_like(vectors)

    def keep(ctx: Any, inputs: Any, output: Tensor) -> None:
        *tensors, ctx.per_h, _ = inputs
        ctx.save_for_backward(*tensors)

    def differentiate(ctx: Any, gradient: Tensor) -> Any:
        features, couplings, vectors = torch.ops.eqcalc.path_convolution_backward(
            gradient, *ctx.saved_tensors, ctx.per_h
        )
        return features, couplings, None, None, vectors, None, None, None

    torch.library.register_autograd(forward, differentiate, setup_context=keep)


def _register_row_products() -> None:
    @torch.library.register_fake("eqcalc::rows_times")
    def _(x: Tensor, w: Tensor) -> Tensor:
        return x.new_empty((x.shape[0], w.shape[1]))
