"""What runs write can be read back, says what is true, and goes on as it was."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixScaled,
    FixSubsetCom,
    Hookean,
)
from ase.io import read, write
from springs import Springs, ethanol

from eqcalc.errors import ConfigError, DataWarning, StructureError
from eqcalc.simulate import MDSettings, RelaxRun, RelaxSettings, read_structure, run_md, run_relax
from eqcalc.simulate.frame_content import _are_same, unkept_constraints
from eqcalc.simulate.structures import count_structures
from eqcalc.simulate.writers import write_structure

SHORT = MDSettings(ensemble="nve", n_steps=4, temperature_K=50, timestep_fs=0.2, log_every=1)


def ran(verb: str, atoms: Atoms, folder, trajectory_format: str = "traj") -> list[Atoms]:
    """Run a few steps and return everything that was written, read back."""
    if verb == "md":
        settings = MDSettings(**{**vars(SHORT), "trajectory_format": trajectory_format})
        run_md(atoms, Springs(ethanol()), settings, folder)
    else:
        settings = RelaxSettings(max_steps=3, trajectory_format=trajectory_format)
        run_relax(atoms, Springs(ethanol()), settings, folder)
    last = "final.xyz" if verb == "md" else "relaxed.xyz"
    suffix = {"traj": "traj", "extxyz": "xyz"}[trajectory_format]
    return [*read(folder / f"trajectory.{suffix}", index=":"), read_structure(folder / last)]


@pytest.mark.parametrize("trajectory_format", ["traj", "extxyz"])
@pytest.mark.parametrize("verb", ["md", "relax"])
def test_columns_that_cannot_be_read_back_are_left_out(verb, trajectory_format, tmp_path):
    atoms = ethanol()
    n = len(atoms)
    atoms.arrays["residuenames"] = np.array([""] * n)
    atoms.arrays["atomtypes"] = np.array(["C A"] * n)
    atoms.arrays["kept"] = np.arange(n)
    atoms.arrays["segment"] = np.array(["A"] * n)
    atoms.arrays["cubes"] = np.zeros((n, 3, 3))
    atoms.arrays["large"] = np.full(n, 2**40)
    atoms.arrays["pos"] = np.ones((n, 3))
    atoms.arrays["charge"] = np.ones(n)
    atoms.arrays["move_mask"] = np.ones(n, dtype=bool)
    atoms.arrays["pair"] = np.ones((n, 2))
    atoms.arrays["pair0"] = np.ones(n)
    atoms.arrays["none"] = np.ones((n, 0))
    for frame in ran(verb, atoms, tmp_path / "run", trajectory_format):
        if "kept" in frame.arrays or trajectory_format == "extxyz":  # .traj has no such columns
            assert {"kept", "segment"} <= set(frame.arrays)
        assert not set(frame.arrays) & {
            "residuenames",
            "atomtypes",
            "cubes",
            "large",
            "pos",
            "charge",
            "move_mask",
            "pair0",
            "none",
        }
        assert frame.get_positions() == pytest.approx(atoms.get_positions(), abs=0.5)


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_labels_of_another_method_are_not_kept_beside_atoms_that_moved(verb, tmp_path):
    atoms = ethanol()
    atoms.arrays["DFT_forces"] = np.ones((len(atoms), 3))
    atoms.arrays["atomic_energies"] = np.ones(len(atoms))
    atoms.info["energy_dft"] = -3.0
    for frame in ran(verb, atoms, tmp_path / "run"):
        assert not {"DFT_forces", "atomic_energies"} & set(frame.arrays)
        assert "energy_dft" not in frame.info


@pytest.mark.parametrize("verb", ["md", "relax"])
def test_energy_of_a_frame_is_that_of_its_forces_without_the_constraints_own(verb, tmp_path):
    atoms = ethanol()
    atoms.rattle(0.02, seed=1)
    atoms.set_constraint(Hookean(0, 1, k=5.0, rt=1.0))
    for frame in ran(verb, atoms, tmp_path / "run"):
        bare = Atoms(frame.numbers, frame.positions)
        bare.calc = Springs(ethanol())
        assert frame.calc.results["energy"] == pytest.approx(bare.get_potential_energy(), abs=1e-6)


CONSTRAINTS = {
    "plane": lambda: FixedPlane([0, 1], (0, 0, 1)),
    "scaled": lambda: FixScaled(2, [False, False, True]),
    "bonds": lambda: FixBondLengths([[0, 1], [1, 2]]),
    "spring": lambda: Hookean(0, 1, k=5.0, rt=1.2),
    "atoms": lambda: FixAtoms([0, 3]),
    "components": lambda: FixCartesian([1, 4], (True, False, True)),
    "line": lambda: FixedLine([0], (0, 1, 1)),
    "tilted plane": lambda: FixedPlane([0, 2], (1, 2, 3)),
    "spring to a point": lambda: Hookean(0, (1.0, 1.0, 1.0), k=2.0, rt=0.5),
    "two kinds": lambda: [FixAtoms([3]), FixedPlane([0], (0, 0, 1))],
}


@pytest.mark.parametrize("name", CONSTRAINTS)
@pytest.mark.parametrize("verb", ["md", "relax"])
def test_what_is_gone_on_from_has_the_constraints(verb, name, tmp_path):
    atoms = ethanol()
    atoms.set_cell([12.0, 12.0, 12.0])
    atoms.set_constraint(CONSTRAINTS[name]())
    last = ran(verb, atoms, tmp_path / "run")[-1]
    assert [type(c) for c in last.constraints] == [type(c) for c in atoms.constraints]
    for found, expected in zip(last.constraints, atoms.constraints, strict=True):
        assert _are_same(found.todict(), expected.todict())
    assert not any("constraint" in key for key in last.info)


def test_constraints_that_no_file_can_hold_are_named():
    class Mine:
        def adjust_positions(self, atoms, new) -> None: ...
        def adjust_forces(self, atoms, forces) -> None: ...

    atoms = ethanol()
    atoms.set_constraint([FixAtoms([0]), Mine()])
    assert unkept_constraints(atoms) == ["Mine"]
    with pytest.warns(DataWarning, match="hold the constraints Mine: .* set again before going"):
        RelaxRun(atoms, EMT(), RelaxSettings())


def test_constraints_that_are_damaged_are_refused(tmp_path):
    atoms = ethanol()
    atoms.info["eqcalc_constraints"] = '[{"name": "FixNothing", "kwargs": {}}]'
    write(tmp_path / "a.xyz", atoms)
    with pytest.raises(StructureError, match="'eqcalc_constraints' are not readable"):
        read_structure(tmp_path / "a.xyz")


def test_constraints_of_atoms_that_are_not_there_are_refused(tmp_path):
    atoms = ethanol()
    atoms.info["eqcalc_constraints"] = '[{"name": "FixAtoms", "kwargs": {"indices": [40]}}]'
    write(tmp_path / "a.xyz", atoms)
    with pytest.raises(StructureError, match="hold atoms 40 to 40, and there are 9 atoms"):
        read_structure(tmp_path / "a.xyz")


class Heavy(FixAtoms):
    """A user's own constraint: ASE writes it as another one, or not at all."""

    def todict(self):
        return {"name": "Heavy", "kwargs": {"indices": [0]}}


@pytest.mark.parametrize("trajectory_format", ["traj", "extxyz"])
def test_a_constraint_that_no_file_can_hold_does_not_end_a_run(trajectory_format, tmp_path):
    atoms = ethanol()
    atoms.set_constraint([FixAtoms([3]), Heavy([0])])
    assert unkept_constraints(atoms) == ["Heavy"]
    for frame in ran("md", atoms, tmp_path / "run", trajectory_format)[-2:]:
        assert [list(c.get_indices()) for c in frame.constraints if type(c) is FixAtoms] == [[3]]


def test_entries_that_extxyz_cannot_give_back_are_left_out(tmp_path):
    atoms = ethanol()
    kept = {"title": 'a "quoted" word, Å', "charge_state": -1, "weight": 0.5, "fitted": True}
    kept["three"] = np.arange(3.0)
    lost = {"lines": "a\nb", "Lattice": "cubic", "pbc": "T", "energy": -3.0, "stress": np.ones(6)}
    lost |= {"nothing": None, "empty": "", "table": {"a": 1}, "large": 2**70, "a b": 1, 3: 4}
    atoms.info = {**kept, **lost}
    write_structure(tmp_path / "a.xyz", atoms)
    back = read_structure(tmp_path / "a.xyz")
    assert set(back.info) == set(kept)
    assert all(np.array_equal(back.info[key], value) for key, value in kept.items())
    assert back.calc is None
    assert set(atoms.info) == {*kept, *lost}


# --- velocities


@pytest.mark.parametrize(
    "make",
    [
        lambda: FixAtoms([0, 1, 2]),
        lambda: FixedPlane([0, 1], (0, 0, 1)),
        lambda: FixBondLengths([[0, 1], [1, 2]]),
        lambda: FixCom(),
    ],
)
def test_kept_velocities_are_projected_on_the_constraints(make, tmp_path):
    atoms = ethanol()
    rng = np.random.default_rng(0)
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * np.sqrt(atoms.get_masses())[:, None] * 0.1)
    atoms.constraints = [make()]
    run_md(atoms, Springs(ethanol()), SHORT, tmp_path / "run")
    with open(tmp_path / "run" / "thermo.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    first, second = (float(row["total_energy_eV"]) for row in rows[:2])
    assert second == pytest.approx(first, abs=2e-3)


@pytest.mark.parametrize("name", ["v", "vel", "velo", "Velocity", "velocities"])
def test_velocities_under_another_name_are_refused(name, tmp_path):
    atoms = ethanol()
    atoms.arrays[name] = np.ones((len(atoms), 3))
    with pytest.raises(
        ConfigError, match=rf"column '{name}' of velocities, whose unit is not known"
    ):
        run_md(atoms, Springs(ethanol()), SHORT, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("force", [0.5, -0.5])
def test_a_constraint_whose_force_ase_adds_to_momenta_is_refused(force, tmp_path):
    atoms = ethanol()
    atoms.set_constraint([FixAtoms([3]), ExternalForce(0, 1, force)])
    with pytest.raises(ConfigError, match="ExternalForce moves atoms that are at rest"):
        run_md(atoms, Springs(ethanol()), SHORT, tmp_path / "run")


def test_a_constraint_that_takes_other_steps_than_momenta_is_refused(tmp_path):
    skewed = bulk("Cu") * (2, 2, 2)
    right = bulk("Cu", cubic=True)
    two_masses = right.copy()
    two_masses.set_masses([60.0, 60.0, 30.0, 30.0])
    mode = FixedMode(np.random.default_rng(0).standard_normal((4, 3)))
    for atoms, constraint in (
        (skewed, FixScaled([1, 2], (True, False, False))),
        (two_masses, mode),
        (two_masses, FixSubsetCom([0, 1])),
    ):
        atoms.set_constraint(constraint)
        with pytest.raises(ConfigError, match=f"{type(constraint).__name__} takes something else"):
            run_md(atoms, EMT(), SHORT, tmp_path / "run")
    kept = (FixScaled([1, 2], (True, False, False)), mode, FixedLine([1], (1, 2, 3)), FixCom())
    for constraint in kept:
        right.set_constraint(constraint)
        run_md(right, EMT(), SHORT, tmp_path / "run", overwrite=True)
    skewed.set_constraint(FixScaled([1, 2]))  # whole, as FixAtoms
    run_md(skewed, EMT(), SHORT, tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("verb", ["md", "relax"])
@pytest.mark.parametrize("make", [FixAtoms, lambda atoms: FixedPlane(atoms, (0, 0, 1))])
def test_a_constraint_of_an_atom_that_is_not_there_is_refused(make, verb, tmp_path):
    atoms = ethanol()
    atoms.set_constraint(make([20]))
    with pytest.raises(ConfigError, match=r"holds an atom that is not there \(index 20"):
        ran(verb, atoms, tmp_path / "run")


@pytest.mark.parametrize(("mass", "found"), [(0.0, r"0\.0"), (-1.0, r"-1\.0"), (np.nan, "nan")])
def test_masses_that_are_not_positive_are_refused(mass, found, tmp_path):
    atoms = ethanol()
    with np.errstate(all="ignore"):
        atoms.set_masses([mass, *atoms.get_masses()[1:]])
        with pytest.raises(ConfigError, match=rf"positive, found {found} on atoms 0"):
            run_md(atoms, Springs(ethanol()), SHORT, tmp_path / "run")


def test_velocities_in_three_columns_are_refused(tmp_path):
    atoms = ethanol()
    for name in ("vx", "vy", "vz"):
        atoms.arrays[name] = np.ones(len(atoms))
    with pytest.raises(ConfigError, match="columns 'vx', 'vy' and 'vz' of velocities, whose unit"):
        run_md(atoms, Springs(ethanol()), SHORT, tmp_path / "run")


def test_constraints_that_differ_by_more_than_rounding_are_not_the_same():
    one, other = (FixedLine([0], (0, 1, x)).todict() for x in (1.0, 1.001))
    assert _are_same(one, one)
    assert not _are_same(one, other)
    assert not _are_same(one, FixedPlane([0], (0, 1, 1)).todict())


# --- what a file says that one structure cannot


CIF = """data_x
_cell_length_a 6
_cell_length_b 6
_cell_length_c 6
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
"""


@pytest.mark.parametrize(
    ("sites", "found"),
    [
        ("O1 O 0.5 0.5 0.5 1\nH1 H 0.66 0.5 0.5 0.5\n", "0.5 H"),
        ("Si1 Si 0.1 0.1 0.1 0.6\nC1 C 0.1 0.1 0.1 0.4\n", "0.6 Si, 0.4 C"),
    ],
)
def test_a_disordered_crystal_is_refused(sites, found, tmp_path):
    (tmp_path / "a.cif").write_text(CIF + sites)
    with pytest.raises(StructureError, match=rf"is disordered: site .* has the occupancy {found}"):
        read_structure(tmp_path / "a.cif")


def test_rounded_special_positions_are_refused_and_others_have_their_atoms(tmp_path):
    """Symmetry makes three atoms of 0.333 where it makes one of 1/3."""
    head, tail = CIF.split("loop_", 1)
    head += "_symmetry_Int_Tables_number 143\n"
    trigonal = f"{head}loop_\n_symmetry_equiv_pos_as_xyz\nx,y,z\n-y,x-y,z\n-x+y,-x,z\nloop_{tail}"
    trigonal = trigonal.replace("_cell_angle_gamma 90", "_cell_angle_gamma 120")
    (tmp_path / "rounded.cif").write_text(trigonal + "Si1 Si 0.333 0.667 0.2 1\n")
    with pytest.raises(StructureError, match=r"2 atoms too many: .* Si 0 and 1, 0\.00\d+ Å apart"):
        read_structure(tmp_path / "rounded.cif")
    (tmp_path / "whole.cif").write_text(trigonal + "Si1 Si 0.33333 0.66667 0.2 1\n")
    assert len(read_structure(tmp_path / "whole.cif")) == 1


def test_an_ordered_crystal_is_not_refused(tmp_path):
    (tmp_path / "a.cif").write_text(CIF + "O1 O 0.5 0.5 0.5 1\nH1 H 0.66 0.5 0.5 1.0\n")
    assert len(read_structure(tmp_path / "a.cif")) == 2


@pytest.mark.parametrize(("symbol", "word"), [("D", "deuterium"), ("T", "tritium")])
def test_isotopes_are_named(symbol, word, tmp_path):
    (tmp_path / "a.xyz").write_text(f"2\n\nO 0 0 0\n{symbol} 0 0 1\n")
    with pytest.raises(StructureError, match=rf"'{symbol}' is {word}, .* write H"):
        read_structure(tmp_path / "a.xyz")


@pytest.mark.parametrize("suffix", ["xyz", "traj"])
def test_structures_of_a_file_are_counted(suffix, tmp_path):
    path = tmp_path / f"a.{suffix}"
    write(path, [molecule("H2O"), molecule("CO2"), molecule("H2")])
    assert count_structures(path) == 3


def test_a_file_that_is_too_large_to_read_twice_is_not_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("eqcalc.simulate.structures._MOST_BYTES", 10)
    write(tmp_path / "a.xyz", molecule("H2O"))
    assert count_structures(tmp_path / "a.xyz") is None
