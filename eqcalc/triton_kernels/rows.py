"""The kernel of matrix products of few rows."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["TILE", "few_rows"]

TILE = (16, 32, 32)
"""Rows and columns of a program, and terms of a sum that it takes at once."""


@triton.jit(do_not_specialize=["n_rows"])
def few_rows(
    x,
    weights,
    bias,
    products,
    n_rows,
    n_in,
    n_out,
    x_row,
    x_in,
    weights_in,
    weights_out,
    has_bias: tl.constexpr,
    tile_rows: tl.constexpr,
    tile_out: tl.constexpr,
    tile_in: tl.constexpr,
):
    """Write one tile of x (n_rows, n_in) times weights (n_in, n_out), with the bias added."""
    rows = tl.program_id(0) * tile_rows + tl.arange(0, tile_rows)
    columns = tl.program_id(1) * tile_out + tl.arange(0, tile_out)
    here = (rows < n_rows)[:, None]
    there = (columns < n_out)[None, :]
    total = tl.zeros([tile_rows, tile_out], tl.float32)
    for first in range(0, n_in, tile_in):
        k = first + tl.arange(0, tile_in)
        inside = k < n_in
        a = tl.load(
            x + rows[:, None] * x_row + k[None, :] * x_in,
            mask=here & inside[None, :],
            other=0.0,
        )
        b = tl.load(
            weights + k[:, None] * weights_in + columns[None, :] * weights_out,
            mask=inside[:, None] & there,
            other=0.0,
        )
        total = tl.dot(a, b, total, input_precision="ieee")  # no TF32
    if has_bias:
        total += tl.load(bias + columns, mask=columns < n_out, other=0.0)[None, :]
    tl.store(
        products + rows[:, None] * n_out + columns[None, :],
        total,
        mask=here & there,
    )
