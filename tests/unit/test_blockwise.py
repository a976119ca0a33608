"""Blocks of a structure give the results of the whole, and memory decides when."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from small_models import (
    ETHANOL_FRAMES,
    POTENTIALS,
    REFERENCE_ENERGIES,
    crystal,
    ethanol,
    row_of_ethanol,
    slab,
    small_options,
    water,
)

from eqcalc import EqCalculator
from eqcalc.architectures import build
from eqcalc.blockwise import Blockwise, MemoryForecast
from eqcalc.blockwise import evaluation as blockwise
from eqcalc.blockwise.blocks import BlockCutter, box_coordinates, halved
from eqcalc.blockwise.memory import MemoryLaw
from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.errors import ConfigError, EqcalcError, NotEnoughMemoryError
from eqcalc.evaluation import Comparison, evaluate
from eqcalc.export import export_model
from eqcalc.neighbours import build_graph
from eqcalc.potential import Potential

TOLERANCE = 1e-10  # eV, eV/Å, eV/Å³ in float64


def chain() -> Atoms:
    """Return water molecules in a row, longer than any network's range, open everywhere."""
    row = Atoms()
    for k in range(14):
        one = water()
        one.rattle(0.05, seed=k)
        one.rotate(37.0 * k, "x")
        one.positions[:, 0] += 2.9 * k
        row += one
    return row


def wire() -> Atoms:
    """Return the chain, periodic along it."""
    row = chain()
    row.cell = [14 * 2.9, 0.0, 0.0]
    row.pbc = (True, False, False)
    return row


STRUCTURES = {"chain": chain, "wire": wire, "crystal": crystal, "slab": slab}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return every potential as a file, exported when it is first asked for."""
    folder = tmp_path_factory.mktemp("potentials")

    class Files(dict):
        def __missing__(self, name: str) -> Path:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                network = build(name, **small_options(name)).double()
            self[name] = folder / f"{name}.pt"
            export_model(
                Potential(network, REFERENCE_ENERGIES), self[name], elements=REFERENCE_ENERGIES
            )
            return self[name]

    return Files()


class Recorded:
    """A model that notes the edges of its calls and may run out of memory."""

    def __init__(
        self, model, most_edges: float = np.inf, error: type = torch.OutOfMemoryError
    ) -> None:
        self.model, self.card = model, model.card
        self.device, self.dtype, self.plain = model.device, model.dtype, model.plain
        self.most_edges, self.error = most_edges, error
        self.edges: list[int] = []

    def __call__(self, graph):
        n_edges = graph.edge_index.shape[1]
        self.edges.append(n_edges)
        if n_edges > self.most_edges:
            raise self.error("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(graph)


def record(calculator: EqCalculator, **options) -> Recorded:
    recorded = Recorded(calculator.models[0], **options)
    calculator.models = [recorded]
    return recorded


def n_edges_of(calculator: EqCalculator, atoms: Atoms) -> int:
    return build_graph(atoms, calculator.card.cutoff).edge_index.shape[1]


def least_edges(calculator: EqCalculator, atoms: Atoms) -> int:
    """Return the edges of the largest block of a single atom."""
    graph = build_graph(atoms, calculator.card.cutoff)
    cutter = BlockCutter(graph.edge_index, len(atoms), calculator.card.n_hops)
    return max(len(cutter.cut(torch.tensor([k])).edges) for k in range(len(atoms)))


def assert_same_results(found: dict, expected: dict) -> None:
    assert set(found) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-13, atol=TOLERANCE, err_msg=name)


def results(calculator: EqCalculator, atoms: Atoms) -> dict:
    calculator.calculate(atoms, ["energy", "stresses"] if atoms.pbc.all() else ["energy"])
    return calculator.results


# --- exact -------------------------------------------------------------------------------


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", POTENTIALS)
def test_blocks_of_any_size_give_the_results_of_the_whole(name, structure, files):
    atoms = STRUCTURES[structure]()
    whole = EqCalculator(files[name], device="cpu")
    expected = results(whole, atoms)
    largest, least = n_edges_of(whole, atoms), least_edges(whole, atoms)
    n_calls = []
    for max_edges in sorted({largest, max(least, largest - 1), (least + largest) // 2, least}):
        calculator = EqCalculator(files[name], device="cpu", max_edges=max_edges)
        recorded = record(calculator)
        assert_same_results(results(calculator, atoms), expected)
        assert max(recorded.edges) <= max_edges
        n_calls.append(len(recorded.edges))
    assert n_calls[-1] == 1
    # In the small cells an atom sees all edges: there, blocks are the whole with other owners.
    assert n_calls[0] > 3 or least == largest


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_single_atom_has_its_energy_and_its_part_of_all_gradients(name, files):
    model = EqCalculator(files[name], device="cpu").models[0]
    for make in STRUCTURES.values():
        atoms = make()
        graph = build_graph(atoms, model.card.cutoff)
        cutter = BlockCutter(graph.edge_index, len(atoms), model.card.n_hops)
        energies = torch.zeros(len(atoms), dtype=torch.float64)
        gradients = torch.zeros_like(graph.edge_vectors)
        for k in range(len(atoms)):
            block = cutter.cut(torch.tensor([k]))
            found = model(block.of(graph))
            energies[k] = found[0][0]
            gradients.index_add_(0, block.edges, found[1])
        expected = model(graph)
        np.testing.assert_allclose(energies, expected[0], rtol=1e-13, atol=TOLERANCE)
        np.testing.assert_allclose(gradients, expected[1], atol=TOLERANCE)


@pytest.mark.parametrize("name", ["painn", "dimenet"])
def test_one_hop_less_would_be_wrong(name, files):
    """What the other tests rest on: they can tell a block that is cut too small."""
    atoms = chain()
    model = EqCalculator(files[name], device="cpu").models[0]
    graph = build_graph(atoms, model.card.cutoff)
    expected = model(graph)
    block = BlockCutter(graph.edge_index, len(atoms), model.card.n_hops - 1).cut(torch.arange(6))
    found = model(block.of(graph))
    assert (found[0][:6] - expected[0][:6]).abs().max() > 1e4 * TOLERANCE


def test_blocks_keep_the_convention_of_the_graph():
    atoms = wire()
    graph = build_graph(atoms, 4.0)
    owned = torch.tensor([20, 3, 4])
    block = BlockCutter(graph.edge_index, len(atoms), 2).cut(owned)
    assert block.n_owned == 3
    assert block.atoms[:3].tolist() == owned.tolist()
    assert len(torch.unique(block.atoms)) == len(block.atoms)
    assert bool((block.edge_index[1].diff() >= 0).all())
    np.testing.assert_array_equal(block.atoms[block.edge_index], graph.edge_index[:, block.edges])
    # every edge that an owned atom receives, and that a sender of such an edge receives
    first = torch.isin(graph.edge_index[1], owned)
    second = torch.isin(graph.edge_index[1], graph.edge_index[0, first])
    expected = (first | second).nonzero().squeeze(1)
    np.testing.assert_array_equal(block.edges.sort().values, expected)


def test_a_committee_in_blocks_has_its_mean_and_spread(models):
    members = [models[name] for name in ("double", "other", "short")]
    for atoms in (chain(), slab(), crystal()):
        expected = results(EqCalculator(members, device="cpu"), atoms)
        least = least_edges(EqCalculator(models["double"], device="cpu"), atoms)
        found = results(EqCalculator(members, device="cpu", max_edges=least), atoms)
        assert found["forces_spread"].max() > 1e-3
        assert_same_results(found, expected)


def test_many_structures_with_one_larger_than_a_call(models):
    structures = [ethanol(), chain(), crystal(), wire(), Atoms("O")]
    expected = EqCalculator(models["double"], device="cpu").calculate_many(structures)
    calculator = EqCalculator(models["double"], device="cpu")
    most = max(least_edges(calculator, atoms) for atoms in structures)
    limited = EqCalculator(models["double"], device="cpu", max_edges=most)
    recorded = record(limited)
    for found, other in zip(limited.calculate_many(structures), expected, strict=True):
        assert_same_results(found, other)
    assert max(recorded.edges) <= most < n_edges_of(calculator, chain())


def test_a_float32_model_in_blocks_agrees_to_rounding(models):
    atoms = chain()
    whole = EqCalculator(models["single"], device="cpu")
    expected = whole.get_forces(atoms)
    blocks = EqCalculator(models["single"], device="cpu", max_edges=least_edges(whole, atoms))
    np.testing.assert_allclose(blocks.get_forces(atoms), expected, atol=1e-4)


# --- data sets ---------------------------------------------------------------------------


def labelled(*structures: Atoms) -> list[LabelledFrame]:
    """Return structures with labels of zero."""
    frames = []
    for atoms in structures:
        stress = np.zeros(6) if atoms.pbc.all() else None
        frames.append(LabelledFrame(atoms, 0.0, np.zeros((len(atoms), 3)), stress))
    return frames


def small_and_large_frames() -> list[LabelledFrame]:
    large = [row_of_ethanol(), crystal().repeat((8, 1, 1)), wire()]
    return labelled(ethanol(), water(), *large, crystal(), Atoms("O"), slab(), ethanol())


def assert_same_predictions(found: Comparison, expected: Comparison) -> None:
    assert found.n_frames == expected.n_frames
    for one, other in zip(found.quantities, expected.quantities, strict=True):
        np.testing.assert_allclose(
            one.predicted, other.predicted, rtol=1e-12, atol=1e-12, err_msg=one.name
        )


def test_frames_larger_than_a_call_are_judged_like_the_whole(models):
    calculator = EqCalculator(models["double"], device="cpu")
    frames = small_and_large_frames()
    expected = evaluate(calculator.models[0], frames)
    assert [quantity.name for quantity in expected.quantities][2:] == ["forces", "stress"]
    sizes = [n_edges_of(calculator, frame.atoms) for frame in frames]
    least = max(least_edges(calculator, frame.atoms) for frame in frames)
    assert sum(size > least for size in sizes) == 3
    for max_edges in (least, (least + max(sizes)) // 2, max(sizes)):
        recorded = Recorded(calculator.models[0])
        found = evaluate(recorded, frames, max_edges=max_edges)
        assert_same_predictions(found, expected)
        assert max(recorded.edges) <= max_edges
        if max_edges == least:
            assert len(recorded.edges) > 2 * len(frames)


def test_data_sets_and_many_structures_make_the_same_calls(models):
    frames = small_and_large_frames()
    calculator = EqCalculator(models["double"], device="cpu", max_edges=1000)
    of_frames = Recorded(calculator.models[0])
    of_structures = record(calculator)
    found = evaluate(of_frames, frames, max_edges=1000)
    expected = calculator.calculate_many([frame.atoms for frame in frames])
    assert of_frames.edges == of_structures.edges
    forces = np.concatenate([each["forces"].ravel() for each in expected])
    np.testing.assert_allclose(found.forces.predicted, forces, rtol=1e-12, atol=1e-12)


def test_reference_frames_are_judged_alike_under_any_limit(models):
    calculator = EqCalculator(models["double"], device="cpu")
    frames = read_dataset(ETHANOL_FRAMES).frames
    least = max(least_edges(calculator, frame.atoms) for frame in frames)
    together, one_by_one = Recorded(calculator.models[0]), Recorded(calculator.models[0])
    expected = evaluate(together, frames)
    assert_same_predictions(evaluate(one_by_one, frames, max_edges=least), expected)
    assert len(together.edges) == 1
    assert len(one_by_one.edges) >= len(frames)


def test_out_of_memory_of_a_data_set_is_answered_by_smaller_blocks(models):
    calculator = EqCalculator(models["double"], device="cpu")
    frames = small_and_large_frames()
    most = max(least_edges(calculator, frame.atoms) for frame in frames) + 50
    recorded = Recorded(calculator.models[0], most_edges=most)
    assert_same_predictions(evaluate(recorded, frames), evaluate(calculator.models[0], frames))
    assert recorded.edges[0] > most


# --- compact blocks ----------------------------------------------------------------------


def test_blocks_are_compact_across_boundaries_and_far_apart_molecules():
    crystal = bulk("Cu", cubic=True).repeat((4, 4, 4))
    shuffled = crystal[np.random.default_rng(0).permutation(len(crystal))]
    shuffled.positions += [100.0, -35.0, 7.0]  # outside of the cell
    coordinates = box_coordinates(shuffled)
    parts = [np.arange(len(shuffled))]
    while len(parts) < 8:
        parts = [half for part in parts for half in halved(part, coordinates)]
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(shuffled)))
    for part in parts:
        assert np.ptp(coordinates[part], axis=0).max() < 0.55 * crystal.cell.lengths()[0]


def test_open_directions_are_measured_in_angstrom():
    atoms = Atoms("O4", [[0, 0, 0], [0, 0, 9], [1, 0, 0], [1, 0, 9]], cell=[2, 2, 0], pbc=[1, 1, 0])
    halves = halved(np.arange(4), box_coordinates(atoms))
    assert [half.tolist() for half in halves] == [[0, 2], [1, 3]]


# --- memory ------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_out_of_memory_is_answered_by_smaller_blocks(error, models):
    atoms = chain()
    expected = results(EqCalculator(models["double"], device="cpu"), atoms)
    calculator = EqCalculator(models["double"], device="cpu")
    most = (n_edges_of(calculator, atoms) + least_edges(calculator, atoms)) // 2
    recorded = record(calculator, most_edges=most, error=error)
    assert_same_results(results(calculator, atoms), expected)
    assert any(n_edges > most for n_edges in recorded.edges)
    recorded.edges.clear()
    atoms.rattle(0.001)
    results(calculator, atoms)
    assert max(recorded.edges) <= most  # it was learnt


def test_out_of_memory_of_many_structures_is_answered_too(models):
    structures = [chain(), crystal(), ethanol()]
    expected = EqCalculator(models["double"], device="cpu").calculate_many(structures)
    calculator = EqCalculator(models["double"], device="cpu")
    most = max(least_edges(calculator, atoms) for atoms in structures) + 50
    recorded = record(calculator, most_edges=most)
    for found, other in zip(calculator.calculate_many(structures), expected, strict=True):
        assert_same_results(found, other)
    assert any(n_edges > most for n_edges in recorded.edges)


def test_no_memory_for_a_single_atom_says_what_was_tried(models):
    calculator = EqCalculator(models["double"], device="cpu")
    record(calculator, most_edges=3)
    message = (
        r"memory of cpu does not suffice for model 'double' on these 42 atoms with \d+ edges, not "
        r"even in blocks: the energy of one [HCO] atom alone depends on \d+ edges within 2 steps"
    )
    with pytest.raises(NotEnoughMemoryError, match=message) as caught:
        calculator.get_forces(chain())
    assert isinstance(caught.value, EqcalcError)
    assert isinstance(caught.value, MemoryError)


def test_other_errors_of_a_model_are_not_taken_for_memory(models):
    calculator = EqCalculator(models["double"], device="cpu")

    def fail(*tensors):
        raise RuntimeError("expected scalar type Float but found Double")

    recorded = record(calculator)
    recorded.model = fail
    with pytest.raises(RuntimeError, match="expected scalar type Float"):
        calculator.get_forces(chain())
    assert len(recorded.edges) == 1


def forecast_of(calculator: EqCalculator, atoms: Atoms, monkeypatch, share: float):
    """Forecast with a law of 1 kB per edge and memory for a share of the structure's edges."""
    n_edges = n_edges_of(calculator, atoms)
    monkeypatch.setattr(blockwise, "MAX_EDGES", 0)
    monkeypatch.setattr(blockwise, "measure_law", lambda *_: MemoryLaw(0.0, 1000.0, 0.0))
    monkeypatch.setattr(blockwise, "available_memory", lambda _: int(1250 * share * n_edges) + 1)
    calculator._blockwise = [Blockwise(each.max_edges) for each in calculator._blockwise]
    return calculator.memory_forecast(atoms)


def test_a_forecast_beyond_the_memory_asks_for_blocks(models, monkeypatch):
    atoms = chain()
    expected = results(EqCalculator(models["double"], device="cpu"), atoms)
    calculator = EqCalculator(models["double"], device="cpu")
    n_edges = n_edges_of(calculator, atoms)
    whole = forecast_of(calculator, atoms, monkeypatch, 1.0)
    assert whole == MemoryForecast(1000 * n_edges, 1250 * n_edges + 1, 1, 1.0)
    forecast = forecast_of(calculator, atoms, monkeypatch, 0.7)
    recorded = record(calculator)
    assert_same_results(results(calculator, atoms), expected)
    assert max(recorded.edges) <= 0.7 * n_edges
    assert len(recorded.edges) == forecast.n_blocks > 1
    assert sum(recorded.edges) == pytest.approx(forecast.work * n_edges)


def test_a_forecast_without_hope_is_refused_before_any_call(models, monkeypatch):
    calculator = EqCalculator(models["double"], device="cpu")
    recorded = record(calculator)
    with pytest.raises(NotEnoughMemoryError, match=r"alone depends on .* takes about .* GB of"):
        forecast_of(calculator, chain(), monkeypatch, 0.01)
    assert recorded.edges == []


def test_small_structures_need_no_forecast(models):
    calculator = EqCalculator(models["double"], device="cpu")
    recorded = record(calculator)
    assert calculator.memory_forecast(chain()) is None
    assert recorded.edges == []


@pytest.mark.parametrize("available", [None, 10**15])
def test_with_enough_or_unknown_memory_the_whole_goes_at_once(available, models, monkeypatch):
    monkeypatch.setattr(blockwise, "MAX_EDGES", 0)
    monkeypatch.setattr(blockwise, "measure_law", lambda *_: MemoryLaw(0.0, 1000.0, 0.0))
    monkeypatch.setattr(blockwise, "available_memory", lambda _: available)
    calculator = EqCalculator(models["double"], device="cpu")
    recorded = record(calculator)
    calculator.get_forces(chain())
    assert recorded.edges == [n_edges_of(calculator, chain())]


# --- refusals ----------------------------------------------------------------------------


def test_a_limit_below_one_atom_is_refused(models):
    calculator = EqCalculator(models["double"], device="cpu", max_edges=20)
    with pytest.raises(ConfigError, match=r"max_edges=20 is too few: the energy of one \w atom"):
        calculator.get_forces(chain())


def test_a_limit_below_one_edge_is_refused(models):
    with pytest.raises(ConfigError, match="max_edges must be at least 1, found 0"):
        EqCalculator(models["double"], max_edges=0)


@pytest.mark.parametrize(("source", "where"), [("", "frame 1"), ("a.xyz", r"frame 1 of a\.xyz")])
def test_a_limit_below_one_atom_of_a_frame_names_the_frame(source, where, models):
    model = EqCalculator(models["double"], device="cpu").models[0]
    message = rf"^{where}: max_edges=20 is too few: the energy of one [HCO] atom alone depends on"
    with pytest.raises(ConfigError, match=message):
        evaluate(model, labelled(water(), chain()), source=source, max_edges=20)


def test_no_memory_for_a_single_atom_names_the_frames(models):
    model = EqCalculator(models["double"], device="cpu").models[0]
    with pytest.raises(
        NotEnoughMemoryError, match=r"^frames 0 to 1: the memory of cpu does not suffice for model"
    ):
        evaluate(Recorded(model, most_edges=3), labelled(water(), chain()))


def test_a_limit_below_one_edge_of_a_data_set_is_refused(models):
    model = EqCalculator(models["double"], device="cpu").models[0]
    with pytest.raises(ConfigError, match=r"^max_edges must be at least 1, found 0"):
        evaluate(model, labelled(water()), max_edges=0)
