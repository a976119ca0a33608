"""Frames that are set aside at random: as many as asked for, whole groups at a time."""

from __future__ import annotations

import pytest

from eqcalc.data import random_split
from eqcalc.errors import DataError


@pytest.mark.parametrize("seed", range(8))
def test_a_group_too_large_for_the_fraction_is_passed_over(seed):
    train, aside = random_split(["liquid"] * 950 + ["defect"] * 50, 0.05, seed)
    assert (train, aside) == (list(range(950)), list(range(950, 1000)))


@pytest.mark.parametrize("seed", range(8))
def test_small_groups_make_up_the_fraction_where_there_are_large_ones(seed):
    groups = ["a"] * 400 + ["b"] * 300 + [f"c{k // 10}" for k in range(300)]
    _, aside = random_split(groups, 0.1, seed)
    assert 100 <= len(aside) <= 200
    assert not {"a", "b"} & {groups[k] for k in aside}


@pytest.mark.parametrize("seed", range(4))
def test_frames_alone_are_set_aside_by_number(seed):
    train, aside = random_split([None] * 40, 0.1, seed)
    assert len(aside) == 4
    assert sorted(train + aside) == list(range(40))


@pytest.mark.parametrize(
    ("sizes", "fraction", "match"),
    [
        ((100, 100, 100), 0.1, r"300 frames cannot set aside about 30 .* which have 100, 100, 100"),
        ((950, 50), 0.5, r"1000 frames cannot set aside about 500 .* which have 50, 950 frames"),
        ((990, 10), 0.1, r"cannot set aside about 100 of them \(a fraction of 0\.1\)"),
    ],
)
def test_groups_of_which_no_choice_is_near_the_fraction_are_refused(sizes, fraction, match):
    groups = [str(k) for k, size in enumerate(sizes) for _ in range(size)]
    for seed in range(4):
        with pytest.raises(DataError, match=match + ".*give another fraction, a group_key of"):
            random_split(groups, fraction, seed)


def test_one_group_alone_is_refused():
    with pytest.raises(DataError, match="needs at least two frames or groups, found 1; give valid"):
        random_split(["a", "a"], 0.5, 0)
