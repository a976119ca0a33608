"""What people do with LAMMPS besides plain dynamics, against the calculator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from lammps_runs import EXCHANGE, HALO, Run, frames_of, run_input, run_text
from small_models import crystal
from test_same_numbers import require_close, require_same

from eqcalc import EqCalculator

pytestmark = pytest.mark.hosts

Export = Callable[..., Path]


def crystal_twice() -> Atoms:
    """Return 16 atoms."""
    return crystal() * (2, 1, 1)


SPREAD = """
fix spread all pair 1 eqcalc spread 0
compute spread all pair eqcalc
thermo_style custom step pe c_spread[1] c_spread[2]
thermo_modify format float %.17g
undump frames
dump frames all custom 10 frames.dump id type x y z fx fy fz f_spread
dump_modify frames format float %.17g sort id
"""


def require_spread(run: Run, members: list[Path], per_ev: float = 1.0) -> list[Atoms]:
    """Compare energies and spreads with the calculator's; return the frames."""
    assert run.status == 0, run.text
    frames = frames_of(run, "H C O")
    calculator = EqCalculator(members, device="cpu", dtype="float64", engine="torchscript")
    for atoms, row in zip(frames, run.thermo, strict=True):
        found = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
        found.calc = calculator
        assert row[1] == pytest.approx(per_ev * found.get_potential_energy(), rel=1e-9)
        spreads = per_ev * np.linalg.norm(calculator.results["forces_spread"], axis=1)
        assert row[2] == pytest.approx(per_ev * calculator.results["energy_spread"], rel=1e-7)
        assert row[3] == pytest.approx(spreads.max(), rel=1e-7)
        np.testing.assert_allclose(atoms.calc.results["energies"], spreads, rtol=1e-7)
    return frames


@pytest.mark.parametrize(
    ("ranks", "system", "per_ev"),
    [(1, "metal", 1.0), (2, "metal", 1.0), (1, "real", units.mol / units.kcal)],
)
def test_committee_has_the_spread_of_the_calculator(
    ranks: int, system: str, per_ev: float, model_of: Export, tmp_path: Path
) -> None:
    members = [model_of("painn", seed) for seed in (0, 1, 2)]
    commands = SPREAD + "fix 1 all nve\nrun 10\n"
    models = " ".join(map(str, members))
    run = run_input(tmp_path, crystal(), models, "H C O", commands, ranks=ranks, units=system)
    require_spread(run, members, per_ev)


@pytest.mark.parametrize("options", [HALO, EXCHANGE])
def test_committee_whose_atoms_move_to_another_rank_has_the_spread_of_the_calculator(
    options: str, model_of: Export, tmp_path: Path
) -> None:
    """Either rank has all atoms, one or two of them, and none."""
    members = [model_of("painn", seed) for seed in (0, 1)]
    atoms = Atoms("OHH", [[6.8, 3.0, 3.0], [7.5, 3.6, 3.1], [7.2, 2.2, 3.3]])
    atoms.set_cell([16.0, 9.0, 9.0])
    atoms.pbc = True
    commands = "neigh_modify delay 0 check no\nthermo 1\nfix 1 all move linear 100 0 0\nrun 16\n"
    run = run_input(
        tmp_path,
        atoms,
        " ".join(map(str, members)),
        "H C O",
        SPREAD.replace(" 10 ", " 1 ") + commands,
        ranks=2,
        before="processors 2 1 1",
        options=options,
    )
    frames = require_spread(run, members)
    assert ("ranks exchange features" in run.text) == (options == EXCHANGE)
    on_the_left = [sum(frame.positions[:, 0] < 8.0) for frame in frames]
    assert set(on_the_left) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    "commands",
    [
        "minimize 0 1e-3 20 100\n",
        "fix 1 all box/relax tri 0.0 vmax 0.001\nminimize 0 1e-3 20 100\n",
        "velocity all create 300 7\nfix 1 all npt temp 300 300 0.1 tri 0 0 1\nrun 20\n",
        "fix 1 all nve\nneigh_modify every 5 delay 5 check no\nrun 20\n",
        "delete_atoms group outer\nfix 1 all nve\nrun 20\n",
        "create_atoms 3 single 2.0 2.2 2.1\nfix 1 all nve\nrun 20\n",
    ],
)
@pytest.mark.parametrize("ranks", [1, 2])
def test_everyday_command_keeps_the_numbers_of_the_calculator(
    ranks: int, commands: str, model_of: Export, tmp_path: Path
) -> None:
    model = model_of("painn")
    group = "group outer id 3 9\n"
    run = run_input(tmp_path, crystal_twice(), str(model), "H C O", group + commands, ranks=ranks)
    require_same(run, model, "H C O", n_frames=2)


@pytest.mark.parametrize("style", ["charge", "full"])
def test_atom_styles_with_more_than_atoms_have_the_numbers_of_the_calculator(
    style: str, model_of: Export, tmp_path: Path
) -> None:
    """Without bonds the factors of special_bonds, which are zero by default, take nothing away."""
    model = model_of("painn")
    run = run_input(
        tmp_path,
        crystal(),
        str(model),
        "H C O",
        "fix 1 all nve\nrun 20\n",
        ranks=2,
        style=style,
    )
    require_same(run, model, "H C O", n_frames=3)


def test_rerun_and_restart_have_the_numbers_of_the_run(model_of: Export, tmp_path: Path) -> None:
    model = model_of("painn")
    commands = "fix 1 all nve\nrun 20\nwrite_restart end.restart\n"
    first = run_input(tmp_path, crystal(), str(model), "H C O", commands)
    require_same(first, model, "H C O", n_frames=3)
    head = (tmp_path / "in.lammps").read_text().removesuffix(commands)
    again = run_text(
        tmp_path,
        head.replace("frames.dump", "again.dump") + "rerun frames.dump dump x y z box yes\n",
    )
    assert again.status == 0, again.text
    np.testing.assert_allclose([row[1:] for row in again.thermo], [row[1:] for row in first.thermo])
    restarted = run_text(
        tmp_path,
        head.replace("read_data in.data", "read_restart end.restart").replace(
            "frames.dump", "restarted.dump"
        )
        + "run 0\n",
    )
    assert restarted.status == 0, restarted.text
    np.testing.assert_allclose(restarted.thermo[0][1:], first.thermo[-1][1:], rtol=1e-12)


@pytest.mark.parametrize("ranks", [1, 2])
def test_hybrid_overlay_adds_another_style(ranks: int, model_of: Export, tmp_path: Path) -> None:
    model = model_of("painn")
    commands = (
        "compute one all pair eqcalc\nthermo_style custom step c_one pe\n"
        "thermo_modify format float %.17g\nrun 0\n"
    )
    run = run_input(tmp_path, crystal(), str(model), "H C O", "run 0\n")
    text = (tmp_path / "in.lammps").read_text().removesuffix("run 0\n")
    text = text.replace("pair_style eqcalc", "pair_style hybrid/overlay zbl 2.0 3.0 eqcalc")
    text = text.replace("pair_coeff * *", "pair_coeff * * eqcalc") + commands
    for k, z in enumerate((1, 6, 8), 1):
        for other, w in list(enumerate((1, 6, 8), 1))[k - 1 :]:
            text = text.replace(
                "compute virial", f"pair_coeff {k} {other} zbl {z} {w}\ncompute virial", 1
            )
    both = run_text(tmp_path, text, ranks)
    assert both.status == 0, both.text
    _, energy, total = both.thermo[0]
    assert energy == pytest.approx(run.thermo[0][1], rel=1e-12)
    assert total > energy


D3 = "dispersion/d3 bj pbe 12.0 8.0"


@pytest.mark.parametrize(
    ("ranks", "options", "members"),
    [(1, HALO, 1), (2, HALO, 1), (2, EXCHANGE, 1), (1, HALO, 3)],
)
def test_dispersion_d3_adds_to_the_model(
    ranks: int, options: str, members: int, model_of: Export, tmp_path: Path
) -> None:
    """Ghosts reach as far as the dispersion does, three times the model's cutoff."""
    model = " ".join(str(model_of("painn", seed)) for seed in range(members))
    atoms = crystal_twice()
    model_alone = run_input(
        tmp_path / "model", atoms, model, "H C O", "run 0\n", ranks=ranks, options=options
    )
    text = (tmp_path / "model" / "in.lammps").read_text().replace("in.data", "../model/in.data")
    style, coeff = f"pair_style eqcalc {options}\n", f"pair_coeff * * {model} H C O\n"
    assert style + coeff in text

    def run_with(folder: str, styles: str, extra: str = "") -> Run:
        (tmp_path / folder).mkdir()
        changed = text.replace(style + coeff, styles).replace("run 0\n", extra + "run 0\n")
        return run_text(tmp_path / folder, changed, ranks)

    d3_alone = run_with("d3", f"pair_style {D3}\npair_coeff * * H C O\n")
    both = run_with(
        "both",
        f"pair_style hybrid/overlay {D3} eqcalc {options}\n"
        "pair_coeff * * dispersion/d3 H C O\n"
        f"pair_coeff * * eqcalc {model} H C O\n",
        "compute model all pair eqcalc\ncompute d3 all pair dispersion/d3\n"
        "thermo_style custom step pe c_virial[*] c_model c_d3\n"
        "thermo_modify format float %.17g\n",
    )
    runs = (model_alone, d3_alone, both)
    assert [run.status for run in runs] == [0, 0, 0], both.text
    one, other, total = (run.thermo[0][1:] for run in runs)
    assert other[0] < -1e-2  # there is dispersion
    assert total[0] == pytest.approx(one[0] + other[0], rel=1e-12)
    assert total[7:] == pytest.approx([one[0], other[0]], rel=1e-12)
    require_close(total[1:7], one[1:] + other[1:])
    frames = [frames_of(run, "H C O")[0] for run in runs]
    for values in (
        [frame.get_forces() for frame in frames],
        [frame.get_potential_energies() for frame in frames],
        [frame.arrays["virials"] for frame in frames],
    ):
        require_close(values[2], values[0] + values[1])


@pytest.mark.parametrize("ranks", [1, 2])
def test_types_of_another_style_are_not_seen(ranks: int, model_of: Export, tmp_path: Path) -> None:
    model = model_of("painn")
    atoms = crystal_twice()
    run_input(tmp_path, atoms, str(model), "H C O", "run 0\n")
    text = (tmp_path / "in.lammps").read_text().removesuffix("run 0\n")
    text = text.replace("pair_style eqcalc", "pair_style hybrid lj/cut 4.0 eqcalc")
    text = text.replace(
        f"pair_coeff * * {model} H C O",
        (
            f"pair_coeff * * eqcalc {model} H NULL O\npair_coeff 2 * lj/cut 0.01 2.0\n"
            "pair_coeff 1 2 lj/cut 0.01 2.0"
        ),
    )
    text += (
        "compute one all pair eqcalc\nthermo_style custom step c_one\n"
        "thermo_modify format float %.17g\nrun 0\n"
    )
    run: Run = run_text(tmp_path, text, ranks)
    assert run.status == 0, run.text
    atoms = frames_of(run, "H C O")[0]
    seen = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)[atoms.numbers != 6]
    seen.calc = EqCalculator(model, device="cpu", dtype="float64", engine="torchscript")
    assert run.thermo[0][1] == pytest.approx(seen.get_potential_energy(), rel=1e-9)


def test_atoms_that_are_lost_take_their_energy_along(model_of: Export, tmp_path: Path) -> None:
    model = model_of("painn")
    commands = (
        "thermo_modify lost ignore\ngroup one id 1\nvelocity one set 0 0 900 sum no\n"
        "fix 1 all nve\nrun 50\n"
    )
    atoms = crystal()
    atoms.cell[2, :2] = 0.0
    atoms.center(vacuum=3.0, axis=2)
    run = run_input(tmp_path, atoms, str(model), "H C O", commands, ranks=2, boundary="p p f")
    assert run.status == 0, run.text
    assert len(frames_of(run, "H C O")[-1]) == len(atoms) - 1
    require_same(run, model, "H C O", [True, True, False], n_frames=6)
