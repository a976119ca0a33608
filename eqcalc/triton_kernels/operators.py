"""The operators ``torch.ops.eqcalc_gpu``: what programs of networks call on a GPU.

They are those of the C++ library (``native/library.cpp``) for another device, with the order of
edges as arguments: every convolution of a call shares it. This module imports without Triton.
"""

from __future__ import annotations

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
_registered: list[torch.library.Library] = []


def register_operators() -> bool:
    """Register the operators where Triton is installed, and tell whether they are registered."""
    if not _registered and has_triton():
        from eqcalc.triton_kernels.launches import OPERATORS

        library = torch.library.Library(_LIBRARY, "DEF")
        for schema in _SCHEMAS:
            library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        for name, work in OPERATORS.items():
            library.impl(name, work, "CUDA")
        _register_shapes()
        _registered.append(library)
    return len(_registered) > 0


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
            # Rows without gaps, however those of the arguments lie.
            return features.new_empty(features.shape), vectors.new_empty(vectors.shape)

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
        return (
            features.new_empty(features.shape),
            harmonics.new_empty(harmonics.shape),
            vectors.new_empty(vectors.shape),
        )

    def products(x: Tensor, weights: Tensor, bias: Optional[Tensor]) -> Tensor:
        return x.new_empty((*x.shape[:-1], weights.shape[1]))

    torch.library.register_fake(f"{_LIBRARY}::rows_times", products)
    torch.library.register_fake(f"{_LIBRARY}::path_convolution", path_sums)
    torch.library.register_fake(f"{_LIBRARY}::path_convolution_backward", path_gradients)
