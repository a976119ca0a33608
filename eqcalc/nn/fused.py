"""Sums of neighbour features under tabulated filters, fused where the kernels are loaded.

    scalar    out_i = Σ_j W(d_ij) x_j
    vector    s_i = Σ_j W_a(d_ij) a_j
              v_i = Σ_j r̂_ij W_b(d_ij) b_j + W_c(d_ij) c_j

The C++ kernels (``fused.cpp``) make every filter where it is used; the same sums in torch
operations run everywhere and are what the kernels are tested against. For inference:
a derivative of a derivative is not defined in the kernels.

Shapes: n_atoms, n_edges, F channels. Vector features are [a, b, c_x, c_y, c_z] (n_atoms, 5F),
their sums [s, v_x, v_y, v_z] (n_atoms, 4F); the filters of one table are [W_a, W_b, W_c].
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eqcalc.nn.scatter import sum_at_receivers
from eqcalc.nn.spline import SplineTable

__all__ = ["SOURCE", "load_kernels", "scalar_convolution", "vector_convolution"]

SOURCE = Path(__file__).with_suffix(".cpp")

_loaded: list[Path] = []


def load_kernels(library: Path) -> None:
    """Load the compiled kernels; a second call changes nothing.

    Raises
    ------
    OSError, RuntimeError : torch cannot load the library.
    """
    if _loaded:
        return
    torch.ops.load_library(str(library))
    for name, n_out, n_in in (("scalar", 1, 1), ("vector", 4, 5)):
        _register(name, n_out, n_in)
    _loaded.append(library)


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


def _usable(features: Tensor) -> bool:
    return len(_loaded) > 0 and features.device.type == "cpu"


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
