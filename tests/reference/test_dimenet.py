"""DimeNet and DimeNet++: the documented interface, and both recomputed by plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from ase import Atoms
from by_loops import (
    EXACT,
    Edge,
    Weights,
    assert_directed_edge_vanishes,
    assert_every_parameter_learns,
    assert_exported_file_agrees,
    assert_forces_by_finite_differences,
    assert_signature,
    bare_molecule,
    edges_of,
    envelope,
    perturbed,
    rattled,
    silu,
    structures,
)
from scipy.optimize import brentq
from scipy.special import eval_legendre, spherical_jn
from torch import Tensor, nn

from eqcalc.architectures import DimeNet, build
from eqcalc.architectures.dimenetpp import DimeNetPP
from eqcalc.errors import ConfigError, GraphError
from eqcalc.neighbours import build_graph

CUTOFF = 3.0
N_RADIAL, N_SPHERICAL, N_BLOCKS = 3, 4, 2

NAMES = [
    "num_radial_basis",
    "num_spherical_basis",
    "embedding_dim",
    "bilinear_dim",
    "out_dim",
    "cut_off",
    "envelope_exponent",
    "num_interaction_blocks",
    "num_layers_before_skip",
    "num_layers_after_skip",
    "num_output_linear_layers",
    "activation",
]


def _dimenet(out_dim: int = 1, cut_off: float = CUTOFF, exponent: int = 5, activation=None):
    torch.manual_seed(2)
    return perturbed(
        DimeNet(
            N_RADIAL, N_SPHERICAL, 6, 3, out_dim, cut_off, exponent, N_BLOCKS, 1, 2, 2, activation
        )
    )


def _dimenetpp(out_dim: int = 1, cut_off: float = CUTOFF, exponent: int = 5, activation=None):
    torch.manual_seed(2)
    return perturbed(
        DimeNetPP(
            N_RADIAL,
            N_SPHERICAL,
            6,
            5,
            3,
            7,
            out_dim,
            cut_off,
            exponent,
            N_BLOCKS,
            1,
            2,
            2,
            activation,
        )
    )


BOTH = pytest.mark.parametrize("make", [_dimenet, _dimenetpp])


def _inputs(
    numbers: Tensor, positions: Tensor, index: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the arguments of ``forward``, triplets and angles by loops."""
    vectors = positions[index[0]] - positions[index[1]]
    pairs, angles = [], []
    for a in range(index.shape[1]):  # k→j
        for b in range(index.shape[1]):  # j→i
            if index[1, a] == index[0, b] and index[0, a] != index[1, b]:
                j = index[0, b]
                to_k = positions[index[0, a]] - positions[j]
                to_i = positions[index[1, b]] - positions[j]
                cosine = float(to_k @ to_i / to_k.norm() / to_i.norm())
                pairs.append((a, b))
                angles.append(math.acos(max(-1.0, min(1.0, cosine))))
    angle_index = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).T
    angle = torch.tensor(angles, dtype=positions.dtype)
    return numbers, index, angle_index, vectors.norm(dim=1), angle


# --- recomputed edge by edge from the equations


def _zeros(l: int, n: int) -> list[float]:
    """Return the first n zeros of j_l by sign changes on a fine grid."""
    grid = np.arange(max(l, 1), l + math.pi * (n + 2), 0.05)
    values = spherical_jn(l, grid)
    ends = np.flatnonzero(np.sign(values[1:]) != np.sign(values[:-1]))[:n]
    return [brentq(lambda a: spherical_jn(l, a), grid[k], grid[k + 1], xtol=1e-14) for k in ends]


ZEROS = [_zeros(l, N_RADIAL) for l in range(N_SPHERICAL)]


def _rbf(frequencies: np.ndarray, d: float, cutoff: float, p: int) -> np.ndarray:
    x = d / cutoff
    return np.array([envelope(x, p) / x * math.sin(nu * math.pi * x) for nu in frequencies])


def _sbf(d_kj: float, cosine: float, cutoff: float, p: int) -> np.ndarray:
    x, values = d_kj / cutoff, []
    for l in range(N_SPHERICAL):
        harmonic = math.sqrt((2 * l + 1) / (4 * math.pi)) * eval_legendre(l, cosine)
        for z in ZEROS[l]:
            norm = math.sqrt(2.0) / abs(spherical_jn(l + 1, z))
            values.append(envelope(x, p) / x * norm * spherical_jn(l, z * x) * harmonic)
    return np.array(values)


def _residual(w: Weights, name: str, y: np.ndarray) -> np.ndarray:
    return y + silu(w.linear(f"{name}.second", silu(w.linear(f"{name}.first", y))))


def _gather_bilinear(w: Weights, name: str, terms: list[tuple[np.ndarray, np.ndarray]]):
    """Return Σ_k of (W sbf)_b 𝐖_bhi x_h, one triplet and one b at a time."""
    mix = w.arrays[f"{name}.mix.weight"]  # (F, n_bilinear * F)
    total = np.zeros(mix.shape[0])
    for x_kj, sbf in terms:
        for b, weight in enumerate(w.linear(f"{name}.angular", sbf)):
            total = total + weight * (mix[:, b * len(x_kj) : (b + 1) * len(x_kj)] @ x_kj)
    return total


def _gather_hadamard(w: Weights, name: str, terms: list[tuple[np.ndarray, np.ndarray]]):
    total = np.zeros(w.arrays[f"{name}.up.weight"].shape[1])
    for x_kj, sbf in terms:
        weights = w.linear(f"{name}.angular.1", w.linear(f"{name}.angular.0", sbf))
        total = total + silu(w.linear(f"{name}.down", x_kj)) * weights
    return silu(w.linear(f"{name}.up", total))


def _output(w: Weights, name: str, messages, rbfs, edges: list[Edge], n_atoms: int):
    rows = []
    for i in range(n_atoms):
        total = np.zeros_like(w.arrays[f"{name}.radial.weight"][:, 0])
        for e, edge in enumerate(edges):
            if edge.i == i:
                total = total + w.linear(f"{name}.radial", rbfs[e]) * messages[e]
        if f"{name}.widen.weight" in w.arrays:
            total = w.linear(f"{name}.widen", total)
        for layer in (0, 2):
            total = silu(w.linear(f"{name}.layers.{layer}", total))
        rows.append(w.linear(f"{name}.out", total))
    return np.array(rows)


def _by_loops(network: nn.Module, numbers: np.ndarray, edges: list[Edge]) -> np.ndarray:
    """Return outputs (n_atoms, out_dim)."""
    w, cutoff, p = Weights(network), network.cutoff, network.config.envelope_exponent + 1
    is_plus = isinstance(network, DimeNetPP)
    rbfs = [_rbf(w.arrays["radial_basis.frequencies"], e.length, cutoff, p) for e in edges]
    species = w.arrays["embedding.species.weight"]
    m = [
        silu(
            w.linear(
                "embedding.mix",
                np.concatenate(
                    [
                        species[numbers[e.j]],
                        species[numbers[e.i]],
                        silu(w.linear("embedding.radial", rbf)),
                    ]
                ),
            )
        )
        for e, rbf in zip(edges, rbfs, strict=True)
    ]
    total = _output(w, "first_output", m, rbfs, edges, len(numbers))
    for t in range(network.config.num_interaction_blocks):
        name = f"interactions.{t}"
        x = []
        for e, rbf in enumerate(rbfs):
            steps = (".radial.0", ".radial.1") if is_plus else (".radial",)
            for step in steps:
                rbf = w.linear(name + step, rbf)
            x.append(silu(w.linear(f"{name}.neighbour", m[e])) * rbf)
        new = []
        for e, edge in enumerate(edges):
            terms = []
            for a, other in enumerate(edges):
                back = np.array(other.shift) + np.array(edge.shift)
                if other.i != edge.j or (other.j == edge.i and not back.any()):
                    continue
                cosine = -other.vector @ edge.vector / other.length / edge.length
                terms.append((x[a], _sbf(other.length, cosine, cutoff, p)))
            gather = _gather_hadamard if is_plus else _gather_bilinear
            y = silu(w.linear(f"{name}.own", m[e])) + gather(w, f"{name}.gather", terms)
            y = _residual(w, f"{name}.before_skip.0", y)
            y = m[e] + silu(w.linear(f"{name}.skip", y))
            for layer in range(2):
                y = _residual(w, f"{name}.after_skip.{layer}", y)
            new.append(y)
        m = new
        total = total + _output(w, f"outputs.{t}", m, rbfs, edges, len(numbers))
    return total


@BOTH
@pytest.mark.parametrize("name", structures())
def test_atomic_energies_equal_the_equations_written_as_loops(make, name):
    atoms = structures()[name]
    network = make(out_dim=2)
    expected = _by_loops(network, atoms.numbers, edges_of(atoms, CUTOFF)).sum(axis=1)
    found = network.atomic_energies(build_graph(atoms, CUTOFF)).detach().numpy()
    np.testing.assert_allclose(found, expected, **EXACT)


@BOTH
@pytest.mark.parametrize("exponent", [1, 3])
def test_envelope_exponent_is_the_power_less_one(make, exponent):
    atoms = structures()["water"]
    network = make(exponent=exponent)
    expected = _by_loops(network, atoms.numbers, edges_of(atoms, CUTOFF)).sum(axis=1)
    found = network.atomic_energies(build_graph(atoms, CUTOFF)).detach().numpy()
    np.testing.assert_allclose(found, expected, **EXACT)


# --- the documented interface


def test_constructor_and_forward_have_the_documented_names_in_order():
    assert_signature(DimeNet.__init__, NAMES, {"activation": None})
    forward = ["atomic_number", "edge_index", "angle_index", "distance", "angle"]
    assert_signature(DimeNet.forward, forward, {})


@BOTH
@pytest.mark.parametrize("out_dim", [1, 3])
def test_forward_returns_one_sum_over_atoms_per_output(make, out_dim):
    numbers, positions, index = bare_molecule("CH3OH")
    network = make(out_dim=out_dim, cut_off=9.0)
    found = network(*_inputs(numbers, positions, index))
    assert found.shape == (out_dim,)
    assert found.dtype == torch.float64
    vectors = positions[index[0]] - positions[index[1]]
    pairs = zip(index.T.tolist(), vectors.numpy(), strict=True)
    edges = [Edge(j, i, vector, (0,)) for (j, i), vector in pairs]
    expected = _by_loops(network, numbers.numpy(), edges).sum(axis=0)
    np.testing.assert_allclose(found.detach().numpy(), expected, **EXACT)


@BOTH
@pytest.mark.parametrize("name", ["CH3CH2OH", "C6H6", "CO2"])
def test_forward_is_the_sum_of_atomic_energies(make, name):
    atoms = rattled(name)
    network, graph = make(), build_graph(atoms, CUTOFF)
    inputs = _inputs(graph.atomic_numbers, torch.from_numpy(atoms.positions), graph.edge_index)
    expected = network.atomic_energies(graph).sum()
    # acos loses half the digits of an angle near 180°.
    tolerance = EXACT if name == "CH3CH2OH" else {"rtol": 1e-8, "atol": 1e-8}
    torch.testing.assert_close(network(*inputs)[0], expected, **tolerance)


@BOTH
def test_forward_does_not_depend_on_the_order_of_edges_and_triplets(make):
    numbers, index, angle_index, distance, angle = _inputs(*bare_molecule("CH3OH"))
    network = make(cut_off=9.0)
    expected = network(numbers, index, angle_index, distance, angle)
    generator = torch.Generator().manual_seed(0)
    edges = torch.randperm(index.shape[1], generator=generator)
    triplets = torch.randperm(angle_index.shape[1], generator=generator)
    moved = torch.argsort(edges)[angle_index][:, triplets]
    found = network(numbers, index[:, edges], moved, distance[edges], angle[triplets])
    torch.testing.assert_close(found, expected, **EXACT)


@BOTH
def test_angle_changes_the_energy_and_only_through_its_cosine(make):
    numbers, index, angle_index, distance, angle = _inputs(*bare_molecule("H2O"))
    network = make(cut_off=9.0)
    expected = network(numbers, index, angle_index, distance, angle)
    bent = network(numbers, index, angle_index, distance, angle + 0.1)
    assert float((bent - expected).abs().detach()) > 1e-4
    turned = network(numbers, index, angle_index, distance, 2.0 * math.pi - angle)
    torch.testing.assert_close(turned, expected, **EXACT)


def test_interior_angle_at_the_middle_is_the_one_that_counts():
    # Water's O-H-H angle is 38°, its H-O-H angle 104°: only the second one lies at the O.
    atoms = rattled("H2O")
    network, graph = _dimenet(cut_off=1.3), build_graph(atoms, 1.3)
    positions = torch.from_numpy(atoms.positions)
    inputs = list(_inputs(graph.atomic_numbers, positions, graph.edge_index))
    inputs[4] = torch.full_like(inputs[4], math.radians(atoms.get_angle(1, 0, 2)))
    expected = network.atomic_energies(graph).sum()
    torch.testing.assert_close(network(*inputs)[0], expected, **EXACT)


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_keeps_the_dtype_and_leaves_its_inputs_alone(make, dtype):
    inputs = _inputs(*bare_molecule("CH3OH"))
    inputs = [x.to(dtype) if x.is_floating_point() else x for x in inputs]
    before = [x.clone() for x in inputs]
    found = make(cut_off=9.0).to(dtype)(*inputs)
    assert found.dtype == dtype
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@BOTH
def test_atom_without_neighbours_and_no_edges_at_all_are_finite(make):
    network = make()
    none = torch.zeros((2, 0), dtype=torch.int64)
    nothing = torch.zeros(0, dtype=torch.float64)
    found = network(torch.tensor([8, 1]), none, none, nothing, nothing)
    assert bool(torch.isfinite(found).all())
    alone = network.atomic_energies(build_graph(Atoms("O"), CUTOFF))
    torch.testing.assert_close(found, alone * 2.0, **EXACT)  # no edge, no element


@BOTH
def test_default_options_are_the_published_ones(make):
    name = "dimenet" if make is _dimenet else "dimenetpp"
    network = build(name, num_interaction_blocks=1)
    assert (network.cutoff, network.n_hops) == (5.0, 2)
    config = network.config
    assert (config.num_radial_basis, config.num_spherical_basis) == (6, 7)
    assert config.embedding_dim == 128
    assert (config.num_layers_before_skip, config.num_layers_after_skip) == (1, 2)


@pytest.mark.parametrize(
    "activation", [None, "silu", nn.SiLU(), torch.nn.functional.silu], ids=lambda a: str(a)[:12]
)
def test_activation_of_none_means_silu(activation):
    inputs = _inputs(*bare_molecule("H2O"))
    found = _dimenet(activation=activation, cut_off=9.0)(*inputs)
    torch.testing.assert_close(found, _dimenet(cut_off=9.0)(*inputs), rtol=0, atol=0)


@pytest.mark.parametrize("activation", ["tanh", nn.Tanh(), torch.tanh, lambda x: x.tanh()])
def test_another_activation_is_used_throughout(activation):
    inputs = _inputs(*bare_molecule("H2O"))
    found = _dimenet(activation=activation, cut_off=9.0)(*inputs)
    expected = _dimenet(activation="tanh", cut_off=9.0)(*inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert float((found - _dimenet(cut_off=9.0)(*inputs)).abs().detach()) > 1e-3


# --- as a potential


@BOTH
@pytest.mark.parametrize("name", ["methanol", "copper", "salt"])
def test_forces_are_the_energy_derivative(make, name):
    assert_forces_by_finite_differences(make(), structures()[name])


@BOTH
def test_every_directed_edge_vanishes_smoothly_at_the_cutoff(make):
    assert_directed_edge_vanishes(make())


@BOTH
def test_every_parameter_receives_a_gradient(make):
    assert_every_parameter_learns(make(), rattled("CH3CH2OH"))


@BOTH
@pytest.mark.parametrize("activation", [None, "tanh", torch.tanh], ids=["silu", "name", "function"])
def test_exported_file_gives_the_eager_numbers(make, activation, tmp_path):
    network = make(activation=activation)
    assert_exported_file_agrees(network, tmp_path / "model.pt", rattled("CH3OH"))


@BOTH
def test_atoms_feel_each_other_over_the_hops_that_are_counted(make):
    # A chain whose neighbours alone are within the cutoff: atom 0 feels n_hops atoms away.
    network = make(cut_off=1.5)
    chain = Atoms("C6", [[0.1 * (k % 2), 1.1 * k, 0.05 * (k % 3)] for k in range(6)])
    energies = network.atomic_energies(build_graph(chain, 1.5)).detach()
    for moved in range(1, 6):
        changed = chain.copy()
        changed.numbers[moved] = 8
        found = network.atomic_energies(build_graph(changed, 1.5)).detach()
        is_felt = abs(float(found[0] - energies[0])) > 0.0
        assert is_felt == (moved <= network.n_hops), moved


# --- refusals


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("num_radial_basis", 0, r"num_radial_basis must be an integer >= 1, found 0"),
        ("num_spherical_basis", 0, r"num_spherical_basis must be an integer >= 1, found 0"),
        ("embedding_dim", -2, r"embedding_dim must be an integer >= 1, found -2"),
        ("bilinear_dim", 0, r"bilinear_dim must be an integer >= 1, found 0"),
        ("out_dim", 0, r"out_dim must be an integer >= 1, found 0"),
        ("cut_off", 0.0, r"cut_off must be a positive number, found 0\.0"),
        ("envelope_exponent", 0, r"envelope_exponent must be an integer >= 1, found 0"),
        ("envelope_exponent", 5.5, r"envelope_exponent must be an integer >= 1, found 5\.5"),
        ("num_interaction_blocks", 0, r"num_interaction_blocks must be an integer >= 1, found 0"),
        ("num_layers_before_skip", -1, r"num_layers_before_skip must be an integer >= 0, found -1"),
        ("num_layers_after_skip", -1, r"num_layers_after_skip must be an integer >= 0, found -1"),
        ("num_output_linear_layers", -1, r"num_output_linear_layers must be an integer >= 0"),
        ("activation", "sliu", r"unknown activation 'sliu'.*Did you mean 'silu'\?"),
        ("activation", 3, r"activation must be None, a name, a module or a function"),
        ("activation", "custom:mine", r"activation 'custom:mine' is not known by name"),
        ("cut_of", 4.0, r"dimenet has no option 'cut_of'.*Did you mean 'cut_off'\?"),
    ],
)
def test_options_out_of_range_are_refused_by_name(option, value, match):
    with pytest.raises(ConfigError, match=match):
        build("dimenet", **{option: value})


@pytest.mark.parametrize("option", ["interaction_dim", "basis_dim", "output_dim", "embedding_dim"])
def test_sizes_of_dimenetpp_are_refused_by_name(option):
    with pytest.raises(ConfigError, match=rf"{option} must be an integer >= 1, found 0"):
        build("dimenetpp", **{option: 0})


@pytest.mark.parametrize("layers", [0, 1])
def test_blocks_without_optional_layers_work(layers):
    network = perturbed(DimeNet(3, 4, 6, 3, 1, 9.0, 5, 1, layers, 0, layers))
    assert bool(torch.isfinite(network(*_inputs(*bare_molecule("H2O")))).all())


def _changed(**changes) -> list[Tensor]:
    names = ("atomic_number", "edge_index", "angle_index", "distance", "angle")
    inputs = dict(zip(names, _inputs(*bare_molecule("H2O")), strict=True))
    for name, (place, value) in changes.items():
        inputs[name] = inputs[name].clone()
        inputs[name][place] = value
    return list(inputs.values())


@BOTH
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"edge_index": ((0, 1), 3)}, r"edge_index must lie in 0\.\.2; out of range at edges 1\."),
        ({"edge_index": ((1, 4), -1)}, r"edge_index must lie in 0\.\.2; out of range at edges 4\."),
        ({"edge_index": ((0, 0), 0)}, r"self-loops; found them at edges 0\."),
        ({"angle_index": ((0, 2), 6)}, r"edge ids in 0\.\.5; out of range in columns 2\."),
        ({"angle_index": ((1, 3), -1)}, r"edge ids in 0\.\.5; out of range in columns 3\."),
        ({"distance": (2, 0.0)}, r"distance must be positive; it is not at edges 2\."),
        ({"distance": (3, math.nan)}, r"distance must be positive; it is not at edges 3\."),
    ],
)
def test_values_that_mean_nothing_are_refused_with_their_place(make, changes, match):
    with pytest.raises(GraphError, match=match):
        make()(*_changed(**changes))


@pytest.mark.parametrize(
    ("argument", "shape", "match"),
    [
        (1, (3, 6), r"edge_index must have shape \(2, n_edges\), found \(3, 6\)"),
        (2, (6,), r"angle_index must have shape \(2, n_triplets\), found \(6,\)"),
        (3, (5,), r"distance must have shape \(6,\), found \(5,\)"),
        (3, (6, 1), r"distance must have shape \(6,\), found \(6, 1\)"),
        (4, (7,), r"angle must have shape \(6,\), found \(7,\)"),
    ],
)
def test_shapes_that_do_not_match_are_refused(argument, shape, match):
    inputs = _changed()
    inputs[argument] = torch.zeros(shape, dtype=inputs[argument].dtype)
    with pytest.raises(GraphError, match=match):
        _dimenet()(*inputs)


def test_angles_that_do_not_belong_to_their_edges_are_refused():
    inputs = _changed()
    inputs[2] = inputs[2].flip(0)  # j→i where k→j belongs
    with pytest.raises(GraphError, match=r"pair an edge k→j \(row 0\) with an edge j→i"):
        _dimenet()(*inputs)
    inputs = _changed()
    inputs[2][:, 1] = torch.tensor([2, 0])  # 0→1 and 1→0
    with pytest.raises(GraphError, match=r"an edge with its reverse \(k = i\); found in columns 1"):
        _dimenet()(*inputs)
