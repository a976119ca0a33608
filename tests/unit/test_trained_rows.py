"""Rows that a card keeps: files have the same names wherever they lie."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from small_models import ETHANOL_FRAMES

from eqcalc.data import read_dataset
from eqcalc.training.trained_rows import rows_by_file


def copied(folder: Path, *names: str) -> list[Path]:
    paths = [folder / name for name in names]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ETHANOL_FRAMES, path)
    return paths


@pytest.mark.parametrize(
    ("places", "names"),
    [
        (["here/a.xyz"], ["a.xyz"]),
        (["here/deep/a.xyz", "there/b.xyz"], ["a.xyz", "b.xyz"]),
        (["runs/1/a.xyz", "runs/2/a.xyz", "runs/2/b.xyz"], ["1/a.xyz", "2/a.xyz", "b.xyz"]),
        (["x/1/a.xyz", "y/1/a.xyz"], ["x/1/a.xyz", "y/1/a.xyz"]),
        (["d/a.xyz", "d/d/a.xyz"], ["*/d/a.xyz", "d/d/a.xyz"]),
    ],
)
def test_files_have_as_much_of_their_paths_as_tells_them_apart(tmp_path, places, names):
    frames = [read_dataset(path, rows="0:2").frames for path in copied(tmp_path, *places)]
    rows = rows_by_file([frame for each in frames for frame in each])
    expected = [name.replace("*", tmp_path.name) for name in names]
    assert rows == dict.fromkeys(expected, "0:2")
