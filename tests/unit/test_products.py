"""Fused sums of tensor products under any weights, and the networks that are trained by them."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from rarely import rarely
from small_models import REFERENCE_ENERGIES, crystal, ethanol
from trainings import config_of, metrics_of, weights_of

from eqcalc.architectures import build
from eqcalc.data.batches import LabelledGraph, collate, labelled_graphs
from eqcalc.data.frames import LabelledFrame
from eqcalc.errors import CacheError, EngineError
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import build_graph
from eqcalc.nn.so3 import EdgeCouplings, TensorProduct, irreps_up_to
from eqcalc.nn.so3.tensor_product import PathTable, filled_up, path_table
from eqcalc.potential import Potential
from eqcalc.tabulated import has_training_form, training_form
from eqcalc.tabulated.pairs import pairs_of
from eqcalc.tabulated.products import PathProducts
from eqcalc.training import kernels as of_training
from eqcalc.training.gradients import LossGradients
from eqcalc.training.kernels import can_use_kernels, with_kernels
from eqcalc.training.loss import LossFunction, LossWeights
from eqcalc.training.run import train

pytestmark = pytest.mark.usefixtures("kernels")

CUTOFF = 4.0
ELEMENTS = list(REFERENCE_ENERGIES)

NEQUIP = {
    "num_layers": 2,
    "num_features": 20,
    "l_max": 2,
    "radial_mlp_width": 16,
    "cut_off": CUTOFF,
    "elements": ELEMENTS,
}
PAINN = {"num_blocks": 2, "embedding_dim": 20, "num_radial_basis": 8, "cut_off": CUTOFF}
SCHNET = {"num_interaction_blocks": 2, "hidden_dim": 20, "num_filters": 12, "cutoff": CUTOFF}

NETWORKS = {
    "schnet": ("schnet", SCHNET),
    "schnet elsewhere": ("schnet", SCHNET | {"radial_basis": "stored_gaussian"}),
    "painn": ("painn", PAINN),
    "painn of one block": ("painn", PAINN | {"num_blocks": 1}),
    "painn elsewhere": (
        "painn",
        PAINN | {"envelope": "cosine", "vector_norm": "published", "radial_basis": "stored_sine"},
    ),
    "nequip": ("nequip", NEQUIP),
    "nequip without parity": ("nequip", NEQUIP | {"parity": False, "l_max": 3}),
    "nequip of SO(3)": (
        "nequip",
        NEQUIP | {"parity": False, "mirror_symmetric": False, "num_features": [16, 8, 3]},
    ),
    "nequip of all elements": ("nequip", NEQUIP | {"elements": None}),
    "nequip with a linear map": (
        "nequip",
        NEQUIP
        | {
            "self_connection": "linear",
            "first_self_connection": True,
            "xplor_onset": 3.0,
            "modalities": 2,
            "avg_num_neighbors": [5.0, 6.0, 7.0],
        },
    ),
    "nequip of solid harmonics": ("nequip", NEQUIP | {"solid_harmonics": True}),
    "nequip of pair cutoffs": (
        "nequip",
        NEQUIP | {"pair_cutoffs": [[4.0 - 0.1 * (a + b) for b in range(3)] for a in range(3)]},
    ),
}


def network_of(name: str, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    architecture, options = NETWORKS[name]
    torch.manual_seed(3)
    return build(architecture, **options).to(dtype)


def pair(name: str, dtype: torch.dtype = torch.float64) -> tuple[Potential, Potential]:
    """Return a potential in training, and one of the same parameters that uses kernels."""
    plain = Potential(network_of(name, dtype), REFERENCE_ENERGIES, scale=1.3).train()
    fast = with_kernels(plain)
    assert fast is not plain
    return plain, fast


def structures() -> list[Atoms]:
    """Return a molecule, a crystal, and an atom that has no neighbour."""
    return [ethanol(), crystal(), Atoms("O")]


# --- the sums ----------------------------------------------------------------------------


def case(
    dtype: torch.dtype,
    atoms: Atoms,
    n_channels: int,
    *,
    mirror_symmetric: bool = True,
    by_pairs: bool = False,
):
    """Return sums by the kernels and by the network's own product, and what both are made of.

    by_pairs : the two directions of a pair share a row of weights
    """
    graph = build_graph(atoms, CUTOFF, dtype=dtype)
    irreps = irreps_up_to(2, True, mirror_symmetric=mirror_symmetric)
    less = [0 if mirror_symmetric else irrep.l for irrep in irreps]
    layout = {i: max(1, n_channels >> l) for i, l in zip(irreps, less, strict=True)}
    couplings = EdgeCouplings(2, True)
    product = TensorProduct(layout, irreps, couplings)
    fused = PathProducts(path_table(product, couplings), dtype)
    sizes = [irrep.dim * n for irrep, n in layout.items()]
    pairs = pairs_of(graph.edge_index, graph.edge_vectors)
    assert pairs is not None
    rows = pairs.rows if by_pairs else None

    def own(x, y, w):
        w = w if rows is None else w.index_select(0, rows)
        parts = zip(x.split(sizes, dim=1), layout.items(), strict=True)
        features = [part.reshape(-1, irrep.dim, n) for part, (irrep, n) in parts]
        sums = product(features, couplings.of_harmonics(y), w, graph.edge_index)
        return torch.cat([each.flatten(1) for each in sums], dim=1)

    def kernel(x, y, w):
        return fused(x, y, w, graph.edge_index, rows)

    generator = torch.Generator().manual_seed(5)
    n_atoms, n_edges = len(atoms), graph.edge_index.shape[1]
    n_rows = len(pairs.first) if by_pairs else n_edges
    shapes = [(n_atoms, sum(sizes)), (n_edges, 9), (n_rows, product.n_weights)]
    factors = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return kernel, own, [factor.to(dtype) for factor in factors]


def derivatives(call, factors, order: int) -> list[torch.Tensor]:
    """Return the sums, or the derivatives of a function of those of the order before.

    The function has slopes of 1 at most, so that rounding is not magnified.
    """
    factors = [0.5 * factor.clone().requires_grad_() for factor in factors]
    found = [call(*factors)]
    for _ in range(order):
        total = sum((each.square() + 1.0).sqrt().sum() for each in found)
        found = list(torch.autograd.grad(total, factors, create_graph=True))
    return [each.detach() for each in found]


@pytest.mark.parametrize("order", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n_channels", [1, 13, 32])
@pytest.mark.parametrize("mirror_symmetric", [True, False])
@pytest.mark.parametrize("by_pairs", [False, True])
def test_derivatives_of_any_order_are_those_of_the_network_s_own_sum(
    order, dtype, n_channels, mirror_symmetric, by_pairs
):
    atoms = molecule("CH3OH") if order == 3 else ethanol()
    kernel, own, factors = case(
        dtype, atoms, n_channels, mirror_symmetric=mirror_symmetric, by_pairs=by_pairs
    )
    relative = 1e-12 if dtype == torch.float64 else 1e-3
    found, expected = (derivatives(call, factors, order) for call in (kernel, own))
    for a, b in zip(found, expected, strict=True):
        assert float(b.abs().max()) > 1e-2
        torch.testing.assert_close(a, b, rtol=0, atol=relative * float(b.abs().max()))


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("by_pairs", [False, True])
def test_derivatives_are_finite_differences(check, by_pairs):
    kernel, _, factors = case(torch.float64, molecule("OH"), 2, by_pairs=by_pairs)
    assert check(kernel, [factor.requires_grad_() for factor in factors], eps=1e-6, atol=1e-6)


@pytest.mark.parametrize("by_pairs", [False, True])
def test_numbers_do_not_depend_on_the_number_of_threads(by_pairs):
    atoms = bulk("Cu", cubic=True) * (4, 4, 4)
    kernel, _, factors = case(torch.float32, atoms, 20, by_pairs=by_pairs)
    assert factors[1].shape[0] > 8 * 512  # else fewer threads
    one, before = derivatives(kernel, factors, 2), torch.get_num_threads()
    try:
        for n_threads in (2, 3, 8):
            torch.set_num_threads(n_threads)
            for a, b in zip(derivatives(kernel, factors, 2), one, strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda x: x[:, 1:], "path [0-9]+ is out of range"),
        (0, lambda x: x.float(), "differ in precision"),
        (0, lambda x: x[1:], r"edge_index must lie in 0\.\.7"),
        (1, lambda y: y[1:], "the latter two of all edges"),
        (1, lambda y: y[:, :3], "path [0-9]+ is out of range"),
        (1, lambda y: y.repeat(1, 6), "harmonics of a degree above 6"),
        (2, lambda w: w[:, 1:], "path [0-9]+ has no weights"),
        (2, lambda w: w.flatten(), "matrices"),
    ],
)
def test_what_would_be_read_outside_is_refused(place, change, message):
    kernel, _, factors = case(torch.float64, ethanol(), 2)
    kernel(*factors)
    factors[place] = change(factors[place])
    with pytest.raises(RuntimeError, match=message):
        kernel(*factors)


def test_torch_knows_how_derivatives_lie_in_memory_whatever_the_arguments_do():
    """A program that torch compiles stops where they lie otherwise than it was told."""
    _, _, factors = case(torch.float64, ethanol(), 2)
    graph = build_graph(ethanol(), CUTOFF)
    couplings, irreps = EdgeCouplings(2, True), irreps_up_to(2, True)
    table = path_table(TensorProduct(dict.fromkeys(irreps, 2), irreps, couplings), couplings)
    where = (table.constants, torch.tensor(table.rows), graph.edge_index)
    sums = torch.ones(9, sum(a * b for a, b in table.shapes), dtype=torch.float64)
    columns = [matrix.t().contiguous().t() for matrix in (sums, *factors)]
    rest = (*columns, *where, graph.edge_index.new_empty(0))
    for kernel, arguments in (
        (torch.ops.eqcalc.path_products_backward, rest),
        (torch.ops.eqcalc.path_products_second, (*columns[1:], *rest)),
    ):
        torch.library.opcheck(kernel.default, arguments, test_utils="test_faketensor")


def test_derivatives_that_do_not_fit_are_refused():
    _, _, factors = case(torch.float64, ethanol(), 2)
    graph = build_graph(ethanol(), CUTOFF)
    couplings, irreps = EdgeCouplings(2, True), irreps_up_to(2, True)
    table = path_table(TensorProduct(dict.fromkeys(irreps, 2), irreps, couplings), couplings)
    width = sum(a * b for a, b in table.shapes)
    rows = graph.edge_index.new_empty(0)
    where = (table.constants, torch.tensor(table.rows), graph.edge_index, rows)
    sums, operators = torch.ones(9, width, dtype=torch.float64), torch.ops.eqcalc
    with pytest.raises(RuntimeError, match="the derivative by the sums is a matrix"):
        operators.path_products_backward(sums.float(), *factors, *where)
    with pytest.raises(RuntimeError, match=r"edge_index must lie in 0\.\.7"):
        operators.path_products_backward(sums[1:], *factors, *where)
    with pytest.raises(RuntimeError, match="differs in shape or precision"):
        operators.path_products_second(factors[0][1:], *factors[1:], sums, *factors, *where)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[1:], "one for each edge"),
        (lambda rows: rows.int(), "must be int64"),
        (lambda rows: rows + 1, r"rows of weights must lie in 0\.\.35"),
        (lambda rows: rows - 1, r"rows of weights must lie in 0\.\.35"),
    ],
)
def test_rows_of_weights_that_are_not_there_are_refused(change, message):
    graph = build_graph(ethanol(), CUTOFF)
    one = filled_up(torch.ones(1, 1, 1, dtype=torch.float64)).flatten()
    table = PathTable([(0, 1, 0, 1, 0, 1, 0, 2, 2, 0)], one, [(1, 2)])
    fused = PathProducts(table, torch.float64)
    pairs = pairs_of(graph.edge_index, graph.edge_vectors)
    sizes = (9, 2), (len(pairs.rows), 1), (len(pairs.first), 2)
    factors = [torch.ones(*size, dtype=torch.float64) for size in sizes]
    assert fused(*factors, graph.edge_index, pairs.rows).shape == (9, 2)
    with pytest.raises(RuntimeError, match=message):
        fused(*factors, graph.edge_index, change(pairs.rows))


# --- the networks ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_form_for_training_is_the_network_with_all_gradients(name, dtype):
    plain, fast = pair(name, dtype)
    assert [*fast.parameters()] == [*plain.parameters()]  # the same tensors, in the same order
    graph = batch_graphs([build_graph(a, CUTOFF, dtype=dtype) for a in structures()])
    relative = 1e-11 if dtype == torch.float64 else 1e-4
    results = []
    for potential in (plain, fast):
        found = potential.evaluate(graph)
        loss = found.energy.square().sum() * 1e-6 + found.forces.square().sum()
        slopes = torch.autograd.grad(loss, list(potential.parameters()), allow_unused=True)
        results.append([found.energies.detach(), found.forces.detach(), *slopes])
    expected, got = results
    assert float(expected[1].abs().max()) > 1e-2
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            scale = max(float(b.abs().max()), 1e-3)
            torch.testing.assert_close(a, b, rtol=0, atol=relative * scale)


def test_exact_isolated_atoms_go_with_kernels():
    plain = Potential(network_of("painn"), REFERENCE_ENERGIES, exact_isolated_atoms=True)
    graph = batch_graphs([build_graph(atoms, CUTOFF) for atoms in structures()])
    found, expected = (
        p.evaluate(graph).energies.detach() for p in (with_kernels(plain.train()), plain)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-11)
    assert float(found[-1]) == pytest.approx(REFERENCE_ENERGIES["O"], abs=1e-11)


def test_a_step_of_the_parameters_reaches_both():
    plain, fast = pair("nequip")
    graph = build_graph(ethanol(), CUTOFF)
    before = float(fast.evaluate(graph).energy.detach())
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.mul_(1.1)
    after = float(fast.evaluate(graph).energy.detach())
    assert after == pytest.approx(float(plain.evaluate(graph).energy.detach()), rel=1e-12)
    assert abs(after - before) > 1e-3


def test_a_potential_that_is_judged_keeps_no_graph():
    plain, fast = pair("painn")
    plain.eval()
    fast.training = False
    assert not fast.evaluate(build_graph(ethanol(), CUTOFF)).forces.requires_grad


@pytest.mark.parametrize("name", ["dimenetpp", "egnn", "gvp"])
def test_networks_without_kernels_are_trained_as_they_are(name):
    network = build(name, cutoff=CUTOFF)
    assert not has_training_form(network)
    assert training_form(network) is network
    assert not can_use_kernels(Potential(network, REFERENCE_ENERGIES), torch.device("cpu"))


def test_there_are_no_kernels_on_a_gpu():
    plain = Potential(network_of("painn"), REFERENCE_ENERGIES)
    assert can_use_kernels(plain, torch.device("cpu"))
    assert not can_use_kernels(plain, torch.device("cuda"))


# --- trainings ---------------------------------------------------------------------------


def test_a_training_with_kernels_is_the_one_without(tmp_path):
    rows, weights = [], []
    for use in (True, False):
        folder = tmp_path / str(use)
        folder.mkdir()
        # In float64: AdamW divides a gradient by its size, also one that is rounding alone.
        config = replace(config_of(folder, kernels=use), dtype="float64")
        train(config, folder / "run")
        rows.append(metrics_of(folder / "run"))
        weights.append(weights_of(folder / "run" / "last.ckpt", "state_dict"))
    for fast, slow in zip(*rows, strict=True):
        assert fast == pytest.approx(slow, rel=1e-5)
    # The last digits differ: the kernels were used in one of them.
    assert not all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.mark.slow
def test_compiled_gradients_with_kernels_equal_eager_ones_without():
    some = [*structures()[:2], Atoms("HO", [(0, 0, 0), (0, 0, 0.97)])]
    labelled = labelled_at_random(some)
    one_way = labelled[0]._replace(graph=without_opposites(labelled[0].graph))
    batches = {  # as many compilations as kinds: structures, atoms, edges and pairs, 2 for more
        (1, 2, 2, 1): [labelled[2:]],  # first: its one pair must not be taken for the rule
        (2, 2, 2, 2): [labelled[:2], labelled[:2] * 2, labelled],
        (2, 2, 2): [[one_way, labelled[1]]],  # edges without opposites have no pairs
    }
    compare_compiled_with_eager("schnet", batches)  # whose graph compiles fastest


@pytest.mark.slow
def test_compiled_gradients_of_tensor_products_equal_eager_ones():
    labelled = labelled_at_random(structures()[:2])
    compare_compiled_with_eager("nequip", {(2, 2, 2, 2): [labelled, labelled * 2]})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["schnet", rarely("painn"), rarely("nequip")])
def test_compiled_gradients_of_exact_isolated_atoms_equal_eager_ones(name):
    """Atoms alone are traced too, without the pairs of the graph that they stand in."""
    labelled = labelled_at_random(structures()[:2])
    compare_compiled_with_eager(name, {(2, 2, 2, 2): [labelled, labelled * 2]}, exact=True)


def labelled_at_random(structures: list[Atoms]) -> list[LabelledGraph]:
    frames = [LabelledFrame(a, -1.0, torch.randn(len(a), 3).numpy()) for a in structures]
    return labelled_graphs(frames, CUTOFF)


def compare_compiled_with_eager(
    name: str, batches: dict[tuple[int, ...], list], *, exact: bool = False
) -> None:
    """Compare gradients of batches, by the kinds of which one each shall be compiled."""
    function = LossFunction(LossWeights(1.0, 1.0, 0.0))
    plain, fast = pair(name)
    plain.exact_isolated_atoms = fast.exact_isolated_atoms = exact
    compiled = LossGradients(fast, function, compile=True)
    eager = LossGradients(copy.deepcopy(plain), function, compile=False)
    for kind, of_kind in batches.items():
        for batch in map(collate, of_kind):
            assert float(compiled(batch)) == pytest.approx(float(eager(batch)), rel=1e-10)
            for p, q in zip(plain.parameters(), eager.potential.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None)
                if p.grad is not None:
                    torch.testing.assert_close(p.grad, q.grad, rtol=1e-8, atol=1e-10)
        assert list(compiled._compiled)[-1] == kind
    assert len(compiled._compiled) == len(batches)


def without_opposites(graph: AtomicGraph) -> AtomicGraph:
    """Return a graph without the edges from an atom to one that has a smaller number."""
    kept = graph.edge_index[0] < graph.edge_index[1]
    return graph._replace(
        edge_index=graph.edge_index[:, kept], edge_vectors=graph.edge_vectors[kept]
    )


def test_kernels_are_compiled_before_the_first_step_which_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(of_training, "find_library", lambda: None)
    said = []
    train(config_of(tmp_path), tmp_path / "run", progress=said.append)
    messages = [report.message for report in said if report.event == "start"]
    assert messages[0] == "compiling C++ kernels, once on this machine: about a minute ..."
    assert re.fullmatch(r"compiled in \d+ s", messages[1])  # from here on epochs are timed
    monkeypatch.undo()
    said.clear()
    train(config_of(tmp_path), tmp_path / "again", progress=said.append)
    assert not any(report.message for report in said)


@pytest.mark.parametrize(
    "error", [EngineError("there is no C++ compiler"), CacheError("others can write it")]
)
def test_a_machine_that_cannot_build_kernels_trains_without_and_says_so(
    error, tmp_path, monkeypatch
):
    def fail(*_):
        raise error

    for name in ("build_library", "load_library"):
        monkeypatch.setattr(of_training, name, fail)
    said = []
    train(config_of(tmp_path), tmp_path / "run", progress=said.append)
    assert f"training goes on without C++ kernels, which make steps faster: {error}" in [
        report.message for report in said
    ]
    assert len(metrics_of(tmp_path / "run")) == 2
