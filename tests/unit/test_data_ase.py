"""extxyz, trajectories and data bases: wrong files first, then right numbers."""

from __future__ import annotations

from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from eqcalc.data import read_dataset
from eqcalc.errors import ConfigError, DataError, DataWarning

SMALL = Path(__file__).parents[1] / "data"
RMD17 = SMALL / "ethanol_rmd17_frames.npz"
EXTXYZ = SMALL / "ethanol_rmd17_frames.xyz"
EXACT = {"rtol": 1e-12, "atol": 0}


def labelled(atoms: Atoms, **results: object) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def water(energy: float = -14.0, **results: object) -> Atoms:
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [0, 0.96, 0]])
    return labelled(atoms, energy=energy, forces=np.arange(9.0).reshape(3, 3), **results)


def crystal(stress: object = None, energy: float = -10.0) -> Atoms:
    atoms = Atoms("Si2", [[0, 0, 0], [1.3, 1.3, 1.3]], cell=[5, 5, 5], pbc=True)
    extra = {} if stress is None else {"stress": np.array(stress)}
    return labelled(atoms, energy=energy, forces=np.zeros((2, 3)), **extra)


def isolated(symbol: str, energy: float) -> Atoms:
    atoms = Atoms(symbol, [[0, 0, 0]], info={"config_type": "IsolatedAtom"})
    return labelled(atoms, energy=energy, forces=np.zeros((1, 3)))


def write(path: Path, frames: list[Atoms]) -> Path:
    if path.suffix in (".db", ".json"):
        with ase.db.connect(path) as db:
            for atoms in frames:
                db.write(atoms, **atoms.info)
    else:
        kind = {".traj": "traj"}.get(path.suffix, "extxyz")
        ase.io.write(path, frames, format=kind)
    return path


# --- files and labels


def test_extxyz_equals_npz_of_the_same_frames():
    ours, theirs = read_dataset(EXTXYZ), read_dataset(RMD17)
    assert ours.units == "eV, Angstrom"
    for a, b in zip(ours.frames, theirs.frames, strict=True):
        assert a.energy == pytest.approx(b.energy, rel=1e-14)
        np.testing.assert_array_equal(a.atoms.numbers, b.atoms.numbers)
        np.testing.assert_allclose(a.atoms.positions, b.atoms.positions, rtol=0, atol=5.1e-9)
        np.testing.assert_allclose(a.forces, b.forces, rtol=0, atol=5.1e-9)


@pytest.mark.parametrize("suffix", [".xyz", ".extxyz", ".traj", ".db", ".json"])
def test_every_ase_format_gives_the_same_frames(tmp_path, suffix):
    stress = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    frames = [isolated("O", -400.0), water(-14.5), crystal(stress), isolated("Si", -3.0)]
    data = read_dataset(write(tmp_path / f"data{suffix}", frames))
    assert data.isolated_atoms == {8: -400.0, 14: -3.0}
    molecule, solid = data.frames
    assert (molecule.energy, solid.energy) == (-14.5, -10.0)
    np.testing.assert_array_equal(molecule.forces, np.arange(9.0).reshape(3, 3))
    assert molecule.stress is None
    np.testing.assert_array_equal(solid.stress, stress)
    np.testing.assert_array_equal(solid.atoms.cell.array, np.eye(3) * 5)
    assert solid.atoms.pbc.all()


def test_database_labels_may_lie_in_its_data_and_key_value_pairs(tmp_path):
    forces = np.arange(6.0).reshape(2, 3)
    with ase.db.connect(tmp_path / "data.db") as db:
        db.write(Atoms("H2"), dft_energy=-31.0, data={"dft_forces": forces})
    data = read_dataset(tmp_path / "data.db", energy_key="dft_energy", forces_key="dft_forces")
    assert data.frames[0].energy == -31.0
    np.testing.assert_array_equal(data.frames[0].forces, forces)


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".db", ".json"])
@pytest.mark.parametrize("content", ["", "2\n\nSi 0 0 0\n", "three\natoms\n", '{"a": '])
def test_damaged_ase_file_is_refused_with_its_name(tmp_path, suffix, content):
    path = tmp_path / f"damaged{suffix}"
    path.write_text(content)
    said = "(cannot be read as|holds no frames|: it is cut off in line 3)"
    with pytest.raises(DataError, match=rf"damaged\{suffix} ?{said}"):
        read_dataset(path)


def test_extxyz_cut_by_a_blank_line_is_refused(tmp_path):
    text = write(tmp_path / "one.xyz", [water()]).read_text()
    path = tmp_path / "data.xyz"
    path.write_text(text + "\n" + text)
    with pytest.raises(DataError, match="a blank line 6 ends the file before its last frame"):
        read_dataset(path)
    path.write_text(text + text + "\n\n")
    assert len(read_dataset(path)) == 2


def test_extxyz_missing_energy_lists_the_keys_found(tmp_path):
    text = EXTXYZ.read_text().replace("energy=", "TotEnergy=")
    path = tmp_path / "data.xyz"
    path.write_text(text)
    match = (
        r"no energy 'energy' in 6 of 6 frames, rows 0, 1, 2, 3, 4, 5; the first of them has "
        r"TotEnergy, forces\. Give energy_key.* Did you mean 'TotEnergy'\?"
    )
    with pytest.raises(DataError, match=match):
        read_dataset(path)
    assert read_dataset(path, energy_key="TotEnergy").frames[0].energy == pytest.approx(
        read_dataset(EXTXYZ).frames[0].energy, rel=1e-15
    )


@pytest.mark.parametrize("suffix", [".traj", ".db"])
def test_frame_without_any_label_is_refused(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}", [water(), Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])])
    match = r"no energy 'energy' in 1 of 2 frames, rows 1; the first of them has no keys"
    with pytest.raises(DataError, match=match):
        read_dataset(path)


def test_frames_of_which_some_lack_forces_are_refused(tmp_path):
    bare = labelled(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), energy=-1.0)
    path = write(tmp_path / "data.xyz", [water(), bare, water(), bare])
    match = "no forces 'forces' in 2 of 4 frames, rows 1, 3; the first of them has energy"
    with pytest.raises(DataError, match=match):
        read_dataset(path)
    assert [f.forces for f in read_dataset(path, rows=[1, 3]).frames] == [None, None]


def test_forces_under_another_name_must_be_named(tmp_path):
    atoms = water()
    atoms.arrays["dft_force"] = atoms.calc.results.pop("forces")
    path = write(tmp_path / "data.xyz", [atoms])
    with pytest.raises(DataError, match="no 'forces', but arrays named dft_force; give forces_key"):
        read_dataset(path)
    with pytest.raises(DataError, match=r"no forces 'dft_forces' .* Did you mean 'dft_force'\?"):
        read_dataset(path, forces_key="dft_forces")
    np.testing.assert_array_equal(
        read_dataset(path, forces_key="dft_force").frames[0].forces, np.arange(9.0).reshape(3, 3)
    )


@pytest.mark.parametrize(
    ("option", "match"),
    [
        ({"energy_key": "pair"}, r"'pair' of row 0 must hold real numbers of shape \(\), .* \(2,"),
        ({"energy_key": "word"}, r"'word' of row 0 must hold real numbers of shape \(\), found <U"),
        ({"energy_key": "flag"}, r"'flag' of row 0 must hold real numbers .* found bool"),
        ({"forces_key": "weight"}, r"'weight' of row 0 .* shape \(3, 3\), found float64 .* \(3,\)"),
    ],
)
def test_extxyz_label_of_wrong_shape_or_type_is_refused(tmp_path, option, match):
    atoms = water()
    atoms.info = {"pair": [1.0, 2.0], "word": "low", "flag": True}
    atoms.arrays["weight"] = np.ones(3)
    with pytest.raises(DataError, match=match):
        read_dataset(write(tmp_path / "data.xyz", [atoms]), **option)


@pytest.mark.parametrize("what", ["energy", "forces", "stress", "positions"])
def test_extxyz_non_finite_values_are_refused_by_row(tmp_path, what):
    bad = crystal([0.0] * 6)
    values = bad.positions if what == "positions" else bad.calc.results
    if what == "positions":
        values[1, 1] = np.nan
    else:
        values[what] = values[what] * np.nan
    path = write(tmp_path / "data.xyz", [crystal([0.0] * 6), crystal([0.0] * 6), bad])
    with pytest.raises(DataError, match=f"'{what}' must be finite, found NaN or .* in rows 2;"):
        read_dataset(path)
    assert len(read_dataset(path, rows="0:2")) == 2


def test_extxyz_atom_without_element_is_refused(tmp_path):
    path = write(tmp_path / "data.xyz", [water(), labelled(Atoms("X2"), energy=0.0)])
    with pytest.raises(DataError, match="every atom an element; not so in rows 1"):
        read_dataset(path)


def test_npz_only_options_are_refused_elsewhere():
    with pytest.raises(ConfigError, match="positions_key and numbers_key are for npz files"):
        read_dataset(EXTXYZ, positions_key="coords")


def test_extxyz_other_units_are_converted_if_asked(tmp_path):
    path = write(tmp_path / "data.xyz", [crystal([1.0, 0, 0, 0, 0, 0.5])])
    atomic_units = {"energy_unit": "Hartree", "length_unit": "Bohr", "trust_data": True}
    frame = read_dataset(path, **atomic_units).frames[0]
    assert frame.energy == pytest.approx(-10 * units.Hartree, rel=1e-14)
    np.testing.assert_allclose(frame.atoms.cell.array, np.eye(3) * 5 * units.Bohr, **EXACT)
    np.testing.assert_allclose(frame.atoms.positions[1], 1.3 * units.Bohr, **EXACT)
    expected = np.array([1, 0, 0, 0, 0, 0.5]) * units.Hartree / units.Bohr**3
    np.testing.assert_allclose(frame.stress, expected, **EXACT)
    path = write(tmp_path / "molecule.xyz", [water()])
    molecule = read_dataset(path, **atomic_units).frames[0]
    expected = np.arange(9.0).reshape(3, 3) * units.Hartree / units.Bohr
    np.testing.assert_allclose(molecule.forces, expected, **EXACT)


def test_frames_carry_no_calculator_constraint_or_info(tmp_path):
    atoms = water()
    atoms.set_constraint(FixAtoms([0]))
    frame = read_dataset(write(tmp_path / "data.traj", [atoms])).frames[0]
    assert (frame.atoms.calc, frame.atoms.constraints, frame.atoms.info) == (None, [], {})
    # A fixed atom's force is a label like any other.
    np.testing.assert_array_equal(frame.forces, np.arange(9.0).reshape(3, 3))


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".db", ".json"])
def test_reading_leaves_the_file_as_it_was(tmp_path, suffix):
    path = write(tmp_path / f"data{suffix}", [water()])
    files, content = sorted(tmp_path.iterdir()), path.read_bytes()
    read_dataset(path)
    assert path.read_bytes() == content
    assert sorted(tmp_path.iterdir()) == files


# --- stress


@pytest.mark.parametrize("key", ["dft_stress", "stress"])
def test_stress_of_nine_values_becomes_voigt(tmp_path, key):
    atoms = crystal()
    full = "1 6 5 6 2 4 5 4 3"
    path = write(tmp_path / "data.xyz", [atoms])
    path.write_text(path.read_text().replace("energy=", f'{key}="{full}" energy='))
    stress = read_dataset(path, stress_key=key).frames[0].stress
    np.testing.assert_array_equal(stress, [1, 2, 3, 4, 5, 6])


def test_stress_that_is_not_symmetric_is_refused(tmp_path):
    path = write(tmp_path / "data.xyz", [crystal()])
    path.write_text(path.read_text().replace("energy=", 's="1 2 3 4 5 6 7 8 9" energy='))
    with pytest.raises(DataError, match="'s' of row 0 must be a symmetric matrix, found"):
        read_dataset(path, stress_key="s")


def test_stress_of_wrong_shape_is_refused(tmp_path):
    path = write(tmp_path / "data.xyz", [crystal()])
    path.write_text(path.read_text().replace("energy=", 's="1 2 3" energy='))
    match = r"'s' of row 0 .* shape \(6,\) or \(3, 3\) or \(9,\), found int64 of shape \(3,\)"
    with pytest.raises(DataError, match=match):
        read_dataset(path, stress_key="s")


def test_stress_of_only_some_periodic_frames_is_refused(tmp_path):
    path = write(tmp_path / "data.xyz", [water(), crystal([0.0] * 6), crystal()])
    with pytest.raises(DataError, match="no stress 'stress' in 1 of 2 frames, rows 2"):
        read_dataset(path)


def test_stress_key_without_periodic_frames_is_refused(tmp_path):
    path = write(tmp_path / "data.xyz", [water()])
    with pytest.raises(DataError, match="stress_key='s' was given, but no frame is periodic"):
        read_dataset(path, stress_key="s")


def test_virial_is_not_taken_for_a_stress(tmp_path):
    path = write(tmp_path / "data.xyz", [crystal()])
    path.write_text(path.read_text().replace("energy=", 'virial="1 0 0 0 1 0 0 0 1" energy='))
    with pytest.raises(ConfigError, match=r"='virial' names a virial, .* virial_key = 'virial'"):
        read_dataset(path, stress_key="virial")
    with pytest.raises(ConfigError, match=r"='my_stress' names a stress, .* change its sign"):
        read_dataset(path, virial_key="my_stress")


@pytest.mark.parametrize(
    ("text", "virial"),
    [
        ("1 6 5 6 2 4 5 4 3", [1, 2, 3, 4, 5, 6]),
        ("1 2 3 4 5 6", [1, 2, 3, 4, 5, 6]),
    ],
)
def test_a_virial_becomes_minus_itself_per_volume(text, virial, tmp_path):
    path = write(tmp_path / "data.xyz", [crystal()])
    path.write_text(path.read_text().replace("energy=", f'w_virial="{text}" energy='))
    data = read_dataset(path, virial_key="w_virial")
    np.testing.assert_allclose(data.frames[0].stress, -np.array(virial) / 125.0, **EXACT)
    in_bohr = read_dataset(
        path, virial_key="w_virial", energy_unit="Hartree", length_unit="Bohr"
    ).frames[0]
    factor = units.Hartree / units.Bohr**3
    np.testing.assert_allclose(in_bohr.stress, -np.array(virial) / 125.0 * factor, **EXACT)


def test_a_virial_without_volume_is_refused(tmp_path):
    atoms = crystal()
    atoms.cell[2] = 0.0
    labelled(atoms, energy=-10.0, forces=np.zeros((2, 3)))
    path = tmp_path / "virial.db"
    with ase.db.connect(path) as db:
        db.write(atoms, data={"virial": np.eye(3)})
    with pytest.raises(DataError, match=r"frame 0 is periodic but its cell .* has no volume"):
        read_dataset(path, virial_key="virial")


# --- isolated atoms
def test_isolated_atoms_are_rows_of_the_file_and_no_training_frames(tmp_path):
    frames = [isolated("H", -13.5), water(-1.0), isolated("O", -400.0), water(-2.0)]
    path = write(tmp_path / "data.xyz", frames)
    with pytest.warns(DataWarning, match=r"data\.xyz: 1 of 3 frames, 2, hold one atom with conf"):
        data = read_dataset(path, rows="1:4")
    assert [frame.energy for frame in data.frames] == [-1.0, -2.0]
    assert (data.rows, data.n_rows) == ([1, 3], 4)
    assert [str(frame.origin) for frame in data.frames] == [
        "frame 1 of data.xyz",
        "frame 3 of data.xyz",
    ]
    assert data.isolated_atoms == {1: -13.5, 8: -400.0}
    with pytest.raises(DataError, match=r"rows '2:3' of data\.xyz select nothing but isolated"):
        read_dataset(path, rows="2:3")
    kept = read_dataset(path, exclude_isolated=False)
    assert [frame.energy for frame in kept.frames] == [-13.5, -1.0, -400.0, -2.0]
    assert kept.isolated_atoms == data.isolated_atoms


def test_isolated_atoms_alone_make_a_dataset_without_frames(tmp_path):
    path = write(tmp_path / "data.xyz", [isolated("H", -13.5)])
    data = read_dataset(path, energy_unit="Hartree")
    assert len(data) == 0
    assert data.isolated_atoms == {1: -13.5 * units.Hartree}


def test_isolated_atoms_that_disagree_are_refused(tmp_path):
    path = write(tmp_path / "data.xyz", [isolated("H", -13.5), isolated("H", -13.6), water()])
    with pytest.raises(DataError, match=r"isolated H atoms disagree, found -13\.5 and -13\.6 eV"):
        read_dataset(path)


def test_isolated_atom_without_energy_is_refused(tmp_path):
    atom = isolated("H", -13.5)
    del atom.calc.results["energy"]
    path = write(tmp_path / "data.xyz", [atom, water()])
    with pytest.raises(DataError, match="no energy 'energy' in 1 of 1 frames, rows isolated H;"):
        read_dataset(path)


# --- a label in two places


@pytest.mark.parametrize("key", ["energy", "forces", "stress"])
def test_a_label_that_stands_twice_with_different_values_is_refused(tmp_path, key):
    atoms = crystal([0.1, 0.2, 0.3, 0.0, 0.0, 0.0])
    other = {"energy": -4209.78, "forces": np.full((2, 3), 0.5), "stress": np.eye(3)}
    atoms.info[key] = other[key]
    ase.io.write(tmp_path / "data.traj", [crystal([0.0] * 6), atoms])
    match = (
        rf"'{key}' of row 1 stands in two places with different values: \S+ in the calculator's "
        r"results, \S+ in the info\. .* rename the one that is meant .*energy_key"
    )
    with pytest.raises(DataError, match=match):
        read_dataset(tmp_path / "data.traj")


def test_a_label_that_stands_twice_with_one_value_is_read(tmp_path):
    atoms = crystal([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    atoms.info["energy"] = -10.0 + 1e-7
    atoms.info["stress"] = [[0.1, 0.6, 0.5], [0.6, 0.2, 0.4], [0.5, 0.4, 0.3]]
    atoms.arrays["forces"] = np.zeros((2, 3))
    atoms.info["forces"] = "of LDA"
    frame = read_dataset(write(tmp_path / "data.traj", [atoms])).frames[0]
    assert frame.energy == -10.0
    np.testing.assert_allclose(frame.stress, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6])


def test_another_label_that_stands_twice_is_nobodys_business(tmp_path):
    atoms = crystal()
    atoms.info |= {"energy": -99.0, "REF_energy": -11.0}
    path = tmp_path / "data.traj"
    ase.io.write(path, [atoms])
    assert read_dataset(path, energy_key="REF_energy").frames[0].energy == -11.0


@pytest.mark.parametrize("key", ["stress", "REF_stress"])
def test_a_stress_in_extxyz_that_is_not_symmetric_is_refused(tmp_path, key):
    path = write(tmp_path / "data.xyz", [crystal([0.1, 0.2, 0.3, 0.0, 0.0, 0.4])])
    text = path.read_text()
    numbers = "0.1 0.4 0.0 0.4 0.2 0.0 0.0 0.0 0.3"
    assert numbers in text
    path.write_text(text.replace(numbers, numbers.replace("0.4", "0.9", 1)).replace("stress", key))
    asked = {} if key == "stress" else {"stress_key": key}
    with pytest.raises(DataError, match=f"'{key}' of row 0 must be a symmetric matrix, found"):
        read_dataset(path, **asked)
    path.write_text(text.replace("stress", key))
    np.testing.assert_array_equal(
        read_dataset(path, **asked).frames[0].stress, [0.1, 0.2, 0.3, 0.0, 0.0, 0.4]
    )
