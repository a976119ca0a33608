"""examples/09_worked/coexistence.py: its order parameter, its two-phase cell, what it refuses."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

import eqcalc

SCRIPT = Path(__file__).parents[2] / "examples" / "09_worked" / "coexistence.py"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """Return the functions and constants of the script, without its calculation."""
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    kinds = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    kept = [node for node in tree.body if isinstance(node, kinds) or _is_constant(node)]
    names: dict[str, Any] = {"__name__": __name__}
    exec(compile(ast.Module(kept, []), str(SCRIPT), "exec"), names)
    return names


def _is_constant(node: ast.stmt) -> bool:
    target = node.targets[0] if isinstance(node, ast.Assign) else None
    return isinstance(target, ast.Name) and target.id.isupper()


def run_script(monkeypatch: pytest.MonkeyPatch, *options: object) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
    runpy.run_path(str(SCRIPT))


# Q6 of perfect crystals: Mickel et al., J. Chem. Phys. 138, 044501 (2013), doi:10.1063/1.4774084.
@pytest.mark.parametrize(
    ("element", "structure", "q6"), [("Na", "bcc", 0.511), ("Cu", "fcc", 0.575)]
)
def test_bond_order_of_a_perfect_crystal_is_the_published_one(example, element, structure, q6):
    cube = bulk(element, structure, cubic=True)
    cutoff = example["SHELL_END"][structure] * cube.cell.lengths()[0]
    crystal = cube * 3
    crystal.rotate(37.0, (1.0, 2.0, -1.0), rotate_cell=True)
    assert example["bond_order"](crystal, cutoff) == pytest.approx(
        np.full(len(crystal), q6), abs=1e-3
    )


def test_bond_order_tells_a_disordered_half_from_a_crystalline_one(example):
    cube = bulk("Na", cubic=True)
    atoms, melts = example["two_phase_cell"](cube, 4, 8, 1.03)
    rng = np.random.default_rng(0)
    atoms.positions += rng.normal(scale=np.where(melts, 1.2, 0.2)[:, None], size=(len(atoms), 3))
    order = example["bond_order"](atoms, example["SHELL_END"]["bcc"] * cube.cell.lengths()[0])
    share = atoms.get_scaled_positions()[:, 2] * 8  # in cells; interfaces lie at 0 and 4
    inside = np.abs(share % 4 - 2) < 1
    assert order[inside & ~melts].min() > order[inside & melts].max()


def test_lone_atom_has_no_bond_order(example):
    assert example["bond_order"](Atoms("Na", cell=[30, 30, 30], pbc=True), 5.0) == [0.0]


@pytest.mark.parametrize("structure", ["bcc", "fcc"])
def test_half_of_the_two_phase_cell_is_stretched_to_the_volume_of_the_melt(example, structure):
    cube = bulk("Na", structure, a=4.3, cubic=True)
    atoms, melts = example["two_phase_cell"](cube, 3, 8, 1.05)
    assert melts.sum() == len(atoms) / 2 == 36 * len(cube)
    assert atoms.get_volume() == pytest.approx((1 + 1.05) / 2 * 72 * cube.get_volume())
    planes = np.unique(atoms.positions[:, 2].round(6))
    gaps = np.diff(planes, append=atoms.cell[2, 2])
    assert gaps == pytest.approx(np.repeat([2.15, 1.05 * 2.15], 8))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--element", "Xy"], "wants the symbol of an element, not 'Xy'"),
        (["--element", "Si"], "whose crystal is bcc or fcc; Si: diamond"),
        (["--element", "W"], "no melting point of W is known here: give --temperatures"),
        (["--temperatures", "-3"], "expected a number above 0, found '-3'"),
        (["--timestep", "fast"], "expected a number above 0, found 'fast'"),
        (["--cells", "1", "8"], "expected 2, 3, ... cubic cells, found '1'"),
        (["--picture", "picture.gif"], "wants .png, .pdf or .svg in an existing folder"),
    ],
)
def test_option_that_cannot_work_is_refused_before_anything_runs(
    monkeypatch, capsys, options, match
):
    with pytest.raises(SystemExit) as refused:
        run_script(monkeypatch, *options)
    assert refused.value.code == 2
    assert match in capsys.readouterr().err


@pytest.mark.slow
def test_crystal_that_melts_by_itself_ends_the_calculation(monkeypatch, tmp_path):
    monkeypatch.setattr(eqcalc, "EqCalculator", lambda model, engine: EMT())
    options = [
        "--element",
        "Al",
        "--cells",
        2,
        4,
        "--timestep",
        4,
        "--runs",
        tmp_path,
        "--temperatures",
    ]
    with pytest.raises(SystemExit, match="cannot be told apart: one has turned into the other"):
        run_script(monkeypatch, *options, 3000)
    with pytest.raises(SystemExit, match="crystal holds a run with other settings: give another"):
        run_script(monkeypatch, *options, 900)
