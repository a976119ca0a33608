"""Sums of neighbour features under tabulated filters, fused where the kernels are loaded.

    scalar    out_i = Σ_j W(d_ij) x_j
    vector    s_i = Σ_j W_a(d_ij) a_j
              v_i = Σ_j r̂_ij W_b(d_ij) b_j + W_c(d_ij) c_j
    paths     M_i = Σ_j W_p(d_ij) Σ_m1 A_{ij, m3 m1} h_{j, m1}    of :mod:`eqcalc.nn.so3`

The C++ kernels (``eqcalc/native/convolutions.cpp`` and ``path_convolution.cpp``), and those of
:mod:`eqcalc.triton_kernels` on a GPU, make every filter where it is used; the same sums in torch
operations run everywhere, are what the kernels are tested against, and give their second
derivatives (:mod:`eqcalc.tabulated.autograd`).

Shapes: n_atoms, n_edges, F channels. Vector features are [a, b, c_x, c_y, c_z] (n_atoms, 5F),
their sums [s, v_x, v_y, v_z] (n_atoms, 4F); the filters of one table are [W_a, W_b, W_c]. Where
ranks exchange features (:mod:`eqcalc.nn.scatter`), n_atoms are the owned ones: the kernels get
the features of all n_all atoms, and make the sums of n_atoms.
"""

from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor, nn

from eqcalc.nn.scatter import of_all_atoms
from eqcalc.nn.so3.tensor_product import EdgeCouplings, TensorProduct, path_table
from eqcalc.tabulated.autograd import (
    register_gpu_kernels,
    register_kernels,
    scalar_sums,
    vector_sums,
)
from eqcalc.tabulated.spline import SplineTable
from eqcalc.triton_kernels.operators import register_operators

__all__ = [
    "EdgeOrder",
    "PathConvolution",
    "edge_order",
    "enable_gpu_kernels",
    "enable_kernels",
    "scalar_convolution",
    "vector_convolution",
]

EdgeOrder = tuple[Tensor, Tensor, Tensor]
"""What the kernels of a GPU need beside ``edge_index``; all convolutions of a call share it."""

_enabled: list[bool] = []
_on_gpu: list[bool] = []


def enable_kernels() -> bool:
    """Use the kernels if their library is loaded, and tell whether they are used."""
    if not _enabled and hasattr(torch.ops.eqcalc, "vector_convolution_backward"):
        register_kernels()
        _enabled.append(True)
    return len(_enabled) > 0


def enable_gpu_kernels() -> bool:
    """Use the kernels for GPUs if Triton is installed, and tell whether they are used."""
    if not _on_gpu and register_operators():
        register_gpu_kernels()
        _on_gpu.append(True)
    return len(_on_gpu) > 0


def edge_order(edge_index: Tensor, n_atoms: int) -> Optional[EdgeOrder]:
    """Return the order of edges (2, n_edges), for convolutions on a GPU; None elsewhere."""
    if edge_index.device.type != "cuda" or not enable_gpu_kernels():
        return None
    return torch.ops.eqcalc_gpu.edge_order(edge_index, n_atoms)


def scalar_convolution(
    features: Tensor,
    filters: SplineTable,
    edge_vectors: Tensor,
    edge_index: Tensor,
    order: Optional[EdgeOrder] = None,
) -> Tensor:
    """Return the filtered sums (n_atoms, F) of features (n_atoms, F)."""
    if order is not None:
        return torch.ops.eqcalc_gpu.scalar_convolution(
            features, filters.table, edge_vectors, edge_index, *order, filters.ends, filters.counts
        )
    n_atoms, features = features.shape[0], of_all_atoms([features])[0]
    if _usable(features):
        return torch.ops.eqcalc.scalar_convolution(
            features, filters.table, edge_vectors, edge_index, filters.ends, filters.counts, n_atoms
        )
    return scalar_sums(features, filters, edge_vectors, edge_index, n_atoms)


def vector_convolution(
    features: Tensor,
    filters: SplineTable,
    edge_vectors: Tensor,
    edge_index: Tensor,
    order: Optional[EdgeOrder] = None,
) -> Tensor:
    """Return the filtered sums (n_atoms, 4F) of features (n_atoms, 5F)."""
    if order is not None:
        return torch.ops.eqcalc_gpu.vector_convolution(
            features, filters.table, edge_vectors, edge_index, *order, filters.ends, filters.counts
        )
    n_atoms, features = features.shape[0], of_all_atoms([features])[0]
    if _usable(features):
        return torch.ops.eqcalc.vector_convolution(
            features, filters.table, edge_vectors, edge_index, filters.ends, filters.counts, n_atoms
        )
    return vector_sums(features, filters, edge_vectors, edge_index, n_atoms)


class PathConvolution(nn.Module):
    """A tensor product whose weights are functions of the distance in one table.

    Parameters
    ----------
    product : the tensor product with weights of any kind
    filters : the weights' table, in the order of ``product.n_weights``
    """

    paths: Tensor
    constants: Tensor

    def __init__(
        self, product: TensorProduct, filters: SplineTable, couplings: EdgeCouplings
    ) -> None:
        super().__init__()
        self.product, self.filters = product, filters
        table = path_table(product, couplings)
        self.register_buffer("paths", torch.tensor(table.rows, dtype=torch.int64))
        self.register_buffer("constants", table.constants.to(filters.table.dtype))
        self.numbers = [number for row in table.rows for number in row]
        self.shapes = table.shapes
        self.sizes = [rows * channels for rows, channels in self.shapes]

    def forward(
        self,
        features: list[Tensor],
        harmonics: Tensor,
        couplings: list[Tensor],
        edge_vectors: Tensor,
        edge_index: Tensor,
        order: Optional[EdgeOrder] = None,
    ) -> list[Tensor]:
        """Return what ``product`` returns, one (n_atoms, 2l3+1, Σ_paths C) per irrep.

        Of the edges' :class:`EdgeCouplings` the kernels take the ``harmonics``, and the portable
        sums the ``couplings`` made of them, which all layers share. A compiled package makes
        neither where it is not taken.
        """
        if order is not None:
            return self._parts(
                torch.ops.eqcalc_gpu.path_convolution(
                    torch.cat([h.flatten(1) for h in features], dim=1),
                    harmonics,
                    self.constants,
                    self.filters.table,
                    edge_vectors,
                    edge_index,
                    *order,
                    self.filters.ends,
                    self.filters.counts,
                    self.numbers,
                    sum(self.sizes),
                )
            )
        if not _usable(features[0]):
            weights = self.filters(torch.linalg.vector_norm(edge_vectors, dim=1))
            return self.product(features, couplings, weights, edge_index)
        rows = torch.cat([h.flatten(1) for h in features], dim=1)
        sums = torch.ops.eqcalc.path_convolution(
            of_all_atoms([rows])[0],
            harmonics,
            self.constants,
            self.paths,
            self.filters.table,
            edge_vectors,
            edge_index,
            self.filters.ends,
            self.filters.counts,
            sum(self.sizes),
            rows.shape[0],
        )
        return self._parts(sums)

    def _parts(self, sums: Tensor) -> list[Tensor]:
        parts = sums.split(self.sizes, dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _usable(features: Tensor) -> bool:
    return len(_enabled) > 0 and features.device.type == "cpu"
