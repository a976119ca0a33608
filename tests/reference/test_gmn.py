"""GMN: the documented layer, its kinematics recomputed by plain loops, and the network."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from torch import nn

from eqcalc import architectures
from eqcalc.architectures import GMN, GMNLayer
from eqcalc.errors import ConfigError, GraphError
from eqcalc.nn.rotation import rotate
from eqcalc.potential import Potential

EXACT = {"rtol": 1e-10, "atol": 1e-10}
"""float64: two ways of summing the same few terms."""

COUNTS = [(4, 0, 0), (0, 1, 0), (0, 3, 0), (0, 0, 1), (0, 0, 3), (2, 3, 3), (1, 2, 4)]
KINEMATICS = pytest.mark.parametrize("learnable", [False, True], ids=["analytic", "learnable"])


def _inputs(counts=(2, 3, 3), *, in_dim=5, edge_attr_dim=2, dtype=torch.float64):
    """Return forward's arguments by name: random, with objects scattered over the atoms."""
    n0, n1, n2 = counts
    n = n0 + 2 * n1 + 3 * n2
    generator = torch.Generator().manual_seed(1)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    atoms = torch.randperm(n, generator=generator)
    pairs = [(j, i) for i in range(n) for j in range(n) if i != j and (i + j) % 5 != 0]
    edge_index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    objects = {}
    if n0:
        objects["isolated"] = atoms[:n0]
    if n1:
        objects["stick"] = atoms[n0 : n0 + 2 * n1].reshape(2, -1)
    if n2:
        objects["hinge"] = atoms[n0 + 2 * n1 :].reshape(3, -1)
    return {
        "node_feat": normal(n, in_dim),
        "node_pos": normal(n, 3),
        "velocity": 0.3 * normal(n, 3),
        "edge_index": edge_index,
        "degree": torch.bincount(edge_index[1], minlength=n).to(dtype),
        "object_index": objects,
        "edge_attr": normal(edge_index.shape[1], edge_attr_dim) if edge_attr_dim else None,
    }


def _perturbed(network, scale=0.1):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return network


def _layer(learnable=False, *, edge_attr_dim=2, dtype=torch.float64, **options):
    torch.manual_seed(2)
    layer = GMNLayer(5, 6, 5, edge_attr_dim, nn.SiLU(), learnable=learnable, **options)
    return _perturbed(layer.to(dtype))


def _rods(objects):
    pairs = []
    for kind in ("stick", "hinge"):
        for column in objects.get(kind, torch.zeros(2, 0, dtype=torch.int64)).T.tolist():
            pairs += [(column[0], end) for end in column[1:]]
    return pairs


@torch.no_grad()
def _rod_change(inputs, positions):
    """Return the largest change of a rod's length."""
    a, b = torch.tensor(_rods(inputs["object_index"])).T
    before, after = (
        torch.linalg.vector_norm(x[a].double() - x[b].double(), dim=1)
        for x in (inputs["node_pos"], positions)
    )
    return (after - before).abs().max().item()


# --- the documented interface


def test_constructor_has_the_documented_names_in_order():
    parameters = list(inspect.signature(GMNLayer).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == [
        "in_dim",
        "hidden_dim",
        "out_dim",
        "edge_attr_dim",
        "activation",
        "use_residual_connection",
        "learnable",
    ]
    defaults = {p.name: p.default for p in positional if p.default is not p.empty}
    assert isinstance(defaults.pop("activation"), nn.ReLU)
    assert defaults == {"edge_attr_dim": 0, "use_residual_connection": True, "learnable": False}
    others = [p for p in parameters if p not in positional]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in others)


def test_forward_has_the_documented_names_and_defaults():
    parameters = list(inspect.signature(GMNLayer.forward).parameters.values())[1:]
    assert [p.name for p in parameters] == [
        "node_feat",
        "node_pos",
        "velocity",
        "edge_index",
        "degree",
        "object_index",
        "edge_attr",
    ]
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == {
        "edge_attr": None
    }


@KINEMATICS
def test_layer_works_with_its_documented_defaults_and_returns_three_tensors(learnable):
    inputs = _inputs(edge_attr_dim=0, dtype=torch.float32)
    layer = GMNLayer(5, 6, 5, learnable=learnable)
    h, x, v = layer(*[value for name, value in inputs.items() if name != "edge_attr"])
    n = len(inputs["node_pos"])
    assert (h.shape, x.shape, v.shape) == ((n, 5), (n, 3), (n, 3))
    assert all(bool(torch.isfinite(found).all()) for found in (h, x, v))


def test_layer_without_residual_changes_the_width():
    layer = GMNLayer(5, 6, 7, 2, use_residual_connection=False).double()
    assert layer(**_inputs())[0].shape[1] == 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_layer_keeps_the_dtype(dtype):
    found = _layer(dtype=dtype)(**_inputs(dtype=dtype))
    assert all(tensor.dtype == dtype for tensor in found)


def test_integer_degrees_are_taken():
    inputs = _inputs()
    whole = {**inputs, "degree": inputs["degree"].to(torch.int64)}
    for found, expected in zip(_layer()(**whole), _layer()(**inputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=0.0, atol=0.0)


# --- recomputed object by object from the equations


def _mlp(mlp, x):
    hidden = mlp.hidden.weight.detach().numpy() @ x + mlp.hidden.bias.detach().numpy()
    silu = hidden / (1.0 + np.exp(-hidden))
    return mlp.out.weight.detach().numpy() @ silu + mlp.out.bias.detach().numpy()


def _silu(x):
    return x / (1.0 + np.exp(-x))


def _phi(mix, *vectors):
    z = np.stack(vectors, axis=1)
    gram = (z.T @ z).ravel()
    return z @ _mlp(mix.weights, gram / np.linalg.norm(gram))


def _turn(omega, r):
    """Return Rot(ω) r by Rodrigues' formula about the unit axis."""
    angle = np.linalg.norm(omega)
    k = omega / angle
    return r * np.cos(angle) + np.cross(k, r) * np.sin(angle) + k * (k @ r) * (1.0 - np.cos(angle))


def _forces(layer, h, x, edges, attributes):
    """Return Σ_j m_ij and f_i of every atom."""
    n = len(x)
    messages, forces, degree = np.zeros((n, 6)), np.zeros((n, 3)), np.zeros(n)
    for (j, i), a in zip(edges, attributes, strict=True):
        apart = x[i] - x[j]
        m = _silu(_mlp(layer.message.edge, np.concatenate([h[i], h[j], [apart @ apart], a])))
        first, last = layer.message.force[0], layer.message.force[2]
        hidden = _silu(first.weight.detach().numpy() @ m + first.bias.detach().numpy())
        messages[i] += m
        forces[i] += apart * float((last.weight.detach().numpy() @ hidden)[0])
        degree[i] += 1
    return messages, forces / np.maximum(degree, 1)[:, None]


def _move_stick(block, h, x, v, f):
    q, r = (x[0] + x[1]) / 2, (x[0] - x[1]) / 2
    h_c = h[0] + h[1]
    a = (_phi(block.mix, f[0]) + _phi(block.mix, f[1])) / 2
    inertia = sum((x[k] - q) @ (x[k] - q) for k in range(2))
    beta = sum(np.cross(x[k] - q, f[k]) for k in range(2)) / inertia
    omega = np.cross(r, (v[0] - v[1]) / 2) / (r @ r)
    omega = _mlp(block.rotation_gate, h_c) * omega + beta
    q_dot = _mlp(block.translation_gate, h_c) * (v[0] + v[1]) / 2 + a
    r = _turn(omega, r)
    spin = np.cross(omega, r)
    return [q + q_dot + r, q + q_dot - r], [q_dot + spin, q_dot - spin]


def _move_hinge(block, h, x, v, f):
    a = sum(_phi(block.mix, f[k], x[k] - x[0], v[k] - v[0]) for k in range(3)) / 3
    joint_v = _mlp(block.translation_gate, h[0] + h[1] + h[2]) * v[0] + a
    new_x, new_v = [x[0] + joint_v], [joint_v]
    for k in (1, 2):
        r = x[k] - x[0]
        omega = np.cross(r, v[k] - v[0]) / (r @ r)
        beta = np.cross(r, f[k] - a) / (r @ r)
        omega = _mlp(block.rotation_gate, h[k]) * omega + beta
        r = _turn(omega, r)
        new_x.append(x[0] + joint_v + r)
        new_v.append(joint_v + np.cross(omega, r))
    return new_x, new_v


def _move_learnable(block, h, x, v, f):
    is_hinge = len(x) == 3
    q = x[0] if is_hinge else (x[0] + x[1]) / 2
    vectors = [(f[k], x[k] - x[0], v[k] - v[0]) if is_hinge else (f[k],) for k in range(len(x))]
    a = sum(_phi(block.mean_mix, *z) for z in vectors) / len(x)
    new_v = [
        _mlp(block.velocity_gate, h[k]) * v[k] + _phi(block.mix, a, x[k] - q, f[k])
        for k in range(len(x))
    ]
    return [x[k] + new_v[k] for k in range(len(x))], new_v


@KINEMATICS
@pytest.mark.parametrize("counts", COUNTS, ids=str)
def test_layer_is_what_the_equations_say(counts, learnable):
    inputs, layer = _inputs(counts), _layer(learnable)
    h, x, v = (inputs[name].numpy() for name in ("node_feat", "node_pos", "velocity"))
    edges, attributes = inputs["edge_index"].T.tolist(), inputs["edge_attr"].numpy()
    messages, f = _forces(layer, h, x, edges, attributes)
    new_x, new_v = np.full_like(x, np.nan), np.full_like(v, np.nan)
    movers = {
        "stick": _move_learnable if learnable else _move_stick,
        "hinge": _move_learnable if learnable else _move_hinge,
    }
    for kind, index in inputs["object_index"].items():
        for column in index.reshape(-1, index.shape[-1]).T.tolist():
            if kind == "isolated":
                i = column[0]
                new_v[i] = _mlp(layer.isolated_gate, h[i]) * v[i] + f[i]
                new_x[i] = x[i] + new_v[i]
                continue
            block = getattr(layer, kind)
            new_x[column], new_v[column] = movers[kind](
                block, h[column], x[column], v[column], f[column]
            )
    new_h = [
        h[i] + _mlp(layer.feature_update, np.concatenate([h[i], messages[i]]))
        for i in range(len(h))
    ]
    found = layer(**inputs)
    for value, expected in zip(found, (np.array(new_h), new_x, new_v), strict=True):
        torch.testing.assert_close(value.detach(), torch.from_numpy(expected), **EXACT)


# --- rotations


def _cross_matrix(w):
    zero = torch.zeros((), dtype=w.dtype)
    return torch.stack([zero, -w[2], w[1], w[2], zero, -w[0], -w[1], w[0], zero]).reshape(3, 3)


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-4, 0.3, 0.4999, 0.5001, 1.0, 3.0, 20.0])
def test_rotate_is_the_matrix_exponential(angle):
    axis = torch.tensor([1.0, 2.0, -2.0], dtype=torch.float64) / 3
    r = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64)
    expected = torch.linalg.matrix_exp(_cross_matrix(angle * axis)) @ r[0]
    found = rotate((angle * axis).unsqueeze(0), r)[0]
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


def test_rotate_has_the_gradient_of_the_cross_product_at_zero():
    r = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(
        lambda w: rotate(w.unsqueeze(0), r.unsqueeze(0))[0], zero
    )
    torch.testing.assert_close(jacobian, -_cross_matrix(r), rtol=0.0, atol=1e-15)


@pytest.mark.parametrize("angle", [0.0, 0.2, 0.7])
def test_rotate_has_correct_first_and_second_derivatives(angle):
    omega = angle * torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64)
    omega.requires_grad_(True)
    r = torch.tensor([[0.3, -1.2, 0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(rotate, (omega, r))
    assert torch.autograd.gradgradcheck(rotate, (omega, r))


# --- lengths


@pytest.mark.parametrize("counts", [c for c in COUNTS if c[1] + c[2]], ids=str)
def test_analytic_kinematics_keeps_lengths_to_rounding(counts):
    inputs = _inputs(counts)
    assert _rod_change(inputs, _layer()(**inputs)[1]) < 1e-13
    single = _inputs(counts, dtype=torch.float32)
    assert _rod_change(single, _layer(dtype=torch.float32)(**single)[1]) < 2e-6


@torch.no_grad()
def test_analytic_velocities_do_not_stretch_rods():
    inputs = _inputs()
    _, x, v = _layer()(**inputs)
    a, b = torch.tensor(_rods(inputs["object_index"])).T
    assert ((x[a] - x[b]) * (v[a] - v[b])).sum(dim=1).abs().max().item() < 1e-13


def test_learnable_kinematics_does_not_keep_lengths():
    inputs = _inputs()
    assert _rod_change(inputs, _layer(learnable=True)(**inputs)[1]) > 1e-3


def test_network_keeps_lengths_over_all_layers():
    inputs = _inputs(in_dim=2, edge_attr_dim=1)
    positions, _ = _network()(**inputs)
    assert _rod_change(inputs, positions) < 1e-12


# --- symmetry


def _network(learnable=False):
    torch.manual_seed(4)
    return _perturbed(GMN(2, 8, 3, 1, learnable).double(), 0.05)


def _rotation(improper):
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q = q * np.linalg.det(q)
    return torch.from_numpy(-q if improper else q)


@KINEMATICS
@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_layer_turns_and_moves_with_its_inputs(learnable, improper):
    inputs, layer, turn = _inputs(), _layer(learnable), _rotation(improper)
    h, x, v = layer(**inputs)
    assert (x - inputs["node_pos"]).abs().max().item() > 1e-2
    turned = {
        **inputs,
        "node_pos": inputs["node_pos"] @ turn.T + 2.5,
        "velocity": inputs["velocity"] @ turn.T,
    }
    found = layer(**turned)
    for value, expected in zip(found, (h, x @ turn.T + 2.5, v @ turn.T), strict=True):
        torch.testing.assert_close(value, expected, **EXACT)


@KINEMATICS
def test_renumbering_atoms_objects_and_edges_renumbers_the_results(learnable):
    inputs, layer = _inputs(), _layer(learnable)
    n = len(inputs["node_pos"])
    order = torch.randperm(n, generator=torch.Generator().manual_seed(5))
    place = torch.argsort(order)
    renumbered = {
        name: inputs[name][order] for name in ("node_feat", "node_pos", "velocity", "degree")
    }
    renumbered["edge_index"] = place[inputs["edge_index"]].flip(1)
    renumbered["edge_attr"] = inputs["edge_attr"].flip(0)
    renumbered["object_index"] = {k: place[i].flip(-1) for k, i in inputs["object_index"].items()}
    for found, expected in zip(layer(**renumbered), layer(**inputs), strict=True):
        torch.testing.assert_close(found, expected[order], **EXACT)


@KINEMATICS
@pytest.mark.parametrize("kind", ["stick", "hinge"])
def test_ends_of_a_rod_can_be_exchanged(learnable, kind):
    inputs, layer = _inputs(), _layer(learnable)
    index = inputs["object_index"][kind]
    rows = [1, 0] if kind == "stick" else [0, 2, 1]
    exchanged = {**inputs, "object_index": {**inputs["object_index"], kind: index[rows]}}
    for found, expected in zip(layer(**exchanged), layer(**inputs), strict=True):
        torch.testing.assert_close(found, expected, **EXACT)


def test_joint_of_a_hinge_is_its_row_0():
    inputs, layer = _inputs(), _layer()
    index = inputs["object_index"]["hinge"]
    other = {**inputs, "object_index": {**inputs["object_index"], "hinge": index[[1, 0, 2]]}}
    assert (layer(**other)[1] - layer(**inputs)[1]).abs().max().item() > 1e-3


# --- what the inputs do


@KINEMATICS
@pytest.mark.parametrize("name", ["node_feat", "node_pos", "velocity", "edge_attr"])
def test_inputs_are_never_written_to_and_all_have_an_effect(learnable, name):
    inputs, layer = _inputs(), _layer(learnable)
    objects = inputs["object_index"]
    kept = {k: v.clone() for k, v in inputs.items() if k != "object_index"}
    before = layer(**inputs)
    assert all(torch.equal(inputs[k], v) for k, v in kept.items())
    assert inputs["object_index"] is objects
    changed = {**inputs, name: inputs[name].clone()}
    changed[name][0] += 0.5
    assert (layer(**changed)[1] - before[1]).abs().max().item() > 1e-6


def test_features_of_neighbours_matter():
    inputs, layer = _inputs((3, 0, 0)), _layer()
    inputs["edge_index"] = torch.tensor([[1], [0]])  # only what atom 0 receives
    inputs["edge_attr"] = inputs["edge_attr"][:1]
    inputs["degree"] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    before = layer(**inputs)
    inputs["node_feat"] = inputs["node_feat"] + torch.eye(3, dtype=torch.float64)[1][:, None]
    after = layer(**inputs)
    for found, old in zip(after, before, strict=True):
        assert (found[0] - old[0]).abs().max().item() > 1e-6


@KINEMATICS
def test_particles_without_neighbours_and_at_rest_are_finite_with_finite_gradients(learnable):
    inputs, layer = _inputs(), _layer(learnable)
    inputs["edge_index"] = inputs["edge_index"][:, :0]
    inputs["edge_attr"] = inputs["edge_attr"][:0]
    inputs["degree"] = torch.zeros_like(inputs["degree"])
    inputs["velocity"] = torch.zeros_like(inputs["velocity"])
    leaves = [inputs[name].requires_grad_(True) for name in ("node_pos", "velocity", "node_feat")]
    found = layer(**inputs)
    sum(value.square().sum() for value in found).backward()
    assert all(bool(torch.isfinite(value).all()) for value in found)
    assert all(bool(torch.isfinite(leaf.grad).all()) for leaf in leaves)
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in layer.parameters())


@KINEMATICS
@pytest.mark.parametrize("kind", ["layer", "network"])
def test_every_parameter_receives_a_gradient(learnable, kind):
    network = _layer(learnable) if kind == "layer" else _network(learnable)
    inputs = _inputs() if kind == "layer" else _inputs(in_dim=2, edge_attr_dim=1)
    sum((value + 0.1).square().sum() for value in network(**inputs)).backward()
    silent = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max().item() == 0.0
    ]
    assert silent == []


@KINEMATICS
def test_scripted_network_gives_the_eager_numbers(learnable):
    inputs = _inputs(in_dim=2, edge_attr_dim=1)
    network = _network(learnable)
    scripted = torch.jit.script(network)
    for _ in range(3):  # the optimised form as well
        for found, expected in zip(scripted(**inputs), network(**inputs), strict=True):
            torch.testing.assert_close(found, expected, **EXACT)


def test_activation_is_not_shared_between_layers():
    activation = nn.PReLU()
    layers = [GMNLayer(4, 4, 4, activation=activation) for _ in range(2)]
    assert not {id(p) for p in layers[0].parameters()} & {id(p) for p in layers[1].parameters()}


# --- the network


def test_network_starts_with_moves_of_the_size_of_its_inputs():
    torch.manual_seed(0)
    inputs = _inputs((3, 2, 1), in_dim=1, edge_attr_dim=1)
    network = architectures.build("gmn").double()
    x, v = network(**inputs)
    assert (x - inputs["node_pos"]).abs().max().item() < 3.0
    assert v.abs().max().item() < 3.0


def test_gmn_is_a_learned_dynamics_and_no_potential():
    assert "gmn" in architectures.available()
    assert not architectures.is_potential("gmn")
    assert "learned dynamics" in GMN.__doc__
    with pytest.raises(ConfigError, match=r"GMN has no atomic_energies: it is not a potential"):
        Potential(GMN())


# --- refusals


def _with_objects(**objects):
    return {**_inputs((2, 1, 1)), "object_index": {k: torch.tensor(v) for k, v in objects.items()}}


@pytest.mark.parametrize(
    ("objects", "match"),
    [
        (
            {"isolated": [0, 1], "stick": [[2], [7]], "hinge": [[4], [5], [6]]},
            r"object_index\['stick'\] must lie in 0\.\.6, found 7\.",
        ),
        (
            {"isolated": [0, -1], "stick": [[2], [3]], "hinge": [[4], [5], [6]]},
            r"object_index\['isolated'\] must lie in 0\.\.6, found -1\.",
        ),
        (
            {"isolated": [0, 1], "stick": [[2], [3]], "hinge": [[3], [5], [6]]},
            r"objects overlap at atoms 3 \(atom 3: 'stick' column 0, 'hinge' column 0\)",
        ),
        (
            {"isolated": [0, 0], "stick": [[2], [3]], "hinge": [[4], [5], [6]]},
            r"objects overlap at atoms 0 \(atom 0: 'isolated' column 0, 'isolated' column 1\)",
        ),
        (
            {"isolated": [0, 1, 2, 3], "hinge": [[4], [5], [5]]},
            r"object_index\['hinge'\] column 0 repeats an atom: 4, 5, 5; its 3 atoms must differ",
        ),
        (
            {"isolated": [0], "stick": [[1, 3], [2, 3]], "hinge": [[4], [5], [6]]},
            r"object_index\['stick'\] column 1 repeats an atom: 3, 3",
        ),
        (
            {"stick": [[2], [3]], "hinge": [[4], [5], [6]]},
            r"found none for atoms 0, 1\. List free atoms under 'isolated'",
        ),
        ({}, r"found none for atoms 0, 1, 2, 3, 4, 5, 6\."),
        ({"rod": [[0], [1]]}, r"unknown key 'rod'; known: isolated, stick, hinge"),
        (
            {"stick": [[0, 1, 2]]},
            r"object_index\['stick'\] must have shape \(2, n\), found \(1, 3\)",
        ),
        (
            {"isolated": [[0, 1, 2]]},
            r"object_index\['isolated'\] must have shape \(n,\), found \(1, 3\)",
        ),
        ({"isolated": [0.0, 1.0]}, r"object_index\['isolated'\] must be int64, found torch\.float"),
    ],
)
def test_bad_objects_are_refused_with_their_index(objects, match):
    with pytest.raises(GraphError, match=match):
        _layer()(**_with_objects(**objects))


@pytest.mark.parametrize(
    ("kind", "rows"), [("stick", [0, 1]), ("hinge", [0, 1]), ("hinge", [0, 2])]
)
@KINEMATICS
def test_rods_of_zero_length_are_refused_with_their_atoms(kind, rows, learnable):
    inputs = _inputs()
    first, other = inputs["object_index"][kind][rows, 1].tolist()
    inputs["node_pos"][other] = inputs["node_pos"][first]
    match = (
        rf"object_index\['{kind}'\] column 1 is a rod of zero length: atoms {first}, {other} of "
        "node_pos coincide"
    )
    with pytest.raises(GraphError, match=match):
        _layer(learnable)(**inputs)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        (
            {"edge_attr": torch.zeros(20, 3)},
            r"edge_attr must have shape \(\d+, 2\), found \(20, 3\)",
        ),
        ({"edge_attr": None}, r"edge_attr must have shape \(\d+, 2\), found None"),
        ({"node_feat": torch.zeros(17, 4)}, r"node_feat must have shape \(17, 5\)"),
        ({"node_pos": torch.zeros(17, 2)}, r"node_pos must have shape \(17, 3\)"),
        ({"velocity": torch.zeros(16, 3)}, r"velocity must have shape \(17, 3\)"),
        ({"degree": torch.zeros(17, 1)}, r"degree must have shape \(17,\)"),
        ({"edge_index": torch.tensor([[17], [0]])}, r"edge_index must lie in 0\.\.16; .* edges 0"),
        (
            {"edge_index": torch.tensor([[3], [3]]), "edge_attr": torch.zeros(1, 2)},
            r"edge_index must not contain self-loops; found them at edges 0\.",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_inputs_of_the_wrong_shape_are_refused_by_name(changed, match):
    inputs = _inputs()
    with pytest.raises(GraphError, match=match):
        _layer()(**{**inputs, **changed})


def test_edge_attr_is_refused_where_none_was_declared():
    layer = _layer(edge_attr_dim=0)
    with pytest.raises(GraphError, match=r"edge_attr must have shape \(\d+, 0\), found"):
        layer(**_inputs())


def test_network_refuses_bad_objects_too():
    inputs = _inputs(in_dim=2, edge_attr_dim=1)
    inputs["object_index"]["stick"] = inputs["object_index"]["stick"] + 100
    with pytest.raises(GraphError, match=r"object_index\['stick'\] must lie in 0\.\.16"):
        _network()(**inputs)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: GMNLayer(0, 4, 4), r"in_dim must be an integer >= 1, found 0"),
        (lambda: GMNLayer(4, 0, 4), r"hidden_dim must be an integer >= 1, found 0"),
        (lambda: GMNLayer(4, 4, 0), r"out_dim must be an integer >= 1, found 0"),
        (lambda: GMNLayer(4, 4, 4, -1), r"edge_attr_dim must be an integer >= 0, found -1"),
        (
            lambda: GMNLayer(4, 4, 5),
            r"use_residual_connection needs in_dim = out_dim, found 4 and 5",
        ),
        (lambda: GMN(num_layers=0), r"num_layers must be an integer >= 1, found 0"),
        (lambda: GMN(edge_attr_dim=-1), r"edge_attr_dim must be an integer >= 0, found -1"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(build, match):
    with pytest.raises(ConfigError, match=match):
        build()
