"""Tabulated filters, and the kernels that sum neighbours' features under them."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ase.build import bulk, molecule
from rarely import rarely_but
from small_models import REFERENCE_ENERGIES, crystal, ethanol, slab

from eqcalc.architectures import build
from eqcalc.engines import Target
from eqcalc.engines.inductor import CompiledPackage
from eqcalc.errors import ConfigError, EngineError
from eqcalc.export import compile as compiling
from eqcalc.export import compile_model, export_model, rebuild_potential
from eqcalc.model_file import open_model_file
from eqcalc.native import build as native
from eqcalc.native.build import build_library, library_checksum, load_library
from eqcalc.neighbours import build_graph
from eqcalc.nn.so3 import EdgeCouplings, TensorProduct, irreps_up_to
from eqcalc.nn.so3.irreps import Irrep
from eqcalc.nn.so3.tensor_product import path_table
from eqcalc.potential import Potential
from eqcalc.tabulated import convolutions, spline, tabulated_form
from eqcalc.tabulated.convolutions import PathConvolution, scalar_convolution, vector_convolution
from eqcalc.tabulated.spline import SplineTable, fit_table

pytestmark = pytest.mark.usefixtures("kernels")

CUTOFF = 4.0
KERNELS = ("scalar", "vector", "paths", "uneven paths")

NETWORKS = {
    "schnet": {"num_interaction_blocks": 2, "hidden_dim": 20, "num_filters": 12, "cutoff": CUTOFF},
    "painn": {"num_blocks": 2, "embedding_dim": 20, "num_radial_basis": 8, "cut_off": CUTOFF},
    "nequip": {
        "num_layers": 3,
        "num_features": 20,
        "l_max": 2,
        "radial_mlp_width": 16,
        "cut_off": CUTOFF,
        "elements": list(REFERENCE_ENERGIES),
    },
}


@pytest.fixture
def portable(monkeypatch):
    """Return a switch that takes the kernels out of use."""
    return lambda: monkeypatch.setattr(convolutions, "_enabled", [])


def waves(n_channels: int):
    """Return filters that are smooth, zero at the cutoff and different in every channel."""
    orders = torch.arange(n_channels, dtype=torch.float64).remainder(13.0) / 4.0

    def filters(distances):
        d = distances.unsqueeze(1)
        return torch.cos(orders * d) * (1.0 - (d / CUTOFF) ** 2).clamp(min=0.0) ** 3

    return filters


def graph_of(atoms, dtype=torch.float64):
    graph = build_graph(atoms, CUTOFF, dtype=dtype)
    return graph.edge_vectors, graph.edge_index, len(atoms)


# --- tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8])
def test_a_table_has_the_accuracy_asked_for_in_values_and_slopes(tolerance):
    filters = waves(6)
    table = fit_table(filters, CUTOFF, torch.float64, tolerance)
    d = torch.linspace(0.01, CUTOFF, 3001, dtype=torch.float64)
    one = torch.ones_like(d)
    found, slope = torch.func.jvp(table, (d,), (one,))
    expected, expected_slope = torch.func.jvp(filters, (d,), (one,))
    assert float((found - expected).abs().max()) <= 1.2 * tolerance * float(expected.abs().max())
    assert float((slope - expected_slope).abs().max()) <= 1.2 * tolerance * float(
        expected_slope.abs().max()
    )


def test_more_accuracy_takes_more_intervals():
    sizes = [fit_table(waves(3), CUTOFF, torch.float64, t).n_intervals for t in (1e-4, 1e-9)]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("joints", [(), (0.7, 2.2)])
def test_a_table_is_twice_continuously_differentiable(joints):
    table = fit_table(waves(2), CUTOFF, torch.float64, 1e-5, joints=joints)
    assert table.ends == [*joints, CUTOFF]
    knots = torch.cat(
        [
            torch.linspace(start, end, count + 1, dtype=torch.float64)[1:]
            for start, end, count in zip(table.starts, table.ends, table.counts, strict=True)
        ]
    )[:-1]
    assert len(knots) == table.n_intervals - 1
    one = torch.ones_like(knots)

    def second(d):
        return torch.func.jvp(lambda x: torch.func.jvp(table, (x,), (one,))[1], (d,), (one,))[1]

    eps = 1e-9
    torch.testing.assert_close(second(knots - eps), second(knots + eps), rtol=0, atol=1e-5)


def sharp(distances):
    """Return filters that vary a hundred times faster near zero."""
    d = distances.unsqueeze(1)
    return torch.exp(-d / torch.tensor([[0.02, 0.05]]).double()) + waves(2)(distances)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6])
def test_a_joint_saves_intervals_where_a_function_varies_less(tolerance):
    one, two = (
        fit_table(sharp, CUTOFF, torch.float64, tolerance, joints=joints) for joints in ([], [0.4])
    )
    assert two.n_intervals < 0.3 * one.n_intervals
    # What is large below the joint is no measure beyond it.
    for start in (0.001, 0.4):
        d = torch.linspace(start, CUTOFF, 4001, dtype=torch.float64)
        one = torch.ones_like(d)
        for found, expected in zip(
            torch.func.jvp(two, (d,), (one,)), torch.func.jvp(sharp, (d,), (one,)), strict=True
        ):
            assert float((found - expected).abs().max() / expected.abs().max()) <= 1.2 * tolerance


@pytest.mark.parametrize("end", [0.0, 2.0])
def test_a_function_may_be_zero_from_some_distance_on(end):
    def ends_early(d):
        return torch.where(d < end, 1.0 - d / 2.0, 0.0).unsqueeze(1) ** 4

    table = fit_table(ends_early, CUTOFF, torch.float64, 1e-4, bends=[2.0])
    d = torch.linspace(0.01, CUTOFF, 301, dtype=torch.float64)
    torch.testing.assert_close(table(d), ends_early(d), rtol=0, atol=1e-4)


def test_joints_beyond_the_cutoff_are_left_out():
    assert fit_table(waves(2), CUTOFF, torch.float64, 1e-5, joints=[CUTOFF, 9.0]).ends == [CUTOFF]


@pytest.mark.parametrize(("name", "largest_mb"), [("sevennet-0", 24.0), ("sevennet-l3i5", 50.0)])
def test_tables_of_a_shipped_model_take_little_memory(name, largest_mb):
    network = rebuild_potential(open_model_file(name)).architecture
    form = tabulated_form(network, torch.float32, compiling._TABLE_TOLERANCE)
    tables = [each.filters.table for each in form.convolutions]
    assert sum(table.numel() for table in tables) * 4e-6 < largest_mb


def xplor(distances):
    """Return filters whose second derivatives jump at 3.1 Å, and at the cutoff."""
    onset, d = 3.1, distances.unsqueeze(1)
    rest = (CUTOFF**2 - d**2).clamp(min=0.0)
    off = rest**2 * (CUTOFF**2 + 2.0 * d**2 - 3.0 * onset**2) / (CUTOFF**2 - onset**2) ** 3
    return torch.where(d < onset, 1.0, off) * torch.cos(d * torch.tensor([[0.5, 2.0]]).double())


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 3e-8])
def test_a_table_has_a_knot_where_a_function_bends(tolerance):
    table = fit_table(xplor, CUTOFF, torch.float64, tolerance, bends=[3.1])
    assert table.ends == [3.1, CUTOFF]
    assert len(table.table) == 2 * (table.n_intervals + 2)
    d = torch.cat([torch.linspace(0.01, CUTOFF, 3001), 3.1 + torch.linspace(-1e-3, 1e-3, 201)])
    d = d.double()
    one = torch.ones_like(d)
    for found, expected in zip(
        torch.func.jvp(table, (d,), (one,)), torch.func.jvp(xplor, (d,), (one,)), strict=True
    ):
        error = float((found - expected).abs().max() / expected.abs().max())
        assert error <= 1.2 * tolerance


def test_a_knot_at_the_bend_saves_intervals():
    assert fit_table(xplor, CUTOFF, torch.float64, 1e-5, bends=[3.1]).n_intervals < 300
    with pytest.raises(ConfigError, match="8192 intervals"):
        fit_table(xplor, CUTOFF, torch.float64, 1e-5)


def test_a_table_takes_hardly_more_intervals_than_it_needs():
    table = fit_table(waves(6), CUTOFF, torch.float64, 1e-6)

    def error(n_intervals):
        rows = spline._rows(waves(6), [CUTOFF], [n_intervals], [])
        coarser = SplineTable(rows, [CUTOFF], [n_intervals])
        return max(spline._errors(coarser, waves(6)))

    assert error(table.n_intervals) <= 1e-6 < error(round(0.9 * table.n_intervals))


@pytest.mark.parametrize("bend", [-1.0, 0.0, CUTOFF, math.nan])
def test_a_bend_that_is_not_below_the_cutoff_is_refused(bend):
    with pytest.raises(ConfigError, match=r"must lie between 0 and its cutoff, 4 Å; found"):
        fit_table(waves(1), CUTOFF, torch.float64, 1e-3, bends=[bend])


def test_a_table_is_zero_from_the_cutoff_on_and_finite_at_zero():
    table = fit_table(waves(2), CUTOFF, torch.float64, 1e-5)
    assert table(torch.tensor([CUTOFF, 2 * CUTOFF, 1e9], dtype=torch.float64)).abs().max() == 0
    torch.testing.assert_close(
        table(torch.zeros(1, dtype=torch.float64)), torch.ones(1, 2, dtype=torch.float64)
    )


def test_in_float32_slopes_do_not_lose_digits_to_the_size_of_the_values():
    def filters(d):
        return 1e3 * (1.0 - (d / CUTOFF) ** 2).unsqueeze(1) + waves(4)(d)

    exact = fit_table(filters, CUTOFF, torch.float64, 1e-7)
    d = torch.linspace(0.1, CUTOFF - 0.1, 997, dtype=torch.float64)
    one = torch.ones_like(d)
    _, expected = torch.func.jvp(exact, (d,), (one,))
    table = exact.to(torch.float32)
    _, found = torch.func.jvp(table, (d.float(),), (one.float(),))
    error = float((found.double() - expected).abs().max() / expected.abs().max())
    assert error < 1e-6  # four rows of the table under their weights: 3e-5


def test_filters_that_no_table_reproduces_are_refused():
    with pytest.raises(ConfigError, match=r"8192 intervals .* to .* only; expected 1\.0e-07"):
        fit_table(lambda d: torch.sin(1e4 * d).unsqueeze(1), CUTOFF, torch.float64, 1e-7)


# --- kernels -----------------------------------------------------------------------------


def case(kernel: str, dtype: torch.dtype, atoms, n_channels: int, choose=None):
    """Return call(features, edge_vectors) and its two arguments; ``choose`` picks edges."""
    vectors, index, n_atoms = graph_of(atoms, dtype)
    if choose is not None:
        chosen = choose(index)
        vectors, index = vectors[chosen], index[:, chosen]
    generator = torch.Generator().manual_seed(5)

    def table(n):
        return fit_table(waves(n), CUTOFF, dtype, 1e-3, bends=[2.9])  # two stretches

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    if kernel == "scalar":
        filters = table(n_channels)
        return (
            lambda x, v: scalar_convolution(x, filters, v, index),
            random(n_atoms, n_channels),
            vectors,
        )
    if kernel == "vector":
        filters = table(3 * n_channels)
        return (
            lambda x, v: vector_convolution(x, filters, v, index),
            random(n_atoms, 5 * n_channels),
            vectors,
        )
    # Uneven: fewer channels of higher degrees, and all paths of SO(3).
    irreps = irreps_up_to(2, True, mirror_symmetric=kernel == "paths")
    couplings = EdgeCouplings(2, True)
    fewer = [0] * len(irreps) if kernel == "paths" else [irrep.l for irrep in irreps]
    layout = {i: max(1, n_channels >> less) for i, less in zip(irreps, fewer, strict=True)}
    product = TensorProduct(layout, irreps, couplings)
    convolution = PathConvolution(product, table(product.n_weights), couplings)
    features = random(n_atoms, sum(irrep.dim * n for irrep, n in layout.items()))
    return convolved(convolution, layout, couplings, index), features, vectors


def convolved(convolution, layout, couplings, index):
    """Return call(features, edge_vectors) of a convolution, with rows of all features and sums."""
    sizes = [irrep.dim * n for irrep, n in layout.items()]

    def call(x, v):
        parts = x.split(sizes, dim=1)
        features = [
            p.reshape(-1, i.dim, n) for p, (i, n) in zip(parts, layout.items(), strict=True)
        ]
        harmonics = couplings.harmonics(v)
        sums = convolution(features, harmonics, couplings.of_harmonics(harmonics), v, index)
        return torch.cat([s.flatten(1) for s in sums], dim=1)

    return call


def with_gradients(call, features, vectors):
    features, vectors = features.clone().requires_grad_(), vectors.clone().requires_grad_()
    out = call(features, vectors)
    weights = torch.cos(torch.arange(out.numel(), dtype=torch.float64)).reshape(out.shape)
    total = (out * weights.to(out.dtype)).sum()
    return out.detach(), *torch.autograd.grad(total, [features, vectors])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_channels", [1, 16, 70])
@pytest.mark.parametrize("make", [ethanol, crystal])
def test_a_kernel_agrees_with_the_portable_sum(kernel, dtype, n_channels, make, portable):
    arguments = case(kernel, dtype, make(), n_channels)
    found = with_gradients(*arguments)
    portable()
    expected = with_gradients(*arguments)
    relative = 1e-12 if dtype == torch.float64 else 2e-5
    for a, b in zip(found, expected, strict=True):
        assert float(b.abs().max()) > 1e-2
        torch.testing.assert_close(a, b, rtol=0, atol=relative * float(b.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l3", range(7))
def test_paths_from_scalars_to_any_degree_agree_with_the_portable_sum(dtype, l3, portable):
    """Their derivatives have a kernel of their own up to l = 3."""
    vectors, index, n_atoms = graph_of(ethanol(), dtype)
    layout, couplings = {Irrep(0, 0): 21}, EdgeCouplings(6, True)
    product = TensorProduct(layout, [Irrep(l3, 0)], couplings)
    filters = fit_table(waves(product.n_weights), CUTOFF, dtype, 1e-3)
    call = convolved(PathConvolution(product, filters, couplings), layout, couplings, index)
    features = torch.randn(n_atoms, 21, generator=torch.Generator().manual_seed(4)).to(dtype)
    found = with_gradients(call, features, vectors)
    portable()
    relative = 1e-12 if dtype == torch.float64 else 2e-5
    for a, b in zip(found, with_gradients(call, features, vectors), strict=True):
        assert float(b.abs().max()) > 1e-2
        torch.testing.assert_close(a, b, rtol=0, atol=relative * float(b.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(
    ("check", "name", "n_channels", "atol"),
    [(torch.autograd.gradcheck, "H2O", 3, 1e-6), (torch.autograd.gradgradcheck, "OH", 2, 1e-5)],
)
def test_derivatives_of_a_kernel_are_finite_differences(kernel, check, name, n_channels, atol):
    call, features, vectors = case(kernel, torch.float64, molecule(name), n_channels)
    features.requires_grad_()
    vectors.requires_grad_()
    assert check(call, (features, vectors), eps=1e-6, atol=atol)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_are_those_of_the_portable_sum(kernel, dtype, portable):
    """As a Hessian takes them: of a function of the forces by the positions."""
    call, features, vectors = case(kernel, dtype, crystal(), 5)

    def bend() -> list[torch.Tensor]:
        x, v = features.clone().requires_grad_(), vectors.clone().requires_grad_()
        slopes = torch.autograd.grad((call(x, v) ** 2).sum(), [x, v], create_graph=True)
        return list(torch.autograd.grad(sum(s.cos().sum() for s in slopes), [x, v]))

    found = bend()
    portable()
    relative = 1e-11 if dtype == torch.float64 else 2e-4
    for a, b in zip(found, bend(), strict=True):
        assert float(b.abs().max()) > 1e-2
        torch.testing.assert_close(a, b, rtol=0, atol=relative * float(b.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS)
def test_third_derivatives_are_those_of_the_portable_sum(kernel, portable):
    """As the training on a Hessian takes them."""
    call, features, vectors = case(kernel, torch.float64, molecule("OH"), 2)

    def twist() -> list[torch.Tensor]:
        x, v = features.clone().requires_grad_(), vectors.clone().requires_grad_()
        slopes = torch.autograd.grad((call(x, v) ** 2).sum(), [x, v], create_graph=True)
        bends = torch.autograd.grad(sum(s.cos().sum() for s in slopes), [x, v], create_graph=True)
        return list(torch.autograd.grad(sum((b**2).sum() for b in bends), [x, v]))

    found = twist()
    portable()
    for a, b in zip(found, twist(), strict=True):
        assert float(b.abs().max()) > 1e-2
        torch.testing.assert_close(a, b, rtol=0, atol=1e-11 * float(b.abs().max()))


@pytest.mark.parametrize("kernel", KERNELS)
def test_edges_beyond_the_table_contribute_nothing(kernel):
    call, features, vectors = case(kernel, torch.float64, ethanol(), 4)
    far = vectors.clone()
    far[3] *= 20.0
    _, gradient, of_edges = with_gradients(call, features, far)
    assert torch.isfinite(gradient).all()
    assert float(of_edges[3].abs().max()) == 0.0
    assert float(of_edges[2].abs().max()) > 0.0


def one_way(index):
    """Return some of the edges in no order: none of them need have a reverse edge."""
    generator = torch.Generator().manual_seed(7)
    return torch.randperm(index.shape[1], generator=generator)[: index.shape[1] * 2 // 3]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("choose", [None, one_way])
def test_a_kernel_gives_the_same_bits_with_any_number_of_threads(kernel, dtype, choose):
    arguments = case(kernel, dtype, bulk("Cu", cubic=True) * (6, 6, 6), 20, choose)
    assert len(arguments[2]) > 16 * 512  # else fewer threads
    one = with_gradients(*arguments)
    before = torch.get_num_threads()
    try:
        for n_threads in (2, 3, 16):
            torch.set_num_threads(n_threads)
            several = with_gradients(*arguments)
            for a, b in zip(several, one, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


_PEAKS = """
import os, sys, torch
from ase.build import bulk
from eqcalc.native.build import load_library
from eqcalc.neighbours import build_graph

assert load_library()
atoms = bulk("Cu", cubic=True) * (8, 8, 8)
graph = build_graph(atoms, 4.0, dtype=torch.float32)
n, F = len(atoms), 512  # 4 MB
x, table = torch.ones(n, 5 * F), torch.ones(64, 3 * F)
arguments = table, graph.edge_vectors, graph.edge_index, [4.0], [31]
convolution = torch.ops.eqcalc.vector_convolution

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

for n_threads in map(int, sys.argv[1:]):
    torch.set_num_threads(n_threads)
    n_before = len(os.listdir("/proc/self/task"))
    torch.ops.eqcalc.vector_convolution_backward(convolution(x, *arguments, n), x, *arguments)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak()
    torch.ops.eqcalc.vector_convolution_backward(convolution(x, *arguments, n), x, *arguments)
    print(peak() - before, len(os.listdir("/proc/self/task")) - n_before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks as Linux tells them")
@pytest.mark.usefixtures("library_built")
def test_kernels_take_the_threads_of_torch_and_no_more_memory_for_them():
    command = [sys.executable, "-c", _PEAKS, "1", "2", "16"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    numbers = list(map(int, done.stdout.split()))
    assert numbers[1::2] == [0, 1, 14]  # threads that were not there before
    one, two, sixteen = numbers[::2]  # kB; the sums alone have 36 MB
    assert one > 30_000
    assert two < 1.05 * one
    assert sixteen < 1.05 * one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"harmonics": lambda y: y[1:]}, "harmonics and vectors differ"),
        ({"harmonics": lambda y: y.float()}, "harmonics and vectors differ"),
        ({"harmonics": lambda y: y[:, :3]}, "path [0-9]+ is out of range"),
        ({"harmonics": lambda y: y.repeat(1, 13)}, "harmonics of a degree above 6"),
        ({"constants": lambda k: k.float()}, "constants must be one row"),
        ({"constants": lambda k: k[1:]}, "path [0-9]+ is out of range"),
        ({"paths": lambda paths: paths[:, 1:]}, r"paths must be int64 \(n_paths, 10\)"),
        ({"table": lambda table: table[:, 1:]}, "path [0-9]+ has no weights"),
    ],
)
def test_the_kernel_of_paths_refuses_what_would_read_outside(change, message):
    vectors, index, n_atoms = graph_of(ethanol())
    irreps = irreps_up_to(1, False)
    couplings = EdgeCouplings(1, False)
    layout = dict.fromkeys(irreps, 2)
    product = TensorProduct(layout, irreps, couplings)
    rows, constants, shapes = path_table(product, couplings)
    filters = fit_table(waves(product.n_weights), CUTOFF, torch.float64, 1e-3)
    width = sum(a * b for a, b in shapes)
    given = {
        "features": vectors.new_ones(n_atoms, sum(irrep.dim * 2 for irrep in irreps)),
        "harmonics": couplings.harmonics(vectors),
        "constants": constants,
        "paths": torch.tensor(rows),
        "table": filters.table,
    }
    edges = (vectors, index, filters.ends, filters.counts)
    kernels = torch.ops.eqcalc
    kernels.path_convolution(*given.values(), *edges, width, n_atoms)
    for name, changed in change.items():
        given[name] = changed(given[name])
    with pytest.raises(RuntimeError, match=message):
        kernels.path_convolution(*given.values(), *edges, width, n_atoms)
    gradient = vectors.new_ones(n_atoms, width)
    with pytest.raises(RuntimeError, match=message):
        kernels.path_convolution_backward(gradient, *given.values(), *edges)


def by_columns(matrix):
    """Return a matrix whose columns lie one after the other in memory."""
    return matrix.t().contiguous().t()


def test_torch_knows_how_derivatives_lie_in_memory_whatever_the_arguments_do():
    """A program that torch compiles stops where they lie otherwise than it was told."""
    vectors, index, n_atoms = graph_of(ethanol())
    couplings, irreps = EdgeCouplings(1, False), irreps_up_to(1, False)
    product = TensorProduct(dict.fromkeys(irreps, 2), irreps, couplings)
    rows, constants, shapes = path_table(product, couplings)
    paths, width = torch.tensor(rows), sum(a * b for a, b in shapes)
    n_features = sum(irrep.dim * 2 for irrep in irreps)
    v = by_columns(vectors)

    def ones(*shape):
        return by_columns(vectors.new_ones(shape))

    def of_edges(n):
        filters = fit_table(waves(n), CUTOFF, torch.float64, 1e-3)
        return filters.table, v, index, filters.ends, filters.counts

    y = by_columns(couplings.harmonics(vectors))
    kernels = torch.ops.eqcalc
    x, g = ones(n_atoms, n_features), ones(n_atoms, width)
    for kernel, arguments in (
        (kernels.scalar_convolution_backward, (ones(n_atoms, 4), ones(n_atoms, 4), *of_edges(4))),
        (kernels.vector_convolution_backward, (ones(n_atoms, 8), ones(n_atoms, 10), *of_edges(6))),
        (
            kernels.path_convolution_backward,
            (g, x, y, constants, paths, *of_edges(product.n_weights)),
        ),
    ):
        torch.library.opcheck(kernel.default, arguments, test_utils="test_faketensor")


def test_kernels_refuse_what_would_read_outside():
    vectors, index, n_atoms = graph_of(ethanol())
    x = torch.zeros(n_atoms, 4, dtype=torch.float64)
    table = fit_table(waves(4), CUTOFF, torch.float64, 1e-3)
    with pytest.raises(RuntimeError, match="features and table differ in channels"):
        scalar_convolution(x[:, :3], table, vectors, index)
    with pytest.raises(RuntimeError, match="edge_index and vectors differ"):
        scalar_convolution(x, table, vectors[1:], index)
    with pytest.raises(RuntimeError, match="differ in precision"):
        scalar_convolution(x.float(), table, vectors, index)
    with pytest.raises(RuntimeError, match="int64"):
        scalar_convolution(x, table, vectors, index.to(torch.int32))
    for ends, counts, message in (
        ([4.0], [4], "a table of these knots has 10 rows, not 12"),
        ([4.0], [1, 3], "every stretch of a table needs its end and its intervals"),
        ([4.0, 4.0], [1, 3], "stretch 1 of a table has no intervals or no length"),
    ):
        with pytest.raises(RuntimeError, match=message):
            torch.ops.eqcalc.scalar_convolution(
                x, x.new_zeros(12, 4), vectors, index, ends, counts, n_atoms
            )
    with pytest.raises(RuntimeError, match=r"edge_index must lie in 0\.\.8"):
        scalar_convolution(x, table, vectors, index + 1)
    with pytest.raises(RuntimeError, match=r"edge_index must lie in 0\.\.7"):
        torch.ops.eqcalc.scalar_convolution(
            x, table.table, vectors, index, table.ends, table.counts, n_atoms - 1
        )


# --- networks ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("with_kernels", [True, False])
def test_a_tabulated_network_is_the_network(name, with_kernels, portable):
    if not with_kernels:
        portable()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build(name, **NETWORKS[name]).double()
    exact = Potential(network, REFERENCE_ENERGIES).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    tabulated = Potential(tabulated_form(network, torch.float64, 3e-8), REFERENCE_ENERGIES).eval()
    assert tabulated.cutoff == exact.cutoff
    assert tabulated.n_hops == exact.n_hops
    for atoms in (ethanol(), crystal(), slab()):
        graph = build_graph(atoms, CUTOFF)
        expected, found = exact.evaluate(graph), tabulated.evaluate(graph)
        scale = float(expected.forces.abs().max())
        assert scale > 1e-3
        torch.testing.assert_close(found.forces, expected.forces, rtol=0, atol=1e-6 * scale)
        torch.testing.assert_close(found.energies, expected.energies, rtol=0, atol=1e-7)
    for key, value in network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(NETWORKS))
@pytest.mark.parametrize("with_kernels", [True, False])
def test_forces_of_a_tabulated_network_are_its_gradient(name, with_kernels, portable):
    """Coarse tables are as consistent as fine ones: forces are derivatives of the splines."""
    if not with_kernels:
        portable()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build(name, **NETWORKS[name]).double()
    tabulated = Potential(tabulated_form(network, torch.float64, 1e-2), REFERENCE_ENERGIES).eval()
    atoms, h = crystal(), 1e-4
    forces = tabulated.evaluate(build_graph(atoms, CUTOFF)).forces
    for atom, axis in ((0, 0), (3, 1), (7, 2)):
        energy = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * h
            energy.append(float(tabulated.evaluate(build_graph(moved, CUTOFF)).energy))
        slope = (energy[0] - energy[1]) / (2 * h)
        assert -slope == pytest.approx(float(forces[atom, axis]), abs=2e-6)


# --- building ----------------------------------------------------------------------------


def assert_compiled_accurately(name, folder, device):
    """Compile a network in float32 and compare its package with the network in float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        potential = Potential(build(name, **NETWORKS[name]), REFERENCE_ENERGIES).eval()
    path, package = folder / "model.pt", folder / "model.pt2"
    export_model(potential, path, elements=list(REFERENCE_ENERGIES))
    compile_model(open_model_file(path), package, device, torch.float32)
    compiled = CompiledPackage(package, Target(device, torch.float32), reach=2 * CUTOFF)
    exact = potential.double()
    for atoms in (ethanol(), crystal(), slab()):
        graph = build_graph(atoms, CUTOFF, dtype=torch.float32, device=device)
        energies, gradients = (found.double().cpu() for found in compiled(graph))
        expected_energies, expected = exact(build_graph(atoms, CUTOFF))
        torch.testing.assert_close(energies, expected_energies.detach(), rtol=0, atol=1e-5)
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", rarely_but(["nequip"], sorted(NETWORKS)))
def test_tables_that_torch_compiles_alone_are_accurate(name, portable, monkeypatch, tmp_path):
    """As on a GPU, where the C++ kernels do not run."""
    portable()
    tabulated = []

    def count(network, dtype, tolerance):
        tabulated.append(tabulated_form(network, dtype, tolerance))
        return tabulated[-1]

    monkeypatch.setattr(compiling, "_has_kernels", lambda device, dtype: False)
    monkeypatch.setattr(compiling, "_takes_tables", lambda device, dtype: True)
    monkeypatch.setattr(compiling, "tabulated_form", count)
    assert_compiled_accurately(name, tmp_path, torch.device("cpu"))
    assert type(tabulated[0]).__name__.startswith("Tabulated")


@pytest.mark.slow
@pytest.mark.usefixtures("library_built")  # without it a library of matrix products may differ
@pytest.mark.parametrize("name", rarely_but(["nequip"], sorted(NETWORKS)))
def test_a_compiled_network_gives_the_same_bits_with_any_number_of_threads(name, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        potential = Potential(build(name, **NETWORKS[name]), REFERENCE_ENERGIES).eval()
    path, package = tmp_path / "model.pt", tmp_path / "model.pt2"
    export_model(potential, path, elements=list(REFERENCE_ENERGIES))
    compile_model(open_model_file(path), package, torch.device("cpu"), torch.float32)
    compiled = CompiledPackage(
        package, Target(torch.device("cpu"), torch.float32), reach=2 * CUTOFF
    )
    graph = build_graph(crystal() * (5, 5, 5), CUTOFF, dtype=torch.float32)
    assert graph.edge_index.shape[1] > 16 * 512  # else fewer threads
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = compiled(graph)
        for n_threads in (2, 3, 16):
            torch.set_num_threads(n_threads)
            for found, expected in zip(compiled(graph), one, strict=True):
                assert torch.equal(found, expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        ("cuda", torch.float32, True),
        ("cuda", torch.float64, False),
        ("cpu", torch.float32, True),
        ("cpu", torch.float64, False),
    ],
)
def test_where_tables_are_taken(device, dtype, expected):
    assert compiling._takes_tables(torch.device(device), dtype) == expected


def test_without_a_compiler_the_kernels_are_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(EngineError, match=r"no C\+\+ compiler; install g\+\+ or set CXX"):
        build_library()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    with pytest.raises(EngineError, match=r"cannot run the C\+\+ compiler '.*none'"):
        build_library()
    monkeypatch.delenv("CXX")
    source = tmp_path / "broken.cpp"
    source.write_text("int main() { return x; }\n")
    monkeypatch.setattr(native, "SOURCES", {source: ()})
    with pytest.raises(EngineError, match=r"failed: .*error.*x"):
        build_library()


def test_kernels_are_not_loaded_where_they_were_not_built(monkeypatch, tmp_path):
    monkeypatch.setenv("EQCALC_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_loaded", [])
    assert not load_library()


def test_every_source_is_compiled():
    folder = Path(native.__file__).parent
    assert set(native.SOURCES) == set(folder.glob("*.cpp"))
    assert "TORCH_LIBRARY(eqcalc" in (folder / "library.cpp").read_text()


def test_another_source_header_or_flag_is_another_library(monkeypatch, tmp_path):
    folder = Path(native.__file__).parent
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    assert library_checksum() == library_checksum()
    found = [library_checksum()]
    monkeypatch.setattr(native, "FLAGS", (*native.FLAGS, "-g"))
    found.append(library_checksum())
    own_flags = {source: (*flags, "-g") for source, flags in native.SOURCES.items()}
    monkeypatch.setattr(native, "SOURCES", own_flags)
    found.append(library_checksum())
    copies = {tmp_path / source.name: flags for source, flags in own_flags.items()}
    monkeypatch.setattr(native, "SOURCES", copies)
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert library_checksum() == found[-1]  # wherever they lie
    for name in ("edges.cpp", "lanes.h"):
        with open(tmp_path / name, "a") as file:
            file.write("// more\n")
        found.append(library_checksum())
    assert len(set(found)) == 5
