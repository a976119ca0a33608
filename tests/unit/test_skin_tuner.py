"""SkinTuner: it finds the cheapest skin from times alone, and never changes a graph."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from ase import Atoms
from fake_clock import Clock
from small_models import crystal, ethanol

from eqcalc import EqCalculator
from eqcalc.bench import BenchCalculator
from eqcalc.cli import main
from eqcalc.errors import ConfigError, GraphError
from eqcalc.neighbours import SkinList, build_graph, skin_list
from eqcalc.neighbours.skin_tuner import LADDER, SkinTuner

CUTOFF = 5.0


@dataclass
class Run:
    """A run whose times are known: seconds of a search, of 1 Å³ around an atom, Å per call."""

    search: float
    volume: float
    speed: float

    def cost(self, skin: float) -> float:
        """Return seconds per call of a fixed skin."""
        return self.search / self.calls(skin) + self.call(skin)

    def call(self, skin: float) -> float:
        return self.volume * (CUTOFF + skin) ** 3

    def calls(self, skin: float) -> int:
        return max(1, math.ceil(skin / self.speed)) if self.speed > 0 else 10**9

    @property
    def best(self) -> float:
        return min(self.cost(skin) for skin in LADDER)


def follow(
    tuner: SkinTuner, run: Run, n_lists: int, disturb: Callable[[], float] = lambda: 0.0
) -> Iterator[tuple[float, float]]:
    """Yield the skin of each list and its seconds per call, ``disturb`` left out."""
    for _ in range(n_lists):
        skin = tuner.next_skin()
        tuner.note(run.search + run.call(skin) + disturb(), built=True)
        n_calls = 1
        while n_calls < run.calls(skin) and not tuner.is_due:
            tuner.note(run.call(skin) + disturb(), built=False)
            n_calls += 1
        yield skin, run.search / n_calls + run.call(skin)


RUNS = {
    "a search that costs much": Run(search=20e-3, volume=5e-6, speed=0.04),
    "a search that costs little": Run(search=1e-3, volume=5e-6, speed=0.01),
    "slow atoms": Run(search=5e-3, volume=5e-6, speed=0.0005),
    "fast atoms": Run(search=5e-3, volume=5e-6, speed=0.12),
    "atoms at rest": Run(search=5e-3, volume=5e-6, speed=0.0),
    "atoms far from one another": Run(search=5e-3, volume=1e-9, speed=0.02),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_the_tuner_settles_at_the_cheapest_skin_and_looks_around_for_little(run):
    lists = list(follow(SkinTuner(), run, 600))[300:]
    skins = [skin for skin, _ in lists]
    usual = max(set(skins), key=skins.count)
    assert run.cost(usual) <= 1.01 * run.best
    assert np.mean([cost for _, cost in lists]) <= 1.03 * run.best


def test_the_runs_of_these_tests_want_different_skins():
    best = {name: min(LADDER, key=run.cost) for name, run in RUNS.items()}
    assert len(set(best.values())) >= 5
    assert best["atoms at rest"] == LADDER[0]
    assert best["atoms far from one another"] == LADDER[-1]
    for name, run in RUNS.items():
        if name not in ("a search that costs little", "fast atoms"):
            assert run.cost(0.5) > 1.01 * run.best, name


def test_a_machine_that_is_busy_at_times_does_not_mislead_the_tuner():
    run, generator = RUNS["a search that costs much"], np.random.default_rng(0)

    def disturb() -> float:  # every twentieth call takes fifty times as long
        return 30e-3 if generator.uniform() < 0.05 else 1e-4 * generator.uniform()

    skins = [skin for skin, _ in follow(SkinTuner(), run, 600, disturb)][300:]
    assert np.mean([run.cost(skin) for skin in skins]) <= 1.05 * run.best


def test_the_tuner_follows_when_the_motion_changes():
    tuner = SkinTuner()
    cold = [skin for skin, _ in follow(tuner, RUNS["slow atoms"], 300)]
    hot = [skin for skin, _ in follow(tuner, RUNS["a search that costs much"], 300)]
    assert np.median(hot[-60:]) > 1.5 * np.median(cold[-60:])
    expected = RUNS["a search that costs much"]
    assert np.mean([expected.cost(skin) for skin in hot[-60:]]) <= 1.03 * expected.best


def test_equal_times_choose_equal_skins():
    run = RUNS["a search that costs much"]
    first, second = ([skin for skin, _ in follow(SkinTuner(), run, 200)] for _ in range(2))
    assert first == second
    assert len(set(first)) > 3


def test_a_list_is_given_up_only_when_its_search_is_forgotten():
    tuner = SkinTuner()
    tuner.next_skin()
    tuner.note(1.0, built=True)
    for _ in range(99):
        tuner.note(1.0, built=False)
        assert not tuner.is_due
    tuner.note(1.0, built=False)
    assert tuner.is_due


def test_a_call_that_failed_leaves_no_trace_in_the_costs():
    tuner = SkinTuner()
    before = tuner.next_skin()
    tuner.note(1e-9, built=False)  # what built the list raised an error and was not noted
    assert [tuner.next_skin() for _ in range(5)] == [before] * 5
    assert not tuner.is_due


# --- with real lists ---------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Return a clock on which a search takes 2 ms and a pair 1 µs."""
    clock = Clock()

    class TimedPairs(skin_list.PairList):
        def __init__(self, *arguments) -> None:
            clock.now += 2e-3
            super().__init__(*arguments)

        def graph(self, *arguments):
            clock.now += 1e-6 * self.edge_index.shape[1]
            return super().graph(*arguments)

    monkeypatch.setattr("eqcalc.neighbours.skin_list.PairList", TimedPairs)
    return clock


def walk(n_steps: int, step: float = 0.03) -> Iterator[Atoms]:
    atoms, generator = crystal(), np.random.default_rng(4)
    for _ in range(n_steps):
        atoms.positions += generator.normal(scale=step, size=atoms.positions.shape)
        if generator.uniform() < 0.05:
            atoms.wrap()
        strain = np.eye(3) + generator.normal(scale=0.001, size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        yield atoms.copy()


def test_graphs_are_bit_for_bit_those_of_a_fresh_list_while_the_skin_changes(clock):
    skin_list = SkinList(3.0, "auto", clock=clock)
    skins = set()
    for atoms in walk(600):
        found, expected = skin_list.graph(atoms), build_graph(atoms, 3.0)
        skins.add(skin_list.skin)
        assert torch.equal(found.edge_index, expected.edge_index)
        assert torch.equal(found.edge_vectors, expected.edge_vectors)
    assert len(skins) >= 3
    assert 20 < skin_list.n_builds < 200
    assert skin_list.n_calls == 600


def test_real_lists_end_near_the_cheapest_fixed_skin(clock):
    def seconds(skin: float | str) -> tuple[float, SkinList]:
        skin_list = SkinList(3.0, skin, clock=clock)
        for k, atoms in enumerate(walk(2400)):
            if k == 1200:
                start = clock.now
            skin_list.graph(atoms)
        return clock.now - start, skin_list

    fixed = {skin: seconds(skin)[0] for skin in LADDER[10:20:2]}
    found, skin_list = seconds("auto")
    best = min(fixed, key=fixed.__getitem__)
    assert LADDER[10] < best < LADDER[18]
    assert found <= 1.06 * fixed[best]
    assert fixed[0.5] > 1.15 * fixed[best]  # where it starts
    assert skin_list.tuner is not None


def test_a_failed_search_keeps_the_old_list_and_its_skin_together(clock, monkeypatch):
    """The next list would have had a wide skin; the old one is too short for it."""
    skin_list, atoms = SkinList(3.0, "auto", clock=clock), crystal()
    skin_list.graph(atoms)
    before = skin_list.skin
    monkeypatch.setattr(SkinTuner, "next_skin", lambda tuner: 3.0)
    broken = atoms.copy()
    broken.positions[0, 0] = np.nan
    with pytest.raises(GraphError, match="found NaN or inf on atoms 0"):
        skin_list.graph(broken)
    with monkeypatch.context() as patch:

        def fail(*arguments) -> None:
            raise GraphError("no memory for so many pairs")

        patch.setattr("eqcalc.neighbours.skin_list.PairList", fail)
        moved = atoms.copy()
        moved.positions[0] += 0.5
        with pytest.raises(GraphError, match="no memory"):
            skin_list.graph(moved)
    assert skin_list.skin == before
    moved = atoms.copy()
    moved.positions[1] += (1.0, 0.0, 0.0)  # within 3 Å of skin, beyond the present one
    found, expected = skin_list.graph(moved), build_graph(moved, 3.0)
    assert torch.equal(found.edge_vectors, expected.edge_vectors)
    assert skin_list.skin == 3.0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_list_that_tunes_itself_copies_and_pickles(duplicate):
    skin_list = SkinList(3.0, "auto")
    for atoms in walk(30):
        skin_list.graph(atoms)
    twin = duplicate(skin_list)
    assert twin.skin == skin_list.skin
    assert twin.tuner is not skin_list.tuner
    for atoms in walk(30):
        assert torch.equal(twin.graph(atoms).edge_vectors, build_graph(atoms, 3.0).edge_vectors)


# --- through the calculator and the command line -----------------------------------------


def test_results_do_not_depend_on_a_skin_that_tunes_itself(models, clock):
    tuned, fresh = (EqCalculator(models["double"], skin=skin) for skin in ("auto", 0.0))
    tuned.neighbours.tuner.clock = clock
    for atoms in walk(60):
        np.testing.assert_array_equal(tuned.get_forces(atoms), fresh.get_forces(atoms))
        assert tuned.get_potential_energy(atoms) == fresh.get_potential_energy(atoms)
        np.testing.assert_array_equal(tuned.get_stress(atoms), fresh.get_stress(atoms))
    assert tuned.neighbours.n_builds < 60


def test_copies_and_records_keep_the_word(models, clock):
    calculator = EqCalculator(models["double"], skin="auto")
    calculator.neighbours.tuner.clock = clock
    for atoms in walk(60):
        calculator.get_forces(atoms)
    assert calculator.neighbours.skin != 0.5
    twin = pickle.loads(pickle.dumps(calculator))
    assert twin.todict()["skin"] == calculator.todict()["skin"] == "auto"
    assert twin.neighbours.tuner is not None
    assert twin.neighbours.skin == 0.5


def test_many_structures_take_the_skin_found_so_far(models):
    calculator = EqCalculator(models["double"], skin="auto")
    found = calculator.calculate_many([crystal(), ethanol()])
    expected = EqCalculator(models["double"]).calculate_many([crystal(), ethanol()])
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one["forces"], other["forces"])


@pytest.mark.parametrize(
    ("skin", "message"),
    [
        ("fast", "skin must be zero or positive and finite .Å., or 'auto'; found 'fast'"),
        ("atuo", "found 'atuo'. Did you mean 'auto'"),
        ("", "found ''"),
        ("0.5", "found '0.5'"),
        (-1.0, "skin must be zero or positive and finite .Å., found -1.0"),
    ],
)
def test_another_word_or_a_negative_skin_is_refused(skin, message, models):
    with pytest.raises(ConfigError, match=message):
        EqCalculator(models["double"], skin=skin)


def test_bench_times_a_list_that_tunes_itself(models, capsys):
    timed = BenchCalculator(models["double"], engine="torchscript", device="cpu", skin="auto")
    assert timed.neighbours.tuner is not None
    words = ["bench", str(models["double"]), "ethanol", "--seconds", "0.001", "--skin"]
    with pytest.raises(SystemExit) as stop:
        main([*words, "auto"])
    assert stop.value.code == 0
    with pytest.raises(SystemExit) as stop:
        main([*words, "fast"])
    assert stop.value.code == 2
    assert "or 'auto'; found 'fast'" in capsys.readouterr().err
