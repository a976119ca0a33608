"""Frames that are selected for labelling, and why."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from small_models import ETHANOL_FRAMES, crystal, ethanol

from eqcalc import EqCalculator
from eqcalc.errors import ConfigError, GraphError, StructureError, UnsupportedElementError
from eqcalc.selection import (
    Candidate,
    SelectionSettings,
    frames_to_label,
    read_candidates,
    select,
    select_frames,
)
from eqcalc.selection.descriptor import closest_pair, descriptor, distances_to
from eqcalc.selection.displacement import displacements, places_of

ELEMENTS = [1, 6, 8]


@pytest.fixture(scope="module")
def committee(models) -> EqCalculator:
    return EqCalculator([models["double"], models["other"]], device="cpu", skin=0.0)


def candidates(structures: list[Atoms]) -> list[Candidate]:
    return [Candidate(atoms, Path("run.xyz"), k, 10 * k) for k, atoms in enumerate(structures)]


def moved(n: int, scale: float = 0.1) -> list[Atoms]:
    """Return ethanol with every coordinate moved at random, a different way each."""
    frames = [ethanol() for _ in range(n)]
    for k, atoms in enumerate(frames):
        atoms.rattle(scale, seed=k)
    return frames


def worst_spreads(committee: EqCalculator, structures: list[Atoms]) -> np.ndarray:
    results = committee.calculate_many(structures)
    return np.array([np.linalg.norm(r["forces_spread"], axis=1).max() for r in results])


# --- descriptor --------------------------------------------------------------------------


def test_a_descriptor_does_not_change_with_order_place_and_turn():
    atoms = ethanol()
    expected = descriptor(atoms, ELEMENTS, 4.0)
    turned = atoms[np.random.default_rng(0).permutation(len(atoms))]
    turned.rotate(77, (1, 2, 3))
    turned.translate((3, -4, 5))
    np.testing.assert_allclose(descriptor(turned, ELEMENTS, 4.0), expected, atol=1e-12)


def test_a_descriptor_does_not_change_with_the_cell_that_is_repeated():
    expected = descriptor(crystal(), ELEMENTS, 4.0)
    np.testing.assert_allclose(
        descriptor(crystal() * (2, 1, 2), ELEMENTS, 4.0), expected, atol=1e-12
    )


def test_a_distance_is_that_by_which_a_bond_changes():
    """Two atoms of different elements, each of which sees the pair."""
    far, near = (Atoms("CO", [[0, 0, 0], [0, 0, r]]) for r in (0.62, 0.63))
    one, other = (descriptor(atoms, [6, 8], 100.0) for atoms in (far, near))
    assert np.linalg.norm(one - other) == pytest.approx(0.01 * np.sqrt(2), rel=0.01)


def test_a_descriptor_has_no_step_where_a_pair_comes_within_the_cutoff():
    inside, outside = (Atoms("CO", [[0, 0, 0], [0, 0, r]]) for r in (3.999, 4.001))
    one, other = (descriptor(atoms, [6, 8], 4.0) for atoms in (inside, outside))
    assert np.linalg.norm(one - other) < 1e-6
    assert not other.any()


def test_the_closest_pair_is_judged_by_its_covalent_radii():
    from ase.data import covalent_radii

    atoms = Atoms("CCH", [[0, 0, 0], [0, 0, 0.9], [0, 0, -0.8]])
    closest, share, pair = closest_pair(atoms, covalent_radii)
    assert closest == pytest.approx(0.8)
    assert share == pytest.approx(0.9 / (2 * covalent_radii[6]))
    assert pair == "C-C 0.90 Å"
    assert closest_pair(Atoms("H"), covalent_radii) == (np.inf, np.inf, "")


def test_heavy_atoms_are_too_close_at_more_than_three_angstrom():
    from ase.data import covalent_radii

    caesium = Atoms("Cs2", [[0, 0, 0], [0, 0, 3.2]])
    _, share, pair = closest_pair(caesium, covalent_radii, 0.8)
    assert (round(share, 3), pair) == (0.656, "Cs-Cs 3.20 Å")


# --- choice ------------------------------------------------------------------------------


def test_the_first_frame_is_of_the_largest_spread_and_the_next_the_farthest(committee):
    structures = moved(8)
    found = select_frames(candidates(structures), committee, SelectionSettings(n_frames=3))
    spreads = worst_spreads(committee, structures)
    np.testing.assert_allclose(found.spreads, spreads, rtol=1e-9)
    first, second, third = (each.candidate.frame for each in found.selected)
    assert first == spreads.argmax()
    points = np.array([descriptor(atoms, ELEMENTS, 4.0) for atoms in structures])
    to_first = distances_to(points, points[first])
    assert second == to_first.argmax()
    nearest = np.minimum(to_first, distances_to(points, points[second]))
    assert third == nearest.argmax()
    assert found.selected[2].distance == pytest.approx(nearest[third])
    assert found.n_left == 5


def test_the_same_input_gives_the_same_frames_and_the_seed_decides_among_equals(committee):
    twins = [ethanol() for _ in range(6)]
    names = set()
    for seed in range(8):
        settings = SelectionSettings(n_frames=2, seed=seed)
        found = [select_frames(candidates(twins), committee, settings) for _ in range(2)]
        taken = [[each.candidate.frame for each in one.selected] for one in found]
        assert taken[0] == taken[1]
        assert (len(taken[0]), found[0].n_duplicates) == (1, 5)
        names.add(taken[0][0])
    assert len(names) > 1


def test_near_duplicates_of_each_other_and_of_labelled_frames_are_left_out(committee):
    structures = moved(4)
    shaken = [atoms.copy() for atoms in structures]
    for k, atoms in enumerate(shaken):
        atoms.rattle(1e-3, seed=100 + k)
        atoms.rotate(30, "x")
    given = candidates(structures + shaken)
    found = select_frames(given, committee, SelectionSettings(n_frames=8))
    assert (len(found.selected), found.n_duplicates) == (4, 4)
    known = select_frames(given, committee, SelectionSettings(n_frames=8), known=structures[:3])
    assert [each.candidate.frame % 4 for each in known.selected] == [3]
    assert known.n_duplicates == 7


def copper(n: int, scale: float = 0.08) -> list[Atoms]:
    """Return moments of a crystal, which averages over its atoms hardly tell apart."""
    frames = [bulk("Cu", cubic=True) * (3, 3, 3) for _ in range(n)]
    for k, atoms in enumerate(frames):
        atoms.rattle(scale, seed=k)
    return frames


def taken_of(structures: list[Atoms], known: list[Atoms], min_distance: float = 0.05) -> list[int]:
    points, fixed = (select._points(each, [29], 5.0) for each in (structures, known))
    settings = SelectionSettings(len(structures), min_distance=min_distance)
    taken, n_near = select._farthest(points, np.ones(len(structures)), fixed, settings)
    assert len(taken) + n_near == len(structures)
    return sorted(taken)


def test_moments_of_a_crystal_are_no_duplicates_of_each_other():
    moments = copper(6)
    points = select._points(moments, [29], 5.0).descriptors
    assert max(distances_to(points, one).max() for one in points) < 0.05
    shaken = [atoms.copy() for atoms in moments[:3]]
    for k, atoms in enumerate(shaken):
        atoms.rattle(5e-3, seed=100 + k)
        atoms.translate([40.0, 2.0, -0.3])
        atoms.wrap()
    permuted = moments[3][np.random.default_rng(0).permutation(len(moments[3]))]
    taken = taken_of([*moments, *shaken, permuted], [])
    assert sorted(k % 6 for k in taken) == [0, 1, 2, 3, 4, 5]  # one of each, or its copy
    assert taken_of([*shaken, permuted, moments[4]], moments[:4]) == [4]
    assert len(taken_of(moments, [], min_distance=0.5)) == 1
    slabs = [atoms.copy() for atoms in moments]
    for atoms in slabs:
        atoms.center(vacuum=5.0, axis=2)
        atoms.pbc = [True, True, False]
    assert len(taken_of(slabs, [])) == 6


def test_displacements_are_beyond_a_shift_by_the_nearest_images_in_the_order_of_the_atoms():
    one, moved = copper(2)
    there = moved.copy()
    there.translate([100.0, -7.0, 3.0])
    there.wrap()
    plain = moved.positions - one.positions
    expected = np.sqrt(np.square(plain - plain.mean(axis=0)).sum(axis=1).mean())
    molecule, other = ethanol(), moved.copy()
    other.numbers[0] = 28
    frames = [one, moved, there, other, molecule]
    found = displacements([places_of(atoms) for atoms in frames], places_of(one))
    np.testing.assert_allclose(found, [0, expected, expected, 0, 0], atol=1e-12)
    assert list(displacements([places_of(one)], places_of(molecule))) == [0.0]


@pytest.mark.parametrize("open_vector", [(0, 0, 40.0), (9.0, 4.0, 20.0), (0, 0, 0)])
def test_a_slab_is_the_same_whatever_vector_its_open_direction_has(open_vector):
    slab, moved = (atoms.copy() for atoms in copper(2))
    for atoms in (slab, moved):
        atoms.pbc = [True, True, False]
    expected = displacements([places_of(moved)], places_of(slab))
    for atoms in (slab.copy(), moved.copy()):
        atoms.cell[2] = open_vector
        found = displacements([places_of(slab), places_of(moved)], places_of(atoms))
        order = (
            [0.0, expected[0]] if (atoms.positions == slab.positions).all() else [expected[0], 0]
        )
        np.testing.assert_allclose(found, order, atol=1e-12)


def test_limits_of_the_spread_leave_frames_out(committee):
    structures = moved(6)
    spreads = np.sort(worst_spreads(committee, structures))
    low, high = spreads[[1, 4]] + 1e-9
    settings = SelectionSettings(n_frames=6, min_spread=low, max_spread=high)
    found = select_frames(candidates(structures), committee, settings)
    assert (len(found.selected), found.n_agreed, found.n_beyond) == (3, 2, 1)
    nothing = select_frames(candidates(structures), committee, SelectionSettings(6, min_spread=1e6))
    assert (nothing.selected, nothing.n_agreed) == ([], 6)


def test_frames_with_broken_geometry_are_left_out_and_named(committee):
    broken = ethanol()
    broken.positions[1] = broken.positions[0] + [0.3, 0, 0]
    found = select_frames(candidates([*moved(2), broken]), committee, SelectionSettings(2))
    assert found.broken == ["frame 2 (step 20) of run.xyz: C-C 0.30 Å"]
    assert len(found.spreads) == 2
    all_three = SelectionSettings(3, min_contact=0.0)
    assert len(select_frames(candidates([*moved(2), broken]), committee, all_three).selected) == 3


def test_every_frame_is_accounted_for(committee):
    broken = ethanol()
    broken.positions[1] = broken.positions[0] + [0.3, 0, 0]
    given = candidates([*moved(5), ethanol(), ethanol(), broken])
    middle = float(np.median(worst_spreads(committee, [c.atoms for c in given[:7]])))
    found = select_frames(given, committee, SelectionSettings(2, min_spread=middle))
    parts = [len(found.selected), len(found.broken), found.n_agreed, found.n_beyond]
    assert sum([*parts, found.n_duplicates, found.n_left]) == found.n_candidates == 8


def test_selected_frames_have_their_reasons_and_no_results(committee, tmp_path):
    structures = moved(3)
    for atoms in structures:
        atoms.info["energy"] = 1.0
        atoms.arrays["forces"] = np.ones((9, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=1.0, forces=np.ones((9, 3)))
    found = select_frames(candidates(structures), committee, SelectionSettings(2))
    frames = frames_to_label(found)
    ase.io.write(tmp_path / "out.xyz", frames)
    again = ase.io.read(tmp_path / "out.xyz", ":")
    for frame, each in zip(again, found.selected, strict=True):
        assert frame.calc is None
        assert set(frame.arrays) == {"numbers", "positions"}
        forces = committee.calculate_many([frame])[0]["forces_spread"]
        lengths = np.linalg.norm(forces, axis=1)
        assert frame.info["max_force_spread_eV_per_A"] == pytest.approx(lengths.max(), rel=1e-4)
        assert frame.info["worst_atom"] == lengths.argmax()
        assert frame.info["source_file"] == "run.xyz"
        assert frame.info["source_step"] == 10 * frame.info["source_frame"]
        distances = frame.get_all_distances()[np.triu_indices(9, 1)]
        assert frame.info["closest_distance_A"] == pytest.approx(distances.min(), abs=1e-6)
        assert frame.info["distance_to_others_A"] == pytest.approx(each.distance)
    alone = frames_to_label(select_frames(candidates(structures), committee, SelectionSettings(1)))
    assert "distance_to_others_A" not in alone[0].info


# --- what is refused ---------------------------------------------------------------------


def test_one_model_is_no_committee(models):
    with pytest.raises(ConfigError, match=r"select needs a committee.*found one, 'double'"):
        select_frames(candidates(moved(2)), EqCalculator(models["double"]), SelectionSettings(1))


def test_no_frames_and_too_few_are_refused(committee):
    with pytest.raises(ConfigError, match="needs frames to choose from, found none"):
        select_frames([], committee)
    with pytest.raises(ConfigError, match="asks for 50 frames, and there are 2"):
        select_frames(candidates(moved(2)), committee, SelectionSettings(50))


def test_as_many_as_there_are_where_no_number_is_given(committee):
    given = candidates(moved(4))
    found = select_frames(given, committee, SelectionSettings(min_spread=0.0, min_distance=0.0))
    assert len(found.selected) == 4


def test_an_element_that_a_member_lacks_is_refused_before_anything_runs(committee, monkeypatch):
    monkeypatch.setattr(committee, "calculate_many", None)
    given = candidates([ethanol(), Atoms("SiH", [[0, 0, 0], [0, 0, 1.5]])])
    with pytest.raises(UnsupportedElementError, match=r"frame 1 \(step 10\) of run\.xyz"):
        select_frames(given, committee, SelectionSettings(1))


def test_a_frame_without_meaningful_distances_is_named(committee):
    flat = Atoms("C", cell=[0, 0, 0], pbc=True)
    with pytest.raises(GraphError, match=r"frame 0 \(step 0\) of run\.xyz: the lattice vectors"):
        select_frames(candidates([flat]), committee, SelectionSettings(1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_frames": 0}, "n_frames must be an integer >= 1, found 0"),
        ({"seed": -1}, "seed must be an integer >= 0, found -1"),
        ({"min_spread": -0.1}, "min_spread must be a number >= 0, found -0.1"),
        ({"min_distance": float("nan")}, "min_distance must be a number >= 0, found nan"),
        ({"max_spread": 0.1}, r"max_spread must be larger than min_spread \(0.1 eV/Å\), found 0.1"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SelectionSettings(**options)


# --- reading -----------------------------------------------------------------------------


def test_candidates_come_from_runs_their_queues_and_files(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    frames = moved(3)
    for k, atoms in enumerate(frames):
        atoms.info["step"] = 5 * k
    ase.io.write(run / "trajectory.traj", frames)
    ase.io.write(run / "queued.extxyz", frames[:1])
    found = read_candidates([run, ETHANOL_FRAMES])
    assert [each.source.name for each in found[:4]] == ["trajectory.traj"] * 3 + ["queued.extxyz"]
    assert [each.step for each in found[:4]] == [0, 5, 10, 0]
    assert [each.frame for each in found[4:]] == list(range(6))
    assert found[4].step is None
    assert str(found[1]) == f"frame 1 (step 5) of {run / 'trajectory.traj'}"


def test_folders_without_a_run_and_files_named_twice_are_refused(tmp_path):
    with pytest.raises(StructureError, match="holds no trajectory of a run"):
        read_candidates([tmp_path])
    with pytest.raises(StructureError, match="is named twice"):
        read_candidates([ETHANOL_FRAMES, ETHANOL_FRAMES])
