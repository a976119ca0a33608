"""What the pair style refuses, in LAMMPS's words, on all ranks and without a number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ase import Atoms
from lammps_runs import run_input, run_text
from small_models import crystal, ethanol, export_small

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]


def refused(run, message: str) -> None:
    """Require that LAMMPS ended with an error that holds these words, before any thermo row."""
    assert run.status != 0
    said = " ".join(run.text.split())
    assert message in said, run.text
    assert not run.thermo


@pytest.mark.parametrize("ranks", [1, 2])
def test_swapped_elements_are_refused_by_the_masses(
    ranks: int, model_of: Export, tmp_path: Path
) -> None:
    text = "run 0\n"
    atoms = ethanol()
    atoms.center(vacuum=5.0)
    run = run_input(tmp_path, atoms, str(model_of()), "H C O", text, ranks=ranks)
    assert run.status == 0
    head = (tmp_path / "in.lammps").read_text()
    swapped = head.replace(" H C O\n", " O C H\n")
    assert swapped != head
    refused(
        run_text(tmp_path, swapped, ranks),
        "pair_coeff calls type 1 O, but its mass is 1.008, that of H; give the elements in the "
        "order of the types",
    )


@pytest.mark.parametrize(
    ("mass", "said"),
    [
        ("12.011", "pair_coeff calls type 1 O, but its mass is 12.011, that of C"),
        ("17.999", "WARNING: type 1 is O with a mass of 17.999 (commonly 15.999)"),
        ("15.9994", None),
    ],
)
def test_mass_of_an_element_that_is_not_in_the_input_is_refused(
    mass: str, said: str | None, model_of: Export, tmp_path: Path
) -> None:
    atoms = Atoms("O2", [[1.0, 1.0, 1.0], [2.3, 1.0, 1.0]], cell=[9.0] * 3, pbc=True)
    run = run_input(tmp_path, atoms, str(model_of()), "O", f"mass 1 {mass}\nrun 0\n")
    if said is not None and not said.startswith("WARNING"):
        refused(run, said)
    else:
        assert run.status == 0, run.text
        assert (said or "Setting up") in " ".join(run.text.split())
        assert ("WARNING: type" in run.text) == (said is not None)


def test_mass_that_was_shifted_to_hydrogen_is_a_warning(model_of: Export, tmp_path: Path) -> None:
    masses = "mass 1 3.024\nmass 3 11.967\nrun 0\n"
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", masses)
    assert run.status == 0, run.text
    said = " ".join(run.text.split())
    assert "WARNING: type 1 is H with a mass of 3.024 (commonly 1.008)" in said
    assert "WARNING: type 3 is O with a mass of 11.967 (commonly 15.999)" in said


def test_fix_gcmc_is_refused_before_it_deletes_at_the_wrong_price(
    model_of: Export, tmp_path: Path
) -> None:
    text = "group h type 1\nfix 9 h gcmc 1 6 0 1 29494 300.0 -6.8 0.05\nrun 5\n"
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", text)
    refused(run, "neigh_modify exclude, which fix gcmc uses too, would take some away")


def test_options_that_come_later_ask_for_the_model_again(model_of: Export, tmp_path: Path) -> None:
    """What was loaded has other ones, and would run on unsaid."""
    text = "run 0\npair_style eqcalc engine torchscript precision float32\nrun 0\n"
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", text)
    assert run.status != 0
    assert "All pair coeffs are not set" in " ".join(run.text.split())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (" H C O\n", " H C Xx\n", "knows H C O Si; it does not know 'Xx', the element of type 3"),
        (" H C O\n", " H C N\n", "it does not know 'N', the element of type 3"),
        ("{model} H C O\n", "H C O\n", "needs a model and an element for each of the 3 atom types"),
        (" H C O\n", " H C O O\n", "more elements than the 3 atom types: 'H' would be a model"),
        (" H C O\n", " H NULL O\n", "All pair coeffs are not set"),
        ("{model}", "missing.pt", "no such model file: 'missing.pt'"),
        ("{model}", "in.data", "in.data"),
        ("pair_coeff * *", "pair_coeff 1 1", "must start with * *"),
        ("units metal", "units si", "needs units metal or real, not si"),
        ("units metal", "units metal\nnewton off", "needs newton on"),
        ("eqcalc engine torchscript", "eqcalc engine fast", "found 'fast'"),
        ("eqcalc engine torchscript", "eqcalc engine", "nothing stands behind 'engine'"),
        (
            "eqcalc engine torchscript",
            "eqcalc speed 3",
            "knows engine, precision and ranks, not 'speed'",
        ),
        ("eqcalc engine torchscript", "eqcalc precision half", "found 'half'"),
        ("run 0", "neigh_modify exclude type 1 2\nrun 0", "neigh_modify exclude, which fix gcmc"),
        ("run 0", "group some type 1\nneigh_modify include some\nrun 0", "neigh_modify include"),
        (
            "run 0",
            "pair_style hybrid eqcalc engine torchscript lj/cut 4.0\n"
            "pair_coeff * * eqcalc {model} H C O\npair_coeff 1 3 lj/cut 0.0 3.0\nrun 0",
            "pair_coeff gives those of types 1 and 3 to another style",
        ),
        ("run 0", "group some type 1\ncomm_modify group some\nrun 0", "comm_modify group"),
    ],
)
def test_input_that_means_something_else_is_refused(
    old: str, new: str, message: str, model_of: Export, tmp_path: Path
) -> None:
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", "run 0\n", before="")
    head = (tmp_path / "in.lammps").read_text()
    model = str(model_of())
    changed = head.replace(old.replace("{model}", model), new.replace("{model}", model))
    assert changed != head
    refused(run_text(tmp_path, changed), message)
    assert run.status == 0


def test_damaged_model_is_refused(model_of: Export, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pt"
    content = bytearray(model_of().read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(bytes(content))
    refused(run_input(tmp_path, crystal(), str(damaged), "H C O", "run 0\n"), "damaged.pt")


@pytest.mark.parametrize("ranks", [1, 2])
def test_atoms_on_top_of_one_another_are_refused(
    ranks: int, model_of: Export, tmp_path: Path
) -> None:
    atoms = crystal()
    atoms.positions[3] = atoms.positions[5]
    refused(
        run_input(tmp_path, atoms, str(model_of()), "H C O", "run 0\n", ranks=ranks),
        "atoms 4 and 6 are 0 apart" if ranks == 1 else "are 0 apart",
    )


@pytest.mark.parametrize("ranks", [1, 2])
def test_position_that_is_no_number_is_refused_and_no_rank_hangs(
    ranks: int, model_of: Export, tmp_path: Path
) -> None:
    commands = (
        "run 0\ngroup one id 3\nvelocity one set 1e300 0 0\ntimestep 1e10\nfix 1 all nve\n"
        "neigh_modify every 1000 delay 1000 check no\nrun 5\n"
    )
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", commands, ranks=ranks)
    assert run.status != 0
    assert "has a position that is not finite" in run.text
    assert len(run.thermo) == 2  # of step 0, twice


@pytest.mark.parametrize("ranks", [1, 2])
def test_energy_that_is_no_number_is_refused(ranks: int, tmp_path: Path) -> None:
    scale = 1e37  # near the largest float32
    model = str(export_small(tmp_path / "huge.pt", dtype=torch.float32, scale=scale))
    atoms = crystal()
    assert run_input(tmp_path, atoms, model, "H C O", "run 0\n", ranks=ranks).status == 0
    atoms.positions[3] = atoms.positions[5] + [0.02, 0.0, 0.0]
    refused(
        run_input(tmp_path, atoms, model, "H C O", "run 0\n", ranks=ranks),
        "huge.pt returned NaN or infinity; the structure is far outside",
    )


def test_model_of_a_pair_coeff_is_not_run_with_the_neighbours_of_the_one_before(
    model_of: Export, tmp_path: Path
) -> None:
    """Which "pre no" keeps: they would be too few, and the energy a wrong one."""
    wider = model_of("painn", cut_off=5.0)
    commands = f"fix 1 all nve\nrun 0\npair_coeff * * {wider} H C O\nrun 1 pre no\n"
    run = run_input(tmp_path, crystal(), str(model_of()), "H C O", commands)
    assert run.status != 0
    assert "loaded a model since LAMMPS was set up; run without 'pre no'" in run.text


def test_missing_python_is_named(
    model_of: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQCALC_PYTHON", "/nowhere/python")
    refused(
        run_input(tmp_path, crystal(), str(model_of()), "H C O", "run 0\n"),
        "set EQCALC_PYTHON to the Python that has eqcalc",
    )
