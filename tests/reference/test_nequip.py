"""NequIP against plain loops from the slides' formula, and the physics of its energies."""

from __future__ import annotations

import doctest
import json
import math
import warnings
from dataclasses import asdict

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from eqcalc import EqCalculator
from eqcalc.architectures import NequIP, build, nequip
from eqcalc.architectures.nequip import feature_layouts
from eqcalc.errors import ConfigError, UnsupportedElementError
from eqcalc.export import export_model
from eqcalc.graph import AtomicGraph, batch_graphs
from eqcalc.neighbours import build_graph
from eqcalc.nn.so3 import Irrep
from eqcalc.potential import Potential

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from e3nn import o3

EXACT = {"rtol": 0.0, "atol": 1e-10}
"""float64: two ways of summing the same terms; energies and features are of order one."""

SINGLE = {"rtol": 0.0, "atol": 1e-4}
"""float32: a few layers of sums over up to a hundred terms, forces up to 10 eV/Å."""

DERIVATIVE = {"rtol": 0.0, "atol": 1e-7}
"""Central differences of fourth order, float64."""

CUTOFF = 3.0
SMALL = {
    "num_features": 4,
    "num_bessels": 3,
    "radial_mlp_depth": 2,
    "radial_mlp_width": 5,
    "cut_off": CUTOFF,
}


def small(l_max: int = 2, parity: bool = True, **options) -> NequIP:
    """Return a small network in float64, every parameter off its initial value."""
    torch.manual_seed(4)
    network = NequIP(l_max, parity, **(SMALL | {"num_layers": 4} | options)).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def structure(seed: int = 1) -> Atoms:
    atoms = molecule("CH3OH")
    atoms.rattle(0.1, seed=seed)
    return atoms


def graph_of(atoms: Atoms, cutoff: float = CUTOFF, dtype=torch.float64) -> AtomicGraph:
    return build_graph(atoms, cutoff, dtype=dtype)


def rotation(improper: bool) -> np.ndarray:
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q = q * np.linalg.det(q)
    return -q if improper else q


# --- every layer, by loops over edges and paths


UNIT_SILU, UNIT_TANH = 1.67653247033109116, 1.59253741972283143
"""1/√⟨f(z)²⟩ over a standard normal z, to 18 digits by mpmath's quadrature."""


def _unit_silu(x: Tensor) -> Tensor:
    return UNIT_SILU * x * torch.sigmoid(x)


def _slow_radial_weights(network: NequIP, layer: int, d: float) -> Tensor:
    """Return the weights of one edge, (n_weights,)."""
    config = network.config
    p, x = config.polynomial_cutoff_p, d / config.cut_off
    envelope = 1 - (p + 1) * (p + 2) / 2 * x**p + p * (p + 2) * x ** (p + 1)
    envelope = (envelope - p * (p + 1) / 2 * x ** (p + 2)) if x < 1 else 0.0
    values = []
    for n in network.radial_basis.frequencies.tolist():
        frequency = n * math.pi / config.cut_off
        values.append(2 / config.cut_off * math.sin(frequency * d) / d * envelope)
    x = torch.tensor(values, dtype=torch.float64)
    weights = [p for name, p in network.interactions[layer].radial_network.named_parameters()]
    for k, weight in enumerate(weights):
        x = x @ weight / math.sqrt(len(x))
        x = _unit_silu(x) if k < len(weights) - 1 else x
    return x


def _slow_convolution(
    network: NequIP, layer: int, features: dict[Irrep, Tensor], targets: list[Irrep], graph
) -> dict[Irrep, Tensor]:
    """Return Σ_j Σ_{m_f m'} C h Y R for each target irrep, paths beside each other."""
    l_max, n_atoms = network.config.l_max, len(graph.atomic_numbers)
    paths = []
    for s, source in enumerate(features):
        for target in targets:
            for l in range(abs(source.l - target.l), min(source.l + target.l, l_max) + 1):
                if source.parity * (-1) ** l == target.parity:
                    odd = (source.l + l + target.l) % 2
                    paths.append(((s, odd, target.l, l), source, target))
    paths.sort()
    channels = network.config.num_features
    zero = {t: torch.zeros(n_atoms, 2 * t.l + 1, channels, dtype=torch.float64) for t in targets}
    sums = [(target, zero[target].clone()) for _, _, target in paths]
    for (j, i), vector in zip(graph.edge_index.T.tolist(), graph.edge_vectors, strict=True):
        weights = _slow_radial_weights(network, layer, float(vector.norm()))
        for k, ((_, _, _, l), source, target) in enumerate(paths):
            c = o3.wigner_3j(source.l, l, target.l, dtype=torch.float64)
            y = o3.spherical_harmonics(l, vector, True, "component")
            message = torch.einsum("abc,an,b->cn", c, features[source][j], y)
            message = message * weights[k * channels : (k + 1) * channels]
            sums[k][1][i] += math.sqrt(2 * target.l + 1) * message
    return {
        target: torch.cat([total for to, total in sums if to == target], dim=2)
        for target in targets
    }


def _slow_layer(network: NequIP, layer: int, features: dict[Irrep, Tensor], graph, species):
    """Return the features behind one interaction."""
    block, config = network.interactions[layer], network.config
    targets = list(feature_layouts(config)[layer + 1])
    n = config.num_features
    mixed = {
        irrep: x @ weight / math.sqrt(n)
        for (irrep, x), weight in zip(features.items(), block.mix_before.weights, strict=True)
    }
    messages = _slow_convolution(network, layer, mixed, targets, graph)
    after = {}
    for target, weight in zip(targets, block.mix_after.weights, strict=True):
        x = messages[target] / math.sqrt(config.avg_num_neighbors)
        after[target] = x @ weight / math.sqrt(x.shape[2])
    if layer > 0 or config.first_self_connection:
        shared = [irrep for irrep in targets if irrep in features]
        for irrep, weight in zip(shared, block.self_connection.weights, strict=True):
            for atom, kind in enumerate(species):
                after[irrep][atom] += features[irrep][atom] @ weight[kind] / math.sqrt(n)
    scalars = _unit_silu(after[Irrep(0, 1)])
    out, used = {Irrep(0, 1): scalars[:, :, :n]}, n
    for irrep in targets[1:]:
        if irrep == Irrep(0, -1):
            out[irrep] = UNIT_TANH * torch.tanh(after[irrep])
        else:
            out[irrep] = scalars[:, :, used : used + n] * after[irrep]
            used += n
    return out


@pytest.mark.parametrize(
    ("l_max", "options"),
    [
        (2, {}),
        (1, {"num_layers": 6, "bessel_trainable": False, "avg_num_neighbors": 0.5}),  # has 0o
        (3, {"num_layers": 2, "parity": False, "polynomial_cutoff_p": 4}),
        (0, {"num_layers": 2}),
        (
            1,
            {
                "num_layers": 2,
                "first_self_connection": True,
                "per_species_shift": True,
                "per_species_scale": False,
            },
        ),
    ],
)
def test_every_layer_equals_loops_over_edges_and_paths(l_max, options):
    network = small(l_max, elements=["H", "C", "O"], **({"avg_num_neighbors": 3.7} | options))
    graph = graph_of(Atoms("COHH", structure().positions[[0, 1, 2, 3]]))
    found = []
    for interaction in network.interactions:
        interaction.register_forward_hook(lambda *args: found.append(args[2]))
    energies = network.atomic_energies(graph)

    with torch.no_grad():
        species = [[1, 6, 8].index(z) for z in graph.atomic_numbers.tolist()]
        features = {Irrep(0, 1): network.embedding.weight[species].unsqueeze(1)}
        for layer in range(network.config.num_layers):
            features = _slow_layer(network, layer, features, graph, species)
            assert len(found[layer]) == len(features)
            for block, expected in zip(found[layer], features.values(), strict=True):
                assert float(expected.abs().max()) > 1e-3
                torch.testing.assert_close(block, expected, **EXACT)
        first, second = (linear.weight for linear in network.readout)
        expected = features[Irrep(0, 1)][:, 0] @ first / math.sqrt(len(first))
        expected = (expected @ second / math.sqrt(len(second)))[:, 0]
        if network.species_scale is not None:
            expected = expected * network.species_scale[species]
        if network.species_shift is not None:
            expected = expected + network.species_shift[species]
    torch.testing.assert_close(energies, expected, **EXACT)


def test_deep_networks_carry_both_parities():
    config = small(1, num_layers=6).config
    names = [" ".join(map(str, irreps)) for irreps in feature_layouts(config)]
    assert names == ["0e", "0e 1o", "0e 1o 1e", "0e 0o 1o 1e", "0e 1o 1e", "0e 1o", "0e"]


def test_natural_parity_has_no_odd_paths():
    for irreps in feature_layouts(small(3, parity=False, num_layers=6).config):
        assert all(irrep.is_natural for irrep in irreps)


# --- symmetry and derivatives


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize(
    ("l_max", "parity", "num_layers"), [(2, True, 4), (1, True, 6), (3, False, 3)]
)
def test_energies_stay_and_forces_turn(l_max, parity, num_layers, improper):
    potential = Potential(small(l_max, parity, num_layers=num_layers)).eval()
    atoms, q = structure(), rotation(improper)
    turned = Atoms(atoms.numbers, atoms.positions @ q.T)
    before, after = potential.evaluate(graph_of(atoms)), potential.evaluate(graph_of(turned))
    assert float(before.forces.abs().max()) > 1e-2
    torch.testing.assert_close(after.energies, before.energies, **EXACT)
    torch.testing.assert_close(after.forces, before.forces @ torch.from_numpy(q.T), **EXACT)


@pytest.mark.parametrize("l_max", range(5))
@pytest.mark.parametrize("parity", [False, True])
def test_forces_are_the_energy_derivative(l_max, parity):
    potential = Potential(small(l_max, parity, num_layers=2 if l_max > 2 else 4)).eval()
    atoms = structure()
    forces = potential.evaluate(graph_of(atoms)).forces
    step, slope = 1e-3, 0.0
    for multiple, weight in {-2: 1 / 12, -1: -2 / 3, 1: 2 / 3, 2: -1 / 12}.items():
        moved = atoms.copy()
        moved.positions[1] += multiple * step * np.array([0.6, -0.48, 0.64])
        slope += weight * float(potential.evaluate(graph_of(moved)).energy[0]) / step
    direction = torch.tensor([0.6, -0.48, 0.64], dtype=torch.float64)
    torch.testing.assert_close(forces[1] @ direction, torch.tensor(-slope).double(), **DERIVATIVE)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_second_derivatives_are_finite_on_lines_and_planes(dtype):
    potential = Potential(small(3).to(dtype)).train()
    for name in ("CO2", "C2H2", "H2", "C6H6"):
        graph = graph_of(molecule(name), dtype=dtype)
        potential.zero_grad()
        energies, gradients = potential(graph)
        (energies.sum() + gradients.square().sum()).backward()
        for key, parameter in potential.named_parameters():
            assert bool(torch.isfinite(parameter.grad).all()), f"{name}: {key}"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 1},
        {"num_layers": 6},
        {"parity": False},
        {"first_self_connection": True, "per_species_shift": True},
    ],
)
@pytest.mark.parametrize("l_max", [0, 1, 2])
def test_every_parameter_receives_a_gradient(l_max, options):
    network = small(l_max, elements=["H", "C", "O"], **options)
    potential = Potential(network).train()
    energies, gradients = potential(graph_of(structure()))
    (energies.sum() + gradients.square().sum()).backward()
    for name, parameter in network.named_parameters():
        assert float(parameter.grad.abs().max()) > 0.0, name


def test_last_edge_vanishes_smoothly_at_the_cutoff():
    potential = Potential(small(2)).eval()

    def found(distance: float):
        return potential.evaluate(graph_of(Atoms("CO", [[0, 0, 0], [0, distance, 0]]), 9.0))

    far = found(CUTOFF)
    assert float(far.energies.abs().max()) == 0.0
    assert float(far.forces.abs().max()) == 0.0
    energies = [float(found(CUTOFF - delta).energies.abs().max()) for delta in (1e-2, 1e-3)]
    forces = [float(found(CUTOFF - delta).forces.abs().max()) for delta in (1e-2, 1e-3)]
    assert math.log10(energies[0] / energies[1]) > 2.9
    assert math.log10(forces[0] / forces[1]) > 1.9


# --- atoms without neighbours, species


def test_isolated_atom_has_exactly_its_reference_energy():
    potential = Potential(small(2), {"C": -1.5, "O": -2.0}).eval()
    graph = graph_of(Atoms("CO", [[0, 0, 0], [0, 0, 50.0]]))
    assert graph.edge_index.shape[1] == 0
    found = potential.evaluate(graph)
    assert found.energies.tolist() == [-1.5, -2.0]
    assert found.forces.abs().max() == 0.0


def test_first_self_connection_gives_an_isolated_atom_its_own_energy():
    potential = Potential(small(2, first_self_connection=True)).eval()
    found = potential.evaluate(graph_of(Atoms("CO", [[0, 0, 0], [0, 0, 50.0]])))
    assert bool(torch.isfinite(found.energies).all())
    assert abs(float(found.energies[0] - found.energies[1])) > 1e-3
    assert found.forces.abs().max() == 0.0


def test_batch_equals_singles():
    potential = Potential(small(2)).eval()
    structures = [Atoms("C"), structure(1), Atoms("O"), molecule("CO2"), structure(2)]
    graphs = [graph_of(atoms) for atoms in structures]
    together = potential.evaluate(batch_graphs(graphs))
    singles = [potential.evaluate(graph) for graph in graphs]
    torch.testing.assert_close(
        together.energies, torch.cat([single.energies for single in singles]), **EXACT
    )
    torch.testing.assert_close(
        together.forces, torch.cat([single.forces for single in singles]), **EXACT
    )


def test_parameters_exist_for_the_chosen_elements_only():
    network = small(1, elements=[8, "H", "C"])
    assert network.config.elements == ("H", "C", "O")
    assert network.embedding.weight.shape[0] == 3
    whole = small(1)
    assert whole.embedding.weight.shape[0] == 118
    with torch.no_grad():
        rows = torch.tensor([0, 5, 7])
        state = whole.state_dict()
        for key, value in state.items():
            if value.dim() > 0 and value.shape[0] == 118:
                state[key] = value[rows]
        network.load_state_dict(state)
    graph = graph_of(structure())
    torch.testing.assert_close(
        network.atomic_energies(graph), whole.atomic_energies(graph), **EXACT
    )


def test_element_without_parameters_has_no_energy():
    network = small(1, elements=["H", "C"])
    graph = graph_of(structure())
    energies = network.atomic_energies(graph)
    assert torch.isnan(energies).tolist() == [z == 8 for z in graph.atomic_numbers]
    with pytest.raises(UnsupportedElementError, match="does not know O"):
        Potential(network, {"H": 0.0, "C": 0.0}).evaluate(graph)


# --- precision, files, memory


def test_float32_agrees_with_float64():
    network, atoms = small(2), structure()
    expected = Potential(network).eval().evaluate(graph_of(atoms))
    potential = Potential(network.float()).eval()
    found = potential.evaluate(graph_of(atoms, dtype=torch.float32))
    torch.testing.assert_close(found.energies, expected.energies, **SINGLE)
    torch.testing.assert_close(found.forces, expected.forces, **SINGLE)


@pytest.mark.parametrize(
    ("l_max", "options"),
    [
        (0, {"num_layers": 2}),
        (2, {}),
        (1, {"num_layers": 6, "per_species_scale": False, "bessel_trainable": False}),
    ],
)
def test_exported_file_gives_the_same_numbers(l_max, options, tmp_path):
    network = small(l_max, elements=["H", "C", "O"], **options).float()  # rounds parameters only
    potential = Potential(network, {"H": -1.0, "C": -2.0, "O": -3.0})
    card = export_model(potential, tmp_path / "model.pt", elements=["H", "C", "O"])
    assert (card.architecture, card.n_hops) == ("nequip", network.config.num_layers)
    expected = Potential(network.double(), {"H": -1.0, "C": -2.0, "O": -3.0}).eval()
    calculator = EqCalculator(tmp_path / "model.pt", device="cpu", dtype="float64")
    for improper in (False, True):
        atoms = structure()
        atoms.positions = atoms.positions @ rotation(improper)
        evaluation = expected.evaluate(graph_of(atoms))
        atoms.calc = calculator
        assert atoms.get_potential_energy() == pytest.approx(float(evaluation.energy), abs=1e-10)
        found = torch.from_numpy(atoms.get_forces())
        torch.testing.assert_close(found, evaluation.forces, **EXACT)


def test_options_survive_the_card():
    options = asdict(small(1, elements=["O", "H"], num_layers=2).config)
    rebuilt = build("nequip", **json.loads(json.dumps(options)))
    assert asdict(rebuilt.config) == options


class _LargestTensor(TorchDispatchMode):
    """Record the largest result of any operation."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, Tensor) and tensor._base is None:
                self.largest = max(self.largest, tensor.numel())
        return result


def test_no_tensor_holds_all_paths_channels_and_components_of_every_edge():
    network = small(3, num_layers=4, num_features=32, elements=["H", "C", "O"])
    atoms = molecule("C6H6")
    atoms.extend(structure())
    graph = graph_of(atoms, 9.0)
    n_edges = graph.edge_index.shape[1]
    irreps, n_rows = [list(layout) for layout in feature_layouts(network.config)[1:3]], 0
    for source in irreps[0]:
        for target in irreps[1]:
            n_rows += target.dim * len(source.filters_to(target, 3))
    all_of_it = n_edges * n_rows * 32
    with _LargestTensor() as record:
        Potential(network).eval()(graph)
    assert n_edges * 32 < record.largest < all_of_it / 2


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"l_max": -1}, "l_max must be an integer >= 0, found -1"),
        ({"l_max": 7}, "l_max must be at most 6, found 7"),
        ({"l_max": 1.5}, "l_max must be an integer >= 0, found 1.5"),
        ({"parity": "o3_full"}, "parity must be True or False, found 'o3_full'"),
        ({"bessel_trainable": 1}, "bessel_trainable must be True or False, found 1"),
        ({"num_features": 0}, "num_features must be an integer >= 1, found 0"),
        ({"num_layers": 0}, "num_layers must be an integer >= 1, found 0"),
        ({"polynomial_cutoff_p": 0}, "polynomial_cutoff_p must be an integer >= 1, found 0"),
        ({"radial_mlp_depth": 0}, "radial_mlp_depth must be an integer >= 1, found 0"),
        ({"cut_off": -4.0}, "cut_off must be a positive number, found -4.0"),
        ({"avg_num_neighbors": 0}, "avg_num_neighbors must be a positive number, found 0"),
        ({"elements": "CHO"}, r"elements must be a list such as \['H', 'C'\], found 'CHO'"),
        ({"elements": []}, r"elements must be a list such as \['H', 'C'\], found \[\]"),
        ({"elements": ["C", "Xx"]}, "'Xx' is no element's symbol or atomic number"),
        ({"elements": [6, 119]}, "'119' is no element's symbol or atomic number"),
        ({"r_max": 4.0}, "nequip has no option 'r_max'"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        build("nequip", **options)


def test_unknown_option_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"NequIP has no option 'num_layer'.*'num_layers'"):
        NequIP(1, True, num_layer=2)


def test_examples_in_docstrings_are_true():
    assert doctest.testmod(nequip).failed == 0
