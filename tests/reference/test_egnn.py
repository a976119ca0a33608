"""EGNN: the documented layer and the potential, both recomputed by plain loops."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from ase import Atoms
from by_loops import (
    EXACT,
    Weights,
    assert_directed_edge_vanishes,
    assert_every_parameter_learns,
    assert_exported_file_agrees,
    assert_forces_by_finite_differences,
    assert_signature,
    bare_molecule,
    edges_of,
    envelope,
    incoming,
    perturbed,
    rattled,
    rotation,
    silu,
    structures,
)
from torch import Tensor

from eqcalc.architectures import EGNN, EquivariantGraphConvolutionalLayer, build
from eqcalc.errors import ConfigError, GraphError
from eqcalc.export import read_archive, write_archive
from eqcalc.neighbours import build_graph
from eqcalc.nn.envelope import polynomial_envelope

CUTOFF, F, H, BETA = 3.0, 5, 7, 1.3

OPTIONS = [
    {},
    {"attention": True},
    {"normalize": True},
    {"tanh": True},
    {"attention": True, "normalize": True, "tanh": True},
]
LABELS = ["plain", "attention", "normalize", "tanh", "all"]


def _layer(velocity: bool = False, **options) -> EquivariantGraphConvolutionalLayer:
    torch.manual_seed(4)
    return perturbed(EquivariantGraphConvolutionalLayer(F, H, BETA, velocity, **options))


def _network(**options) -> EGNN:
    torch.manual_seed(4)
    options = {"swish_beta": BETA, "avg_num_neighbors": 6.0} | options
    return perturbed(EGNN(F, 3, CUTOFF, **options))


def _inputs(n: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return features, degrees, coordinates, edges and velocities; atom 5 has no edge."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.tensor([[1, 2, 3, 0, 2, 0, 1, 4, 0, 3], [0, 0, 0, 1, 1, 2, 2, 3, 3, 4]])
    features, x, v = (
        torch.randn((6, size), generator=generator, dtype=torch.float64) for size in (F, n, n)
    )
    return features, torch.bincount(index[1], minlength=6), x, index, v


# --- the documented interface


def test_constructor_and_forward_have_the_documented_names_in_order():
    names = ["in_dim", "hidden_dim", "swish_beta", "velocity"]
    assert_signature(EquivariantGraphConvolutionalLayer.__init__, names, {"velocity": False})
    names = ["node_feat", "degree", "coordinate", "edge_index", "velocity_vector"]
    assert_signature(EquivariantGraphConvolutionalLayer.forward, names, {"velocity_vector": None})


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_layer_returns_coordinates_features_and_velocities(n):
    features, degree, x, index, v = _inputs(n)
    found = _layer()(features, degree, x, index)
    assert [None if t is None else tuple(t.shape) for t in found] == [(6, n), (6, F), None]
    found = _layer(True)(features, degree, x, index, v)
    assert [tuple(t.shape) for t in found] == [(6, n), (6, F), (6, n)]


def _layer_by_loops(layer, features, degree, x, index, v=None):
    """Return the layer's outputs from the equations of REFERENCE, one neighbour at a time."""
    w, config = Weights(layer), layer
    xs, hs, vs = [], [], []
    for i in range(len(x)):
        total_m, total_x = np.zeros(H), np.zeros(x.shape[1])
        for j, receiver in index.T:
            if receiver != i:
                continue
            difference = x[i] - x[j]
            m = _message(w, "", features[i], features[j], difference)
            f = 1.0
            if config.cutoff is not None:
                f = envelope(math.sqrt(float(difference @ difference)) / config.cutoff)
            total_m = total_m + m * f
            total_x = total_x + _move(w, "", m, difference, config.normalize, layer) * f
        move = total_x / max(int(degree[i]), 1)
        if v is not None:
            move = w.mlp("velocity", features[i], _swish)[0] * v[i] + move
        vs.append(move)
        xs.append(x[i] + move)
        hs.append(features[i] + w.mlp("feature", np.concatenate([features[i], total_m]), _swish))
    return np.array(xs), np.array(hs), None if v is None else np.array(vs)


def _swish(x: np.ndarray) -> np.ndarray:
    return silu(x, BETA)


def _message(w: Weights, name: str, h_i, h_j, difference) -> np.ndarray:
    square = np.array([difference @ difference])
    first = w.linear(f"{name}from_receiver", h_i) + w.linear(f"{name}from_sender", h_j)
    first = first + w.linear(f"{name}from_square", square)
    m = _swish(w.linear(f"{name}message", _swish(first)))
    if f"{name}attention.weight" in w.arrays:
        m = m / (1.0 + np.exp(-w.linear(f"{name}attention", m)))
    return m


def _move(w: Weights, name: str, m, difference, normalize: bool, layer) -> np.ndarray:
    gate = w.linear(f"{name}coordinate.2", _swish(w.linear(f"{name}coordinate.0", m)))[0]
    if len(layer.coordinate) == 4:
        gate = math.tanh(gate)
    if normalize:
        gate = gate / (math.sqrt(float(difference @ difference) + 1e-8) + 1.0)
    return difference * gate


@pytest.mark.parametrize("options", [*OPTIONS, {"cutoff": 2.0}], ids=[*LABELS, "cutoff"])
@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("n", [2, 3])
def test_layer_equals_the_equations_written_as_loops(options, velocity, n):
    layer = _layer(velocity, **options)
    features, degree, x, index, v = _inputs(n)
    arguments = (features, degree, x, index, v if velocity else None)
    found = layer(*arguments)
    expected = _layer_by_loops(layer, *(None if t is None else t.numpy() for t in arguments))
    for one, other in zip(found, expected, strict=True):
        if other is None:
            assert one is None
        else:
            np.testing.assert_allclose(one.detach().numpy(), other, **EXACT)


@pytest.mark.parametrize(
    ("velocity", "options"),
    [
        *((velocity, options) for velocity in (False, True) for options in OPTIONS),
        (True, {"cutoff": 2.0}),
        (False, {"moves_atoms": False}),
    ],
)
def test_scripted_layer_gives_the_eager_numbers(velocity, options):
    layer = _layer(velocity, **options)
    features, degree, x, index, v = _inputs()
    arguments = (features, degree, x, index, v if velocity else None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a layer alone is no model
        scripted = read_archive(write_archive(layer, layer, "{}", "{}"))
    for _ in range(3):
        found = scripted(*arguments)
    for one, other in zip(found, layer(*arguments), strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("options", OPTIONS, ids=LABELS)
@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("n", [2, 3])
def test_layer_is_equivariant(options, velocity, improper, n):
    layer = _layer(velocity, **options)
    features, degree, x, index, v = _inputs(n)
    turn, shift = rotation(improper, n), torch.arange(1.0, n + 1.0).double()
    before = layer(features, degree, x, index, v if velocity else None)
    assert float((before[0] - x).abs().max().detach()) > 1e-3
    after = layer(features, degree, x @ turn.T + shift, index, v @ turn.T if velocity else None)
    torch.testing.assert_close(after[0], before[0] @ turn.T + shift, **EXACT)
    torch.testing.assert_close(after[1], before[1], **EXACT)
    if velocity:
        torch.testing.assert_close(after[2], before[2] @ turn.T, **EXACT)


@pytest.mark.parametrize("velocity", [False, True])
def test_layer_does_not_depend_on_the_order_of_atoms_and_edges(velocity):
    layer = _layer(velocity)
    features, degree, x, index, v = _inputs()
    before = layer(features, degree, x, index, v if velocity else None)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    moved = torch.argsort(order)[index].flip(1)
    after = layer(features[order], degree[order], x[order], moved, v[order] if velocity else None)
    for one, other in zip(after, before, strict=True):
        if other is not None:
            torch.testing.assert_close(one, other[order], **EXACT)


@pytest.mark.parametrize("velocity", [False, True])
def test_atom_without_neighbours_is_finite_with_finite_gradients(velocity):
    layer = _layer(velocity, normalize=True)
    features, degree, x, index, v = _inputs()
    assert int(degree[5]) == 0
    leaf = x.clone().requires_grad_(True)
    for edges, counts in ((index, degree), (index[:, :0], torch.zeros_like(degree))):
        outputs = layer(features, counts, leaf, edges, v if velocity else None)
        total = torch.cat([t.flatten() for t in outputs if t is not None]).square().sum()
        (gradient,) = torch.autograd.grad(total, leaf)
        assert bool(torch.isfinite(total))
        assert bool(torch.isfinite(gradient).all())
    found = layer(features, degree, x, index, v if velocity else None)
    if not velocity:
        assert torch.equal(found[0][5], x[5])


@pytest.mark.parametrize("velocity", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_keeps_the_dtype_and_leaves_its_inputs_alone(velocity, dtype):
    features, degree, x, index, v = _inputs()
    arguments = [features.to(dtype), degree, x.to(dtype), index, v.to(dtype)]
    before = [t.clone() for t in arguments]
    found = _layer(velocity).to(dtype)(*arguments[:4], arguments[4] if velocity else None)
    assert all(t is None or t.dtype == dtype for t in found)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))


def test_degree_may_be_of_any_number_type():
    features, degree, x, index, _ = _inputs()
    layer = _layer()
    expected = layer(features, degree, x, index)[0]
    for dtype in (torch.int32, torch.float32, torch.float64):
        torch.testing.assert_close(
            layer(features, degree.to(dtype), x, index)[0], expected, **EXACT
        )


def test_neighbours_own_features_matter():
    features, degree, x, index, _ = _inputs()
    layer = _layer()
    before = layer(features, degree, x, index)
    changed = features.clone()
    changed[4] += 0.5  # a neighbour of atom 3 only
    after = layer(changed, degree, x, index)
    for one, other in zip(after[:2], before[:2], strict=True):
        difference = (one - other).abs().amax(dim=1)
        assert float(difference[3].detach()) > 1e-5
        assert float(difference[[0, 1, 2]].max().detach()) == 0.0


def test_gates_are_one_number_per_edge_and_not_per_axis():
    features, degree, x, index, _ = _inputs()
    pair = index[:, 3:4]  # one edge, 0→1
    move = (_layer()(features, degree, x, pair)[0] - x)[1].detach().numpy()
    direction = (x[1] - x[0]).numpy()
    assert np.abs(np.cross(move, direction)).max() < 1e-14
    assert np.abs(move).max() > 1e-6


def test_coordinate_network_starts_near_zero():
    torch.manual_seed(0)
    layer = EquivariantGraphConvolutionalLayer(F, 64, 1.0)
    assert float(layer.coordinate[2].weight.abs().max().detach()) <= 0.001 * math.sqrt(6.0 / 65.0)
    assert layer.coordinate[2].bias is None


@pytest.mark.parametrize("options", OPTIONS, ids=LABELS)
@pytest.mark.parametrize("velocity", [False, True])
def test_every_parameter_of_the_layer_receives_a_gradient(options, velocity):
    layer = _layer(velocity, **options)
    features, degree, x, index, v = _inputs()
    outputs = layer(features, degree, x, index, v if velocity else None)
    torch.cat([t.flatten() for t in outputs if t is not None]).square().sum().backward()
    silent = [
        name
        for name, parameter in layer.named_parameters()
        if parameter.grad is None or float(parameter.grad.abs().max()) == 0.0
    ]
    assert silent == []


def test_bounded_coordinate_messages_move_atoms_by_less_than_one():
    features, degree, x, index, _ = _inputs()
    layer = _layer(normalize=True, tanh=True)
    with torch.no_grad():
        layer.coordinate[2].weight.mul_(1e6)
    moves = layer(features, degree, 1e3 * x, index)[0] - 1e3 * x
    assert 0.5 < float(moves.norm(dim=1).max().detach()) < 1.0


# --- the potential


def _energies_by_loops(network: EGNN, atoms: Atoms) -> np.ndarray:
    w, config, n_atoms = Weights(network), network.config, len(atoms)
    edges = edges_of(atoms, CUTOFF)
    h = [w.arrays["embedding.weight"][z] for z in atoms.numbers]
    u = np.zeros((n_atoms, 3))
    for t, layer in enumerate(network.layers):
        name = f"layers.{t}."
        new_h, new_u = [], u.copy()
        for i in range(n_atoms):
            total = np.zeros(F)  # the width of messages is that of features
            for e in incoming(i, edges):
                f = envelope(e.length / CUTOFF)
                difference = -(e.vector + u[e.j] - u[i])
                m = _message(w, name, h[i], h[e.j], difference)
                total = total + m * f / math.sqrt(config.avg_num_neighbors)
                if layer.coordinate is not None:
                    move = _move(w, name, m, difference, config.normalize, layer)
                    new_u[i] += move * f / config.avg_num_neighbors
            update = w.mlp(f"{name}feature", np.concatenate([h[i], total]), _swish)
            new_h.append(h[i] + update)
        h, u = new_h, new_u
    return np.array([w.mlp("readout", h_i, _swish)[0] for h_i in h])


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"update_coordinates": False}], ids=[*LABELS, "fixed"]
)
@pytest.mark.parametrize("name", structures())
def test_atomic_energies_equal_the_equations_written_as_loops(options, name):
    atoms = structures()[name]
    network = _network(**{"attention": False} | options)
    found = network.atomic_energies(build_graph(atoms, CUTOFF)).detach().numpy()
    np.testing.assert_allclose(found, _energies_by_loops(network, atoms), **EXACT)


def test_displacements_of_atoms_matter():
    graph = build_graph(rattled("CH3OH"), CUTOFF)
    moving = _network()
    fixed = _network(update_coordinates=False)
    fixed.load_state_dict(moving.state_dict(), strict=False)
    difference = moving.atomic_energies(graph) - fixed.atomic_energies(graph)
    assert float(difference.abs().max().detach()) > 1e-4


def test_potential_moves_atoms_as_the_documented_layer_does():
    numbers, positions, index = bare_molecule("CH3OH")
    torch.manual_seed(4)
    network = perturbed(EGNN(F, 2, 9.0, swish_beta=BETA, avg_num_neighbors=1.0))
    first, second = network.layers
    ones = torch.ones_like(numbers)  # C = 1/avg_num_neighbors = 1
    moved, features, _ = first(network.embedding(numbers), ones, positions, index)
    assert float((moved - positions).abs().max().detach()) > 1e-3
    # The second layer on the moved atoms, with the envelope of the true distances.
    envelopes = polynomial_envelope((positions[index[0]] - positions[index[1]]).norm(dim=1), 9.0)
    messages = second.messages(features, moved[index[0]] - moved[index[1]], index)
    features = second.update(features, messages * envelopes.unsqueeze(1), index[1])
    expected = network.readout(features).squeeze(1)
    found = network.atomic_energies(build_graph(rattled("CH3OH"), 9.0))
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("options", OPTIONS, ids=LABELS)
@pytest.mark.parametrize("name", ["methanol", "copper", "salt"])
def test_forces_are_the_energy_derivative(options, name):
    assert_forces_by_finite_differences(_network(**options), structures()[name])


@pytest.mark.parametrize("options", OPTIONS, ids=LABELS)
def test_every_directed_edge_vanishes_smoothly_at_the_cutoff(options):
    assert_directed_edge_vanishes(_network(**options))


@pytest.mark.parametrize(
    "options", [*OPTIONS, {"update_coordinates": False}], ids=[*LABELS, "fixed"]
)
def test_every_parameter_receives_a_gradient(options):
    assert_every_parameter_learns(_network(**options), rattled("CH3CH2OH"))


@pytest.mark.parametrize(
    "options", [{"attention": False}, OPTIONS[4], {"update_coordinates": False, "swish_beta": 1.0}]
)
def test_exported_file_gives_the_eager_numbers(options, tmp_path):
    assert_exported_file_agrees(_network(**options), tmp_path / "model.pt", rattled("CH3OH"))


def test_default_options_are_the_published_ones():
    config = build("egnn").config
    assert (config.hidden_dim, config.num_layers, config.attention) == (128, 7, True)


# --- refusals


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: _layer()(*_inputs()), r"built with velocity=False, and velocity_vector is a tens"),
        (lambda: _layer(True)(*_inputs()[:4]), r"velocity=True, and velocity_vector is None"),
        (lambda: EquivariantGraphConvolutionalLayer(0, 4, 1.0), r"in_dim must be an integer >= 1"),
        (lambda: EquivariantGraphConvolutionalLayer(4, 0, 1.0), r"hidden_dim must be an integer"),
        (lambda: EquivariantGraphConvolutionalLayer(4, 4, 0.0), r"swish_beta must be a positive"),
        (lambda: _layer(cutoff=-1.0), r"cutoff must be a positive number, found -1\.0"),
        (lambda: _layer(True, moves_atoms=False), r"velocity=True needs moves_atoms=True"),
        (lambda: build("egnn", hidden_dim=0), r"hidden_dim must be an integer >= 1, found 0"),
        (lambda: build("egnn", num_layers=0), r"num_layers must be an integer >= 1, found 0"),
        (lambda: build("egnn", cutoff=math.inf), r"cutoff must be a positive number, found inf"),
        (lambda: build("egnn", avg_num_neighbors=0), r"avg_num_neighbors must be a positive"),
        (lambda: build("egnn", swish_beta=-1.0), r"swish_beta must be a positive number"),
        (lambda: build("egnn", atention=True), r"no option 'atention'.*Did you mean 'attention'\?"),
    ],
)
def test_options_out_of_range_are_refused_by_name(make, match):
    with pytest.raises(ConfigError, match=match):
        make()


@pytest.mark.parametrize(
    ("argument", "value", "match"),
    [
        (0, torch.zeros(6, 4), r"node_feat must have shape \(6, 5\), found \(6, 4\)"),
        (1, torch.zeros(6, 1), r"degree must have shape \(6,\), found \(6, 1\)"),
        (2, torch.zeros(5, 3), r"coordinate must have shape \(6, 3\), found \(5, 3\)"),
        (3, torch.zeros(3, 2), r"edge_index must have shape \(2, n_edges\), found \(3, 2\)"),
        (3, torch.tensor([[0, 6], [1, 1]]), r"must lie in 0\.\.5; out of range at edges 1\."),
        (3, torch.tensor([[0, 2], [1, 2]]), r"self-loops; found them at edges 1\."),
        (4, torch.zeros(6, 2), r"velocity_vector must have shape \(6, 3\), found \(6, 2\)"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(argument, value, match):
    arguments = list(_inputs())
    arguments[argument] = value
    with pytest.raises(GraphError, match=match):
        _layer(True)(*arguments)
