"""Kernels for GPUs beside the portable sums: on a GPU, and by Triton's interpreter without one."""

from __future__ import annotations

import importlib
import os
import platform
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from ase import Atoms
from small_models import REFERENCE_ENERGIES, crystal, ethanol, slab, small_options

from eqcalc.architectures import build
from eqcalc.engines import Target, load_model
from eqcalc.engines.packages import trace_program
from eqcalc.engines.program import Program
from eqcalc.engines.traced import TritonEngine
from eqcalc.export import export_model
from eqcalc.model_file import open_model_file
from eqcalc.neighbours import build_graph
from eqcalc.nn.so3.irreps import Irrep
from eqcalc.nn.so3.tensor_product import EdgeCouplings, TensorProduct, path_table
from eqcalc.potential import Potential
from eqcalc.tabulated import schnet
from eqcalc.tabulated.autograd import path_sums, scalar_sums, vector_sums
from eqcalc.tabulated.convolutions import enable_gpu_kernels
from eqcalc.tabulated.spline import SplineTable, fit_table

if sys.platform != "linux" or platform.machine() != "x86_64":
    pytest.skip("there is no Triton for this system", allow_module_level=True)

CUTOFF = 5.0
RTOL = 3e-6  # of the largest number; float32 sums in another order
N_ATOMS, N_EDGES = 5, 24


# Triton looks at it when it is imported, so one process has the interpreter or the compiler.
IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
WHERE = ["interpreter"] if IS_INTERPRETED else [pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture(scope="module")
def interpreter() -> Iterator[torch.device]:
    """Let Triton's interpreter run the kernels, on a CPU."""
    from triton.runtime import interpreter

    from eqcalc.triton_kernels.launches import OPERATORS

    prepare = interpreter._patch_lang_tensor

    def prepare_for_new_numpy(tensor, *scope):
        prepare(tensor, *scope)
        # Triton converts an array of one number, which numpy does not do any more.
        tensor.__index__ = lambda self: int(self.handle.data.item())

    assert enable_gpu_kernels()
    library = torch.library.Library("eqcalc_gpu", "IMPL")
    for name, work in OPERATORS.items():
        library.impl(name, work, "CPU")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter, "_patch_lang_tensor", prepare_for_new_numpy)
        yield torch.device("cpu")


@pytest.fixture(params=WHERE)
def device(request) -> torch.device:
    """Return where the kernels run."""
    if request.param == "interpreter":
        return request.getfixturevalue("interpreter")
    assert enable_gpu_kernels()
    return torch.device("cuda")


@pytest.mark.skipif(IS_INTERPRETED, reason="this is the process that it starts")
def test_kernels_hold_in_the_interpreter():
    options = ["--verbosity=0", "-n", "0", "-p", "no:cacheprovider"]
    command = [sys.executable, "-m", "pytest", *options, __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout


def test_torch_knows_how_derivatives_lie_in_memory_whatever_the_arguments_do():
    """A program that torch compiles stops where they lie otherwise than it was told."""
    pytest.importorskip("triton")  # on Linux alone
    assert enable_gpu_kernels()
    features, vectors = torch.empty(10, 7, device="meta").t(), torch.empty(3, 20, device="meta").t()
    table, index = torch.empty(14, 6, device="meta"), torch.empty(2, 20, device="meta").long()
    edges = (vectors, index, *[index[0]] * 3, [4.0], [6])
    kernels, inputs = torch.ops.eqcalc_gpu, (features, features)
    for found in (
        kernels.scalar_convolution_backward(*inputs, table, *edges),
        kernels.path_convolution_backward(*inputs, vectors, table, table, *edges, [0] * 10),
    ):
        assert all(each.is_contiguous() for each in found)


def test_stretches_stay_where_captured_graphs_read_them():
    """A graph knows their address alone, and replays it however many other tables were met."""
    pytest.importorskip("triton")  # on Linux alone
    from eqcalc.triton_kernels import edges

    place = (1.25,), (7,), torch.device("cpu")
    first = edges.stretches_on(*place)
    for k in range(600):
        edges.stretches_on((2.0 + k,), (8,), torch.device("cpu"))
    assert edges.stretches_on(*place) is first


def filters(n: int) -> SplineTable:
    """Return a table of n smooth functions in two stretches."""
    generator = torch.Generator().manual_seed(n)
    weights = torch.randn(6, n, generator=generator, dtype=torch.float64)

    def function(distances: torch.Tensor) -> torch.Tensor:
        d = distances.unsqueeze(1)
        waves = torch.sin(torch.pi * torch.arange(1, 7) * d / CUTOFF) / (d + 0.3)
        return (waves * (1.0 - d / CUTOFF) ** 3) @ weights

    fitted = fit_table(function, CUTOFF, torch.float32, 3e-6, joints=[0.7])
    # Second derivatives are those of the rows as they are rounded.
    return SplineTable(fitted.table.double(), fitted.ends, fitted.counts).float()


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
        one, other = one.detach().cpu(), other.detach().cpu()
        assert float(other.abs().max()) > 1e-3
        assert float((one - other).abs().max()) <= RTOL * float(other.abs().max())


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


def path_case(l_max: int, channels: list[int], parity: bool, results: int | None = None):
    couplings = EdgeCouplings(l_max, parity)
    signs = (1, -1) if parity else (0,)
    irreps = [Irrep(l, sign or (-1) ** l) for l in range(l_max + 1) for sign in signs]
    layout = {irrep: channels[irrep.l] for irrep in irreps}
    product = TensorProduct(layout, irreps[:results], couplings)
    n_features = sum((2 * irrep.l + 1) * channels[irrep.l] for irrep in irreps)
    return path_table(product, couplings), product.n_weights, n_features


@pytest.mark.parametrize("n", [16, 40, 128])
@pytest.mark.parametrize("kind", ["scalar", "vector"])
def test_sums_and_derivatives_are_those_of_the_portable_code(kind, n, device):
    portable, n_in, n_filters = {"scalar": (scalar_sums, 1, 1), "vector": (vector_sums, 5, 3)}[kind]
    table = filters(n_filters * n)
    vectors, index = edges()
    features = random(N_ATOMS, n_in * n)
    expected = with_gradients(
        lambda x, r: portable(x, table, r, index, N_ATOMS), [features, vectors], [0, 1], "cpu"
    )
    order = torch.ops.eqcalc_gpu.edge_order(index.to(device), N_ATOMS)
    operator = getattr(torch.ops.eqcalc_gpu, f"{kind}_convolution")
    own = table.table.to(device)
    arguments = [features, vectors]
    found = with_gradients(
        lambda x, r: operator(x, own, r, index.to(device), *order, table.ends, table.counts),
        arguments,
        [0, 1],
        device,
    )
    assert_close(found, expected)


@pytest.mark.parametrize(
    ("l_max", "channels", "parity"),
    [(1, [16, 16], True), (2, [32, 32, 32], True), (2, [128, 64, 32], False), (3, [20] * 4, False)],
)
def test_paths_and_their_derivatives_are_those_of_the_portable_code(
    l_max, channels, parity, device
):
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
    order = torch.ops.eqcalc_gpu.edge_order(index.to(device), N_ATOMS)
    own, numbers = table.table.to(device), rows.flatten().tolist()
    found = with_gradients(
        lambda x, y, r: torch.ops.eqcalc_gpu.path_convolution(
            x,
            y,
            constants.to(device),
            own,
            r,
            index.to(device),
            *order,
            table.ends,
            table.counts,
            numbers,
            width,
        ),
        inputs,
        [0, 1, 2],
        device,
    )
    assert_close(found, expected)


@pytest.fixture
def unwritten_is_nan() -> Iterator[None]:
    """Let torch fill new memory with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("unwritten_is_nan")
def test_irreps_that_lead_to_no_result_have_no_gradient(device):
    """As the pseudovectors of a layer that makes scalars alone."""
    paths, n_weights, n_features = path_case(2, [32, 32, 32], True, results=1)
    table = filters(n_weights)
    vectors, index = (each.to(device) for each in edges())
    rows = torch.tensor(paths.rows)
    begins = {(row[0], row[1] * row[8]) for row in paths.rows}
    width = sum(n_rows * n for n_rows, n in paths.shapes)
    by_features, by_harmonics, by_vectors = torch.ops.eqcalc_gpu.path_convolution_backward(
        random(N_ATOMS, width).to(device),
        random(N_ATOMS, n_features).to(device),
        random(N_EDGES, 9).to(device),
        paths.constants.float().to(device),
        table.table.to(device),
        vectors,
        index,
        *torch.ops.eqcalc_gpu.edge_order(index, N_ATOMS),
        table.ends,
        table.counts,
        rows.flatten().tolist(),
    )
    assert torch.isfinite(by_harmonics).all()
    assert torch.isfinite(by_vectors).all()
    is_taken = torch.zeros(n_features, dtype=torch.bool)
    for begin, length in begins:
        is_taken[begin : begin + length] = True
    assert 0 < int(is_taken.sum()) < n_features
    assert (by_features[:, ~is_taken.to(device)] == 0.0).all()
    assert (by_features[:-1, is_taken.to(device)] != 0.0).any(dim=0).all()


@pytest.mark.parametrize("shape", [(1, 3, 5), (9, 128, 384), (27, 128, 256), (300, 64, 32)])
def test_products_of_rows_are_those_of_torch(shape, device):
    n_rows, n_in, n_out = shape
    x, bias = random(n_rows, n_in), random(n_out)
    for weights in (random(n_in, n_out), random(n_out, n_in).t()):
        for added in (None, bias):
            expected = x.double() @ weights.double() + (0.0 if added is None else added)
            on_gpu = None if added is None else added.to(device)
            found = torch.ops.eqcalc_gpu.rows_times(x.to(device), weights.to(device), on_gpu)
            assert_close([found], [expected])


@pytest.mark.parametrize("name", ["schnet", "painn", "nequip"])
def test_a_traced_network_is_the_network(name, tmp_path, device, monkeypatch):
    forms = importlib.import_module(f"eqcalc.tabulated.{name}")
    monkeypatch.setattr(forms, "edge_order", torch.ops.eqcalc_gpu.edge_order)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        potential = Potential(build(name, **small_options(name)), REFERENCE_ENERGIES).eval()
    path = tmp_path / "model.pt"
    export_model(potential, path, elements=list(REFERENCE_ENERGIES))
    file = open_model_file(path)
    program = trace_program(file, Target(device, torch.float32), only_tables=True).program
    traced = Program(
        lambda inputs: program(*inputs), Target(device, torch.float32), reach=2 * file.card.cutoff
    )
    exact = potential.double()
    for atoms in [ethanol()] if IS_INTERPRETED else [ethanol(), crystal(), slab()]:
        graph = build_graph(atoms, file.card.cutoff, dtype=torch.float32, device=device)
        energies, gradients = (found.double().cpu() for found in traced(graph))
        expected_energies, expected = exact(build_graph(atoms, file.card.cutoff))
        torch.testing.assert_close(energies, expected_energies.detach(), rtol=0, atol=2e-5)
        scale = float(expected.abs().max())
        torch.testing.assert_close(gradients, expected, rtol=0, atol=2e-5 * scale)
        again = traced(graph)
        assert torch.equal(again[1].double().cpu(), gradients)  # every bit, at every run


def test_the_engine_runs_a_model_of_any_size(tmp_path, device, monkeypatch):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        network = build("schnet", **small_options("schnet"))
    export_model(Potential(network, REFERENCE_ENERGIES), tmp_path / "model.pt", elements="CHO")
    monkeypatch.setattr(TritonEngine, "device_types", (device.type,))
    monkeypatch.setattr(schnet, "edge_order", torch.ops.eqcalc_gpu.edge_order)
    model = load_model(tmp_path / "model.pt", device=device.type, engine="triton")
    first = model.engine_report().splitlines()[0]
    assert first == f"triton on {device.type} in float32, passport reproduced"
    plain = load_model(tmp_path / "model.pt", device=device.type, engine="torchscript")
    for atoms in (ethanol(), Atoms("O"), Atoms("CO", [[0, 0, 0], [0, 0, 1.2]])):
        graph = build_graph(atoms, plain.card.cutoff, dtype=torch.float32, device=device)
        for found, expected in zip(model(graph), plain(graph), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
