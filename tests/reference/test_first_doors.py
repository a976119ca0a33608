"""The documented interfaces of SchNet and PaiNN, and both networks recomputed by plain loops."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from ase.build import molecule
from torch import nn

from eqcalc.architectures import PaiNN, SchNet
from eqcalc.errors import ConfigError, GraphError
from eqcalc.graph import AtomicGraph
from eqcalc.neighbours import build_graph

CUTOFF = 5.0

EXACT = {"rtol": 1e-10, "atol": 1e-10}
"""float64: two ways of summing the same few hundred terms."""


def _bare(name: str = "CH3CH2OH") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return atomic_num, node_pos (rattled, float64) and all pairs, sorted by target."""
    atoms = molecule(name)
    atoms.rattle(0.05, seed=1)
    n = len(atoms)
    pairs = [(j, i) for i in range(n) for j in range(n) if i != j]
    index = torch.tensor(pairs, dtype=torch.int64).T.reshape(2, -1)
    return torch.from_numpy(atoms.numbers), torch.from_numpy(atoms.positions), index


def _schnet(**options) -> SchNet:
    torch.manual_seed(2)
    return _perturbed(SchNet(2, 12, 10, **options))


def _painn(
    *flags: bool, out_dim: int = 1, cut_off: float = CUTOFF, vector_norm: str = "smooth"
) -> PaiNN:
    torch.manual_seed(2)
    return _perturbed(PaiNN(12, 2, 6, cut_off, out_dim, *flags, vector_norm=vector_norm))


def _perturbed(network: nn.Module) -> nn.Module:
    """Return the network in float64 with no parameter left at zero."""
    network = network.double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def _rotation(improper: bool) -> torch.Tensor:
    q, r = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    q = q * np.linalg.det(q)
    return torch.from_numpy(-q if improper else q)


# --- names, order and defaults


@pytest.mark.parametrize(
    ("network", "names", "defaults"),
    [
        (SchNet, ["num_interaction_blocks", "hidden_dim", "num_filters"], {}),
        (
            PaiNN,
            [
                "embedding_dim",
                "num_blocks",
                "num_radial_basis",
                "cut_off",
                "out_dim",
                "return_potential_energy",
                "return_force_vectors",
            ],
            {"return_potential_energy": True, "return_force_vectors": True},
        ),
    ],
)
def test_constructor_has_the_documented_names_in_order(network, names, defaults):
    parameters = list(inspect.signature(network).parameters.values())
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert [p.name for p in positional] == names
    assert {p.name: p.default for p in positional if p.default is not p.empty} == defaults
    others = [p for p in parameters if p not in positional]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in others)


@pytest.mark.parametrize(
    ("network", "names", "defaults"),
    [
        (
            SchNet,
            ["atomic_num", "node_pos", "edge_index", "lower_bound", "upper_bound", "gamma"],
            {"lower_bound": 0.0, "upper_bound": 30.0, "gamma": 10.0},
        ),
        (PaiNN, ["atomic_num", "node_pos", "edge_index"], {}),
    ],
)
def test_forward_has_the_documented_names_and_defaults(network, names, defaults):
    parameters = list(inspect.signature(network.forward).parameters.values())[1:]
    assert [p.name for p in parameters] == names
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == defaults


def test_schnet_has_no_cutoff_through_the_documented_constructor():
    assert SchNet(1, 4, 3).cutoff is None


# --- what is returned


def test_schnet_returns_a_scalar_energy():
    energy = _schnet()(*_bare())
    assert energy.shape == ()
    assert energy.dtype == torch.float64


@pytest.mark.parametrize("out_dim", [1, 3])
def test_painn_returns_what_its_flags_ask_for(out_dim):
    inputs = _bare()
    n_atoms = len(inputs[0])
    energy, forces = _painn(True, True, out_dim=out_dim)(*inputs)
    assert (energy.shape, forces.shape) == ((), (n_atoms, 3))
    only_energy = _painn(True, False, out_dim=out_dim)(*inputs)
    assert only_energy.shape == ()
    only_forces = _painn(False, True, out_dim=out_dim)(*inputs)
    assert only_forces.shape == (n_atoms, 3)
    scalars = _painn(False, False, out_dim=out_dim)(*inputs)
    assert scalars.shape == (n_atoms, out_dim)


def test_painn_energy_is_the_sum_over_atoms_and_channels():
    inputs = _bare()
    scalars = _painn(False, False, out_dim=3)(*inputs)
    torch.testing.assert_close(_painn(True, False, out_dim=3)(*inputs), scalars.sum(), **EXACT)


def test_painn_flags_do_not_change_the_values():
    inputs = _bare()
    both = _painn(True, True)
    energy, forces = both(*inputs)
    for flags, expected in (((True, False), energy), ((False, True), forces)):
        other = _painn(*flags)
        other.load_state_dict(both.state_dict(), strict=False)
        torch.testing.assert_close(other(*inputs), expected, **EXACT)


# --- symmetry


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("shift", [0.0, 7.5])
def test_schnet_energy_is_invariant(improper, shift):
    numbers, positions, index = _bare()
    network = _schnet()
    moved = positions @ _rotation(improper).T + shift
    torch.testing.assert_close(
        network(numbers, moved, index), network(numbers, positions, index), **EXACT
    )


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
@pytest.mark.parametrize("shift", [0.0, 7.5])
def test_painn_energy_is_invariant_and_direct_forces_turn(improper, shift):
    numbers, positions, index = _bare()
    network = _painn(True, True)
    rotation = _rotation(improper)
    energy, forces = network(numbers, positions, index)
    assert forces.abs().max().item() > 1e-3
    turned_energy, turned_forces = network(numbers, positions @ rotation.T + shift, index)
    torch.testing.assert_close(turned_energy, energy, **EXACT)
    torch.testing.assert_close(turned_forces, forces @ rotation.T, **EXACT)


@pytest.mark.parametrize("network", [_schnet(), _painn(True, False)], ids=["schnet", "painn"])
def test_forward_does_not_depend_on_the_order_of_atoms_and_edges(network):
    numbers, positions, index = _bare()
    expected = network(numbers, positions, index)
    order = torch.randperm(len(numbers), generator=torch.Generator().manual_seed(0))
    place = torch.argsort(order)
    permuted = network(numbers[order], positions[order], place[index].flip(1))
    torch.testing.assert_close(permuted, expected, **EXACT)


# --- the two doors


def _graph(numbers: torch.Tensor, positions: torch.Tensor, index: torch.Tensor) -> AtomicGraph:
    return AtomicGraph(
        numbers,
        index,
        positions[index[0]] - positions[index[1]],
        torch.zeros_like(numbers),
        1,
        len(numbers),
        torch.zeros((1, 3, 3), dtype=positions.dtype),
    )


def test_schnet_forward_is_the_sum_of_atomic_energies():
    inputs = _bare()
    network = _schnet(lower_bound=0.5, upper_bound=6.0, gamma=4.0)
    expected = network.atomic_energies(_graph(*inputs)).sum()
    torch.testing.assert_close(network(*inputs, 0.5, 6.0, 4.0), expected, **EXACT)


def test_schnet_with_the_documented_defaults_is_the_same_through_both_doors():
    inputs = _bare()
    network = _schnet(gamma=10.0)  # centres from 0 to 30 Å are the constructor's default too
    expected = network.atomic_energies(_graph(*inputs)).sum()
    torch.testing.assert_close(network(*inputs), expected, **EXACT)


@pytest.mark.parametrize("out_dim", [1, 3])
def test_painn_forward_is_the_sum_of_atomic_energies(out_dim):
    inputs = _bare()
    network = _painn(True, False, out_dim=out_dim)
    expected = network.atomic_energies(_graph(*inputs)).sum()
    torch.testing.assert_close(network(*inputs), expected, **EXACT)


def test_forward_agrees_with_the_graph_of_the_calculator():
    atoms = molecule("CH3CH2OH")
    network = _painn(True, False, cut_off=2.5)
    graph = build_graph(atoms, 2.5)
    numbers, positions = torch.from_numpy(atoms.numbers), torch.from_numpy(atoms.positions)
    torch.testing.assert_close(
        network(numbers, positions, graph.edge_index), network.atomic_energies(graph).sum(), **EXACT
    )


# --- what the inputs do


def test_painn_honours_its_cutoff():
    numbers = torch.tensor([6, 8])
    index = torch.tensor([[1, 0], [0, 1]])
    network = _painn(True, True, cut_off=3.0)
    alone = network(numbers, torch.zeros(2, 3, dtype=torch.float64), index[:, :0])
    for distance in (3.0, 3.5, 30.0):
        positions = torch.tensor([[0.0, 0.0, 0.0], [distance, 0.0, 0.0]], dtype=torch.float64)
        energy, forces = network(numbers, positions, index)
        torch.testing.assert_close(energy, alone[0], rtol=0.0, atol=0.0)
        assert forces.abs().max().item() == 0.0
    near = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]], dtype=torch.float64)
    assert abs((network(numbers, near, index)[0] - alone[0]).item()) > 1e-4


@pytest.mark.parametrize(
    "changed", [{"lower_bound": 1.0}, {"upper_bound": 5.0}, {"gamma": 1.0}], ids=str
)
def test_schnet_basis_arguments_have_an_effect(changed):
    inputs, network = _bare(), _schnet()
    defaults = {"lower_bound": 0.0, "upper_bound": 30.0, "gamma": 10.0}
    torch.testing.assert_close(network(*inputs, **defaults), network(*inputs), rtol=0.0, atol=0.0)
    assert abs((network(*inputs, **changed) - network(*inputs)).item()) > 1e-6


@pytest.mark.parametrize("network", [_schnet(), _painn(True, False)], ids=["schnet", "painn"])
def test_species_of_neighbours_matter(network):
    numbers, positions, index = _bare()
    to_first = index[:, index[1] == 0]  # only what atom 0 receives
    before = network(numbers, positions, to_first)
    for neighbour in (1, 2, 5):
        changed = numbers.clone()
        changed[neighbour] = 9
        # The change beyond that of the neighbour's own, edgeless energy.
        own = network(changed, positions, index[:, :0]) - network(numbers, positions, index[:, :0])
        after = network(changed, positions, to_first)
        assert abs((after - before - own).item()) > 1e-6


def test_painn_direct_forces_see_the_species_of_neighbours():
    numbers, positions, index = _bare()
    network = _painn(False, True)
    changed = numbers.clone()
    changed[2] = 9
    difference = network(changed, positions, index) - network(numbers, positions, index)
    assert difference[0].abs().max().item() > 1e-6


@pytest.mark.parametrize(
    "network", [_schnet(), _painn(True, True), _painn(False, False)], ids=["schnet", "TT", "FF"]
)
def test_atom_without_neighbours_is_finite_with_finite_gradients(network):
    numbers, positions, index = _bare()
    alone = index[:, (index != 3).all(dim=0)]  # no edge touches atom 3
    for edges in (alone, index[:, :0]):
        network.zero_grad()
        leaf = positions.clone().requires_grad_(True)
        outputs = network(numbers, leaf, edges)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = torch.stack([output.square().sum() for output in outputs]).sum()
        total.backward()
        assert bool(torch.isfinite(total))
        assert bool(torch.isfinite(leaf.grad).all())
        assert bool((leaf.grad[3] == 0).all())
        for parameter in network.parameters():
            assert parameter.grad is None or bool(torch.isfinite(parameter.grad).all())


@pytest.mark.parametrize("network", [_schnet(), _painn(True, True)], ids=["schnet", "painn"])
def test_one_atom_works(network):
    energy = network(
        torch.tensor([8]), torch.zeros(1, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=int)
    )
    shapes = [x.shape for x in energy] if isinstance(energy, tuple) else [energy.shape]
    assert shapes[0] == ()
    assert shapes[1:] in ([], [(1, 3)])


@pytest.mark.parametrize("network", [_schnet(), _painn(True, True)], ids=["schnet", "painn"])
def test_self_loops_are_refused_with_their_edges(network):
    numbers, positions, index = _bare()
    looped = torch.cat([index, torch.tensor([[4], [4]])], dim=1)
    with pytest.raises(GraphError, match=rf"self-loops; found them at edges {index.shape[1]}\."):
        network(numbers, positions, looped)


@pytest.mark.parametrize("network", [_schnet(), _painn(True, True)], ids=["schnet", "painn"])
@pytest.mark.parametrize(
    ("argument", "value", "match"),
    [
        (1, torch.zeros(8, 3), r"node_pos must have shape \(9, 3\), found \(8, 3\)"),
        (1, torch.zeros(9, 2), r"node_pos must have shape \(9, 3\), found \(9, 2\)"),
        (2, torch.zeros(4, 2), r"edge_index must have shape \(2, n_edges\), found \(4, 2\)"),
        (2, torch.tensor([[0, 9], [1, 0]]), r"must lie in 0\.\.8; out of range at edges 1\."),
        (2, torch.tensor([[0, 1], [-1, 0]]), r"must lie in 0\.\.8; out of range at edges 0\."),
    ],
)
def test_tensors_that_do_not_fit_are_refused(network, argument, value, match):
    inputs = list(_bare())
    inputs[argument] = value
    with pytest.raises(GraphError, match=match):
        network(*inputs)


@pytest.mark.parametrize("network", [_schnet(), _painn(True, True)], ids=["schnet", "painn"])
def test_forward_leaves_its_inputs_alone(network):
    inputs = _bare()
    before = [tensor.clone() for tensor in inputs]
    network(*inputs)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))
    assert not any(tensor.requires_grad for tensor in inputs)


@pytest.mark.parametrize("network", [_schnet(), _painn(True, True)], ids=["schnet", "painn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_keeps_the_dtype_of_the_network(network, dtype):
    numbers, positions, index = _bare()
    outputs = network.to(dtype)(numbers, positions.to(dtype), index)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    network.double()
    assert all(output.dtype == dtype for output in outputs)


def test_networks_built_under_another_default_dtype_are_the_same():
    inputs = _bare()
    for build in (_schnet, lambda: _painn(True, True)):
        state = build().state_dict()
        networks = []
        for dtype in (torch.float32, torch.float64):
            torch.set_default_dtype(dtype)
            try:
                networks.append(build())
            finally:
                torch.set_default_dtype(torch.float32)
        for network in networks:
            network.load_state_dict(state)
        found, expected = (network(*inputs) for network in networks)
        torch.testing.assert_close(found, expected, **EXACT)
        atomic = [network.atomic_energies(_graph(*inputs)) for network in networks]
        torch.testing.assert_close(*atomic, **EXACT)


@pytest.mark.parametrize(
    ("network", "unused"),
    [
        (_schnet(), set()),
        (_painn(True, True), set()),
        (_painn(True, False), set()),
        # The energy's readout has no part in direct forces.
        (_painn(False, True), {"readout"}),
        (_painn(False, False), set()),
    ],
    ids=["schnet", "TT", "TF", "FT", "FF"],
)
def test_every_parameter_receives_a_gradient_through_forward(network, unused):
    network.zero_grad()
    outputs = network(*_bare())
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    torch.stack([(output + 0.1).square().sum() for output in outputs]).sum().backward()
    silent = {
        name.split(".")[0]
        for name, parameter in network.named_parameters()
        if parameter.grad is None or parameter.grad.abs().max().item() == 0.0
    }
    assert silent == unused


# --- refusals


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: SchNet(0, 8, 8), r"num_interaction_blocks must be an integer >= 1, found 0"),
        (lambda: SchNet(1, 0, 8), r"hidden_dim must be an integer >= 1, found 0"),
        (lambda: SchNet(1, 8, 1), r"num_filters must be an integer >= 2, found 1"),
        (lambda: SchNet(1, 8, 8, cutoff=-1.0), r"cutoff must be a positive number, found -1\.0"),
        (lambda: SchNet(1, 8, 8, gamma=0.0), r"gamma must be a positive number, found 0\.0"),
        (lambda: SchNet(1, 8, 8, upper_bound=math.nan), r"upper_bound must be a positive number"),
        (
            lambda: SchNet(1, 8, 8, lower_bound=4.0, upper_bound=3.0),
            r"upper_bound must exceed lower_bound \(4\.0\), found 3\.0",
        ),
        (
            lambda: SchNet(1, 8, 8, lower_bound=5.0, cutoff=5.0),
            r"upper_bound must exceed lower_bound \(5\.0\), found 5\.0",
        ),
        (
            lambda: SchNet(1, 8, 8, lower_bound=30.0),
            r"upper_bound must exceed lower_bound \(30\.0\), found 30\.0",
        ),
        (
            lambda: SchNet(1, 8, 8, lower_bound=math.nan),
            r"upper_bound must exceed lower_bound \(nan\)",
        ),
        (lambda: PaiNN(1, 1, 8, 5.0, 1), r"embedding_dim must be an integer >= 2, found 1"),
        (lambda: PaiNN(8, 0, 8, 5.0, 1), r"num_blocks must be an integer >= 1, found 0"),
        (lambda: PaiNN(8, 1, 0, 5.0, 1), r"num_radial_basis must be an integer >= 1, found 0"),
        (lambda: PaiNN(8, 1, 8, 0.0, 1), r"cut_off must be a positive number, found 0\.0"),
        (lambda: PaiNN(8, 1, 8, 5.0, 0), r"out_dim must be an integer >= 1, found 0"),
    ],
)
def test_sizes_out_of_range_are_refused_by_name(build, match):
    with pytest.raises(ConfigError, match=match):
        build()


# --- recomputed atom by atom from the equations


class _Weights:
    """A network's parameters as float64 arrays, by name."""

    def __init__(self, network: nn.Module) -> None:
        self.arrays = {k: v.detach().numpy() for k, v in network.named_parameters()}
        self.is_smooth = getattr(network.config, "vector_norm", "") == "smooth"

    def lengths(self, squares):
        """Return lengths in the form that the network has."""
        return np.sqrt(squares + 1.0) - 1.0 if self.is_smooth else np.sqrt(squares + 1e-8)

    def linear(self, name: str, x: np.ndarray) -> np.ndarray:
        bias = self.arrays.get(f"{name}.bias")
        result = self.arrays[f"{name}.weight"] @ x
        return result if bias is None else result + bias

    def mlp(self, name: str, x: np.ndarray, activation) -> np.ndarray:
        return self.linear(f"{name}.out", activation(self.linear(f"{name}.hidden", x)))


def _ssp(x: np.ndarray) -> np.ndarray:
    return np.log1p(np.exp(x)) - math.log(2.0)


def _silu(x: np.ndarray) -> np.ndarray:
    return x / (1.0 + np.exp(-x))


def _envelope(d: float, cutoff: float, p: int = 6) -> float:
    x = d / cutoff
    if x >= 1.0:
        return 0.0
    return (
        1.0
        - (p + 1) * (p + 2) / 2 * x**p
        + p * (p + 2) * x ** (p + 1)
        - p * (p + 1) / 2 * x ** (p + 2)
    )


def _incoming(i: int, positions: np.ndarray, index: np.ndarray):
    """Yield sender, distance and r_j - r_i of every edge that atom i receives."""
    for j, receiver in index.T:
        if receiver == i:
            vector = positions[j] - positions[i]
            yield int(j), math.sqrt(float(vector @ vector)), vector


def _schnet_by_loops(
    network: SchNet, numbers, positions, index, lower: float, upper: float, gamma: float
) -> np.ndarray:
    """Return energies (n_atoms,) from the equations of REFERENCE, one neighbour at a time."""
    w, n_gaussians = _Weights(network), network.config.num_filters
    centres = [lower + k * (upper - lower) / (n_gaussians - 1) for k in range(n_gaussians)]
    x = [w.arrays["embedding.weight"][z] for z in numbers]
    for t in range(network.config.num_interaction_blocks):
        new = []
        for i in range(len(numbers)):
            total = np.zeros_like(x[i])
            for j, d, _ in _incoming(i, positions, index):
                phi = np.array([math.exp(-gamma * (d - mu) ** 2) for mu in centres])
                filters = w.mlp(f"interactions.{t}.filter_network", phi, _ssp)
                if network.cutoff is not None:
                    filters = filters * _envelope(d, network.cutoff)
                total = total + w.linear(f"interactions.{t}.to_filter_space", x[j]) * filters
            new.append(x[i] + w.mlp(f"interactions.{t}.mix", total, _ssp))
        x = new
    return np.array([w.mlp("readout", x_i, _ssp)[0] for x_i in x])


def _painn_by_loops(network: PaiNN, numbers, positions, index) -> tuple[np.ndarray, np.ndarray]:
    """Return outputs (n_atoms, out_dim) and direct forces (n_atoms, 3) from the equations."""
    w, config = _Weights(network), network.config
    F, rc, n_atoms = config.embedding_dim, config.cut_off, len(numbers)
    s = [w.arrays["embedding.weight"][z] for z in numbers]
    v = [np.zeros((3, F)) for _ in numbers]
    for t in range(config.num_blocks):
        rows = slice(3 * F * t, 3 * F * (t + 1))
        new_s, new_v = [], []
        for i in range(n_atoms):
            ds, dv = np.zeros(F), np.zeros((3, F))
            for j, d, vector in _incoming(i, positions, index):
                phi = np.array(
                    [
                        math.sin(n * math.pi * d / rc) / d
                        for n in range(1, config.num_radial_basis + 1)
                    ]
                )
                filters = w.arrays["filters.weight"][rows] @ phi + w.arrays["filters.bias"][rows]
                mixed = w.mlp(f"messages.{t}.mix", s[j], _silu) * filters * _envelope(d, rc)
                a, b, c = mixed[:F], mixed[F : 2 * F], mixed[2 * F :]
                ds = ds + a
                dv = dv + np.outer(vector / d, b) + v[j] * c
            new_s.append(s[i] + ds)
            new_v.append(v[i] + dv)
        s, v = new_s, new_v
        for i in range(n_atoms):
            both = w.arrays[f"updates.{t}.channel_mix.weight"] @ v[i].T  # (2F, 3)
            left, right = both[:F].T, both[F:].T
            norm = w.lengths((left**2).sum(axis=0))
            mixed = w.mlp(f"updates.{t}.mix", np.concatenate([s[i], norm]), _silu)
            s[i] = s[i] + mixed[:F] + mixed[2 * F :] * (left * right).sum(axis=0)
            v[i] = v[i] + mixed[F : 2 * F] * right
    outputs = np.array([w.mlp("readout", s_i, _silu) for s_i in s])
    return outputs, np.array([_direct_force(w, s_i, v_i) for s_i, v_i in zip(s, v, strict=True)])


def _direct_force(w: _Weights, s: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return the force (3,) of one atom: two gated equivariant blocks."""
    left = v @ w.arrays["force_head.first.channel_mix_left.weight"].T
    right = v @ w.arrays["force_head.first.channel_mix_right.weight"].T
    norm = w.lengths((left**2).sum(axis=0))
    mixed = w.mlp("force_head.first.mix", np.concatenate([s, norm]), _silu)
    n = right.shape[1]
    s, v = _silu(mixed[:n]), mixed[n:] * right
    left, right = (v @ w.arrays["force_head.channel_mix.weight"].T).T  # (3,) each
    norm = w.lengths(float((left**2).sum()))
    return w.mlp("force_head.gate", np.append(s, norm), _silu)[0] * right


@pytest.mark.parametrize("name", ["CH3CH2OH", "CO2", "H2", "C6H6"])
def test_schnet_equals_its_equations_written_as_loops(name):
    numbers, positions, index = _bare(name)
    network = _schnet()
    arrays = numbers.numpy(), positions.numpy(), index.numpy()
    for lower, upper, gamma in ((0.0, 30.0, 10.0), (0.4, 6.0, 3.0)):
        expected = _schnet_by_loops(network, *arrays, lower, upper, gamma).sum()
        found = network(numbers, positions, index, lower, upper, gamma)
        np.testing.assert_allclose(found.item(), expected, **EXACT)


@pytest.mark.parametrize("options", [{}, {"gamma": 7.0}, {"lower_bound": 0.5, "upper_bound": 3.0}])
def test_schnet_atomic_energies_equal_the_equations_with_the_envelope(options):
    numbers, positions, index = _bare()
    network = _schnet(cutoff=3.0, **options)
    lower, upper = options.get("lower_bound", 0.0), options.get("upper_bound", 3.0)
    gamma = options.get("gamma", 0.5 / ((upper - lower) / 9) ** 2)  # ten Gaussians
    expected = _schnet_by_loops(
        network, numbers.numpy(), positions.numpy(), index.numpy(), lower, upper, gamma
    )
    found = network.atomic_energies(_graph(numbers, positions, index)).detach().numpy()
    np.testing.assert_allclose(found, expected, **EXACT)


@pytest.mark.parametrize("form", ["smooth", "published"])
@pytest.mark.parametrize("name", ["CH3CH2OH", "CO2", "H2"])
def test_painn_equals_its_equations_written_as_loops(name, form):
    numbers, positions, index = _bare(name)
    arrays = numbers.numpy(), positions.numpy(), index.numpy()
    network = _painn(True, True, out_dim=2, cut_off=3.2, vector_norm=form)
    outputs, forces = _painn_by_loops(network, *arrays)
    found_energy, found_forces = network(numbers, positions, index)
    np.testing.assert_allclose(found_energy.item(), outputs.sum(), **EXACT)
    np.testing.assert_allclose(found_forces.detach().numpy(), forces, **EXACT)
    found = network.atomic_energies(_graph(numbers, positions, index))
    np.testing.assert_allclose(found.detach().numpy(), outputs.sum(axis=1), **EXACT)
