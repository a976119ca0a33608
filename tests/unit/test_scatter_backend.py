"""Forces summed by torch-scatter; .ci/run installs it for these tests alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from small_models import crystal, ethanol, slab

from eqcalc import EqCalculator
from eqcalc.derivatives import forces_from_edge_gradients, forces_from_segments
from eqcalc.neighbours import build_graph

pytest.importorskip("torch_scatter")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make", [ethanol, crystal, slab])
def test_forces_are_those_of_index_add(make, dtype):
    graph = build_graph(make(), 4.0)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(graph.edge_vectors.shape, generator=generator, dtype=dtype)
    before = gradients.clone()
    arguments = (gradients, graph.edge_index, graph.n_owned)
    found, expected = forces_from_segments(*arguments), forces_from_edge_gradients(*arguments)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert float(expected.abs().max()) > 1.0
    assert torch.equal(gradients, before)


def test_atoms_without_edges_have_no_force():
    # Atom 1 has none, and neither have those at both ends.
    edge_index = torch.tensor([[3, 2], [2, 3]])
    gradients = torch.tensor([[1.0, 2.0, 3.0], [0.5, 0.0, 0.0]])
    forces = forces_from_segments(gradients, edge_index, 5)
    assert forces.tolist() == [[0, 0, 0], [0, 0, 0], [0.5, 2, 3], [-0.5, -2, -3], [0, 0, 0]]
    empty = forces_from_segments(torch.zeros(0, 3), torch.zeros(2, 0, dtype=torch.int64), 2)
    assert empty.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_calculator_gives_the_same_results_with_it(models):
    members = [models["double"], models["other"]]
    usual, segments = (
        EqCalculator(members, device="cpu", reduction=name) for name in ("torch", "torch-scatter")
    )
    assert copy.copy(segments).todict()["reduction"] == "torch-scatter"
    structures = [ethanol(), crystal(), slab()]
    for atoms in structures:
        usual.calculate(atoms)
        segments.calculate(atoms)
        for name, value in usual.results.items():
            np.testing.assert_allclose(
                segments.results[name], value, rtol=0, atol=1e-11, err_msg=name
            )
    pairs = zip(usual.calculate_many(structures), segments.calculate_many(structures), strict=True)
    for expected, found in pairs:
        np.testing.assert_allclose(found["forces"], expected["forces"], rtol=0, atol=1e-11)
        assert "stress" not in expected or np.allclose(found["stress"], expected["stress"])


@pytest.mark.gpu
def test_forces_on_a_gpu_are_equal_in_every_bit_at_every_run():
    graph = build_graph(crystal().repeat(4), 6.0, device="cuda")
    gradients = torch.randn_like(graph.edge_vectors)
    runs = [forces_from_segments(gradients, graph.edge_index, graph.n_owned) for _ in range(20)]
    assert all(torch.equal(run, runs[0]) for run in runs)
