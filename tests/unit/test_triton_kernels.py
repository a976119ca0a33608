"""Kernels for GPUs beside the portable sums: on a GPU, and by Triton's interpreter without one."""

from __future__ import annotations

import pytest
import torch
from small_models import REFERENCE_ENERGIES, crystal, ethanol, slab, small_options

from eqcalc.architectures import build
from eqcalc.engines import Target
from eqcalc.engines.packages import trace_program
from eqcalc.engines.program import Program
from eqcalc.export import export_model
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import build_graph
from eqcalc.nn.so3.irreps import Irrep
from eqcalc.nn.so3.tensor_product import EdgeCouplings, TensorProduct, path_table
from eqcalc.potential import Potential
from eqcalc.tabulated.autograd import path_sums, scalar_sums, vector_sums
from eqcalc.tabulated.convolutions import edge_order
from eqcalc.tabulated.spline import SplineTable, fit_table

CUDA = torch.device("cuda")
CUTOFF = 5.0
RTOL = 3e-6  # of the largest number; float32 sums in another order
N_ATOMS, N_EDGES = 7, 60


def filters(n: int) -> SplineTable:
    """Return a table of n smooth functions in two stretches."""
    generator = torch.Generator().manual_seed(n)
    weights = torch.randn(6, n, generator=generator, dtype=torch.float64)

    def function(distances: torch.Tensor) -> torch.Tensor:
        d = distances.unsqueeze(1)
        waves = torch.sin(torch.pi * torch.arange(1, 7) * d / CUTOFF) / (d + 0.3)
        return (waves * (1.0 - d / CUTOFF) ** 3) @ weights

    return fit_table(function, CUTOFF, torch.float32, 3e-6, joints=[0.7])


def edges() -> tuple[torch.Tensor, torch.Tensor]:
    """Return vectors and sorted edges; some are beyond the cutoff, and the last atom has none."""
    generator = torch.Generator().manual_seed(0)
    receivers = torch.randint(0, N_ATOMS - 1, (N_EDGES,), generator=generator).sort()[0]
    senders = torch.randint(0, N_ATOMS - 1, (N_EDGES,), generator=generator)
    return 2.2 * torch.randn(N_EDGES, 3, generator=generator), torch.stack([senders, receivers])


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_close(found, expected) -> None:
    for one, other in zip(found, expected, strict=True):
        assert float(other.abs().max()) > 1e-3
        error = float((one.detach().cpu() - other.detach().cpu()).abs().max())
        assert error <= RTOL * float(other.abs().max())


def with_gradients(function, inputs, moving, device):
    """Return sums, their derivatives, and derivatives of these."""
    inputs = [x.to(device) if isinstance(x, torch.Tensor) else x for x in inputs]
    for k in moving:
        inputs[k] = inputs[k].clone().requires_grad_()
    sums = function(*inputs)
    gradient = random(*sums.shape).to(device)
    first = torch.autograd.grad(sums, [inputs[k] for k in moving], gradient, create_graph=True)
    total = sum((slope * random(*slope.shape).to(device)).sum() for slope in first)
    second = torch.autograd.grad(total, [inputs[k] for k in moving])
    return [sums, *first, *second]


def path_case(l_max: int, channels: list[int], parity: bool):
    couplings = EdgeCouplings(l_max, parity)
    signs = (1, -1) if parity else (0,)
    irreps = [Irrep(l, sign or (-1) ** l) for l in range(l_max + 1) for sign in signs]
    product = TensorProduct({irrep: channels[irrep.l] for irrep in irreps}, irreps, couplings)
    n_features = sum((2 * irrep.l + 1) * channels[irrep.l] for irrep in irreps)
    return path_table(product, couplings), product.n_weights, n_features


@pytest.mark.gpu
@pytest.mark.parametrize("n", [16, 40, 128])
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_gpu_sums_and_derivatives_are_those_of_the_portable_code(kind, n):
    portable, n_in, n_filters = {"scalar": (scalar_sums, 1, 1), "vector": (vector_sums, 5, 3)}[kind]
    table = filters(n_filters * n)
    vectors, index = edges()
    features = random(N_ATOMS, n_in * n)
    expected = with_gradients(
        lambda x, r: portable(x, table, r, index, N_ATOMS), [features, vectors], [0, 1], "cpu"
    )
    order = edge_order(index.to(CUDA), N_ATOMS)
    operator = getattr(torch.ops.eqcalc_gpu, f"{kind}_convolution")
    own = table.table.to(CUDA)
    arguments = [features, vectors]
    found = with_gradients(
        lambda x, r: operator(x, own, r, index.to(CUDA), *order, table.ends, table.counts),
        arguments,
        [0, 1],
        CUDA,
    )
    assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("l_max", "channels", "parity"),
    [(1, [16, 16], True), (2, [32, 32, 32], True), (2, [128, 64, 32], False), (3, [20] * 4, False)],
)
def test_gpu_paths_and_their_derivatives_are_those_of_the_portable_code(l_max, channels, parity):
    paths, n_weights, n_features = path_case(l_max, channels, parity)
    table = filters(n_weights)
    vectors, index = edges()
    width = sum(rows * n for rows, n in paths.shapes)
    constants = paths.constants.float()
    rows = torch.tensor(paths.rows)
    inputs = [random(N_ATOMS, n_features), random(N_EDGES, (l_max + 1) ** 2), vectors]
    expected = with_gradients(
        lambda x, y, r: path_sums(x, y, constants, rows, table, r, index, width, N_ATOMS),
        inputs,
        [0, 1, 2],
        "cpu",
    )
    order = edge_order(index.to(CUDA), N_ATOMS)
    own, numbers = table.table.to(CUDA), rows.flatten().tolist()
    found = with_gradients(
        lambda x, y, r: torch.ops.eqcalc_gpu.path_convolution(
            x,
            y,
            constants.to(CUDA),
            own,
            r,
            index.to(CUDA),
            *order,
            table.ends,
            table.counts,
            numbers,
            width,
        ),
        inputs,
        [0, 1, 2],
        CUDA,
    )
    assert_close(found, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 3, 5), (9, 128, 384), (27, 128, 256), (300, 64, 32)])
def test_gpu_products_of_rows_are_those_of_torch(shape):
    edge_order(edges()[1].to(CUDA), N_ATOMS)  # registers the operators
    n_rows, n_in, n_out = shape
    x, bias = random(n_rows, n_in), random(n_out)
    for weights in (random(n_in, n_out), random(n_out, n_in).t()):
        for added in (None, bias):
            expected = x.double() @ weights.double() + (0.0 if added is None else added)
            on_gpu = None if added is None else added.to(CUDA)
            found = torch.ops.eqcalc_gpu.rows_times(x.to(CUDA), weights.to(CUDA), on_gpu)
            assert_close([found], [expected])


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["schnet", "painn", "nequip"])
def test_gpu_a_traced_network_is_the_network(name, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        potential = Potential(build(name, **small_options(name)), REFERENCE_ENERGIES).eval()
    path = tmp_path / "model.pt"
    export_model(potential, path, elements=list(REFERENCE_ENERGIES))
    file = open_model_file(path)
    program = trace_program(file, Target(CUDA, torch.float32), only_tables=True).program
    traced = Program(
        lambda inputs: program(*inputs), Target(CUDA, torch.float32), reach=2 * file.card.cutoff
    )
    exact = potential.double()
    for atoms in (ethanol(), crystal(), slab()):
        graph = build_graph(atoms, file.card.cutoff, dtype=torch.float32, device=CUDA)
        energies, gradients = (found.double().cpu() for found in traced(graph))
        expected_energies, expected = exact(build_graph(atoms, file.card.cutoff))
        torch.testing.assert_close(energies, expected_energies.detach(), rtol=0, atol=2e-5)
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients, expected, rtol=0, atol=2e-5 * scale)
        again = traced(graph)
        assert torch.equal(again[1].double().cpu(), gradients)  # every bit, at every run
