"""What the verbs that read data say of them, and the options that name labels and units."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import ase.io
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from command_line import run
from small_models import ETHANOL_FRAMES

from eqcalc.cli import main

# A user gets every note; the other tests get none.
pytestmark = pytest.mark.filterwarnings("always::eqcalc.errors.DataWarning")


@pytest.fixture
def atomic_units(tmp_path) -> Path:
    """Return ethanol in Hartree and Hartree/Bohr beside Å, with a gradient in place of forces."""
    frames = ase.io.read(ETHANOL_FRAMES, index=":")
    for atoms in frames:
        results = dict(atoms.calc.results)
        atoms.calc = SinglePointCalculator(atoms, energy=results["energy"] / 27.211386024367243)
        atoms.arrays["gradient"] = -results["forces"] / 51.42206747
    ase.io.write(tmp_path / "atomic.xyz", frames)
    return tmp_path / "atomic.xyz"


def test_evaluate_takes_units_and_gradients_and_says_what_it_decided(
    models, atomic_units, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    options = ("--energy-unit", "Hartree", "--gradient-key", "gradient")
    assert run("evaluate", models["double"], "atom*.xyz", *options, "-o", "a") == 0
    out = capsys.readouterr().out
    assert "note: atomic.xyz: forces are taken to be in Hartree/Bohr" in out
    assert "UserWarning" not in out
    assert run("evaluate", models["double"], ETHANOL_FRAMES, "-o", "b") == 0
    found, expected = (
        json.loads((tmp_path / name / "errors.json").read_text()) for name in ("a", "b")
    )
    for key in ("energy_mae_mev", "forces_mae_mev_per_a"):
        assert found[key] == pytest.approx(expected[key], rel=1e-4)


def test_evaluate_refuses_a_unit_that_cannot_be_and_takes_it_on_demand(
    models, atomic_units, capsys
):
    words = ("evaluate", models["double"], ETHANOL_FRAMES, "--forces-unit", "Hartree/Bohr")
    assert run(*words) == 2
    assert "eV/Å on average" in capsys.readouterr().err
    assert run(*words, "--trust-data") == 0
    assert "note: ethanol_rmd17_frames.xyz: forces of" in capsys.readouterr().out


def test_evaluate_says_where_the_model_saw_atoms_alone(models, tmp_path, capsys):
    frames = ase.io.read(ETHANOL_FRAMES, index=":2")
    for atoms in frames:
        atoms.positions *= 20.0
        atoms.calc.atoms = atoms.copy()
    ase.io.write(tmp_path / "far.xyz", frames)
    assert run("evaluate", models["double"], tmp_path / "far.xyz") == 0
    out = capsys.readouterr().out
    assert "note: no atom of far.xyz has a neighbour within the cutoff of 4 Å" in out


def test_other_warnings_are_printed_as_python_does(capsys, monkeypatch):
    def warns(*_: object, **__: object) -> None:
        warnings.warn("another library's", UserWarning, stacklevel=1)

    monkeypatch.setattr("eqcalc.cli.build_app", lambda: warns)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        main([])
    assert "UserWarning: another library's" in capsys.readouterr().err
