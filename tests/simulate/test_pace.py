"""The time that a run still takes."""

from itertools import pairwise

import pytest
from fake_clock import Clock
from springs import Springs, ethanol

from eqcalc.simulate import MDSettings, run_md
from eqcalc.simulate.pace import Pace


def test_pace_tells_nothing_before_enough_steps_are_done():
    clock = Clock()
    pace = Pace(10_000, clock)
    assert pace.left_s is None
    for step in (0, 10, 20):
        pace.mark(step)
        clock.sleep(2.0)
    assert pace.left_s is None  # 4 s, 20 of 10000 steps
    pace.mark(30)
    assert pace.left_s == pytest.approx(0.2 * 9970)


def test_pace_of_a_short_run_is_told_after_a_tenth_of_it():
    clock = Clock()
    pace = Pace(100, clock)
    pace.mark(0)
    clock.sleep(0.1)
    pace.mark(9)
    assert pace.left_s is None
    clock.sleep(0.1)
    pace.mark(10)
    assert pace.left_s == pytest.approx(0.02 * 90)


def test_pace_is_that_of_the_last_minute():
    """The first steps compile something, or another job shared the machine."""
    clock = Clock()
    pace = Pace(1_000_000, clock)
    for step in range(0, 1000, 10):
        pace.mark(step)
        clock.sleep(10.0)
    for step in range(1000, 3000, 10):
        pace.mark(step)
        clock.sleep(1.0)
    assert pace.step_s == pytest.approx(0.1)


def test_display_is_told_the_time_left_and_the_limit(tmp_path):
    told = []
    settings = MDSettings("nve", n_steps=100, log_every=10)
    run_md(
        ethanol(), Springs(ethanol()), settings, tmp_path / "run", progress=told.append, max_hours=2
    )
    assert told[0].left_s is None
    assert all(now.left_s > 0 for now in told[1:-1])
    assert told[-1].left_s == 0
    assert all(later.limit_s < now.limit_s <= 7200 for now, later in pairwise(told))
    run_md(
        ethanol(), Springs(ethanol()), settings, tmp_path / "run", progress=told.append,
        overwrite=True,
    )  # fmt: skip
    assert told[-1].limit_s is None
