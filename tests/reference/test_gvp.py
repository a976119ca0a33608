"""GVP: its parts against their equations, and the network recomputed by plain loops."""

from __future__ import annotations

import math

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
    edges_of,
    envelope,
    incoming,
    perturbed,
    rattled,
    rotation,
    silu,
    structures,
)
from torch import nn

from eqcalc.architectures import GVP, build
from eqcalc.architectures.gvp import (
    GeometricVectorPerceptron,
    GVPConvolution,
    GVPLayerNorm,
    VectorDropout,
)
from eqcalc.errors import ConfigError
from eqcalc.neighbours import build_graph
from eqcalc.nn.norm import NORMS

CUTOFF, S, C, N_GAUSSIANS, N_LAYERS = 3.0, 6, 3, 5, 2


def _network(**options) -> GVP:
    torch.manual_seed(6)
    network = GVP(S, C, 4, 2, N_LAYERS, N_GAUSSIANS, CUTOFF, avg_num_neighbors=6.0, **options)
    return perturbed(network).eval()


def _pair(n_rows: int = 5, s: int = S, c: int = C, seed: int = 0):
    """Return random scalars (n_rows, s) and vectors (n_rows, 3, c)."""
    generator = torch.Generator().manual_seed(seed)
    scalars = torch.randn((n_rows, s), generator=generator, dtype=torch.float64)
    return scalars, torch.randn((n_rows, 3, c), generator=generator, dtype=torch.float64)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _perceptron(w: Weights, name: str, s, v, activation=None, gate_activation=None):
    """Map scalars (S,) and a list of vectors (C, 3), one channel at a time."""
    w_h = w.arrays[f"{name}to_hidden.weight"]
    hidden = [sum(w_h[h, c] * v[c] for c in range(len(v))) for h in range(len(w_h))]
    lengths = [w.length(x) for x in hidden]
    s_m = w.linear(f"{name}mix_scalars", np.concatenate([s, lengths]))
    new_s = s_m if activation is None else activation(s_m)
    if f"{name}mix_vectors.weight" not in w.arrays:
        return new_s, np.zeros((0, 3))
    w_v = w.arrays[f"{name}mix_vectors.weight"]
    gated = s_m if gate_activation is None else gate_activation(s_m)
    gates = _sigmoid(w.linear(f"{name}gate", gated))
    new_v = [
        gates[c] * sum(w_v[c, h] * hidden[h] for h in range(len(hidden))) for c in range(len(w_v))
    ]
    return new_s, np.array(new_v)


def _norm(w: Weights, name: str, s, v, epsilon: float):
    centred = (s - s.mean()) / math.sqrt(s.var() + 1e-5)
    new_s = centred * w.arrays[f"{name}scalar_norm.weight"] + w.arrays[f"{name}scalar_norm.bias"]
    mean_square = sum(float(x @ x) for x in v) / len(v)
    return new_s, v / math.sqrt(mean_square + epsilon)


def _by_loops(network: GVP, atoms: Atoms) -> np.ndarray:
    w, edges = Weights(network), edges_of(atoms, CUTOFF)
    centres = [CUTOFF * k / (N_GAUSSIANS - 1) for k in range(N_GAUSSIANS)]
    sigma = CUTOFF / N_GAUSSIANS
    embedded = []
    for e in edges:
        radial = np.array([math.exp(-(((e.length - mu) / sigma) ** 2)) for mu in centres])
        s, v = _norm(w, "edge_norm.", radial, (e.vector / e.length)[None], 1.0)
        embedded.append(_perceptron(w, "edge_embedding.", s, v))
    x = [(w.arrays["embedding.weight"][z], np.zeros((C, 3))) for z in atoms.numbers]
    for t in range(N_LAYERS):
        name, new = f"layers.{t}.", []
        for i in range(len(atoms)):
            total_s, total_v = np.zeros(S), np.zeros((C, 3))
            for e in incoming(i, edges):
                e_s, e_v = embedded[edges.index(e)]
                s = np.concatenate([x[e.j][0], e_s, x[i][0]])
                v = np.concatenate([x[e.j][1], e_v, x[i][1]])
                for k, activation in enumerate((silu, silu, None)):
                    s, v = _perceptron(w, f"{name}messages.{k}.", s, v, activation)
                share = envelope(e.length / CUTOFF) / math.sqrt(network.config.avg_num_neighbors)
                total_s, total_v = total_s + share * s, total_v + share * v
            s, v = _norm(w, f"{name}message_norm.", x[i][0] + total_s, x[i][1] + total_v, 1.0)
            new_s, new_v = _perceptron(w, f"{name}transform.0.", s, v, silu)
            new_s, new_v = _perceptron(w, f"{name}transform.1.", new_s, new_v)
            new.append(_norm(w, f"{name}transform_norm.", s + new_s, v + new_v, 1.0))
        x = new
    energies = []
    for s, v in x:
        s, v = _norm(w, "readout_norm.", s, v, 1.0)
        s, _ = _perceptron(w, "to_scalars.", s, v, silu)
        energies.append(w.mlp("readout", s, silu)[0])
    return np.array(energies)


@pytest.mark.parametrize("name", structures())
def test_atomic_energies_equal_the_equations_written_as_loops(name):
    atoms = structures()[name]
    network = _network()
    found = network.atomic_energies(build_graph(atoms, CUTOFF)).detach().numpy()
    np.testing.assert_allclose(found, _by_loops(network, atoms), **EXACT)


# --- the perceptron


@pytest.mark.parametrize("n_out", [(4, 2), (7, 5), (4, 0)])
@pytest.mark.parametrize("gated", [None, silu])
@pytest.mark.parametrize("form", NORMS)
def test_perceptron_equals_its_equations(n_out, gated, form):
    torch.manual_seed(0)
    gate = None if gated is None else nn.SiLU()
    layer = perturbed(GeometricVectorPerceptron((S, C), n_out, nn.SiLU(), gate, vector_norm=form))
    scalars, vectors = _pair()
    found = layer(scalars, vectors)
    assert [tuple(t.shape) for t in found] == [(5, n_out[0]), (5, 3, n_out[1])]
    for row in range(5):
        s, v = _perceptron(
            Weights(layer), "", scalars[row].numpy(), vectors[row].numpy().T, silu, gated
        )
        np.testing.assert_allclose(found[0][row].detach().numpy(), s, **EXACT)
        np.testing.assert_allclose(found[1][row].detach().numpy().T, v, **EXACT)


def test_vectors_of_the_perceptron_have_no_bias():
    layer = perturbed(GeometricVectorPerceptron((S, C), (4, 2)))
    scalars, vectors = _pair()
    assert float(layer(scalars, 0.0 * vectors)[1].abs().max().detach()) == 0.0


@pytest.mark.parametrize("improper", [False, True], ids=["rotation", "reflection"])
def test_parts_are_equivariant(improper):
    torch.manual_seed(0)
    turn = rotation(improper)
    edge_scalars, edge_vectors = _pair(7, 4, 2, seed=1)
    index = torch.tensor([[1, 2, 3, 0, 4, 0, 1], [0, 0, 0, 1, 1, 2, 3]])
    edge_weights = torch.linspace(0.1, 0.9, 7).double().unsqueeze(1)
    convolution = perturbed(GVPConvolution((S, C), (4, 2)))
    parts = [
        (perturbed(GeometricVectorPerceptron((S, C), (4, 5), nn.SiLU())), ()),
        (perturbed(GVPLayerNorm(S)), ()),
        (perturbed(GVPLayerNorm(S, 1.0)), ()),
        (convolution, (edge_scalars, edge_vectors, edge_weights, index)),
    ]
    scalars, vectors = _pair()
    for part, rest in parts:
        before = part(scalars, vectors, *rest)
        if rest:
            rest = (
                edge_scalars,
                torch.einsum("xy,nyc->nxc", turn, edge_vectors),
                edge_weights,
                index,
            )
        after = part(scalars, torch.einsum("xy,nyc->nxc", turn, vectors), *rest)
        torch.testing.assert_close(after[0], before[0], **EXACT)
        torch.testing.assert_close(after[1], torch.einsum("xy,nyc->nxc", turn, before[1]), **EXACT)


# --- norm and dropout


def test_layer_norm_makes_the_root_mean_square_length_one():
    scalars, vectors = _pair()
    new_scalars, new_vectors = GVPLayerNorm(S).double()(scalars, vectors)
    lengths = new_vectors.square().sum(dim=1).mean(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=0, atol=1e-7)
    torch.testing.assert_close(new_scalars.mean(dim=1), torch.zeros(5).double(), **EXACT)
    # One factor for all channels of a row: their ratios stay.
    ratios = new_vectors / vectors
    torch.testing.assert_close(ratios, ratios[:, :1, :1].expand_as(ratios), **EXACT)


@pytest.mark.parametrize("epsilon", [1e-8, 1.0])
def test_layer_norm_of_zero_vectors_has_finite_second_derivatives(epsilon):
    norm = GVPLayerNorm(S, epsilon).double()
    scalars, vectors = _pair()
    vectors = (0.0 * vectors).requires_grad_(True)
    found = norm(scalars, vectors)[1]
    assert float(found.abs().max().detach()) == 0.0
    (slope,) = torch.autograd.grad(found.sum() + found.square().sum(), vectors, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.square().sum(), vectors)
    assert bool(torch.isfinite(slope).all())
    assert bool(torch.isfinite(curvature).all())


def test_dropout_drops_whole_vectors_and_keeps_the_mean():
    scalars, vectors = torch.ones(4000, 3).double(), torch.ones(4000, 3, 2).double()
    vectors[:, 1] = 2.0
    torch.manual_seed(0)
    new_scalars, new_vectors = VectorDropout(0.25).train()(scalars, vectors)
    dropped = new_vectors == 0.0
    assert torch.equal(dropped.any(dim=1), dropped.all(dim=1))
    kept = ~dropped.all(dim=1)
    torch.testing.assert_close(
        new_vectors.transpose(1, 2)[kept],
        (vectors / 0.75).transpose(1, 2)[kept],
        **EXACT,
    )
    assert float(kept.double().mean()) == pytest.approx(0.75, abs=0.02)
    assert float(new_scalars.mean()) == pytest.approx(1.0, abs=0.03)
    assert set(new_scalars.unique().tolist()) == {0.0, 1.0 / 0.75}


def test_dropout_does_nothing_in_evaluation_or_at_rate_zero():
    pair = _pair()
    for layer in (VectorDropout(0.5).eval(), VectorDropout(0.0).train()):
        assert all(torch.equal(a, b) for a, b in zip(layer(*pair), pair, strict=True))


def test_dropout_acts_on_the_network_in_training_only():
    graph = build_graph(rattled("CH3OH"), CUTOFF)
    network, expected = _network(drop_rate=0.3), _network().atomic_energies(graph)
    torch.testing.assert_close(network.atomic_energies(graph), expected, rtol=0, atol=0)
    torch.manual_seed(0)
    random = network.train().atomic_energies(graph)
    assert float((random - expected).abs().max().detach()) > 1e-3


# --- as a potential


@pytest.mark.parametrize("name", ["methanol", "copper", "salt"])
def test_forces_are_the_energy_derivative(name):
    assert_forces_by_finite_differences(_network(), structures()[name])


def test_every_directed_edge_vanishes_smoothly_at_the_cutoff():
    assert_directed_edge_vanishes(_network())


def test_every_parameter_receives_a_gradient():
    assert_every_parameter_learns(_network(), rattled("CH3CH2OH"))


@pytest.mark.parametrize("options", [{}, {"drop_rate": 0.2}])
def test_exported_file_gives_the_eager_numbers(options, tmp_path):
    assert_exported_file_agrees(_network(**options), tmp_path / "model.pt", rattled("CH3OH"))


def test_forces_stay_small_where_the_last_neighbour_leaves():
    # With the published ε = 1e-8 the norm blows a vanishing vector up to full size: the
    # slope of the energy would rise a thousandfold just before the cutoff.
    network = _network()
    slopes = []
    for gap in (0.3, 0.1, 0.03, 0.01):
        atoms = Atoms("CO", [[0.0, 0.0, 0.0], [0.0, 0.0, CUTOFF - gap]])
        graph = build_graph(atoms, CUTOFF)
        vectors = graph.edge_vectors.requires_grad_(True)
        energy = network.atomic_energies(graph._replace(edge_vectors=vectors)).sum()
        slopes.append(float(torch.autograd.grad(energy, vectors)[0].abs().max()))
    assert slopes == sorted(slopes, reverse=True)


def test_default_sizes_are_the_published_ones():
    config = build("gvp", num_layers=1).config
    assert (config.scalar_dim, config.vector_dim) == (100, 16)
    assert (config.edge_scalar_dim, config.edge_vector_dim) == (32, 1)
    assert config.num_radial_basis == 16


# --- refusals


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: build("gvp", scalar_dim=1), r"scalar_dim must be an integer >= 2, found 1"),
        (lambda: build("gvp", vector_dim=0), r"vector_dim must be an integer >= 1, found 0"),
        (lambda: build("gvp", edge_scalar_dim=0), r"edge_scalar_dim must be an integer >= 1"),
        (lambda: build("gvp", edge_vector_dim=0), r"edge_vector_dim must be an integer >= 1"),
        (lambda: build("gvp", num_layers=0), r"num_layers must be an integer >= 1, found 0"),
        (lambda: build("gvp", num_radial_basis=1), r"num_radial_basis must be an integer >= 2"),
        (lambda: build("gvp", cutoff=0.0), r"cutoff must be a positive number, found 0\.0"),
        (lambda: build("gvp", avg_num_neighbors=-1.0), r"avg_num_neighbors must be a positive"),
        (lambda: build("gvp", drop_rate=1.0), r"drop_rate must be at least 0 and below 1, found 1"),
        (lambda: build("gvp", vector_dims=4), r"no option 'vector_dims'.*mean 'vector_dim'\?"),
        (lambda: VectorDropout(-0.1), r"drop_rate must be at least 0 and below 1, found -0\.1"),
        (lambda: GVPLayerNorm(3, 0.0), r"epsilon must be a positive number, found 0\.0"),
        (lambda: GVPLayerNorm(0), r"n_scalars must be an integer >= 1, found 0"),
        (lambda: GeometricVectorPerceptron((0, 1), (1, 1)), r"scalars_in must be an integer >= 1"),
        (lambda: GeometricVectorPerceptron((1, 0), (1, 1)), r"vectors_in must be an integer >= 1"),
        (lambda: GeometricVectorPerceptron((1, 1), (0, 1)), r"scalars_out must be an integer >= 1"),
        (lambda: GeometricVectorPerceptron((1, 1), (1, -1)), r"vectors_out must be an integer >="),
    ],
)
def test_options_out_of_range_are_refused_by_name(make, match):
    with pytest.raises(ConfigError, match=match):
        make()
