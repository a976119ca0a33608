"""Sums of tensor products in one fused sum each, for training: exact, under any weights.

    M_i = Σ_j w_{ij,p} Σ_m1 A_{ij, m3 m1} h_{j, m1}    of :mod:`eqcalc.nn.so3`

as in :mod:`eqcalc.tabulated.convolutions`, with the weights of each edge in place of a table.
The sum is linear in features, harmonics and weights, so that its derivatives are made of sums of
the same kind: the first and the second are C++ kernels (``eqcalc/native/path_products.cpp``),
higher ones are made of the first, and none is an approximation.

Shapes: n_atoms, n_edges, width of a row of sums.
"""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor, nn

from eqcalc.errors import EngineError
from eqcalc.nn.so3.tensor_product import PathTable

__all__ = ["PathProducts", "enable_products"]

_enabled: list[bool] = []


def enable_products() -> bool:
    """Use the kernels if their library is loaded, and tell whether they can be used."""
    if not _enabled and hasattr(torch.ops.eqcalc, "path_products_second"):
        _register()
        _enabled.append(True)
    return len(_enabled) > 0


class PathProducts(nn.Module):
    """All paths of a table, in rows of numbers as :class:`PathTable` has them.

    Parameters
    ----------
    table : the paths, with couplings for harmonics or whatever stands in their place

    Raises
    ------
    EngineError : the C++ library is not loaded.
    """

    paths: Tensor
    constants: Tensor

    def __init__(self, table: PathTable, dtype: torch.dtype) -> None:
        super().__init__()
        if not enable_products():  # without, sums would have no derivatives
            raise EngineError("the kernels of training need eqcalc's C++ library; load it first.")
        self.register_buffer("paths", torch.tensor(table.rows), persistent=False)
        self.register_buffer("constants", table.constants.to(dtype), persistent=False)
        self.width = sum(rows * channels for rows, channels in table.shapes)

    def forward(
        self,
        features: Tensor,
        harmonics: Tensor,
        weights: Tensor,
        edge_index: Tensor,
        rows: Optional[Tensor] = None,
    ) -> Tensor:
        """Return sums (n_atoms, width).

        Parameters
        ----------
        features : (n_atoms, Σ (2l1+1) C); harmonics : (n_edges, (l_max+1)²)
        weights : (n_edges, Σ_paths C), or (n_rows, Σ_paths C)
        edge_index : (2, n_edges); row 0 sender j, row 1 receiver i
        rows : (n_edges,) int64; the row of ``weights`` that each edge takes, by default its own
        """
        if rows is None:
            rows = edge_index.new_empty(0)
        return torch.ops.eqcalc.path_products(
            features,
            harmonics,
            weights,
            self.constants,
            self.paths,
            edge_index,
            rows,
            self.width,
            features.shape[0],
        )


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*(value for value in inputs if isinstance(value, Tensor)))


def _first(ctx: Any, gradient: Tensor) -> Any:
    found = torch.ops.eqcalc.path_products_backward(gradient, *ctx.saved_tensors)
    return (*found, *[None] * 6)


def _second(ctx: Any, *cotangents: Optional[Tensor]) -> Any:
    gradient, *factors, constants, paths, index, rows = ctx.saved_tensors
    others = [
        torch.zeros_like(own) if other is None else other
        for own, other in zip(factors, cotangents, strict=True)
    ]
    where = constants, paths, index, rows
    if torch.is_grad_enabled():  # derivatives of these derivatives may be asked for
        found = _second_by_first(gradient, factors, others, where)
    else:
        found = torch.ops.eqcalc.path_products_second(*others, gradient, *factors, *where)
    return (*found, *[None] * 4)


def _second_by_first(
    gradient: Tensor, factors: list[Tensor], others: list[Tensor], where: tuple[Tensor, ...]
) -> list[Tensor]:
    """Return what the second kernel does, made of operators that can be differentiated."""
    n_atoms, width = gradient.shape
    by_sums = torch.zeros_like(gradient)
    by_factors = [torch.zeros_like(own) for own in factors]
    for k, other in enumerate(others):
        replaced = [*factors[:k], other, *factors[k + 1 :]]
        by_sums = by_sums + torch.ops.eqcalc.path_products(*replaced, *where, width, n_atoms)
        slopes = torch.ops.eqcalc.path_products_backward(gradient, *replaced, *where)
        for n, slope in enumerate(slopes):
            if n != k:
                by_factors[n] = by_factors[n] + slope
    return [by_sums, *by_factors]


def _register() -> None:
    """Tell torch the shapes and the derivatives of the loaded kernels."""
    forward, backward = "eqcalc::path_products", "eqcalc::path_products_backward"

    @torch.library.register_fake(forward)
    def _(features: Tensor, *others: Any) -> Tensor:
        width, n_atoms = others[-2:]
        return features.new_empty((n_atoms, width))

    @torch.library.register_fake(backward)
    def _(gradient: Tensor, features: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        return _alike(features, *others[:2])

    @torch.library.register_fake("eqcalc::path_products_second")
    def _(*tensors: Tensor) -> tuple[Tensor, ...]:
        return _alike(*tensors[3:7])  # the derivative by the sums, and what they are made of

    torch.library.register_autograd(forward, _first, setup_context=_keep)
    torch.library.register_autograd(backward, _second, setup_context=_keep)


def _alike(*tensors: Tensor) -> tuple[Tensor, ...]:
    # Rows without gaps, however those of the arguments lie.
    return tuple(tensor.new_empty(tensor.shape) for tensor in tensors)
