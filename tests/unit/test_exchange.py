"""Ranks that exchange features between layers find together what one process finds."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ranks import Ranks, Results, share_out, slices
from small_models import crystal, slab, small_options
from torch import Tensor, nn

from eqcalc.architectures import build
from eqcalc.derivatives import virials_from_edge_gradients
from eqcalc.errors import EngineError, ModelFileError
from eqcalc.export import compile_exchange, rebuild_potential
from eqcalc.export.exchange import evaluate_owned
from eqcalc.graph import AtomicGraph
from eqcalc.model_file import open_model_file
from eqcalc.model_file.exchange_proof import verify_exchange
from eqcalc.native.exchange import exchanged_by
from eqcalc.neighbours import build_graph
from eqcalc.nn.scatter import at_senders, exchanging, of_all_atoms
from eqcalc.nn.zbl import ZBL
from eqcalc.potential import Potential
from eqcalc.tabulated import convolutions, exact_form, tabulated_form

pytestmark = pytest.mark.usefixtures("exchange")

DATA = Path(__file__).parents[1] / "data"
CPU = torch.device("cpu")
CUTOFF = 4.0

ELEMENTS = ["H", "C", "O", "Si"]
PAIR_CUTOFFS = [[3.0 + 0.1 * abs(i - j) + 0.05 * i for j in range(4)] for i in range(4)]
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "schnet": ("schnet", {}),
    "painn": ("painn", {}),
    "egnn": ("egnn", {}),
    "gvp": ("gvp", {}),
    "nequip": ("nequip", {"num_layers": 3, "num_features": 4, "parity": True, "l_max": 2}),
    "nequip with pair cutoffs": (
        "nequip",
        {"num_features": 4, "parity": False, "l_max": 1, "pair_cutoffs": PAIR_CUTOFFS},
    ),
}


def network(name: str) -> nn.Module:
    """Return an untrained network of float64."""
    architecture, options = NETWORKS[name]
    elements = {"elements": ELEMENTS} if architecture == "nequip" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return build(architecture, **small_options(architecture) | options | elements).double()


def potential_of(architecture: nn.Module) -> Potential:
    """Return its potential, with a repulsion that depends on pairs of elements."""
    zbl = ZBL(1.6, elements=["H", "O"], pair_cutoffs=[[1.2, 1.5], [1.5, 1.6]])
    return Potential(architecture, zbl=zbl).eval().requires_grad_(False)


def silicon() -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, seed=1)
    return atoms


def water() -> Atoms:
    atoms = ase.io.read(DATA / "water_frame.xyz")
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell.diagonal(), pbc=True)


def lonely() -> Atoms:
    """Return a slab, an atom far above it that meets nobody, and room without any atom."""
    atoms = slab() * (2, 1, 1)
    atoms.set_cell([*atoms.cell[:2], [0.0, 0.0, 40.0]])
    return atoms + Atoms("O", [[1.0, 1.0, 35.0]])


STRUCTURES = {
    "water": (water, 0, 2),
    "silicon": (silicon, 0, 3),  # of 8 or fewer atoms, each with many images
    "slab": (lonely, 2, 4),  # one rank is empty, one has a single atom
    "one rank": (crystal, 0, 1),  # its ghosts are images of its own atoms
}
"""Structure, the axis along which it is cut, the number of ranks."""


def whole(
    potential: Potential, atoms: Atoms, dtype: torch.dtype, cutoff: float = CUTOFF
) -> Results:
    """Return what one process finds."""
    graph = build_graph(atoms, cutoff, dtype=dtype)
    energies, gradients = potential(graph)
    evaluation = potential.evaluate(graph)
    virial = virials_from_edge_gradients(gradients, graph)[0]
    return Results(energies.detach().numpy(), evaluation.forces.numpy(), virial.numpy())


def assert_same(found: Results, expected: Results, energy: float, relative: float) -> None:
    """Compare: energies to some eV, forces and virial relative to the largest of them."""
    np.testing.assert_allclose(found.energies, expected.energies, rtol=0, atol=energy)
    for one, other in ((found.forces, expected.forces), (found.virial, expected.virial)):
        scale = abs(other).max()
        assert scale > 1e-3
        np.testing.assert_allclose(one, other, rtol=0, atol=relative * scale)


def together(potential: Potential, structure: str, dtype: torch.dtype) -> tuple[Ranks, Results]:
    make, axis, n_ranks = STRUCTURES[structure]
    atoms = make()
    ranks = Ranks(share_out(atoms, CUTOFF, slices(atoms, n_ranks, axis), n_ranks, dtype))
    evaluate = functools.partial(evaluate_owned, potential)
    return ranks, ranks.run([evaluate] * n_ranks, len(atoms))


# --- networks ----------------------------------------------------------------------------


FORMS = ("network", "exact", "tabulated", "without kernels")
CASES = [(structure, form) for structure in ("silicon", "slab") for form in FORMS]
CASES += [("water", "tabulated"), ("one rank", "exact")]


@pytest.mark.parametrize(("structure", "form"), CASES)
@pytest.mark.parametrize("name", NETWORKS)
def test_ranks_find_what_one_process_finds(name, structure, form, monkeypatch):
    if form == "without kernels":
        monkeypatch.setattr(convolutions, "_enabled", [])
    forms = {"network": lambda network: network, "exact": exact_form}
    tabulated = functools.partial(tabulated_form, dtype=torch.float64, tolerance=1e-5)
    potential = potential_of(forms.get(form, tabulated)(network(name)))
    atoms = STRUCTURES[structure][0]()
    ranks, found = together(potential, structure, torch.float64)
    assert_same(found, whole(potential, atoms, torch.float64), 1e-10, 1e-10)
    # Once a layer, however often it reads: besides features, EGNN has displacements to send, and
    # ZBL and pair cutoffs have elements. The first features do not depend on where atoms are.
    n_hops = potential.n_hops
    extra = {"egnn": n_hops - 1, "nequip with pair cutoffs": 1}.get(name, 0)
    names = [call for call, _ in ranks.calls]
    assert names.count("forward") == n_hops + extra + 1
    assert names.count("reverse") == n_hops - 1 + (n_hops - 1 if name == "egnn" else 0)


def test_the_ranks_of_these_tests_are_what_they_should_be():
    sizes = {}
    for name, (make, axis, n_ranks) in STRUCTURES.items():
        atoms = make()
        shares = share_out(atoms, CUTOFF, slices(atoms, n_ranks, axis), n_ranks, torch.float64)
        sizes[name] = [len(share.tensors[0]) for share in shares]
        assert sum(sizes[name]) == len(atoms)
        assert max(len(share.owners) for share in shares) > len(atoms) / 2
        assert any(rank in share.owners for rank, share in enumerate(shares))  # own images
    assert 0 in sizes["slab"]
    assert 1 in sizes["slab"]


@pytest.mark.parametrize("name", NETWORKS)
def test_ranks_in_float32_differ_by_rounding(name):
    exact = potential_of(network(name))
    tabulated = potential_of(tabulated_form(network(name), torch.float32, 3e-6)).float()
    found = together(tabulated, "silicon", torch.float32)[1]
    assert_same(found, whole(tabulated, silicon(), torch.float32), 2e-6, 2e-6)
    assert_same(found, whole(exact, silicon(), torch.float64), 1e-4, 1e-4)


def test_gradients_of_ghosts_are_missed_where_they_do_not_come_home(exchange):
    """That is, the comparison above would see it."""
    potential = potential_of(network("painn"))
    ranks = Ranks(share_out(crystal(), CUTOFF, np.zeros(8, dtype=int), 1, torch.float64))
    evaluate = functools.partial(evaluate_owned, potential)
    share = ranks.shares[0]

    def forward(rows: np.ndarray, n_owned: int) -> None:
        rows[n_owned:] = rows[share.rows]

    with exchanged_by(exchange, forward, lambda rows, n_owned: None):
        _, gradients = evaluate(*share.tensors)
    expected = potential(build_graph(crystal(), CUTOFF))[1]
    assert float((gradients - expected).abs().max()) > 1e-3 * float(expected.abs().max())


@pytest.mark.parametrize("number", range(4))  # forward, forward, reverse, and one of ZBL
def test_a_rank_that_fails_ends_the_others_and_its_error_comes_out(number):
    def breaks(call: int) -> None:
        if call == number:
            raise ZeroDivisionError(f"in call {call}")

    shares = share_out(silicon(), CUTOFF, slices(silicon(), 2), 2, torch.float64)
    evaluate = functools.partial(evaluate_owned, potential_of(network("painn")))
    with pytest.raises(ZeroDivisionError, match=f"in call {number}"):
        Ranks(shares, breaks).run([evaluate] * 2, 16)


# --- taking rows at the senders ----------------------------------------------------------


def test_features_are_taken_as_they_are_unless_they_are_exchanged():
    index = torch.tensor([[2, 0, 1], [0, 0, 2]])
    features = [torch.randn(3, 2), torch.randn(3, 3, 4)]
    assert all(a is b for a, b in zip(of_all_atoms(features), features, strict=True))
    expected = features[1][index[0]]
    assert torch.equal(at_senders(features[1], index), expected)
    scripted = torch.jit.script(at_senders)
    assert torch.equal(scripted(features[1], index), expected)
    assert scripted.code.count("torch.") == 2  # index_select and select
    assert "exchange" not in torch.jit.script(of_all_atoms).code


def test_several_features_travel_in_one_message_and_keep_their_shapes():
    sizes = []

    def to_all(owned: Tensor) -> Tensor:
        sizes.append(tuple(owned.shape))
        return torch.cat([owned, -owned[:1]])

    features = [torch.randn(3, 2), torch.randn(3, 3, 4)]
    with exchanging(to_all):
        found = of_all_atoms(features)
        at_senders(torch.arange(3), torch.tensor([[3], [0]]))
    assert sizes == [(3, 14), (3,)]
    for one, other in zip(found, features, strict=True):
        assert torch.equal(one, torch.cat([other, -other[:1]]))
    assert of_all_atoms(features)[0] is features[0]


def test_another_thread_does_not_exchange():
    found = []
    with exchanging(lambda owned: owned + 1):
        thread = threading.Thread(
            target=lambda: found.append(of_all_atoms([torch.zeros(1)])[0].item())
        )
        thread.start()
        thread.join()
        assert of_all_atoms([torch.zeros(1)])[0].item() == 1.0
    assert found == [0.0]


# --- what is refused before it is compiled -----------------------------------------------


@pytest.mark.parametrize("name", ["dimenet", "dimenetpp"])
def test_networks_with_messages_on_edges_say_why_they_cannot(name, tmp_path):
    from eqcalc.export import export_model

    path = tmp_path / "model.pt"
    small = build(name, **small_options(name)).double()
    export_model(Potential(small).eval(), path, elements=["H"])
    with pytest.raises(EngineError, match=r"cannot exchange features .* messages live on edges"):
        compile_exchange(open_model_file(path), tmp_path / "package", CPU, torch.float64)


def test_ranks_on_a_gpu_are_refused(models, tmp_path):
    file = open_model_file(models["double"])
    with pytest.raises(EngineError, match="on a CPU; found the device cuda"):
        compile_exchange(file, tmp_path / "package", torch.device("cuda"), torch.float32)


def test_without_the_library_ranks_are_refused(models, tmp_path, monkeypatch):
    file = open_model_file(models["double"])
    monkeypatch.setattr("eqcalc.native.exchange._enabled", [])
    monkeypatch.setattr("eqcalc.native.exchange._is_loaded", lambda: False)
    with pytest.raises(EngineError, match=r"the C\+\+ library, .*, is not loaded"):
        compile_exchange(file, tmp_path / "package", CPU, torch.float64)
    monkeypatch.setattr("eqcalc.model_file.exchange_proof.find_library", lambda: None)
    with pytest.raises(EngineError, match=r"by eqcalc's C\+\+ library, which was not built"):
        verify_exchange(file, lambda *tensors: tensors[:2], torch.float64, "here")


class Straight(nn.Module):
    """Reads its neighbours without asking for them."""

    cutoff, n_hops = CUTOFF, 1

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        z = graph.atomic_numbers.to(graph.edge_vectors.dtype)
        pair = z.index_select(0, graph.edge_index[0]) * graph.edge_vectors.square().sum(dim=1)
        return torch.zeros_like(z).index_add(0, graph.edge_index[1], pair)


def test_a_network_that_reads_its_neighbours_by_itself_is_refused(models):
    evaluate = functools.partial(evaluate_owned, Potential(Straight()))
    file = open_model_file(models["double"])
    with pytest.raises(EngineError, match=r"a call with ghost atoms fails .*at_senders alone"):
        verify_exchange(file, evaluate, torch.float64, "here")


def test_numbers_with_ghosts_must_be_those_of_the_passport(models):
    file = open_model_file(models["double"])
    evaluate = functools.partial(evaluate_owned, rebuild_potential(file))
    verify_exchange(file, evaluate, torch.float64, "here")
    other = functools.partial(evaluate_owned, rebuild_potential(open_model_file(models["other"])))
    with pytest.raises(ModelFileError, match="for ranks that exchange features, here: the model"):
        verify_exchange(file, other, torch.float64, "here")
