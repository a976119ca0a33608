"""Energies, forces, pressures and energies of atoms in LAMMPS are those of the calculator."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk
from lammps_runs import BAR, EXCHANGE, EXCHANGING, HALO, Run, frames_of, run_input
from numpy.typing import NDArray
from rarely import rarely_but
from small_models import POTENTIALS, crystal, ethanol, export_small, slab

from eqcalc import EqCalculator
from eqcalc.bench.structures import load_structure

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]
ON_RANKS = list(product(POTENTIALS, (1, 2)))

NVE = """
velocity all create 300 4928459
fix 1 all nve
run {n}
"""


def require_same(
    run: Run, model: Path, elements: str, pbc: bool | list[bool] = True, n_frames: int = 0
) -> None:
    """Compare every frame with the calculator: to 1e-9 of the largest number of its kind."""
    assert run.status == 0, run.text
    frames = frames_of(run, elements, pbc)
    assert len(frames) == len(run.thermo) >= n_frames
    calculator = EqCalculator(model, device="cpu", dtype="float64", engine="torchscript")
    for atoms, row in zip(frames, run.thermo, strict=True):
        found = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=pbc)
        found.calc = calculator
        assert row[1] == pytest.approx(found.get_potential_energy(), rel=1e-9)
        forces = found.get_forces()
        require_close(atoms.get_forces(), forces)
        require_close(atoms.calc.results["energies"], found.get_potential_energies())
        if found.pbc.all():
            stress = found.get_stress(voigt=False)
            wanted = -BAR * stress[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]]
            require_close(row[2:8], wanted)
            # xx yy zz xy xz yz in LAMMPS, xx yy zz yz xz xy in ASE
            virials = BAR * found.get_volume() * found.get_stresses()[:, [0, 1, 2, 5, 4, 3]]
            require_close(atoms.arrays["virials"], virials)


def require_close(found: NDArray, wanted: NDArray) -> None:
    """Compare numbers of one kind: to 1e-9 of the largest."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-9 * abs(wanted).max())


def cheapest(name: str, ranks: int) -> str:
    """Return the options whose numbers take least: ranks exchange features, where they can."""
    return EXCHANGE if ranks > 1 and name in EXCHANGING else HALO


def silicon() -> Atoms:
    """Return 64 rattled atoms of silicon."""
    atoms = bulk("Si", cubic=True) * 2
    atoms.rattle(0.1, seed=1)
    return atoms


def require_energies_of(one: Run, several: Run, n_atoms: int) -> None:
    """Compare the energies of ranks with those of one rank: to 1e-10 eV per atom."""
    assert len(one.thermo) == len(several.thermo)
    for row, wanted in zip(several.thermo, one.thermo, strict=True):
        assert abs(row[1] - wanted[1]) / n_atoms < 1e-10


@pytest.mark.parametrize("name", POTENTIALS)
def test_dynamics_of_every_potential_has_the_numbers_of_the_calculator(
    name: str, model_of: Export, tmp_path: Path
) -> None:
    model = model_of(name)
    runs = [
        run_input(tmp_path / str(n), silicon(), str(model), "Si", NVE.format(n=20), ranks=n)
        for n in (1, 2)
    ]
    for run in runs:
        require_same(run, model, "Si", n_frames=3)
    require_energies_of(*runs, 64)


@pytest.mark.parametrize(
    "name",
    rarely_but(("nequip", "painn"), EXCHANGING),
)
def test_ranks_that_exchange_features_have_the_numbers_of_the_calculator(
    name: str, model_of: Export, tmp_path: Path
) -> None:
    """A compiled package in float64, on three ranks of which one has no atoms."""
    model = model_of(name)
    atoms = silicon()[:40]
    atoms.cell[0, 0] *= 3.0
    run = run_input(
        tmp_path,
        atoms,
        str(model),
        "Si",
        NVE.format(n=20),
        ranks=3,
        options=EXCHANGE,
        before="processors 3 1 1",
    )
    assert "ranks exchange features between layers" in run.text
    require_same(run, model, "Si", n_frames=3)
    one = run_input(tmp_path / "one", atoms, str(model), "Si", NVE.format(n=20))
    require_energies_of(one, run, len(atoms))


def test_float32_leaves_reference_energies_and_scale_in_float64(tmp_path: Path) -> None:
    """Of two atoms every sum has one term, so that no digit may differ.

    In float32 the reference energies would differ by 2e-5 eV, the scale by 3e-8 of itself.
    """
    model = export_small(tmp_path / "float32.pt", dtype=torch.float32, scale=1.0 / 3.0)
    atoms = Atoms("CO", [[1.0, 2.0, 3.0], [1.7, 2.4, 3.8]], cell=[12.0] * 3, pbc=True)
    run = run_input(tmp_path, atoms, str(model), "C O", "run 0\n")
    assert "torchscript in float32" in run.text
    found = frames_of(run, "C O")[0]
    found.calc = EqCalculator(model, device="cpu", dtype="float32", engine="torchscript")
    assert run.thermo[0][1] == pytest.approx(found.get_potential_energy(), rel=1e-14)


@pytest.mark.parametrize("ranks", [1, 2])
def test_compiled_package_has_the_numbers_of_the_calculator(
    ranks: int, model_of: Export, tmp_path: Path
) -> None:
    """What runs by default, where ranks take a wide halo; ghosts count in forces alone."""
    model = model_of("painn")
    options = "engine inductor ranks halo"
    run = run_input(
        tmp_path, silicon(), str(model), "Si", NVE.format(n=20), ranks=ranks, options=options
    )
    assert "inductor" in run.text
    require_same(run, model, "Si", n_frames=3)


@pytest.mark.parametrize(("name", "ranks"), rarely_but([("painn", 1), ("schnet", 2)], ON_RANKS))
def test_water_has_the_numbers_of_the_calculator(
    name: str, ranks: int, model_of: Export, tmp_path: Path
) -> None:
    # DimeNet has a halo of three layers; at 4 Å two ranks would have twenty times the atoms. Its
    # untrained forces are hundreds of eV/Å.
    model = model_of(name, cut_off=3.0) if name not in EXCHANGING else model_of(name)
    timestep = 0.00002 if name == "dimenet" else 0.0005
    commands = f"timestep {timestep:f}\n" + NVE.format(n=20)
    run = run_input(
        tmp_path,
        load_structure("water192"),
        str(model),
        "O H",
        commands,
        ranks=ranks,
        options=cheapest(name, ranks),
    )
    require_same(run, model, "O H", n_frames=3)


@pytest.mark.parametrize(
    ("ranks", "options"),
    rarely_but(
        [(1, HALO), (2, HALO), (4, HALO), (3, EXCHANGE)],
        [(1, HALO), *product((2, 3, 4), (HALO, EXCHANGE))],
    ),
)
def test_triclinic_cell_narrower_than_the_cutoff_has_the_numbers_of_the_calculator(
    ranks: int, options: str, model_of: Export, tmp_path: Path
) -> None:
    model = model_of("painn")
    run = run_input(
        tmp_path, crystal(), str(model), "H C O", NVE.format(n=20), ranks=ranks, options=options
    )
    require_same(run, model, "H C O", n_frames=3)


@pytest.mark.parametrize(("name", "ranks"), rarely_but([("nequip", 1), ("dimenetpp", 2)], ON_RANKS))
def test_slab_has_the_numbers_of_the_calculator(
    name: str, ranks: int, model_of: Export, tmp_path: Path
) -> None:
    model = model_of(name)
    atoms = slab()
    atoms.center(vacuum=5.0, axis=2)
    atoms.cell[2, :2] = 0.0  # LAMMPS has no tilt out of an open side
    run = run_input(
        tmp_path,
        atoms,
        str(model),
        "H C O",
        "timestep 0.0005\n" + NVE.format(n=20),
        ranks=ranks,
        boundary="p p f",
        options=cheapest(name, ranks),
    )
    require_same(run, model, "H C O", [True, True, False], n_frames=3)


@pytest.mark.parametrize(("ranks", "options"), [(1, HALO), (2, HALO), (2, EXCHANGE)])
def test_molecule_and_an_atom_far_away_have_the_numbers_of_the_calculator(
    ranks: int, options: str, model_of: Export, tmp_path: Path
) -> None:
    """With two ranks one has the molecule alone, the other an atom without neighbours."""
    model = model_of("painn")
    atoms = ethanol()
    atoms.center(vacuum=2.0)
    atoms.cell[0, 0] = 60.0
    atoms += Atoms("O", [[55.0, 2.0, 2.0]])
    run = run_input(
        tmp_path,
        atoms,
        str(model),
        "H C O",
        NVE.format(n=20),
        ranks=ranks,
        boundary="f f f",
        options=options,
    )
    require_same(run, model, "H C O", False, n_frames=3)


def test_rank_without_atoms_changes_nothing(model_of: Export, tmp_path: Path) -> None:
    model = model_of("schnet")
    atoms = ethanol()
    atoms.center(vacuum=3.0)
    atoms.cell[0, 0] = 60.0
    run = run_input(
        tmp_path,
        atoms,
        str(model),
        "H C O",
        NVE.format(n=20),
        ranks=2,
        boundary="f f f",
        before="processors 2 1 1",
    )
    require_same(run, model, "H C O", False, n_frames=3)


@pytest.mark.parametrize("options", [HALO, EXCHANGE])
def test_atom_that_migrates_between_ranks_keeps_its_energy(
    options: str, model_of: Export, tmp_path: Path
) -> None:
    model = model_of("painn")
    atoms = ethanol()
    atoms.center(vacuum=4.0)
    atoms.set_pbc(True)
    atoms.cell[0, 0] = 16.0
    commands = "velocity all set 40.0 0.0 0.0 sum no\nfix 1 all nve\nrun 400\n"
    run = run_input(
        tmp_path,
        atoms,
        str(model),
        "H C O",
        commands,
        ranks=2,
        every=40,
        before="processors 2 1 1",
        options=options,
    )
    frames = frames_of(run, "H C O")
    on_the_right = np.array([frame.positions[:, 0] > 8.0 for frame in frames])
    assert on_the_right.any(axis=0).all()  # each atom was on either rank
    assert not on_the_right.all(axis=0).any()
    require_same(run, model, "H C O", n_frames=11)


def test_units_real_are_those_of_the_calculator_in_kcal_per_mol(
    model_of: Export, tmp_path: Path
) -> None:
    model = model_of("painn")
    run = run_input(tmp_path, crystal(), str(model), "H C O", "run 0\n", units="real")
    assert run.status == 0, run.text
    atoms = frames_of(run, "H C O")[0]
    found = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    found.calc = EqCalculator(model, device="cpu", dtype="float64", engine="torchscript")
    per_ev = units.mol / units.kcal
    assert run.thermo[0][1] == pytest.approx(per_ev * found.get_potential_energy(), rel=1e-9)
    forces = per_ev * found.get_forces()
    require_close(atoms.get_forces(), forces)
    # LAMMPS's own constant for atmospheres of one kcal/(mol Å³)
    require_close(run.thermo[0][2:5], -68568.415 * per_ev * found.get_stress()[:3])
