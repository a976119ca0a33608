"""Kernels of the scalar and the vector convolution, one program for each atom.

Shapes are those of :mod:`eqcalc.tabulated.convolutions`. A program of ``*_sum`` is that of a
receiver: its edges are ``starts[i]`` to ``starts[i + 1]``. One of ``*_gradient`` is that of a
sender: its edges are ``order[m]``, m from ``starts[j]`` to ``starts[j + 1]``. It writes the
derivatives by the sender's features and by the vectors of these edges.
"""

from __future__ import annotations

import triton
import triton.language as tl

from eqcalc.triton_kernels.edges import edge_place, filter_slope, filter_value

__all__ = ["scalar_gradient", "scalar_sum", "vector_gradient", "vector_sum"]


@triton.jit
def _rows(table, row, width, column, here):
    """Return the four rows of a table around a place, at some columns."""
    c = table + row * width + column
    return (
        tl.load(c, mask=here, other=0.0),
        tl.load(c + width, mask=here, other=0.0),
        tl.load(c + 2 * width, mask=here, other=0.0),
        tl.load(c + 3 * width, mask=here, other=0.0),
    )


@triton.jit
def scalar_sum(
    features,
    table,
    vectors,
    senders,
    starts,
    stretches,
    sums,
    cutoff,
    n_stretches: tl.constexpr,
    n: tl.constexpr,  # channels
    block: tl.constexpr,  # a power of two, as many at least
):
    """Write the sums (n_atoms, n) of a receiver."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, block)
    here = f < n
    total = tl.zeros([block], tl.float32)
    for k in range(tl.load(starts + i), tl.load(starts + i + 1)):
        inside, _, _, _, _, row, t, _ = edge_place(vectors, k, stretches, n_stretches, cutoff)
        used = f < tl.where(inside, n, 0)
        c0, c1, c2, c3 = _rows(table, row, n, f, used)
        x = tl.load(features + tl.load(senders + k) * n + f, mask=used, other=0.0)
        total += filter_value(c0, c1, c2, c3, t) * x
    tl.store(sums + i * n + f, total, mask=here)


@triton.jit
def scalar_gradient(
    gradient,
    features,
    table,
    vectors,
    receivers,
    order,
    starts,
    stretches,
    by_features,
    by_vectors,
    cutoff,
    n_stretches: tl.constexpr,
    n: tl.constexpr,
    block: tl.constexpr,
):
    """Write the derivatives of a sender's features (n_atoms, n) and of its edges' vectors."""
    j = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, block)
    here = f < n
    x = tl.load(features + j * n + f, mask=here, other=0.0)
    total = tl.zeros([block], tl.float32)
    for m in range(tl.load(starts + j), tl.load(starts + j + 1)):
        k = tl.load(order + m)
        inside, ex, ey, ez, _, row, t, per_h = edge_place(
            vectors, k, stretches, n_stretches, cutoff
        )
        used = f < tl.where(inside, n, 0)
        c0, c1, c2, c3 = _rows(table, row, n, f, used)
        g = tl.load(gradient + tl.load(receivers + k) * n + f, mask=used, other=0.0)
        total += filter_value(c0, c1, c2, c3, t) * g
        slope = tl.sum(filter_slope(c0, c1, c2, c3, t, per_h) * x * g, axis=0)
        tl.store(by_vectors + 3 * k, slope * ex)
        tl.store(by_vectors + 3 * k + 1, slope * ey)
        tl.store(by_vectors + 3 * k + 2, slope * ez)
    tl.store(by_features + j * n + f, total, mask=here)


@triton.jit
def vector_sum(
    features,
    table,
    vectors,
    senders,
    starts,
    stretches,
    sums,
    cutoff,
    n_stretches: tl.constexpr,
    n: tl.constexpr,
    block: tl.constexpr,
):
    """Write the sums (n_atoms, 4n) of a receiver."""
    i = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, block)
    here = f < n
    total = tl.zeros([block], tl.float32)
    total_x = tl.zeros([block], tl.float32)
    total_y = tl.zeros([block], tl.float32)
    total_z = tl.zeros([block], tl.float32)
    for k in range(tl.load(starts + i), tl.load(starts + i + 1)):
        inside, ex, ey, ez, _, row, t, _ = edge_place(vectors, k, stretches, n_stretches, cutoff)
        used = f < tl.where(inside, n, 0)
        p = features + tl.load(senders + k) * (5 * n) + f
        c0, c1, c2, c3 = _rows(table, row, 3 * n, f, used)
        w_a = filter_value(c0, c1, c2, c3, t)
        c0, c1, c2, c3 = _rows(table, row, 3 * n, n + f, used)
        w_b = filter_value(c0, c1, c2, c3, t)
        c0, c1, c2, c3 = _rows(table, row, 3 * n, 2 * n + f, used)
        w_c = filter_value(c0, c1, c2, c3, t)
        b = w_b * tl.load(p + n, mask=used, other=0.0)
        total += w_a * tl.load(p, mask=used, other=0.0)
        total_x += ex * b + w_c * tl.load(p + 2 * n, mask=used, other=0.0)
        total_y += ey * b + w_c * tl.load(p + 3 * n, mask=used, other=0.0)
        total_z += ez * b + w_c * tl.load(p + 4 * n, mask=used, other=0.0)
    out = sums + i * (4 * n) + f
    tl.store(out, total, mask=here)
    tl.store(out + n, total_x, mask=here)
    tl.store(out + 2 * n, total_y, mask=here)
    tl.store(out + 3 * n, total_z, mask=here)


@triton.jit
def vector_gradient(
    gradient,
    features,
    table,
    vectors,
    receivers,
    order,
    starts,
    stretches,
    by_features,
    by_vectors,
    cutoff,
    n_stretches: tl.constexpr,
    n: tl.constexpr,
    block: tl.constexpr,
):
    """Write the derivatives of a sender's features (n_atoms, 5n) and of its edges' vectors."""
    j = tl.program_id(0).to(tl.int64)
    f = tl.arange(0, block)
    here = f < n
    p = features + j * (5 * n) + f
    a = tl.load(p, mask=here, other=0.0)
    b = tl.load(p + n, mask=here, other=0.0)
    cx = tl.load(p + 2 * n, mask=here, other=0.0)
    cy = tl.load(p + 3 * n, mask=here, other=0.0)
    cz = tl.load(p + 4 * n, mask=here, other=0.0)
    by_a = tl.zeros([block], tl.float32)
    by_b = tl.zeros([block], tl.float32)
    by_x = tl.zeros([block], tl.float32)
    by_y = tl.zeros([block], tl.float32)
    by_z = tl.zeros([block], tl.float32)
    for m in range(tl.load(starts + j), tl.load(starts + j + 1)):
        k = tl.load(order + m)
        inside, ex, ey, ez, inverse, row, t, per_h = edge_place(
            vectors, k, stretches, n_stretches, cutoff
        )
        used = f < tl.where(inside, n, 0)
        g = gradient + tl.load(receivers + k) * (4 * n) + f
        gs = tl.load(g, mask=used, other=0.0)
        gx = tl.load(g + n, mask=used, other=0.0)
        gy = tl.load(g + 2 * n, mask=used, other=0.0)
        gz = tl.load(g + 3 * n, mask=used, other=0.0)
        along = ex * gx + ey * gy + ez * gz
        c0, c1, c2, c3 = _rows(table, row, 3 * n, f, used)
        by_a += filter_value(c0, c1, c2, c3, t) * gs
        slopes = filter_slope(c0, c1, c2, c3, t, per_h) * a * gs
        c0, c1, c2, c3 = _rows(table, row, 3 * n, n + f, used)
        w_b = filter_value(c0, c1, c2, c3, t)
        by_b += w_b * along
        slopes += filter_slope(c0, c1, c2, c3, t, per_h) * b * along
        c0, c1, c2, c3 = _rows(table, row, 3 * n, 2 * n + f, used)
        w_c = filter_value(c0, c1, c2, c3, t)
        by_x += w_c * gx
        by_y += w_c * gy
        by_z += w_c * gz
        slopes += filter_slope(c0, c1, c2, c3, t, per_h) * (cx * gx + cy * gy + cz * gz)
        # d(r/d)/dr = (1 - r r^T / d²) / d
        qx = tl.sum(w_b * b * gx, axis=0) * inverse
        qy = tl.sum(w_b * b * gy, axis=0) * inverse
        qz = tl.sum(w_b * b * gz, axis=0) * inverse
        radial = tl.sum(slopes, axis=0) - (qx * ex + qy * ey + qz * ez)
        tl.store(by_vectors + 3 * k, radial * ex + qx)
        tl.store(by_vectors + 3 * k + 1, radial * ey + qy)
        tl.store(by_vectors + 3 * k + 2, radial * ez + qz)
    out = by_features + j * (5 * n) + f
    tl.store(out, by_a, mask=here)
    tl.store(out + n, by_b, mask=here)
    tl.store(out + 2 * n, by_x, mask=here)
    tl.store(out + 3 * n, by_y, mask=here)
    tl.store(out + 4 * n, by_z, mask=here)
