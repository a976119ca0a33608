"""Many structures through few model calls: the results of one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.constraints import FixAtoms
from small_models import crystal, ethanol, slab, water
from test_calculator import Counted, count_calls

from eqcalc import EqCalculator
from eqcalc.blockwise.grouping import grouped
from eqcalc.errors import ConfigError, GraphError, NonFiniteError, UnsupportedElementError
from eqcalc.neighbours import build_graph


@pytest.fixture
def calculator(models: dict[str, Path]) -> EqCalculator:
    return EqCalculator(models["double"], device="cpu")


def structures() -> list[Atoms]:
    """Return molecules, crystals, a slab, an atom and displacements of one molecule."""
    moved = [ethanol() for _ in range(3)]
    for k, atoms in enumerate(moved):
        atoms.rattle(0.01, seed=k)
    return [
        ethanol(),
        crystal(),
        water(),
        slab(),
        Atoms("O"),
        crystal().repeat((2, 1, 1)),
        *moved,
    ]


def assert_equal_results(found: list[dict], expected: list[dict], tolerance: float) -> None:
    assert len(found) == len(expected)
    for k, (one, other) in enumerate(zip(found, expected, strict=True)):
        assert set(one) == set(other), k
        for name, value in other.items():
            np.testing.assert_allclose(
                one[name], value, rtol=tolerance, atol=tolerance, err_msg=f"{k} {name}"
            )


def one_by_one(calculator: EqCalculator, atoms: list[Atoms]) -> list[dict]:
    results = []
    for single in atoms:
        calculator.calculate(single)
        results.append(calculator.results)
    return results


@pytest.mark.parametrize("max_edges", [1, 200, 20_000])
def test_many_give_the_results_of_one_by_one(max_edges, calculator, models):
    expected = one_by_one(EqCalculator(models["double"], device="cpu"), structures())
    found = calculator.calculate_many(structures(), max_edges=max_edges)
    assert_equal_results(found, expected, 1e-11)
    assert [set(results) >= {"stress"} for results in found[:5]] == [
        False,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("skin", [0.0, 0.5])
def test_a_committee_gives_mean_and_spread_for_each_structure(skin, models):
    committee = EqCalculator(
        [models[name] for name in ("double", "other", "short")], device="cpu", skin=skin
    )
    expected = one_by_one(committee, structures())
    found = committee.calculate_many(structures())
    assert_equal_results(found, expected, 1e-11)
    assert found[1]["energy_spread"] > 1e-3
    assert found[1]["forces_spread"].shape == (8, 3)


def test_a_float32_model_agrees_to_rounding(models):
    single = EqCalculator(models["single"], device="cpu")
    expected = one_by_one(single, structures())
    assert_equal_results(single.calculate_many(structures()), expected, 1e-4)


def test_the_model_is_called_as_rarely_as_the_edges_allow(calculator):
    counted = count_calls(calculator)
    calculator.calculate_many(structures())
    assert counted.n_calls == 1
    n_edges = [
        build_graph(atoms, calculator.card.cutoff).edge_index.shape[1] for atoms in structures()
    ]
    for max_edges, n_calls in ((1, len(structures())), (sum(n_edges[:3]), None)):
        counted.n_calls = 0
        calculator.calculate_many(structures(), max_edges=max_edges)
        groups = list(grouped(n_edges, lambda n: max(n, 1), max_edges))
        assert counted.n_calls == len(groups)
        assert n_calls in (None, len(groups))


def test_a_committee_searches_neighbours_once_for_all_members(models, monkeypatch):
    from eqcalc.neighbours import search as pair_search

    searches = []
    search = pair_search._search
    monkeypatch.setattr(
        pair_search, "_search", lambda *arguments: searches.append(1) or search(*arguments)
    )
    committee = EqCalculator([models["double"], models["other"]], device="cpu")
    searches.clear()
    committee.calculate_many([crystal(), ethanol(), ethanol()])
    assert len(searches) == 2  # the second ethanol has the list of the first


def test_an_empty_list_gives_an_empty_list(calculator):
    assert calculator.calculate_many([]) == []


def test_structures_may_come_from_a_generator(calculator):
    found = calculator.calculate_many(atoms for atoms in structures())
    assert len(found) == len(structures())


def test_structures_and_present_results_stay_as_they_are(calculator):
    first = crystal()
    first.calc = calculator
    energy, forces = first.get_potential_energy(), first.get_forces()
    counted = count_calls(calculator)
    results, reference = calculator.results, calculator.neighbours.reference
    others = structures()
    others[0].set_constraint(FixAtoms([0]))
    others[1].positions[0] += 9.0
    kept = [atoms.copy() for atoms in others]
    calculator.calculate_many(others)
    for atoms, copy in zip(others, kept, strict=True):
        assert atoms == copy
        assert atoms.calc is None
    assert calculator.results is results
    assert calculator.neighbours.reference is reference
    assert counted.n_calls == 1
    assert first.get_potential_energy() == energy
    np.testing.assert_array_equal(first.get_forces(), forces)
    assert counted.n_calls == 1


def test_results_own_their_arrays(calculator):
    found = calculator.calculate_many([crystal(), crystal()])
    for results in found:
        for name in ("energies", "forces", "stress"):
            assert results[name].base is None, name


def test_constraints_leave_the_raw_forces_untouched(calculator):
    fixed = ethanol()
    fixed.set_constraint(FixAtoms([0]))
    free, held = calculator.calculate_many([ethanol(), fixed])
    np.testing.assert_allclose(free["forces"], held["forces"], atol=1e-12)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_need_nothing_of_the_caller(context, calculator):
    expected = calculator.calculate_many(structures())
    with context():
        found = calculator.calculate_many(structures())
    assert_equal_results(found, expected, 1e-14)


# --- refusals ----------------------------------------------------------------------------


def _without_atoms() -> Atoms:
    return Atoms()


def _coincident() -> Atoms:
    return Atoms("OH", np.zeros((2, 3)))


def _not_finite() -> Atoms:
    atoms = ethanol()
    atoms.positions[4, 1] = np.nan
    return atoms


def _foreign() -> Atoms:
    return Atoms("NH3", np.eye(4, 3) * 2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (_without_atoms, GraphError, "the structure has zero atoms"),
        (_coincident, GraphError, "atoms 0 and 1 coincide"),
        (_not_finite, GraphError, "positions must be finite, found NaN or inf on atoms 4"),
        (_foreign, UnsupportedElementError, r"model 'double' does not know N \(atoms 0\)"),
    ],
)
def test_a_bad_structure_is_named_by_its_index(make, error, message, calculator):
    with pytest.raises(error, match=f"^structure 2: {message}"):
        calculator.calculate_many([ethanol(), crystal(), make()])


def test_names_stand_in_messages_instead_of_indices(calculator):
    with pytest.raises(GraphError, match=r"^b\.xyz: the structure has zero atoms"):
        calculator.calculate_many([ethanol(), Atoms()], names=["a.xyz", "b.xyz"])


def test_too_few_names_are_refused(calculator):
    with pytest.raises(ConfigError, match="expected a name for each structure, found 1"):
        calculator.calculate_many([ethanol(), water()], names=["a.xyz"])


@pytest.mark.parametrize("where", ["energies", "gradients"])
def test_nan_from_a_model_names_the_structure_and_the_member(where, models):
    calculator = EqCalculator([models["double"], models["other"]], device="cpu")

    def broken(energies, gradients):
        target = (energies if where == "energies" else gradients).clone()
        target[-1] = torch.nan  # in the last structure
        return (target, gradients) if where == "energies" else (energies, target)

    calculator.models[1] = Counted(calculator.models[1], broken)
    with pytest.raises(
        NonFiniteError, match=r"^structure 1: model 'other' returned NaN or infinity for these 3 at"
    ):
        calculator.calculate_many([ethanol(), water()])


def test_a_single_structure_without_a_list_is_refused(calculator):
    with pytest.raises(ConfigError, match=r"found a single ase\.Atoms; pass \[atoms\]"):
        calculator.calculate_many(ethanol())


def test_something_else_than_a_structure_is_refused(calculator):
    with pytest.raises(ConfigError, match=r"structure 1: expected ase\.Atoms, found str"):
        calculator.calculate_many([ethanol(), "water.xyz"])


def test_a_budget_below_one_edge_is_refused(calculator):
    with pytest.raises(ConfigError, match="max_edges must be at least 1, found 0"):
        calculator.calculate_many([ethanol()], max_edges=0)


class Lifted(EqCalculator):
    """What a user may do to add a term of her own."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        self.results["energy"] += 1.0


class LiftedOften(Lifted):
    """The same for many structures too."""

    def calculate_many(self, *arguments, **options):
        found = super().calculate_many(*arguments, **options)
        return [results | {"energy": results["energy"] + 1.0} for results in found]


def test_what_a_subclass_adds_is_not_passed_by(models):
    """Hessians and shared images would lack it, in silence."""
    lifted = Lifted(models["double"], device="cpu")
    for ask in (lifted.calculate_many, lambda both: lifted.get_hessian(both[0])):
        with pytest.raises(ConfigError, match=r"Lifted has a calculate of its own, .*SumCalculat"):
            ask([water(), ethanol()])
    often = LiftedOften(models["double"], device="cpu")
    found = [results["energy"] for results in often.calculate_many([water(), ethanol()])]
    expected = [often.get_potential_energy(atoms) for atoms in (water(), ethanol())]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert often.get_hessian(water()).shape == (9, 9)
