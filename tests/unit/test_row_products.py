"""Matrix products with constant weights, by the kernel for few rows."""

from __future__ import annotations

import pytest
import torch
from small_models import REFERENCE_ENERGIES
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from eqcalc.export.row_products import use_row_products

pytestmark = pytest.mark.usefixtures("kernels")

LANES = {torch.float32: 16, torch.float64: 8}


def numbers(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def traced(function, *example):
    """Return the graph of a function, and a count of its matrix products of either kind."""
    module = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*example)

    def count(*names: str) -> int:
        return sum(node.name.split("_")[0] in names for node in module.graph.nodes)

    return module, count


# --- the kernel --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", LANES)
@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 5, 8, 9, 10, 17, 18, 31, 200])
@pytest.mark.parametrize("n_vectors", [1, 2, 3, 8])
def test_products_are_those_of_torch(dtype, n_rows, n_vectors):
    x = numbers(n_rows, 37, dtype=dtype)
    w = numbers(37, n_vectors * LANES[dtype], dtype=dtype, seed=1)
    found, expected = torch.ops.eqcalc.rows_times(x, w, w.shape[1]), x.double() @ w.double()
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=200 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", LANES)
@pytest.mark.parametrize("n_out", [1, 16, 20, 32])
def test_a_row_does_not_depend_on_how_many_there_are(n_out, dtype):
    x, w = numbers(30, 64, dtype=dtype), numbers(64, 32, dtype=dtype, seed=1)
    whole = torch.ops.eqcalc.rows_times(x, w, n_out)
    for n in range(1, 30):
        assert torch.equal(torch.ops.eqcalc.rows_times(x[:n], w, n_out), whole[:n])


def test_strided_matrices_and_several_threads():
    x, w = numbers(37, 400).T, numbers(16, 37, seed=1).T
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = torch.ops.eqcalc.rows_times(x, w, w.shape[1])
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, x @ w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_out", [1, 7, 8, 9, 17, 23])
@pytest.mark.parametrize("n_rows", [1, 9, 26])
def test_only_the_columns_that_are_wanted_are_made(n_rows, n_out):
    x, w = numbers(n_rows, 20), numbers(20, 24, seed=1)
    found = torch.ops.eqcalc.rows_times(x, w, n_out)
    torch.testing.assert_close(found, (x @ w)[:, :n_out], rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_matrices", [0, 1, 7])
def test_a_batch_of_matrices_is_read_where_it_lies(n_matrices):
    rows, w = numbers(n_matrices, 100), numbers(16, 24, seed=1)
    x = rows[:, 20:68].unflatten(1, (3, 16))
    found = torch.ops.eqcalc.rows_times(x, w, w.shape[1])
    torch.testing.assert_close(found, x @ w, rtol=0, atol=1e-12)
    turned = numbers(n_matrices, 16, 3).transpose(1, 2)
    found = torch.ops.eqcalc.rows_times(turned, w, w.shape[1])
    torch.testing.assert_close(found, turned @ w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_threads", [2, 3, 16])
def test_products_have_the_same_bits_with_any_number_of_threads(n_threads):
    x, w = numbers(700, 37, dtype=torch.float32), numbers(37, 48, dtype=torch.float32, seed=1)
    one = torch.ops.eqcalc.rows_times(x, w, w.shape[1])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        assert torch.equal(torch.ops.eqcalc.rows_times(x, w, w.shape[1]), one)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("x", "w", "message"),
    [
        (numbers(3, 4), numbers(5, 8), "two matrices that fit"),
        (numbers(4), numbers(4, 8), "two matrices that fit"),
        (numbers(3, 4).float(), numbers(4, 16), "differ in precision"),
        (numbers(3, 4), numbers(4, 9), "vectors of 64 bytes"),
        (numbers(3, 4), numbers(4, 8).expand(4, 8)[:, :0], "w has 0 columns, not 1"),
    ],
)
def test_the_kernel_refuses_what_it_cannot_multiply(x, w, message):
    with pytest.raises(RuntimeError, match=message):
        torch.ops.eqcalc.rows_times(x, w, 1)


# --- graphs ------------------------------------------------------------------------------


def test_layers_and_their_derivatives_are_replaced():
    first, second = torch.nn.Linear(24, 32).double(), torch.nn.Linear(32, 16, bias=False).double()
    network = torch.nn.Sequential(first, torch.nn.SiLU(), second).requires_grad_(False)

    def function(x):
        with torch.enable_grad():
            x = x.requires_grad_(True)
            y = network(x).square().sum(dim=1)
            return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    x = numbers(6, 24)
    module, count = traced(function, x)
    assert count("mm", "addmm") == 4
    assert use_row_products(module) == 4
    assert (count("mm", "addmm"), count("rows")) == (0, 4)
    for n in (6, 1, 50):
        x = numbers(n, 24, seed=n)
        for found, expected in zip(module(x), function(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_slices_of_weights_are_constants_too():
    weights = numbers(48, 40)

    def function(x):
        return functional.linear(x, weights[:32, 8:])

    x = numbers(5, 32)
    module, _ = traced(function, x)
    assert use_row_products(module) == 1
    torch.testing.assert_close(module(x), function(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(32, 33), (8, 32), (5, 1)])
def test_matrices_of_any_shape_are_replaced(shape):
    weights = numbers(*shape)

    def function(x):
        return x @ weights

    x = numbers(6, shape[0], seed=1)
    module, count = traced(function, x)
    assert use_row_products(module) == 1
    assert count("mm") == 0
    torch.testing.assert_close(module(x), function(x), rtol=0, atol=1e-12)


def test_what_depends_on_weights_alone_is_made_once():
    weights, more = numbers(16, 24), numbers(16, 24, seed=1).float()

    def function(x):
        return x @ ((weights + more.double()) * 0.5 / 3.0)

    x = numbers(6, 16, seed=2)
    module, count = traced(function, x)
    assert use_row_products(module) == 1
    assert count("div", "add", "mul", "mm") == 0
    torch.testing.assert_close(module(x), function(x), rtol=0, atol=1e-12)


def test_products_of_many_matrices_with_one_and_their_derivatives_are_replaced():
    """As of features (n_atoms, 2l+1, n_in) that are part of longer rows."""
    weights = numbers(20, 24)

    def function(x):
        with torch.enable_grad():
            x = x.requires_grad_(True)
            part = x.split([7, 60], dim=1)[1].reshape(-1, 3, 20)
            y = (part @ weights).square().sum(dim=(1, 2))
            return y.detach(), torch.autograd.grad(y.sum(), x)[0]

    x = numbers(5, 67)
    module, count = traced(function, x)
    assert count("bmm") == 2
    assert use_row_products(module) == 2
    assert (count("bmm", "mm"), count("rows")) == (0, 2)
    for n in (5, 1, 50):
        x = numbers(n, 67, seed=n)
        for found, expected in zip(module(x), function(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("n_atoms", [2, 50])
def test_products_with_matrices_of_each_atom_are_written_out(n_atoms):
    """As those of its element, (n_atoms, n_in, n_out)."""
    weights = numbers(3, 20, 24)

    def function(x, elements):
        return torch.bmm(x, weights[elements])

    example = numbers(n_atoms, 5, 20), torch.arange(n_atoms) % 3
    module, count = traced(function, *example)
    assert use_row_products(module) == 0
    assert count("bmm") == 0
    torch.testing.assert_close(module(*example), function(*example), rtol=0, atol=1e-12)


WIDE, NARROW = numbers(32, 32), numbers(32, 16)


@pytest.mark.parametrize(
    ("function", "example"),
    [
        (lambda x, y: x @ y, (numbers(5, 32), WIDE)),  # no constant
        (lambda x: torch.addmm(x[:, :16], x, NARROW, beta=2), (numbers(5, 32),)),
    ],
)
def test_other_products_stay(function, example):
    module, count = traced(function, *example)
    assert use_row_products(module) == 0
    assert count("mm", "addmm") == 1
    torch.testing.assert_close(module(*example), function(*example), rtol=0, atol=0)


@pytest.mark.slow
def test_a_compiled_network_multiplies_by_the_kernel(tmp_path):
    from eqcalc.architectures import build
    from eqcalc.export import compile_model, export_model
    from eqcalc.model_file import open_model_file
    from eqcalc.potential import Potential

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        options = {"num_interaction_blocks": 1, "hidden_dim": 16, "num_filters": 8, "cutoff": 4.0}
        network = build("schnet", **options)
    path = tmp_path / "model.pt"
    export_model(Potential(network, REFERENCE_ENERGIES), path, elements=["H", "O"])
    with pytest.MonkeyPatch.context() as patch:
        seen = []
        patch.setattr(
            "eqcalc.export.compile.use_row_products",
            lambda graph: seen.append(use_row_products(graph)),
        )
        compile_model(open_model_file(path), tmp_path / "p.pt2", torch.device("cpu"), torch.float32)
    assert seen[0] > 4
