"""How networks built on e3nn lay out their weights, and how they become a NequIP's here.

SevenNet and nequip build the same layers of the same parts of e3nn:

    h  ->  h' = gate(linear_2(Σ_j tensor_product(linear_1(h_j), Y, radial)) + self-connection(h))

In e3nn a linear map is one flat tensor, the matrices (n_in, n_out) of its irreps one after the
other in the order of the input, each divided by √n_in when it is used. Between the two linear
maps stands one block of channels for each path (input irrep, degree of the harmonics, output
irrep). Here paths, irreps and gates stand in another order, activations may have other factors,
and irreps that cannot reach the energy do not exist. All of that is permutation, selection and
scaling, done in float64.

Shapes: n_in, n_out channels of an irrep, n_hidden of the radial network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Optional, cast

import torch
from torch import Tensor
from torch.nn import Module, Sequential, functional

from eqcalc.architectures.nequip import Interaction
from eqcalc.errors import ModelFileError
from eqcalc.nn.so3 import (
    AddedLinear,
    Irrep,
    Layout,
    SpeciesLinear,
    UnitVarianceLinear,
    UnitVarianceSiLU,
    clebsch_gordan,
)

__all__ = [
    "Convolution",
    "FlatLinear",
    "LayerLayouts",
    "coupling_sign",
    "fill_interaction",
    "fill_scalar_network",
    "silu_factor",
    "split_flat",
    "tanh_factor",
]

Path = tuple[Irrep, int, Irrep]
"""Irrep of the input, degree l2 of the harmonics, irrep of the output."""


def silu_factor() -> float:
    """Return e3nn's factor of silu, 1.67918; the exact integral gives 1.67653."""
    return _sampled_factor(functional.silu)


def tanh_factor() -> float:
    """Return e3nn's factor of tanh, 1.59373; the exact integral gives 1.59254."""
    return _sampled_factor(torch.tanh)


@cache
def _sampled_factor(function: Callable[[Tensor], Tensor]) -> float:
    """Return 1/√⟨f(z)²⟩ as e3nn has it: the mean over a million numbers of torch's generator."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1_000_000, generator=generator, dtype=torch.float64)
    return float(function(z).pow(2).mean().pow(-0.5))


def coupling_sign(stored: Tensor, l1: int, l2: int, l3: int, name: str) -> int:
    """Return +1 or -1: how a file's Wigner 3j symbols stand to those here.

    e3nn has changed the sign of some between versions, and a network keeps those that it was
    trained with: the weights of such paths change sign on import.

    Raises
    ------
    ModelFileError : the stored tensor is no multiple ±1 of the symbols.
    """
    exact = clebsch_gordan(l1, l2, l3)
    if stored.shape != exact.shape:
        raise ModelFileError(
            f"'{name}' must have the shape {tuple(exact.shape)}, found {tuple(stored.shape)}."
        )
    sign = 1 if float((stored.double() * exact).sum()) > 0 else -1
    if not torch.allclose(stored.double(), sign * exact, atol=1e-5):
        raise ModelFileError(f"'{name}' holds no Wigner 3j symbols of ({l1}, {l2}, {l3}).")
    return sign


def split_flat(flat: Tensor, shapes: Sequence[tuple[int, ...]], name: str) -> list[Tensor]:
    """Cut a flat tensor into tensors of these shapes, which must use it up.

    Raises
    ------
    ModelFileError : it holds more or fewer numbers.
    """
    sizes = [math.prod(shape) for shape in shapes]
    if flat.numel() != sum(sizes):
        raise ModelFileError(
            f"'{name}' must hold {sum(sizes)} numbers for a network of this configuration, "
            f"found {flat.numel()}."
        )
    parts = flat.double().flatten().split(sizes)
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


@dataclass(frozen=True)
class FlatLinear:
    """One linear map of e3nn, cut into its matrices.

    matrices : (n_in, n_out) by irrep
    rows : (extra, n_out) of further scalar inputs, a one-hot vector
    scalar : the irrep that these are added to
    """

    matrices: dict[Irrep, Tensor]
    rows: Optional[Tensor]
    scalar: Irrep

    @classmethod
    def cut(
        cls, flat: Tensor, layout_in: Layout, layout_out: Layout, extra: int, name: str
    ) -> FlatLinear:
        """Cut a flat tensor; its matrices stand in the order of ``layout_in``.

        Raises
        ------
        ModelFileError : it has another size.
        """
        scalar = next(irrep for irrep in layout_in if irrep.is_invariant)
        shared = [irrep for irrep in layout_in if irrep in layout_out]
        shapes: list[tuple[int, ...]] = [(layout_in[t], layout_out[t]) for t in shared]
        if extra > 0:
            shapes.append((extra, layout_out[scalar]))
        parts = split_flat(flat, shapes, name)
        matrices = dict(zip(shared, parts, strict=False))
        return cls(matrices, parts[-1] if extra > 0 else None, scalar)

    def matrix(self, irrep: Irrep, fan_in: int) -> Tensor:
        """Return an irrep's matrix for a map here that divides by √fan_in."""
        return math.sqrt(fan_in / self.fan_in(irrep)) * self.matrices[irrep]

    def row(self, chosen: int, fan_in: int) -> Tensor:
        """Return the row of the extra input that is one: a bias (n_out,)."""
        if self.rows is None:
            return self.matrices[self.scalar].new_zeros(self.matrices[self.scalar].shape[1])
        return math.sqrt(fan_in / self.fan_in(self.scalar)) * self.rows[chosen]

    def fan_in(self, irrep: Irrep) -> int:
        """Return by the root of what the map divides: all inputs of an irrep count."""
        extra = 0 if self.rows is None or irrep != self.scalar else self.rows.shape[0]
        return self.matrices[irrep].shape[0] + extra


@dataclass(frozen=True)
class LayerLayouts:
    """The irreps of one layer, in their order, and those that it has here.

    features_in : channels of each irrep before the layer
    features_out : channels after the gate, scalars first
    ours_in, ours_out : the same here; the irreps may be fewer
    l_max : of the harmonics
    is_sorted : the radial network's columns go by output irrep first
    targets : irreps of the tensor product; None means those after the gate. What the second
        linear map drops of it has weights all the same
    """

    features_in: Layout
    features_out: Layout
    ours_in: Layout
    ours_out: Layout
    l_max: int
    is_sorted: bool = False
    targets: Optional[Sequence[Irrep]] = None

    @property
    def before_gate(self) -> Layout:
        """Channels before the gate, sorted as e3nn sorts them, the gates among the scalars."""
        gates = sum(n for irrep, n in self.features_out.items() if irrep.l > 0)
        scalar = next(irrep for irrep in self.features_out if irrep.is_invariant)
        layout = self.features_out | {scalar: self.features_out[scalar] + gates}
        return dict(sorted(layout.items()))

    def paths(self) -> list[Path]:
        """Return their paths, by input irrep, l2, l3."""
        targets = list(self.features_out) if self.targets is None else self.targets
        return [
            (source, l2, target)
            for source in self.features_in
            for l2 in range(self.l_max + 1)
            for l3 in range(abs(source.l - l2), source.l + l2 + 1)
            for target in targets
            if target.l == l3 and target.parity == source.parity * (-1) ** l2
        ]

    def our_paths(self) -> list[Path]:
        """Return the paths of a tensor product here, in the order of its weights."""
        return [
            (source, l2, target)
            for source in self.ours_in
            for odd in (0, 1)
            for target in sorted(self.ours_out)
            for l2 in source.filters_to(target, self.l_max)
            if (source.l + l2 + target.l) % 2 == odd
        ]


@dataclass(frozen=True)
class Convolution:
    """The weights of one layer as a file has them.

    before, after : flat tensors of the linear maps around the tensor product
    radial : matrices (n_in, n_out) of the radial network
    radial_factor : that its activations have
    own : flat tensor of the self-connection; None where there is none
    own_embedding : (n_species, n_embed), with which a self-connection by species is contracted
        and divided by √n_embed; None where it is one linear map for all species
    signs : of paths whose 3j symbols have another sign
    extra : number of further 0e inputs of the maps (before, after), a one-hot vector
    chosen : which of these is one
    name : what the layer is called in messages
    """

    before: Tensor
    after: Tensor
    radial: list[Tensor]
    radial_factor: float
    own: Optional[Tensor]
    own_embedding: Optional[Tensor]
    name: str
    signs: Mapping[tuple[int, int, int], int] = field(default_factory=dict)
    extra: tuple[int, int] = (0, 0)
    chosen: int = 0


def fill_interaction(
    layer: Module,
    layouts: LayerLayouts,
    given: Convolution,
    gate_factors: Mapping[Irrep, float],
) -> dict[Irrep, float]:
    """Give a layer the weights of a file.

    Parameters
    ----------
    gate_factors : for each irrep of the input, by how much features are smaller here than there

    Returns
    -------
    The same for the output.

    Raises
    ------
    ModelFileError : a tensor has another size than a network of this configuration has.
    """
    layer = cast("Interaction", layer)
    _fill_before(layer, layouts, given, gate_factors)
    _fill_radial(layer, layouts, given)
    _fill_after(layer, layouts, given)
    _fill_own(layer, layouts, given, gate_factors)
    silu = silu_factor() / layer.gate.even.factor
    tanh = tanh_factor() / layer.gate.odd.factor
    return {irrep: tanh if irrep == Irrep(0, -1) else silu for irrep in layouts.ours_out}


def _fill_before(
    layer: Interaction, layouts: LayerLayouts, given: Convolution, factors: Mapping[Irrep, float]
) -> None:
    found = FlatLinear.cut(
        given.before,
        layouts.features_in,
        layouts.features_in,
        given.extra[0],
        f"{given.name}: first map",
    )
    for k, irrep in enumerate(layouts.ours_in):
        matrix = factors[irrep] * found.matrix(irrep, layer.mix_before.fan_in[k])
        _copy(layer.mix_before.weights[k], matrix)
    if layer.mix_before.bias is not None:
        row = found.row(given.chosen, layer.mix_before.fan_in[layer.mix_before.scalar])
        _copy(layer.mix_before.bias, row)


def _fill_radial(layer: Interaction, layouts: LayerLayouts, given: Convolution) -> None:
    theirs = layouts.paths()
    if layouts.is_sorted:
        theirs = sorted(theirs, key=lambda path: path[2])
    widths = [layouts.features_in[source] for source, _, _ in theirs]
    last = given.radial[-1]
    if last.dim() != 2 or last.shape[1] != sum(widths):
        raise ModelFileError(
            f"{given.name}: the radial network must end in {sum(widths)} weights for these "
            f"paths, found the shape {tuple(last.shape)}."
        )
    columns = dict(zip(theirs, last.double().split(widths, dim=1), strict=True))
    ordered = [
        given.signs.get((path[0].l, path[1], path[2].l), 1) * columns[path]
        for path in layouts.our_paths()
    ]
    matrices = [*given.radial[:-1], torch.cat(ordered, dim=1)]
    fill_scalar_network(layer.radial_network, matrices, given.radial_factor, 1.0)


def fill_scalar_network(
    network: Sequential, matrices: Sequence[Tensor], factor: float, of_input: float
) -> None:
    """Give a multilayer network matrices (n_in, n_out) and its silu's factor.

    Parameters
    ----------
    factor : that its activations have in the file
    of_input : by how much its input is smaller here

    Raises
    ------
    ModelFileError : a matrix has another shape.
    """
    linears = [m for m in network if isinstance(m, UnitVarianceLinear)]
    silus = [m for m in network if isinstance(m, UnitVarianceSiLU)]
    factors = [of_input, *(factor / silu.factor for silu in silus)]
    for linear, ratio, matrix in zip(linears, factors, matrices, strict=True):
        if matrix.shape != linear.weight.shape:
            raise ModelFileError(
                f"a multilayer network has a matrix of {tuple(matrix.shape)} numbers, where "
                f"{tuple(linear.weight.shape)} are expected."
            )
        _copy(linear.weight, ratio * matrix.double())


def _fill_after(layer: Interaction, layouts: LayerLayouts, given: Convolution) -> None:
    widths: Layout = {}
    rows: dict[Path, tuple[int, int]] = {}
    for path in layouts.paths():
        first, n = widths.get(path[2], 0), layouts.features_in[path[0]]
        rows[path] = (first, first + n)
        widths[path[2]] = first + n
    widths = dict(sorted(widths.items()))
    found = FlatLinear.cut(
        given.after, widths, layouts.before_gate, given.extra[1], f"{given.name}: second map"
    )
    mix = layer.mix_after
    for k, target in enumerate(layouts.ours_out):
        matrix = found.matrix(target, mix.fan_in[k])
        parts = [matrix[slice(*rows[path])] for path in layouts.our_paths() if path[2] == target]
        _copy(mix.weights[k], _gate_columns(torch.cat(parts, dim=0), target, layouts))
    if mix.bias is not None:
        row = found.row(given.chosen, mix.fan_in[mix.scalar]).unsqueeze(0)
        _copy(mix.bias, _gate_columns(row, next(iter(layouts.ours_out)), layouts).squeeze(0))


def _fill_own(
    layer: Interaction, layouts: LayerLayouts, given: Convolution, factors: Mapping[Irrep, float]
) -> None:
    if (given.own is None) != (layer.self_connection is None):
        raise ModelFileError(
            f"{given.name}: a self-connection was "
            f"{'not found' if given.own is None else 'not expected'}."
        )
    if given.own is None or layer.self_connection is None:
        return
    gated = layouts.before_gate
    shared = {irrep: n for irrep, n in layouts.features_in.items() if irrep in gated}
    embedding = given.own_embedding
    middle = () if embedding is None else (embedding.shape[1],)
    shapes = [(n, *middle, gated[irrep]) for irrep, n in shared.items()]
    parts = split_flat(given.own, shapes, f"{given.name}: self-connection")
    found = dict(zip(shared, parts, strict=True))
    targets = [irrep for irrep in layouts.ours_out if irrep in layouts.ours_in]
    kept = layer.self_connection
    linear = kept.linear if isinstance(kept, AddedLinear) else cast("SpeciesLinear", kept)
    for parameter, irrep in zip(linear.weights, targets, strict=True):
        matrix = found[irrep]
        if embedding is not None:
            matrix = torch.einsum("uvw,zv->zuw", matrix, embedding.double())
            matrix = matrix / math.sqrt(embedding.shape[1])
        _copy(parameter, factors[irrep] * _gate_columns(matrix, irrep, layouts))


def _gate_columns(matrix: Tensor, irrep: Irrep, layouts: LayerLayouts) -> Tensor:
    """Return the columns of the scalars (..., n_out) in the order here: scalars, then gates."""
    if not irrep.is_invariant:
        return matrix
    scalars = layouts.features_out[irrep]
    columns, first = {}, scalars
    for gated, n in layouts.features_out.items():
        if gated.l > 0:
            columns[gated] = matrix[..., first : first + n]
            first += n
    kept = [columns[gated] for gated in layouts.ours_out if gated.l > 0]
    return torch.cat([matrix[..., :scalars], *kept], dim=-1)


def _copy(parameter: Tensor, value: Tensor) -> None:
    with torch.no_grad():
        parameter.copy_(value)
