"""Sums of neighbour features under tabulated filters, fused where the kernels are loaded.

    scalar    out_i = Σ_j W(d_ij) x_j
    vector    s_i = Σ_j W_a(d_ij) a_j
              v_i = Σ_j r̂_ij W_b(d_ij) b_j + W_c(d_ij) c_j
    paths     M_i = Σ_j W_p(d_ij) Σ_m1 A_{ij, m3 m1} h_{j, m1}    of :mod:`eqcalc.nn.so3`

The C++ kernels (``eqcalc/native/convolutions.cpp`` and ``path_convolution.cpp``) make every
filter where it is used; the same sums in torch operations run everywhere, are what the kernels
are tested against, and give their second derivatives (:mod:`eqcalc.tabulated.autograd`).

Shapes: n_atoms, n_edges, F channels. Vector features are [a, b, c_x, c_y, c_z] (n_atoms, 5F),
their sums [s, v_x, v_y, v_z] (n_atoms, 4F); the filters of one table are [W_a, W_b, W_c]. Where
ranks exchange features (:mod:`eqcalc.nn.scatter`), n_atoms are the owned ones: the kernels get
the features of all n_all atoms, and make the sums of n_atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eqcalc.nn.scatter import of_all_atoms
from eqcalc.nn.so3.tensor_product import EdgeCouplings, TensorProduct, path_table
from eqcalc.tabulated.autograd import register_kernels, scalar_sums, vector_sums
from eqcalc.tabulated.spline import SplineTable

__all__ = ["PathConvolution", "enable_kernels", "scalar_convolution", "vector_convolution"]

_enabled: list[bool] = []


def enable_kernels() -> bool:
    """Use the kernels if their library is loaded, and tell whether they are used."""
    if not _enabled and hasattr(torch.ops.eqcalc, "vector_convolution_backward"):
        register_kernels()
        _enabled.append(True)
    return len(_enabled) > 0


def scalar_convolution(
    features: Tensor, filters: SplineTable, edge_vectors: Tensor, edge_index: Tensor
) -> Tensor:
    """Return the filtered sums (n_atoms, F) of features (n_atoms, F)."""
    n_atoms, features = features.shape[0], of_all_atoms([features])[0]
    if _usable(features):
        return torch.ops.eqcalc.scalar_convolution(
            features, filters.table, edge_vectors, edge_index, filters.ends, filters.counts, n_atoms
        )
    return scalar_sums(features, filters, edge_vectors, edge_index, n_atoms)


def vector_convolution(
    features: Tensor, filters: SplineTable, edge_vectors: Tensor, edge_index: Tensor
) -> Tensor:
    """Return the filtered sums (n_atoms, 4F) of features (n_atoms, 5F)."""
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

    def __init__(
        self, product: TensorProduct, filters: SplineTable, couplings: EdgeCouplings
    ) -> None:
        super().__init__()
        self.product, self.filters = product, filters
        self.by_group = couplings.by_group
        table = path_table(product, couplings)
        self.register_buffer("paths", torch.tensor(table.rows, dtype=torch.int64))
        self.shapes = table.shapes
        self.sizes = [rows * channels for rows, channels in self.shapes]

    def forward(
        self,
        features: list[Tensor],
        couplings: Tensor,
        edge_vectors: Tensor,
        edge_index: Tensor,
    ) -> list[Tensor]:
        """Return what ``product`` returns, one (n_atoms, 2l3+1, Σ_paths C) per irrep.

        ``couplings`` are those of :meth:`EdgeCouplings.in_one`: as all layers share them, they
        are written once.
        """
        if not _usable(features[0]):
            weights = self.filters(torch.linalg.vector_norm(edge_vectors, dim=1))
            return self.product(features, self.by_group(couplings), weights, edge_index)
        rows = torch.cat([h.flatten(1) for h in features], dim=1)
        sums = torch.ops.eqcalc.path_convolution(
            of_all_atoms([rows])[0],
            couplings,
            self.paths,
            self.filters.table,
            edge_vectors,
            edge_index,
            self.filters.ends,
            self.filters.counts,
            sum(self.sizes),
            rows.shape[0],
        )
        parts = sums.split(self.sizes, dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]


def _usable(features: Tensor) -> bool:
    return len(_enabled) > 0 and features.device.type == "cpu"
