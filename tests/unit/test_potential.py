"""Potentials: reference energies, scale, refusals, and what evaluate returns."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from small_models import POTENTIALS, REFERENCE_ENERGIES, crystal, ethanol, small_options
from torch import Tensor, nn

from eqcalc.architectures import PaiNN, SchNet, build
from eqcalc.derivatives import forces_from_edge_gradients
from eqcalc.elements import atomic_number
from eqcalc.errors import ConfigError, GraphError, UnsupportedElementError
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential
from eqcalc.tabulated import exact_form

EXACT = {"rtol": 1e-12, "atol": 1e-12}


class Springs(nn.Module):
    """E_i = k/4 Σ_j d_ij², whose derivatives are known: g = k r/2 for every edge."""

    cutoff, n_hops = 3.0, 1

    def __init__(self, stiffness: float = 2.0) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        energies = 0.25 * self.stiffness * graph.edge_vectors.square().sum(dim=1)
        total = energies.new_zeros(graph.atomic_numbers.shape[0])
        return total.index_add(0, graph.edge_index[1], energies)


def _water() -> AtomicGraph:
    return build_graph(molecule("H2O"), 3.0)


def _squared_distances(atoms: Atoms) -> np.ndarray:
    return (atoms.get_all_distances() ** 2).sum(axis=1)


# --- reference energies and scale


def test_reference_energies_are_added_by_element():
    found = Potential(Springs(), {"H": -13.6, "O": -2041.5}).eval().evaluate(_water())
    expected = 0.5 * _squared_distances(molecule("H2O")) + np.array([-2041.5, -13.6, -13.6])
    np.testing.assert_allclose(found.energies.numpy(), expected, **EXACT)
    np.testing.assert_allclose(found.energy.numpy(), [expected.sum()], **EXACT)


def test_reference_energies_may_be_given_by_symbol_or_number():
    by_symbol = Potential(Springs(), {"H": -13.6, "O": -2041.5})
    by_number = Potential(Springs(), {1: -13.6, 8: -2041.5})
    torch.testing.assert_close(
        by_symbol.reference_energies, by_number.reference_energies, equal_nan=True, **EXACT
    )


def test_reference_energy_of_an_element_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"H is given twice, with -13\.6 and -1\.0; keep one"):
        Potential(build("schnet", cutoff=4.0), {"H": -13.6, "1": -1.0})


def test_no_reference_energies_mean_zero_for_every_element():
    atoms = Atoms([1, 92, 118], [[0, 0, 0], [0, 0, 50], [0, 50, 0]])
    found = Potential(Springs()).eval().evaluate(build_graph(atoms, 3.0))
    assert found.energies.tolist() == [0.0, 0.0, 0.0]


def test_scale_multiplies_the_network_and_not_the_references():
    found = Potential(Springs(), {"H": -1.0, "O": -2.0}, scale=3.0).eval().evaluate(_water())
    plain = Potential(Springs()).eval().evaluate(_water())
    shifts = torch.tensor([-2.0, -1.0, -1.0], dtype=torch.float64)
    torch.testing.assert_close(found.energies, 3.0 * plain.energies + shifts, **EXACT)
    torch.testing.assert_close(found.forces, 3.0 * plain.forces, **EXACT)


def test_energies_of_a_float32_network_are_scaled_in_float64():
    torch.manual_seed(0)
    network = PaiNN(8, 1, 4, 3.0, 1, return_force_vectors=False)
    graph = build_graph(molecule("H2O"), 3.0, dtype=torch.float32)
    expected = network.atomic_energies(graph).detach().double() * (1.0 / 3.0)
    found = Potential(network, scale=1.0 / 3.0).eval().evaluate(graph).energies
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=0.0)


def test_reference_energies_are_kept_and_added_in_float64():
    torch.manual_seed(0)
    network = PaiNN(8, 1, 4, 3.0, 1, return_force_vectors=False)
    references = {"H": -13.587222780835477, "O": -2041.8396277138045}
    with_references = Potential(network, references).eval()
    graph = build_graph(molecule("H2O"), 3.0, dtype=torch.float32)
    interaction = Potential(network).eval().evaluate(graph).energies
    shifts = np.array([references["O"], references["H"], references["H"]])
    expected = interaction.numpy() + shifts
    # float32 would round a sum of this size at 1e-4 eV.
    np.testing.assert_allclose(with_references.evaluate(graph).energies, expected, rtol=1e-15)


@pytest.mark.parametrize("cast", [nn.Module.float, nn.Module.half, nn.Module.double])
def test_casting_a_potential_casts_the_network_and_not_the_references(cast):
    network = PaiNN(8, 1, 4, 3.0, 1, return_force_vectors=False)
    potential = Potential(network, {"O": -2041.8396277138045}, scale=1.0 / 3.0)
    assert cast(potential) is potential
    assert next(network.parameters()).dtype == cast(nn.Linear(1, 1)).weight.dtype
    assert potential.reference_energies[8].item() == -2041.8396277138045
    assert potential.scale.item() == 1.0 / 3.0


def test_reference_energies_follow_to_another_device():
    potential = Potential(Springs(), {"O": -2.0}).to("meta")
    assert {tensor.device.type for tensor in potential.state_dict().values()} == {"meta"}


def test_reference_energies_travel_with_the_state():
    potential = Potential(Springs(), {"H": -1.0, "O": -2.0}, scale=2.5)
    other = Potential(Springs(9.0), {"C": 1.0})
    other.load_state_dict(potential.state_dict())
    torch.testing.assert_close(
        other.eval().evaluate(_water()), potential.eval().evaluate(_water()), **EXACT
    )


# --- refusals


class Dynamics(nn.Module):
    """A network that is no potential."""

    cutoff, n_hops = 5.0, 1


def test_architecture_without_atomic_energies_is_refused():
    with pytest.raises(ConfigError, match="Dynamics has no atomic_energies: it is not a potential"):
        Potential(Dynamics())


def test_architecture_without_cutoff_is_refused():
    with pytest.raises(ConfigError, match="SchNet was built without a cutoff; a potential needs"):
        Potential(SchNet(1, 8, 4))


@pytest.mark.parametrize("scale", [0.0, -1.5, float("nan"), float("inf")])
def test_scale_that_says_nothing_is_refused(scale):
    with pytest.raises(ConfigError, match=f"scale of Springs must be positive .* found {scale}"):
        Potential(Springs(), {"H": -1.0}, scale=scale)


@pytest.mark.parametrize("energy", [float("nan"), float("inf"), -float("inf")])
def test_reference_energy_that_is_not_finite_is_refused(energy):
    with pytest.raises(ConfigError, match=f"reference energy of C must be finite, found {energy}"):
        Potential(Springs(), {"H": -1.0, "C": energy})


@pytest.mark.parametrize(
    ("element", "match"),
    [
        ("Xx", r"'Xx' is no element's symbol or atomic number\."),
        ("h", r"'h' is no element's symbol or atomic number\. Did you mean 'H'\?"),
        ("X", r"'X' is no element's symbol"),
        ("", r"'' is no element's symbol"),
        ("119", r"'119' is no element's symbol"),
        ("6.0", r"'6.0' is no element's symbol"),
        (0, r"'0' is no element's symbol"),
        (-1, r"'-1' is no element's symbol"),
        (119, r"'119' is no element's symbol"),
    ],
)
def test_unknown_element_is_refused(element, match):
    with pytest.raises(ConfigError, match=match):
        atomic_number(element)
    with pytest.raises(ConfigError, match=match):
        Potential(Springs(), {element: 0.0})


@pytest.mark.parametrize(
    ("element", "number"), [("H", 1), ("Og", 118), (1, 1), (118, 118), ("6", 6)]
)
def test_elements_are_read_from_symbols_and_numbers(element, number):
    assert atomic_number(element) == number
    assert atomic_number(np.int64(number)) == number


def test_element_without_reference_energy_is_refused_with_its_atoms():
    potential = Potential(Springs(), {"C": -1.0, "H": -1.0}).eval()
    graph = build_graph(molecule("CH3CH2OH"), 3.0)
    with pytest.raises(
        UnsupportedElementError,
        match=r"this potential does not know O \(atoms 2\); it was trained on H, C\.",
    ):
        potential.evaluate(graph)


def test_element_without_reference_energy_is_nan_where_a_host_does_not_check():
    potential = Potential(Springs(), {"H": -1.0}).eval()
    energies, gradients = potential(_water())
    assert torch.isnan(energies).tolist() == [True, False, False]
    assert bool(torch.isfinite(gradients).all())


def test_evaluate_refuses_what_breaks_a_convention():
    graph = _water()
    with pytest.raises(GraphError, match="edges must be sorted by receiver"):
        Potential(Springs()).evaluate(graph._replace(edge_index=graph.edge_index.flip(1)))


# --- what is returned


def test_cutoff_and_hops_are_those_of_the_architecture():
    network = PaiNN(8, 3, 4, 4.5, 1)
    potential = Potential(network)
    assert (potential.cutoff, potential.n_hops) == (4.5, 3)


def test_forward_returns_the_gradient_of_the_owned_atoms_energy():
    graph = _water()
    potential = Potential(Springs()).eval()
    _, gradients = potential(graph)
    torch.testing.assert_close(gradients, graph.edge_vectors, **EXACT)
    _, gradients = potential(graph._replace(n_owned=1))
    received_by_first = (graph.edge_index[1] == 0).unsqueeze(1)
    torch.testing.assert_close(gradients, graph.edge_vectors * received_by_first, **EXACT)


def test_evaluate_sums_owned_atoms_only():
    found = (
        Potential(Springs(), {"H": -1.0, "O": -2.0}).eval().evaluate(_water()._replace(n_owned=2))
    )
    assert found.energies.shape == (3,)
    torch.testing.assert_close(found.energy, found.energies[:2].sum().reshape(1), **EXACT)


def test_evaluate_gives_each_structure_its_energy():
    found = Potential(Springs()).eval().evaluate(batch_graphs([_water(), _water()]))
    single = Potential(Springs()).eval().evaluate(_water())
    torch.testing.assert_close(found.energy, single.energy.repeat(2), **EXACT)
    torch.testing.assert_close(found.forces, single.forces.repeat(2, 1), **EXACT)


def test_stress_has_ases_sign_and_is_none_where_a_direction_is_open():
    potential = Potential(Springs()).eval()
    crystal = bulk("Cu", "fcc", a=3.6)
    found = potential.evaluate(build_graph(crystal, 3.0))
    # E grows with volume: the crystal pulls inwards, tension, positive in ASE.
    step = 1e-5
    energies = []
    for factor in (1 - step, 1 + step):
        strained = crystal.copy()
        strained.set_cell(crystal.cell.array * factor, scale_atoms=True)
        energies.append(potential.evaluate(build_graph(strained, 3.0)).energy.item())
    slope = (energies[1] - energies[0]) / (2 * step) / crystal.get_volume()
    assert found.stress.shape == (1, 3, 3)
    assert torch.trace(found.stress[0]).item() == pytest.approx(slope, rel=1e-6)
    assert slope > 0
    assert potential.evaluate(_water()).stress is None
    mixed = batch_graphs([_water(), build_graph(crystal, 3.0)])
    assert potential.evaluate(mixed).stress is None
    crystal.pbc = (True, True, False)
    assert potential.evaluate(build_graph(crystal, 3.0)).stress is None


def test_atoms_without_edges_have_zero_forces():
    found = (
        Potential(Springs(), {"H": -1.0})
        .eval()
        .evaluate(build_graph(Atoms("H2", [[0, 0, 0], [0, 0, 9]]), 3.0))
    )
    assert found.energies.tolist() == [-1.0, -1.0]
    assert torch.equal(found.forces, torch.zeros(2, 3, dtype=torch.float64))


class Constant(nn.Module):
    """A network whose energies do not depend on the edges at all."""

    cutoff, n_hops = 3.0, 0

    def __init__(self) -> None:
        super().__init__()
        self.energy = nn.Parameter(torch.tensor(1.5, dtype=torch.float64))

    def atomic_energies(self, graph: AtomicGraph) -> Tensor:
        return self.energy.expand(graph.atomic_numbers.shape[0])


def test_energies_that_ignore_the_edges_have_zero_forces():
    found = Potential(Constant()).eval().evaluate(_water())
    assert found.energies.tolist() == [1.5, 1.5, 1.5]
    assert torch.equal(found.forces, torch.zeros(3, 3, dtype=torch.float64))


def test_evaluate_in_evaluation_mode_returns_tensors_without_history():
    found = Potential(Springs()).eval().evaluate(_water())
    assert not any(tensor.requires_grad for tensor in (found.energy, found.energies, found.forces))


def test_evaluate_in_training_mode_can_be_differentiated_again():
    potential = Potential(Springs()).train()
    found = potential.evaluate(_water())
    (found.energy.sum() + found.forces.square().sum()).backward()
    energy = found.energy.item() / 2.0  # linear in the stiffness of 2
    squared = found.forces.detach().square().sum().item() / 2.0
    assert potential.architecture.stiffness.grad.item() == pytest.approx(energy + 2 * squared)


def test_evaluate_works_without_grad_mode_and_leaves_it():
    potential = Potential(Springs()).eval()
    with torch.no_grad():
        found = potential.evaluate(_water())
        assert not torch.is_grad_enabled()
    torch.testing.assert_close(found, potential.evaluate(_water()), **EXACT)


def test_evaluate_does_not_write_to_the_graph():
    graph = _water()
    vectors = graph.edge_vectors.clone()
    Potential(Springs()).train().evaluate(graph)
    assert torch.equal(graph.edge_vectors, vectors)
    assert not graph.edge_vectors.requires_grad


def test_forces_follow_from_the_returned_gradients():
    graph = _water()
    potential = Potential(Springs()).eval()
    _, gradients = potential(graph)
    torch.testing.assert_close(
        potential.evaluate(graph).forces,
        forces_from_edge_gradients(gradients, graph.edge_index, 3),
        **EXACT,
    )


# --- isolated atoms


def _network(name: str, dtype: torch.dtype = torch.float64, **options) -> nn.Module:
    torch.manual_seed(4)
    return build(name, **small_options(name) | options).to(dtype)


def _pair(name: str, dtype: torch.dtype = torch.float64, **options) -> tuple[Potential, Potential]:
    """Return two potentials of one network: isolated atoms exact, and as the network has them."""
    network = _network(name, dtype, **options)
    exact = Potential(network, REFERENCE_ENERGIES, scale=1.7, exact_isolated_atoms=True)
    return exact.eval(), Potential(network, REFERENCE_ENERGIES, scale=1.7).eval()


TO_ROUNDING = {torch.float64: 1e-12, torch.float32: 2e-6}
"""eV; of a sum of some ten numbers of the size of one."""


def _far_apart() -> Atoms:
    return Atoms("CHOH", np.diag([30.0, 60.0, 90.0, 0.0])[:, :3])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POTENTIALS)
def test_an_atom_alone_has_its_reference_energy_where_that_is_asked_for(name, dtype):
    exact, plain = _pair(name, dtype)
    for atoms in (Atoms("O"), _far_apart()):
        graph = build_graph(atoms, exact.cutoff, dtype=dtype)
        expected = [REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols]
        found = exact.evaluate(graph)
        np.testing.assert_allclose(found.energies, expected, rtol=0, atol=TO_ROUNDING[dtype])
        assert torch.equal(found.forces, torch.zeros_like(found.forces))
        if name in ("egnn", "gvp", "painn", "schnet"):  # whose atoms alone are not zero anyway
            assert float((plain.evaluate(graph).energies - found.energies).abs().max()) > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", POTENTIALS)
def test_exact_isolated_atoms_shift_energies_by_element_and_nothing_else(name, dtype):
    exact, plain = _pair(name, dtype)
    alone = {
        symbol: plain.evaluate(build_graph(Atoms(symbol), exact.cutoff, dtype=dtype)).energy.item()
        for symbol in "HCO"
    }
    for atoms in (ethanol(), crystal()):
        graph = build_graph(atoms, exact.cutoff, dtype=dtype)
        found, before = exact.evaluate(graph), plain.evaluate(graph)
        shifts = np.array([REFERENCE_ENERGIES[s] - alone[s] for s in atoms.symbols])
        np.testing.assert_allclose(
            found.energies, before.energies.numpy() + shifts, 1e-15, TO_ROUNDING[dtype]
        )
        assert torch.equal(found.forces, before.forces)
        if found.stress is not None:
            assert torch.equal(found.stress, before.stress)


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_form_that_is_trained_has_exact_isolated_atoms_too(name):
    network = exact_form(_network(name, torch.float32))
    potential = Potential(network, REFERENCE_ENERGIES, scale=1.7, exact_isolated_atoms=True)
    graphs = [
        build_graph(a, potential.cutoff, dtype=torch.float32) for a in (ethanol(), Atoms("C"))
    ]
    found = potential.train().evaluate(batch_graphs(graphs))
    np.testing.assert_allclose(found.energy[1].item(), REFERENCE_ENERGIES["C"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", POTENTIALS)
def test_every_parameter_learns_with_exact_isolated_atoms(name):
    exact, plain = _pair(name)
    gradients = []
    for potential in (exact.train(), plain.train()):
        found = potential.evaluate(build_graph(ethanol(), potential.cutoff))
        loss = found.energy.square().sum() * 1e-6 + found.forces.square().sum()
        parameters = dict(potential.named_parameters())
        slopes = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
        gradients.append(dict(zip(parameters, slopes, strict=True)))
    for parameter, slope in gradients[0].items():
        before = gradients[1][parameter]
        assert (slope is None) == (before is None), parameter
        if slope is not None:
            assert bool(torch.isfinite(slope).all()), parameter
    # What only shifts the energy of an element no longer changes anything, the rest learns.
    n_learning = sum(bool(g.abs().max() > 1e-12) for g in gradients[0].values() if g is not None)
    assert n_learning >= len(gradients[0]) - 3


@pytest.mark.parametrize("name", POTENTIALS)
def test_exact_isolated_atoms_have_the_gradient_of_the_energy_difference(name):
    exact, plain = _pair(name)
    graph = build_graph(Atoms("CO", [[0, 0, 0], [1.1, 0.2, 0.1]]), exact.cutoff)
    apart = build_graph(Atoms("CO", [[0, 0, 0], [30.0, 0, 0]]), exact.cutoff)
    for potential in (exact.train(), plain.train()):
        potential.zero_grad()
    exact.evaluate(graph).energy.sum().backward()
    found = {n: p.grad.clone() for n, p in exact.named_parameters() if p.grad is not None}
    exact.zero_grad()
    (plain.evaluate(graph).energy - plain.evaluate(apart).energy).sum().backward()
    assert found
    for parameter, value in plain.named_parameters():
        if value.grad is not None:
            torch.testing.assert_close(found[parameter], value.grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_scripted_potential_has_exact_isolated_atoms(name):
    exact, _ = _pair(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(exact)
    for atoms in (_far_apart(), ethanol(), crystal()):
        graph = build_graph(atoms, exact.cutoff)
        torch.testing.assert_close(scripted(graph), exact(graph), rtol=1e-12, atol=1e-11)


def test_exact_isolated_atoms_of_a_network_that_knows_few_elements():
    exact, _ = _pair("nequip", elements=["C", "H", "O"])
    everything = Potential(exact.architecture, scale=1.7, exact_isolated_atoms=True).eval()
    for atoms in (Atoms("O"), _far_apart()):
        graph = build_graph(atoms, exact.cutoff)
        expected = [REFERENCE_ENERGIES[symbol] for symbol in atoms.symbols]
        np.testing.assert_allclose(exact.evaluate(graph).energies, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(everything.evaluate(graph).energies, 0.0, rtol=0, atol=1e-12)


def test_exact_isolated_atoms_follow_weights_and_reference_energies():
    exact, _ = _pair("painn")
    other = Potential(_network("painn"), {"N": -5.0}, exact_isolated_atoms=True).eval()
    other.load_state_dict(exact.state_dict())
    with torch.no_grad():
        other.architecture.embedding.weight.add_(0.3)
        other.reference_energies[8] = -100.0
    found = other.evaluate(build_graph(Atoms("OH", [[0, 0, 0], [0, 0, 40]]), exact.cutoff))
    expected = [-100.0, REFERENCE_ENERGIES["H"]]
    np.testing.assert_allclose(found.energies, expected, rtol=0, atol=1e-12)


# --- sites of high symmetry


def _force_constants(network: nn.Module) -> list[float]:
    """Return force over displacement (eV/Å²) of an atom of perfect diamond, as it is displaced."""
    potential = Potential(network, {"Si": -1.0}).eval()
    found = []
    for displacement in (1e-4, 1e-3, 1e-2):
        atoms = bulk("Si", "diamond", a=5.43, cubic=True)
        atoms.positions[0, 0] += displacement
        forces = potential.evaluate(build_graph(atoms, potential.cutoff)).forces
        found.append(-float(forces[0, 0]) / displacement)
    return found


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_force_constant_at_a_symmetric_site_does_not_depend_on_the_displacement(name):
    constants = _force_constants(_network(name))
    assert max(constants) - min(constants) < 0.05 * max(map(abs, constants))
    assert max(map(abs, constants)) > 1e-6


def test_the_published_norm_has_a_kink_at_a_symmetric_site():
    constants = _force_constants(_network("painn", vector_norm="published"))
    assert max(constants) - min(constants) > 0.3 * max(map(abs, constants))
