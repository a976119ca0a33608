"""The mathematics of rotations, against e3nn and against itself."""

from __future__ import annotations

import doctest
import importlib
import math
import pkgutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import Tensor

from eqcalc.errors import ConfigError
from eqcalc.nn import so3
from eqcalc.nn.so3 import (
    EdgeCouplings,
    EquivariantLinear,
    Gate,
    Irrep,
    SpeciesLinear,
    TensorProduct,
    clebsch_gordan,
    irrep_norms,
    irreps_up_to,
    layout_before_gate,
    path_filters,
    path_layout,
    second_moment_factor,
    spherical_harmonics,
    wigner_d,
)

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import nn as e3nn_nn
    from e3nn import o3

EXACT = {"rtol": 0.0, "atol": 1e-10}
"""float64, against e3nn and in identities."""

SINGLE = {"rtol": 0.0, "atol": 2e-5}
"""float32: values of order one, sums over up to a hundred terms."""

N, C = 5, 3
N_EDGES = 7


@contextmanager
def double_by_default() -> Iterator[None]:
    """Build e3nn's modules in float64: cast later, their coefficients are rounded."""
    torch.set_default_dtype(torch.float64)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_default_dtype(torch.float32)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def rotation(improper: bool = False, seed: int = 0) -> Tensor:
    q, r = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q = q * np.linalg.det(q)
    return torch.from_numpy(-q if improper else q)


def blocks(irreps: list[Irrep], n: int = N, seed: int = 1) -> list[Tensor]:
    return [normal(n, irrep.dim, C, seed=seed + k) for k, irrep in enumerate(irreps)]


def packed(features: list[Tensor]) -> Tensor:
    """Return features in e3nn's order: one row per atom, components fastest."""
    return torch.cat([block.transpose(1, 2).flatten(1) for block in features], dim=1)


def e3nn_irreps(layout) -> o3.Irreps:
    return o3.Irreps([(n, (irrep.l, irrep.parity)) for irrep, n in layout.items()])


def representation(irrep: Irrep, q: Tensor) -> Tensor:
    """Return the matrix of an irrep under a rotation or reflection."""
    sign = 1.0 if irrep.is_natural else float(torch.linalg.det(q))
    return sign * wigner_d(irrep.l, q)


def turned(features: list[Tensor], irreps: list[Irrep], q: Tensor) -> list[Tensor]:
    pairs = zip(features, irreps, strict=True)
    return [representation(irrep, q).to(block.dtype) @ block for block, irrep in pairs]


def product_setting(l_max: int, parity: bool, seed: int = 0):
    """Return a tensor product of all irreps, in float64, and arguments for it."""
    irreps = irreps_up_to(l_max, parity)
    couplings = EdgeCouplings(l_max, parity).double()
    product = TensorProduct(dict.fromkeys(irreps, C), irreps, couplings).double()
    vectors = normal(N_EDGES, 3, seed=seed)
    weights = normal(N_EDGES, product.n_weights, seed=seed + 1)
    edge_index = torch.tensor([[1, 2, 0, 3, 1, 4, 0], [0, 0, 1, 1, 3, 3, 4]])
    return irreps, couplings, product, vectors, weights, edge_index


# --- spherical harmonics


@pytest.mark.parametrize("l_max", range(9))
def test_harmonics_equal_e3nn(l_max):
    vectors = normal(40, 3)
    expected = o3.spherical_harmonics(list(range(l_max + 1)), vectors, True, "component")
    found = spherical_harmonics(l_max, vectors)
    assert found.shape == (40, (l_max + 1) ** 2)
    torch.testing.assert_close(found, expected, **EXACT)


def test_harmonics_in_float32_are_accurate():
    vectors = normal(200, 3)
    expected = spherical_harmonics(6, vectors)
    found = spherical_harmonics(6, vectors.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, **SINGLE)


def test_harmonics_are_component_normalised():
    squares = spherical_harmonics(6, normal(20, 3)).square()
    for l in range(7):
        total = squares[:, l * l : (l + 1) ** 2].sum(dim=1)
        torch.testing.assert_close(total, torch.full_like(total, 2.0 * l + 1.0), **EXACT)


def test_harmonics_depend_on_the_direction_alone():
    vectors = normal(20, 3)
    lengths = torch.logspace(-8, 8, 20, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(
        spherical_harmonics(4, vectors * lengths), spherical_harmonics(4, vectors), **EXACT
    )


@pytest.mark.parametrize("shape", [(3,), (0, 3), (2, 4, 3)])
def test_harmonics_keep_leading_dimensions(shape):
    assert spherical_harmonics(2, normal(*shape)).shape == (*shape[:-1], 9)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_harmonics_turn_by_wigner_matrices(improper):
    q, vectors = rotation(improper), normal(20, 3)
    found, before = spherical_harmonics(6, vectors @ q.T), spherical_harmonics(6, vectors)
    for l in range(7):
        part = slice(l * l, (l + 1) ** 2)
        torch.testing.assert_close(found[:, part], before[:, part] @ wigner_d(l, q).T, **EXACT)


def test_harmonics_have_finite_second_derivatives_on_the_axes():
    axes = torch.cat([torch.eye(3), -torch.eye(3)]).double().requires_grad_(True)
    weights = normal(6, 25)
    (gradient,) = torch.autograd.grad(
        (spherical_harmonics(4, axes) * weights).sum(), axes, create_graph=True
    )
    (second,) = torch.autograd.grad((gradient * normal(6, 3)).sum(), axes)
    assert bool(torch.isfinite(gradient).all())
    assert bool(torch.isfinite(second).all())
    small = axes.detach()[:3].requires_grad_(True)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(3, v), (small,))


def test_harmonics_script_to_the_same_numbers():
    scripted = torch.jit.script(spherical_harmonics)
    for l_max in (0, 1, 4):
        vectors = normal(10, 3)
        assert torch.equal(scripted(l_max, vectors), spherical_harmonics(l_max, vectors))


def test_harmonics_refuse_a_negative_degree():
    with pytest.raises(ConfigError, match="l_max must be an integer >= 0, found -1"):
        spherical_harmonics(-1, normal(2, 3))


# --- Clebsch-Gordan coefficients and Wigner matrices


@pytest.mark.parametrize("l1", range(7))
def test_coefficients_equal_e3nn(l1):
    for l2 in range(7):
        for l3 in range(abs(l1 - l2), min(l1 + l2, 6) + 1):
            found = clebsch_gordan(l1, l2, l3)
            assert found.dtype == torch.float64
            expected = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
            torch.testing.assert_close(found, expected, **EXACT)


def test_coefficients_of_all_degrees_are_an_orthogonal_matrix():
    for l1, l2 in [(1, 1), (2, 1), (2, 3), (4, 4)]:
        columns = [
            math.sqrt(2 * l3 + 1) * clebsch_gordan(l1, l2, l3).flatten(0, 1)
            for l3 in range(abs(l1 - l2), l1 + l2 + 1)
        ]
        matrix = torch.cat(columns, dim=1)
        identity = torch.eye(len(matrix), dtype=torch.float64)
        torch.testing.assert_close(matrix.T @ matrix, identity, **EXACT)
        torch.testing.assert_close(matrix @ matrix.T, identity, **EXACT)


@pytest.mark.parametrize("degrees", [(1, 1, 1), (2, 1, 3), (3, 2, 4), (4, 4, 4)])
def test_coefficients_are_invariant_under_rotation(degrees):
    c = clebsch_gordan(*degrees)
    d1, d2, d3 = (wigner_d(l, rotation()) for l in degrees)
    torch.testing.assert_close(torch.einsum("abc,ai,bj,ck->ijk", c, d1, d2, d3), c, **EXACT)


def test_coefficients_belong_to_the_caller():
    clebsch_gordan(1, 1, 1).zero_()
    assert float(clebsch_gordan(1, 1, 1).norm()) == pytest.approx(1.0, abs=1e-14)


def test_coefficients_refuse_degrees_that_do_not_couple():
    with pytest.raises(ConfigError, match=r"l1=1 and l2=2 couple to l3 from 1 to 3, found l3=4"):
        clebsch_gordan(1, 2, 4)
    with pytest.raises(ConfigError, match="l2 must be an integer >= 0, found -1"):
        clebsch_gordan(1, -1, 1)


def test_wigner_matrices_represent_the_group():
    q, r, inversion = rotation(seed=1), rotation(True, seed=2), -torch.eye(3).double()
    for l in range(7):
        d = wigner_d(l, q)
        torch.testing.assert_close(d @ d.T, torch.eye(2 * l + 1).double(), **EXACT)
        torch.testing.assert_close(d @ wigner_d(l, r), wigner_d(l, q @ r), **EXACT)
        sign = float((-1) ** l)
        torch.testing.assert_close(
            wigner_d(l, inversion), sign * torch.eye(2 * l + 1).double(), **EXACT
        )


def test_wigner_matrices_refuse_a_negative_degree():
    with pytest.raises(ConfigError, match="l must be an integer >= 0, found -2"):
        wigner_d(-2, rotation())


def test_outer_product_is_trace_cross_product_and_symmetric_traceless_part():
    a, b = normal(3, seed=1), normal(3, seed=2)
    outer = torch.outer(a, b)
    parts = [torch.einsum("ij,ijk->k", outer, clebsch_gordan(1, 1, l)) for l in range(3)]
    torch.testing.assert_close(parts[0], (a @ b / math.sqrt(3.0)).reshape(1), **EXACT)
    torch.testing.assert_close(parts[1], torch.linalg.cross(a, b) / math.sqrt(6.0), **EXACT)
    rebuilt = [
        (2 * l + 1) * torch.einsum("k,ijk->ij", part, clebsch_gordan(1, 1, l))
        for l, part in enumerate(parts)
    ]
    identity = torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(rebuilt[0], outer.trace() * identity / 3.0, **EXACT)
    torch.testing.assert_close(rebuilt[1], 0.5 * (outer - outer.T), **EXACT)
    traceless = 0.5 * (outer + outer.T) - outer.trace() * identity / 3.0
    torch.testing.assert_close(rebuilt[2], traceless, **EXACT)
    q = rotation()
    for l, part in enumerate(parts):
        again = torch.einsum("ij,ijk->k", torch.outer(q @ a, q @ b), clebsch_gordan(1, 1, l))
        torch.testing.assert_close(again, wigner_d(l, q) @ part, **EXACT)


# --- irreps


def test_paths_are_those_of_e3nn():
    irreps = irreps_up_to(3, parity=True)
    for source in irreps:
        for target in irreps:
            expected = [
                l
                for l in range(5)
                if o3.Irrep(target.l, target.parity)
                in o3.Irrep(source.l, source.parity) * o3.Irrep(l, (-1) ** l)
            ]
            assert source.filters_to(target, 4) == expected


def test_irreps_refuse_nonsense():
    with pytest.raises(ConfigError, match="l_max must be an integer >= 0, found -1"):
        irreps_up_to(-1, parity=True)
    with pytest.raises(ConfigError, match="parity must be True or False, found 'o'"):
        irreps_up_to(1, parity="o")  # type: ignore[arg-type]


# --- tensor product


EQUAL, FEWER_ABOVE = "equal channels", "fewer channels of higher degrees"


@pytest.mark.parametrize("channels", [EQUAL, FEWER_ABOVE])
@pytest.mark.parametrize(
    ("l_max", "parity", "mirror_symmetric"),
    [
        (0, False, True),
        (0, True, True),
        (1, True, True),
        (2, True, True),
        (3, True, True),
        (4, False, True),
        (2, False, False),
        (3, False, False),
    ],
)
def test_tensor_product_equals_e3nn(l_max, parity, mirror_symmetric, channels):
    irreps = irreps_up_to(l_max, parity, mirror_symmetric=mirror_symmetric)
    edge_couplings = EdgeCouplings(l_max, parity or not mirror_symmetric).double()
    widths = [C if channels == EQUAL else C + 2 * (l_max - irrep.l) for irrep in irreps]
    layout_in = dict(zip(irreps, widths, strict=True))
    product = TensorProduct(layout_in, irreps, edge_couplings)
    features, vectors = features_of(layout_in, N_EDGES), normal(N_EDGES, 3)
    weights = normal(N_EDGES, product.n_weights, seed=9)
    own = torch.arange(N_EDGES).expand(2, -1)
    found = product(features, edge_couplings(vectors), weights, own)

    outputs, instructions = [], []
    for target in irreps:
        for s, source in enumerate(irreps):
            for l in source.filters_to(target, l_max):
                odd = (source.l + l + target.l) % 2 == 1
                instructions.append(((s, odd, target.l, l), len(outputs)))
                outputs.append((widths[s], (target.l, target.parity or 1)))
    instructions.sort()  # the order of the weights
    filters = [(l, widths[s]) for (s, _, _, l), _ in instructions]
    assert path_filters(layout_in, irreps, l_max) == filters
    harmonics_of = o3.Irreps.spherical_harmonics(l_max, 1 if not mirror_symmetric else -1)
    with double_by_default():
        oracle = o3.TensorProduct(
            o3.Irreps([(n, (i.l, i.parity or 1)) for i, n in layout_in.items()]),
            harmonics_of,
            o3.Irreps(outputs),
            [(s, l, slot, "uvu", True) for (s, _, _, l), slot in instructions],
            shared_weights=False,
            internal_weights=False,
        )
        harmonics = o3.spherical_harmonics(range(l_max + 1), vectors, True, "component")
        expected = oracle(packed(features), harmonics, weights)
    expected = _in_order(expected, outputs, instructions, product.n_targets, irreps)
    torch.testing.assert_close(packed(found), expected, **EXACT)
    layout = path_layout(layout_in, irreps, l_max)
    assert [block.shape[1:] for block in found] == [(i.dim, n) for i, n in layout.items()]

    single = TensorProduct(layout_in, irreps, edge_couplings.float())
    found = single(
        [block.float() for block in features],
        edge_couplings(vectors.float()),
        weights.float(),
        own,
    )
    torch.testing.assert_close(packed(found).double(), expected, **SINGLE)


def _in_order(values, outputs, instructions, n_targets, irreps):
    """Return e3nn's blocks of paths in the order of ours: by output irrep, then by weight."""
    sizes = [n * (2 * l + 1) for n, (l, _) in outputs]
    parts = values.split(sizes, dim=1)
    by_target = [[] for _ in range(n_targets)]
    kinds = [(irrep.l, irrep.parity or 1) for irrep in irreps]
    target_of = [kinds.index(kind) for _, kind in outputs]
    for _, slot in instructions:
        by_target[target_of[slot]].append(parts[slot])
    return torch.cat([part for parts in by_target for part in parts], dim=1)


def test_tensor_product_sums_over_the_neighbours():
    irreps, edge_couplings, product, vectors, weights, edge_index = product_setting(2, True)
    features = blocks(irreps)
    found = product(features, edge_couplings(vectors), weights, edge_index)
    senders = [block[edge_index[0]] for block in features]
    own = torch.arange(N_EDGES).expand(2, -1)
    single = product(senders, edge_couplings(vectors), weights, own)
    for total, each in zip(found, single, strict=True):
        expected = torch.zeros_like(total)
        for edge, atom in enumerate(edge_index[1].tolist()):
            expected[atom] += each[edge]
        torch.testing.assert_close(total, expected, **EXACT)


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("parity", [False, True])
def test_tensor_product_is_equivariant(improper, parity):
    irreps, edge_couplings, product, vectors, weights, edge_index = product_setting(3, parity)
    q, features = rotation(improper), blocks(irreps)
    before = product(features, edge_couplings(vectors), weights, edge_index)
    after = product(turned(features, irreps, q), edge_couplings(vectors @ q.T), weights, edge_index)
    for found, expected in zip(after, turned(before, irreps, q), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_tensor_product_to_some_irreps_is_a_part_of_that_to_all():
    irreps, edge_couplings, product, vectors, weights, edge_index = product_setting(3, True)
    features, wanted = blocks(irreps), [Irrep(0, 1), Irrep(3, -1), Irrep(2, -1)]  # gaps in l
    part = TensorProduct(dict.fromkeys(irreps, C), wanted, edge_couplings)
    order = _weight_order(irreps, irreps, 3)
    chosen = [order.index(path) for path in _weight_order(irreps, wanted, 3)]
    some = weights.view(N_EDGES, -1, C)[:, chosen].flatten(1)
    couplings = edge_couplings(vectors)
    whole = product(features, couplings, weights, edge_index)
    for form in (part, torch.jit.script(part)):
        for _ in range(3):  # TorchScript optimises after the first runs
            leaf = vectors.clone().requires_grad_(True)
            found = form(features, edge_couplings(leaf), some, edge_index)
            for block, irrep in zip(found, wanted, strict=True):
                torch.testing.assert_close(block, whole[irreps.index(irrep)], **EXACT)
            (gradient,) = torch.autograd.grad(sum(block.sum() for block in found), leaf)
            assert float(gradient.abs().max()) > 0.1


def _weight_order(irreps_in: list[Irrep], irreps_out: list[Irrep], l_max: int) -> list:
    return sorted(
        (s, source.is_natural != target.is_natural, target.l, l)
        for s, source in enumerate(irreps_in)
        for target in irreps_out
        for l in source.filters_to(target, l_max)
    )


def test_tensor_product_without_edges_is_zero():
    irreps, edge_couplings, product, *_ = product_setting(2, True)
    nothing = torch.zeros((0, 3), dtype=torch.float64)
    found = product(
        blocks(irreps),
        edge_couplings(nothing),
        nothing.new_zeros((0, product.n_weights)),
        torch.zeros((2, 0), dtype=torch.int64),
    )
    assert all(bool((block == 0.0).all()) for block in found)


def test_tensor_product_refuses_an_irrep_that_no_path_reaches():
    with pytest.raises(ConfigError, match=r"no path from 0e with harmonics up to l = 1 .* to 1e"):
        TensorProduct({Irrep(0, 1): C}, [Irrep(0, 1), Irrep(1, 1)], EdgeCouplings(1, True))


def test_couplings_refuse_a_negative_degree():
    with pytest.raises(ConfigError, match="l_max must be an integer >= 0, found -1"):
        EdgeCouplings(-1, True)


def test_couplings_survive_a_cast_to_float32_and_back():
    vectors = normal(10, 3)
    fresh, cast = EdgeCouplings(3, True).double(), EdgeCouplings(3, True).float().double()
    for found, expected in zip(cast(vectors), fresh(vectors), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-13)
    c = clebsch_gordan(1, 1, 2)  # the path (1, 1, 2): group 1, the rows behind l3 = 0 and 1
    y = o3.spherical_harmonics(1, vectors, True, "component")
    expected = math.sqrt(5.0) * torch.einsum("ijk,nj->nki", c, y)
    torch.testing.assert_close(fresh(vectors)[1][:, 1 + 6 : 1 + 6 + 10 : 2], expected, **EXACT)


# --- linear, gate, norm


LAYOUT = {Irrep(0, 1): 4, Irrep(0, -1): 3, Irrep(1, -1): 2, Irrep(1, 1): 5, Irrep(2, 1): 3}


def features_of(layout, n: int = N, seed: int = 1) -> list[Tensor]:
    return [normal(n, i.dim, c, seed=seed + k) for k, (i, c) in enumerate(layout.items())]


def test_linear_equals_e3nn():
    layout_out = {Irrep(1, 1): 2, Irrep(0, 1): 6, Irrep(2, 1): 1}
    linear = EquivariantLinear(LAYOUT, layout_out).double()
    with double_by_default():
        oracle = o3.Linear(
            e3nn_irreps(LAYOUT),
            e3nn_irreps(layout_out),
            internal_weights=False,
            shared_weights=True,
        )
    flat = {}
    for weight, irrep in zip(linear.weights, layout_out, strict=True):
        flat[list(LAYOUT).index(irrep)] = weight.detach().flatten()
    weights = torch.cat([flat[k] for k in sorted(flat)])
    features = features_of(LAYOUT)
    torch.testing.assert_close(packed(linear(features)), oracle(packed(features), weights), **EXACT)


def test_linear_of_several_paths_divides_by_all_channels():
    """After a tensor product e3nn's fan-in is that of all paths together."""
    irreps = irreps_up_to(1, parity=False)
    layout_out = dict.fromkeys(irreps, 2)
    layout_in = path_layout(dict.fromkeys(irreps, C), irreps, 1)
    linear = EquivariantLinear(layout_in, layout_out).double()
    split = [(C, (i.l, i.parity)) for i, n in layout_in.items() for _ in range(n // C)]
    with double_by_default():
        oracle = o3.Linear(
            o3.Irreps(split), e3nn_irreps(layout_out), internal_weights=False, shared_weights=True
        )
    weights = torch.cat([weight.detach().flatten() for weight in linear.weights])
    features = features_of(layout_in)
    torch.testing.assert_close(packed(linear(features)), oracle(packed(features), weights), **EXACT)


def test_linear_refuses_an_irrep_that_is_not_there():
    with pytest.raises(ConfigError, match="cannot make 2o of 0e, 0o, 1o, 1e, 2e"):
        EquivariantLinear(LAYOUT, {Irrep(0, 1): 1, Irrep(2, -1): 1})


def test_species_linear_is_one_linear_map_for_each_species():
    layout_out = {Irrep(0, 1): 2, Irrep(2, -1): 4, Irrep(2, 1): 2}  # 2o receives nothing
    linear = SpeciesLinear(LAYOUT, layout_out, 3).double()
    features, start = features_of(LAYOUT), features_of(layout_out, seed=20)
    species = torch.tensor([2, 0, 2, 1, 0])
    found = linear(start, features, species)
    shared = {irrep: n for irrep, n in layout_out.items() if irrep in LAYOUT}
    for atom, kind in enumerate(species.tolist()):
        alone = EquivariantLinear(LAYOUT, shared).double()
        for weight, all_weights in zip(alone.weights, linear.weights, strict=True):
            weight.data = all_weights.detach()[kind]
        added = dict(zip(shared, alone(features), strict=True))
        for k, irrep in enumerate(layout_out):
            expected = start[k][atom] + (added[irrep][atom] if irrep in added else 0.0)
            torch.testing.assert_close(found[k][atom], expected, **EXACT)


@pytest.mark.parametrize("odd_scalars", [False, True])
def test_gate_equals_e3nn(odd_scalars):
    layout = {irrep: n for irrep, n in LAYOUT.items() if odd_scalars or irrep != Irrep(0, -1)}
    before = layout_before_gate(layout)
    features = features_of(before)
    gated = {irrep: n for irrep, n in layout.items() if irrep.l > 0}
    scalars = {irrep: n for irrep, n in layout.items() if irrep.l == 0}
    silu = torch.nn.functional.silu
    with double_by_default():
        oracle = e3nn_nn.Gate(
            e3nn_irreps(scalars),
            [silu, torch.tanh][: len(scalars)],
            f"{sum(gated.values())}x0e",
            [silu],
            e3nn_irreps(gated),
        )
    exact = {"silu": second_moment_factor(_silu), "tanh": second_moment_factor(np.tanh)}
    for activation in (*oracle.act_scalars.acts, *oracle.act_gates.acts):
        # e3nn's own factors are Monte Carlo estimates.
        name = activation.f.__name__
        assert activation.cst == pytest.approx(exact[name], abs=3e-3)
        activation.cst = exact[name]
    first = features[0][:, 0]
    rest = [block.transpose(1, 2).flatten(1) for block in features[1:]]
    n_odd = len(scalars) - 1
    n = layout[Irrep(0, 1)]
    inputs = {"0e": first[:, :n], "gates": first[:, n:], "odd": rest[:n_odd], "v": rest[n_odd:]}
    expected = _e3nn_gate(oracle, inputs)
    torch.testing.assert_close(packed(Gate(layout)(features)), expected, **EXACT)


def _silu(z: np.ndarray) -> np.ndarray:
    return z / (1.0 + np.exp(-z))


def _e3nn_gate(oracle, inputs) -> Tensor:
    """Call e3nn's gate on its parts, in whatever order it wants them joined."""
    scalars = torch.cat([inputs["0e"], *inputs["odd"]], dim=1)
    gates, gated = inputs["gates"], torch.cat(inputs["v"], dim=1)
    return torch.cat(
        [oracle.act_scalars(scalars), oracle.mul(gated, oracle.act_gates(gates))], dim=1
    )


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_gate_is_equivariant(improper):
    before, q = layout_before_gate(LAYOUT), rotation(improper)
    features, gate = features_of(before), Gate(LAYOUT)
    after = gate(turned(features, list(before), q))
    for found, expected in zip(after, turned(gate(features), list(LAYOUT), q), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_gate_refuses_a_layout_without_scalars():
    with pytest.raises(ConfigError, match=r"a gate needs 0e first, found \['1o', '0e'\]"):
        Gate({Irrep(1, -1): 2, Irrep(0, 1): 2})


def test_second_moment_factors_are_exact():
    assert second_moment_factor(lambda z: z) == pytest.approx(1.0, abs=1e-14)
    assert second_moment_factor(np.cos) == pytest.approx(
        (0.5 + 0.5 * math.exp(-2.0)) ** -0.5, abs=1e-14
    )
    # By mpmath's quadrature.
    assert second_moment_factor(_silu) == pytest.approx(1.67653247033109116, abs=1e-14)
    assert second_moment_factor(np.tanh) == pytest.approx(1.59253741972283143, abs=1e-14)


def test_norms_equal_e3nn_and_are_smooth_at_zero():
    irreps = irreps_up_to(2, parity=True)
    features = blocks(irreps)
    with double_by_default():
        expected = o3.Norm(e3nn_irreps(dict.fromkeys(irreps, C)))(packed(features))
    found = torch.cat(irrep_norms(features, epsilon=0.0), dim=1)
    torch.testing.assert_close(found, expected, **EXACT)
    zero = torch.zeros((1, 3, 1), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(irrep_norms([zero])[0].sum(), zero, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), zero)
    assert bool(torch.isfinite(gradient).all())
    assert bool(torch.isfinite(second).all())


# --- all modules


MODULES = [module.name for module in pkgutil.iter_modules(so3.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_are_true(name):
    module = importlib.import_module(f"eqcalc.nn.so3.{name}")
    assert doctest.testmod(module).failed == 0
