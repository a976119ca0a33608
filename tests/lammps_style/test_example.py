"""The example in its three forms: one set of numbers, one set of commands."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from eqcalc.simulate.lammps_style import LammpsScript

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "07_lammps_style"
GUIDE = (ROOT / "docs" / "lammps_style.md").read_text(encoding="utf-8")


def _printed(name: str) -> list[list[str]]:
    """Return the rows of numbers that a script prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLE / name)], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in done.stdout.splitlines()]
    return [row for row in rows if row[0].isdigit()]


def test_script_prints_the_numbers_of_the_ase_script():
    ours, ases = _printed("script.py"), _printed("ase_script.py")
    assert ours == ases
    assert [int(row[0]) for row in ours] == [0, 10, 20, 30, 40, 50, 50, 60, 70, 80, 90, 100]
    assert len({row[1] for row in ours}) == 11


def _words(line: str) -> set[str]:
    """Return what a line says: words, and numbers by their value."""
    found = re.findall(r"[A-Za-z_]\w*|[-+]?\d+(?:\.\d+)?", line)
    return {str(float(word)) if word[0].isdigit() else word for word in found}


@pytest.mark.parametrize(
    ("lammps", "script"),
    [
        ("timestep", "s.timestep"),
        ("thermo_style", "s.thermo_style"),
        ("thermo ", "s.thermo("),
        ("thermo_modify", "s.thermo_modify"),
        ("run", "s.run"),
    ],
)
def test_script_says_what_the_input_says(lammps, script):
    of_lammps = (EXAMPLE / "in.lammps").read_text().splitlines()
    of_script = (EXAMPLE / "script.py").read_text().splitlines()
    ours = [_words(line) for line in of_script if line.startswith(script)]
    theirs = [_words(line) for line in of_lammps if line.startswith(lammps)]
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert {word for word in one if word[0].isdigit()} == {
            word for word in other if word[0].isdigit()
        }


def test_guide_names_every_command():
    commands = [name for name in dir(LammpsScript) if not name.startswith("_")]
    commands = [name for name in commands if name not in ("atoms", "step")]
    assert len(commands) > 20
    assert [name for name in commands if f"`{name}(" not in GUIDE] == []
