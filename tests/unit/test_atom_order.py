"""Large structures are numbered along a curve inside, and nobody can tell from the results."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from ase.md.verlet import VelocityVerlet
from small_models import crystal, row_of_ethanol, slab

from eqcalc import EqCalculator
from eqcalc.bench.structures import load_structure
from eqcalc.calculator import atom_order
from eqcalc.calculator.atom_order import AtomOrder
from eqcalc.engines.loading import Model
from eqcalc.errors import ConfigError, GraphError, UnsupportedElementError
from eqcalc.neighbours import build_graph


def shuffled(atoms: Atoms, seed: int = 0) -> Atoms:
    return atoms[np.random.default_rng(seed).permutation(len(atoms))]


def copper() -> Atoms:
    return shuffled(bulk("Cu", cubic=True) * (10, 10, 10))


def spread(atoms: Atoms) -> float:
    """Return how far apart in memory neighbours lie: the mean distance of their numbers."""
    senders, receivers = build_graph(atoms, 3.0).edge_index
    return float((senders - receivers).abs().double().mean())


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 1, 2, 2], [1, 2, 3, 4]])
def test_an_order_of_other_atoms_is_refused(order):
    with pytest.raises(ConfigError, match=r"names each of 0\.\.3 once"):
        AtomOrder().keep(np.array([1, 1, 8, 6]), np.array(order))


# --- the order ---------------------------------------------------------------------------


@pytest.mark.parametrize("pbc", [True, False, (True, True, False)])
def test_neighbours_come_to_lie_close_together(pbc):
    atoms = copper()
    atoms.pbc = pbc
    ordered = AtomOrder().ordered(atoms)
    assert spread(atoms) > 1000
    assert spread(ordered) < 0.3 * spread(atoms)


def test_atoms_outside_the_box_lie_with_their_images():
    atoms = copper()
    outside = atoms.copy()
    outside.positions += np.random.default_rng(1).integers(-2, 3, (len(atoms), 3)) @ atoms.cell
    np.testing.assert_allclose(
        spread(AtomOrder().ordered(outside)), spread(AtomOrder().ordered(atoms)), rtol=0.05
    )


def test_values_come_back_in_the_order_of_the_structure():
    atoms, order = copper(), AtomOrder()
    ordered = order.ordered(atoms)
    assert not np.array_equal(ordered.positions, atoms.positions)
    np.testing.assert_array_equal(ordered.cell, atoms.cell)
    assert np.array_equal(ordered.pbc, atoms.pbc)
    np.testing.assert_array_equal(order.restored(ordered.positions), atoms.positions)
    np.testing.assert_array_equal(order.restored(ordered.numbers), atoms.numbers)


def test_the_order_stays_while_the_elements_do():
    atoms, order = copper(), AtomOrder()
    before = order.ordered(atoms)
    moved = atoms.copy()
    moved.rattle(2.0)
    np.testing.assert_array_equal(order.restored(order.ordered(moved).positions), moved.positions)
    np.testing.assert_array_equal(
        order.ordered(moved).positions - before.positions,
        order.ordered(Atoms(moved.numbers, moved.positions - atoms.positions)).positions,
    )
    moved.numbers[0] = 47
    np.testing.assert_array_equal(order.restored(order.ordered(moved).numbers), moved.numbers)


def test_small_structures_are_left_alone():
    atoms, order = crystal(), AtomOrder()
    order.ordered(copper())
    assert order.ordered(atoms) is atoms
    values = atoms.get_positions()
    assert order.restored(values) is values


@pytest.mark.parametrize("broken", ["nan", "inf", "one place", "flat cell", "no cell"])
def test_what_has_no_order_is_left_to_the_list(broken):
    atoms = copper()
    if broken == "one place":
        atoms.positions[:] = 1.0
    elif broken == "flat cell":
        atoms.cell[2] = atoms.cell[1]
    elif broken == "no cell":
        atoms.cell[0, 0] = np.nan
    else:
        atoms.positions[7] = float(broken)
    assert AtomOrder().ordered(atoms) is atoms


# --- inside the calculator ---------------------------------------------------------------


@pytest.fixture
def always(monkeypatch):
    """Order structures of any size."""
    monkeypatch.setattr(atom_order, "FEWEST", 2)


def results(calculator: EqCalculator, atoms: Atoms) -> dict:
    atoms.calc = calculator
    atoms.get_forces()
    if atoms.pbc.all():
        atoms.get_stresses()
    return calculator.results


MAKERS = [crystal, slab, row_of_ethanol]


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("committee", [False, True])
def test_results_do_not_depend_on_it(make, committee, models, monkeypatch):
    sources = [models["double"], models["other"]] if committee else models["double"]
    atoms = shuffled(make())
    expected = results(EqCalculator(sources, device="cpu", dtype="float64"), atoms.copy())
    monkeypatch.setattr(atom_order, "FEWEST", 2)
    calculator = EqCalculator(sources, device="cpu", dtype="float64")
    found = results(calculator, atoms.copy())
    ordered, _ = calculator.ordered_graph(atoms)
    assert not np.array_equal(ordered.positions, atoms.positions)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-11, atol=1e-11, err_msg=name)


@pytest.mark.parametrize("make", MAKERS)
def test_a_run_keeps_its_list_and_its_trajectory(make, models, monkeypatch):
    ends = []
    for fewest in (10**9, 2):
        monkeypatch.setattr(atom_order, "FEWEST", fewest)
        atoms = shuffled(make())
        atoms.calc = EqCalculator(models["double"], device="cpu")
        VelocityVerlet(atoms, timestep=0.2 * units.fs).run(20)
        ends.append((atoms.get_positions(), atoms.calc.neighbours.n_builds))
    np.testing.assert_allclose(ends[1][0], ends[0][0], rtol=0, atol=1e-9)
    assert ends[1][1] == ends[0][1]


def test_structures_in_turn_each_get_their_own_results(always, models):
    calculator = EqCalculator(models["double"], device="cpu")
    makers = [crystal, slab, row_of_ethanol, lambda: shuffled(crystal(), 1), crystal]
    for make in makers:
        fresh = EqCalculator(models["double"], device="cpu")
        np.testing.assert_allclose(
            results(calculator, make())["forces"],
            results(fresh, make())["forces"],
            rtol=0,
            atol=1e-11,
        )


def test_results_that_came_through_a_transfer_are_restored_too(always, models):
    expected = results(EqCalculator(models["double"], device="cpu"), row_of_ethanol())
    calculator = EqCalculator(models["double"], device="cpu")
    calculator.neighbours.transfers.needed = True  # as on another device
    found = results(calculator, row_of_ethanol())
    np.testing.assert_allclose(found["forces"], expected["forces"], rtol=0, atol=1e-11)


def test_blocks_are_cut_where_the_atoms_are(always, models, monkeypatch):
    atoms = shuffled(row_of_ethanol())
    whole = results(EqCalculator(models["double"], device="cpu"), atoms.copy())
    edges = EqCalculator(models["double"], device="cpu").ordered_graph(atoms)[1].edge_index.shape[1]
    blocks = EqCalculator(models["double"], device="cpu", max_edges=edges // 2)
    found = results(blocks, atoms.copy())
    np.testing.assert_allclose(found["forces"], whole["forces"], rtol=0, atol=1e-10)
    with pytest.raises(ConfigError, match=r"max_edges=1 is too few: the energy of one \w atom"):
        results(EqCalculator(models["double"], device="cpu", max_edges=1), atoms.copy())


def test_the_order_of_a_large_structure_is_used_by_itself(models):
    atoms = load_structure("water1029") * (3, 1, 1)
    calculator = EqCalculator(models["double"], device="cpu")
    ordered, graph = calculator.ordered_graph(shuffled(atoms))
    assert spread(ordered) < 0.3 * spread(shuffled(atoms))
    np.testing.assert_array_equal(graph.atomic_numbers.numpy(), ordered.numbers)


# --- refusals name the atoms of the structure ---------------------------------------------


def test_coincident_atoms_are_named_by_their_own_numbers(always, models):
    atoms = shuffled(row_of_ethanol())
    calculator = EqCalculator(models["double"], device="cpu")
    results(calculator, atoms.copy())
    atoms.positions[31] = atoms.positions[4]
    with pytest.raises(GraphError, match="atoms 4 and 31 coincide"):
        results(calculator, atoms)


def test_positions_that_are_not_finite_are_named_by_their_own_numbers(always, models):
    atoms = shuffled(row_of_ethanol())
    calculator = EqCalculator(models["double"], device="cpu")
    results(calculator, atoms.copy())
    atoms.positions[31, 0] = np.nan
    with pytest.raises(GraphError, match="found NaN or inf on atoms 31"):
        results(calculator, atoms)


def test_unknown_elements_are_named_by_their_own_numbers(always, models):
    atoms = shuffled(row_of_ethanol())
    atoms.symbols[[3, 20]] = "Fe"
    with pytest.raises(UnsupportedElementError, match=r"Fe \(atoms 3, 20\)"):
        results(EqCalculator(models["double"], device="cpu"), atoms)


def test_an_order_of_a_cpu_is_not_undone_where_none_is_taken(always, models, monkeypatch):
    """A run that began on a CPU goes on on another device, for which a CPU stands in here."""
    begun = shuffled(crystal())
    begun.calc = EqCalculator(models["double"], device="cpu", dtype="float64")
    expected, stresses = begun.get_forces(), begun.get_stresses()
    order = begun.calc.atom_order
    assert not np.array_equal(order, np.arange(len(begun)))
    again = begun.copy()
    again.calc = EqCalculator(models["double"], device="cpu", dtype="float64")
    again.calc.keep_atom_order(again, order)
    ordered_graph = EqCalculator.ordered_graph

    def elsewhere(calculator, atoms):
        with monkeypatch.context() as patch:
            patch.setattr(Model, "device", property(lambda model: torch.device("cuda")))
            return ordered_graph(calculator, atoms)

    monkeypatch.setattr(EqCalculator, "ordered_graph", elsewhere)
    np.testing.assert_allclose(again.get_forces(), expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(again.get_stresses(), stresses, rtol=0, atol=1e-10)
    assert again.calc.atom_order is None
