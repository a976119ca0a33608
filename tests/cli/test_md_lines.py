"""What md says of the time that is left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from eqcalc.cli.duration import duration
from eqcalc.cli.md_lines import TimeLimit


def progress(left_s, limit_s, step=500, step_s=1.0) -> SimpleNamespace:
    return SimpleNamespace(
        left_s=left_s,
        limit_s=limit_s,
        step_s=step_s,
        n_steps=100_000,
        thermo=SimpleNamespace(step=step),
    )


def test_whether_a_run_fits_is_said_once_and_again_when_it_changes():
    limit = TimeLimit(Path("si-md"))
    assert limit.news(progress(None, 36000.0)) is None
    assert limit.news(progress(37000.0, 36000.0)) is None  # too close to tell
    assert limit.news(progress(99500.0, 36000.0)) == (
        "the run does not fit into --max-hours: 28 h left, and it ends in 10 h, near step 36500 "
        "of 100000; then: eqcalc md --resume si-md"
    )
    assert limit.news(progress(99000.0, 35500.0)) is None
    assert limit.news(progress(20000.0, 35500.0)) == (
        "the run fits into --max-hours: 5 h 33 min left of 9 h 52 min"
    )
    assert limit.news(progress(19000.0, 34500.0)) is None
    assert limit.news(progress(0.0, 34500.0)) is None  # done


def test_nothing_is_said_without_a_limit():
    assert TimeLimit(Path("si-md")).news(progress(99500.0, None)) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.25, "0.25 s"), (75, "75 s"), (150, "2 min"), (7500, "2 h 5 min"), (3e5, "3.5 days")],
)
def test_times_are_told_in_two_or_three_digits(seconds, words):
    assert duration(seconds) == words
