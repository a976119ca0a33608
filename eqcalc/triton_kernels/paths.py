"""Kernels of the path convolution, written out for the paths of one layer.

    M_i[p, m3] = Σ_j W_p(d_ij) Σ_m1 A_ij[p, m3, m1] h_j[s(p), m1]
    A_ij[p, m3, m1] = Σ_m2 K[m2, m3, m1] Y_ij[m2]

Most of the constants K = √(2l3+1) C are zero, and a program keeps all components of its atom in
registers: both take a kernel whose every product is written out. :func:`path_kernels` writes the
source of such kernels and hands it to Triton; nobody reads it but the compiler and who debugs it
(``kernel.source``). Paths of a layer are shared out among several kernels where one would need more
registers than there are: those of the sums each make their own columns, those of the derivatives
have their own input irreps, and the derivatives by harmonics and lengths are added in the end.

Shapes: features (n_atoms, D_x), harmonics (n_edges, D_y), sums (n_atoms, width); the rows of
``paths`` are those of :class:`eqcalc.nn.so3.tensor_product.PathTable`.
"""

from __future__ import annotations

import functools
import itertools
import linecache
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from eqcalc.nn.so3.tensor_product import path_constants
from eqcalc.triton_kernels.edges import edge_place, filter_slope, filter_value

__all__ = ["Path", "PathKernel", "path_kernels"]

_LANES = 32  # of a warp; a program is one
_ROUNDING = 1e-12
# Numbers of each lane that stay in registers from edge to edge, beside those of one edge.
_MOST_SUMS, _MOST_GRADIENTS = 64, 32
_numbers = itertools.count()


class Path(NamedTuple):
    """Where a path's numbers lie; as in the rows of a path table.

    x, d1 : where its features begin, and 2l1+1
    y, d2 : where its harmonics begin, and 2l2+1
    constants : not used here
    d3, out, stride : 2l3+1, where its sums begin, and how far apart their components lie
    n_channels : of its features, sums and weights
    w : where its weights begin
    """

    x: int
    d1: int
    y: int
    d2: int
    constants: int
    d3: int
    out: int
    stride: int
    n_channels: int
    w: int

    @property
    def degrees(self) -> tuple[int, int, int]:
        """l1, l2 and l3."""
        return self.d1 // 2, self.d2 // 2, self.d3 // 2


class PathKernel(NamedTuple):
    """One kernel of some of a layer's paths.

    function : compiled by Triton at its first call
    n_channels : of these paths
    source : what was written
    """

    function: Any
    n_channels: int
    source: str


@functools.lru_cache(maxsize=256)
def path_kernels(paths: tuple[int, ...]) -> tuple[list[PathKernel], list[PathKernel]]:
    """Return the kernels of the sums, and those of the derivatives.

    Parameters
    ----------
    paths : the rows of the table of paths, one after the other
    """
    width = len(Path._fields)
    rows = [Path(*paths[first : first + width]) for first in range(0, len(paths), width)]
    alone = [[row] for row in rows]
    by_source = [list(part) for _, part in itertools.groupby(rows, key=lambda row: row.x)]
    return (
        [_kernel(chunk, _sum_source) for chunk in _chunks(alone, _sum_size, _MOST_SUMS)],
        [
            _kernel(chunk, _gradient_source)
            for chunk in _chunks(by_source, _gradient_size, _MOST_GRADIENTS)
        ],
    )


def _chunks(
    parts: Sequence[list[Path]], size: Callable[[Sequence[Path]], int], most: int
) -> Iterator[list[Path]]:
    """Share out parts, whose paths stay together, among chunks of equal channels."""
    for n_channels in sorted({part[0].n_channels for part in parts}):
        chunk: list[Path] = []
        for part in parts:
            if part[0].n_channels != n_channels:
                continue
            if chunk and size([*chunk, *part]) * _per_lane(n_channels) > most:
                yield chunk
                chunk = []
            chunk += part
        yield chunk


def _sum_size(rows: Sequence[Path]) -> int:
    return sum(row.d3 for row in rows)


def _gradient_size(rows: Sequence[Path]) -> int:
    """Features and their derivatives, and the derivatives by harmonics."""
    n_features = sum({row.x: row.d1 for row in rows}.values())
    return 2 * n_features + len({row.y + m2 for row in rows for m2 in range(row.d2)})


def _per_lane(n_channels: int) -> int:
    return max(triton.next_power_of_2(n_channels) // _LANES, 1)


def _kernel(rows: Sequence[Path], write: Any) -> PathKernel:
    # Paths of the same couplings one after the other: those need not be kept for long.
    source = "\n".join(write(sorted(rows, key=lambda row: (row.degrees, row.x))))
    name = f"<eqcalc path kernel {next(_numbers)}>"
    # Triton reads the source of a function by its file.
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    scope: dict[str, Any] = {
        "tl": tl,
        "edge_place": edge_place,
        "filter_slope": filter_slope,
        "filter_value": filter_value,
        "__name__": __name__,
    }
    exec(compile(source, name, "exec"), scope)
    return PathKernel(triton.jit(scope["kernel"]), rows[0].n_channels, source)


def _sum_source(rows: Sequence[Path]) -> Iterator[str]:
    """Write the kernel of a receiver: its columns of the sums."""
    yield (
        "def kernel(features, harmonics, table, vectors, senders, starts, stretches, sums, cutoff, "
        "D_x, D_y, W, width, n_stretches: tl.constexpr, n: tl.constexpr, block: tl.constexpr):"
    )
    yield from _indented(
        "i = tl.program_id(0).to(tl.int64)",
        "f = tl.arange(0, block)",
        "here = f < n",
        *(f"{total} = tl.zeros([block], tl.float32)" for row in rows for total in _totals(row)),
        "for k in range(tl.load(starts + i), tl.load(starts + i + 1)):",
    )
    yield from _indented(
        *_placed_edge(rows),
        "x = features + tl.load(senders + k) * D_x + f",
        *_loaded_features(rows, "used"),
        depth=2,
    )
    made: tuple[int, int, int] | None = None
    for row in rows:
        if row.degrees != made:
            made = row.degrees
            yield from _indented(*_couplings(row), depth=2)
        yield from _indented(
            *_loaded_rows(row),
            "w = filter_value(c0, c1, c2, c3, t)",
            *(f"wx_{m1} = w * x_{row.x}_{m1}" for m1 in range(row.d1)),
            depth=2,
        )
        for m3, total in enumerate(_totals(row)):
            terms = [f"a_{m3}_{m1} * wx_{m1}" for m1 in range(row.d1) if _is_coupled(row, m3, m1)]
            if terms:
                yield from _indented(f"{total} += {' + '.join(terms)}", depth=2)
    for row in rows:
        for m3, total in enumerate(_totals(row)):
            column = row.out + m3 * row.stride
            yield from _indented(f"tl.store(sums + i * width + {column} + f, {total}, mask=here)")


def _gradient_source(rows: Sequence[Path]) -> Iterator[str]:
    """Write the kernel of a sender: the derivatives of its edges and by its own features.

    ``by_edges`` (n_edges, D_y + 1) gets the derivatives by harmonics and by the length.
    """
    yield (
        "def kernel(gradient, features, harmonics, table, vectors, receivers, order, starts, "
        "stretches, by_features, by_edges, cutoff, D_x, D_y, W, width, n_stretches: tl.constexpr, "
        "n: tl.constexpr, block: tl.constexpr):"
    )
    sources = {row.x: row.d1 for row in rows}
    components = [(x, m1) for x, d1 in sources.items() for m1 in range(d1)]
    harmonics = sorted({row.y + m2 for row in rows for m2 in range(row.d2)})
    yield from _indented(
        "j = tl.program_id(0).to(tl.int64)",
        "f = tl.arange(0, block)",
        "here = f < n",
        "x = features + j * D_x + f",
        *_loaded_features(rows, "here"),
        *(f"by_{x}_{m1} = tl.zeros([block], tl.float32)" for x, m1 in components),
        "for m in range(tl.load(starts + j), tl.load(starts + j + 1)):",
    )
    yield from _indented(
        "k = tl.load(order + m)",
        *_placed_edge(rows),
        "g = gradient + tl.load(receivers + k) * width + f",
        "slopes = tl.zeros([block], tl.float32)",
        *(f"by_y_{y} = tl.zeros([block], tl.float32)" for y in harmonics),
        depth=2,
    )
    made: tuple[int, int, int] | None = None
    for row in rows:
        if row.degrees != made:
            made = row.degrees
            yield from _indented(*_couplings(row), depth=2)
        yield from _indented(*_path_gradient(row), depth=2)
    yield from _indented(
        *(f"tl.store(by_edges + k * (D_y + 1) + {y}, tl.sum(by_y_{y}, axis=0))" for y in harmonics),
        "tl.store(by_edges + k * (D_y + 1) + D_y, tl.sum(slopes, axis=0))",
        depth=2,
    )
    yield from _indented(
        *(
            f"tl.store(by_features + j * D_x + {x + m1 * rows[0].n_channels} + f, by_{x}_{m1}, "
            "mask=here)"
            for x, m1 in components
        )
    )


def _path_gradient(row: Path) -> Iterator[str]:
    """Write what one path adds, with y = A^T g: w y, slope h y, and w g h^T contracted with K."""
    yield from _loaded_rows(row)
    yield "w = filter_value(c0, c1, c2, c3, t)"
    for m3 in range(row.d3):
        column = row.out + m3 * row.stride
        yield f"g_{m3} = tl.load(g + {column}, mask=used, other=0.0)"
    products = []
    for m1 in range(row.d1):
        terms = [f"a_{m3}_{m1} * g_{m3}" for m3 in range(row.d3) if _is_coupled(row, m3, m1)]
        yield f"u = {' + '.join(terms)}"
        yield f"by_{row.x}_{m1} += w * u"
        yield f"wx_{m1} = w * x_{row.x}_{m1}"
        yield f"v_{m1} = x_{row.x}_{m1} * u"
        products.append(f"v_{m1}")
    yield f"slopes += filter_slope(c0, c1, c2, c3, t, per_h) * ({' + '.join(products)})"
    constants = _constants(row.degrees)
    for m2 in range(row.d2):
        terms = []
        for m3 in range(row.d3):
            inner = [
                f"{value!r} * wx_{m1}" for m1, value in enumerate(constants[m2][m3]) if value != 0.0
            ]
            if inner:
                terms.append(f"g_{m3} * ({' + '.join(inner)})")
        yield f"by_y_{row.y + m2} += {' + '.join(terms)}"


def _totals(row: Path) -> list[str]:
    return [f"sum_{row.out + m3 * row.stride}" for m3 in range(row.d3)]


def _placed_edge(rows: Sequence[Path]) -> Iterator[str]:
    """Write where edge k lies in the table, and the loads of its harmonics."""
    yield (
        "inside, ex, ey, ez, inverse, row, t, per_h = "
        "edge_place(vectors, k, stretches, n_stretches, cutoff)"
    )
    yield "used = f < tl.where(inside, n, 0)"
    yield "c = table + row * W + f"
    for y in sorted({row.y + m2 for row in rows for m2 in range(row.d2)}):
        yield f"y_{y} = tl.load(harmonics + k * D_y + {y})"


def _loaded_features(rows: Sequence[Path], mask: str) -> Iterator[str]:
    for x, row in {row.x: row for row in rows}.items():
        for m1 in range(row.d1):
            column = x + m1 * row.n_channels
            yield f"x_{x}_{m1} = tl.load(x + {column}, mask={mask}, other=0.0)"


def _loaded_rows(row: Path) -> Iterator[str]:
    """Write the loads of the four rows of the table around an edge's length."""
    for knot in range(4):
        yield f"c{knot} = tl.load(c + {knot} * W + {row.w}, mask=used, other=0.0)"


def _couplings(row: Path) -> Iterator[str]:
    constants = _constants(row.degrees)
    for m3 in range(row.d3):
        for m1 in range(row.d1):
            terms = [
                f"{constants[m2][m3][m1]!r} * y_{row.y + m2}"
                for m2 in range(row.d2)
                if constants[m2][m3][m1] != 0.0
            ]
            if terms:
                yield f"a_{m3}_{m1} = {' + '.join(terms)}"


def _is_coupled(row: Path, m3: int, m1: int) -> bool:
    return any(block[m3][m1] != 0.0 for block in _constants(row.degrees))


@functools.cache
def _constants(degrees: tuple[int, int, int]) -> list[list[list[float]]]:
    """Return K as [m2][m3][m1]; what is zero but for rounding is zero."""
    constants = path_constants(*degrees)
    return torch.where(constants.abs() < _ROUNDING, 0.0, constants).tolist()


def _indented(*lines: str | Iterable[str], depth: int = 1) -> Iterator[str]:
    for line in lines:
        yield f"{'    ' * depth}{line}"
