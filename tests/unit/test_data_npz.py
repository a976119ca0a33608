"""The npz reader: wrong files first, then right numbers."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from ase import units

from eqcalc.data import read_dataset
from eqcalc.errors import ConfigError, DataError

RMD17 = Path(__file__).parents[1] / "data" / "ethanol_rmd17_frames.npz"
KCAL_MOL = units.kcal / units.mol
EXACT = {"rtol": 1e-12, "atol": 0}


def arrays() -> dict[str, np.ndarray]:
    with np.load(RMD17, allow_pickle=False) as file:
        entries = dict(file)
    # The archive stores float32 forces; the factors below are multiplied in float64.
    return {k: v.astype(float) if k.endswith("forces") else v for k, v in entries.items()}


def md17(**changes: object) -> dict[str, object]:
    """The six frames under MD17's keys; a change to None leaves the key out."""
    a = arrays()
    entries: dict[str, object] = {
        "z": a["nuclear_charges"],
        "R": a["coords"],
        "E": a["energies"][:, None],
        "F": a["forces"],
        "type": np.array("d"),  # of a dataset: MD17's files have it
    } | changes
    return {key: value for key, value in entries.items() if value is not None}


def save(path: Path, entries: dict[str, object]) -> Path:
    np.savez(path, **entries)
    return path


@pytest.mark.parametrize("content", [b"", b"not a zip archive", RMD17.read_bytes()[:2000]])
def test_npz_damaged_is_refused_with_its_name(tmp_path, content):
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged\.npz is not a readable npz archive"):
        read_dataset(path)


def test_npz_with_damaged_entry_is_refused(tmp_path):
    path = save(tmp_path / "damaged.npz", arrays())
    content = bytearray(path.read_bytes())
    coords = arrays()["coords"].tobytes()
    start = content.index(coords)
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"'coords' cannot be read .*CRC"):
        read_dataset(path)


def test_npz_of_an_unknown_version_of_zip_is_refused(tmp_path):
    path = save(tmp_path / "damaged.npz", arrays())
    content = bytearray(path.read_bytes())
    content[content.index(b"PK\x01\x02") + 6] = 200  # the version that is needed to extract
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"not a readable npz archive \(zip file version 20"):
        read_dataset(path)


def test_npz_with_half_a_header_is_refused(tmp_path):
    path = tmp_path / "damaged.npz"
    save(path, arrays())
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    header = entries["coords.npy"]
    entries["coords.npy"] = header.replace(b"(", b"\0", 1)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match=r"'coords' cannot be read"):
        read_dataset(path)


def test_npz_that_is_a_single_array_is_refused(tmp_path):
    with open(tmp_path / "data.npz", "wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match="holds a single array"):
        read_dataset(tmp_path / "data.npz")


def test_npz_label_that_is_pickled_is_never_loaded(tmp_path):
    path = save(tmp_path / "data.npz", md17(E=np.array([{}] * 6, dtype=object)))
    with pytest.raises(DataError, match=r"'E' cannot be read .*pickled objects are never"):
        read_dataset(path)


def test_npz_unknown_keys_are_listed_with_what_to_give(tmp_path):
    path = save(tmp_path / "data.npz", {"Z": [1], "xyz": [[[0.0, 0, 0]]], "U": [0.0]})
    match = (
        r"found the keys U, Z, xyz, which is none of the known sets: "
        r"rMD17 \(nuclear_charges, coords, energies, forces\).*give energy_key.*numbers_key"
    )
    with pytest.raises(DataError, match=match):
        read_dataset(path)


def test_npz_known_keys_with_unknown_company_are_not_recognised(tmp_path):
    path = save(tmp_path / "data.npz", arrays() | {"charge": np.zeros(6)})
    with pytest.raises(DataError, match=r"found the keys charge, .* none of the known sets"):
        read_dataset(path)


@pytest.mark.parametrize("key", ["lattice", "cell", "pbc"])
def test_npz_periodic_is_refused(tmp_path, key):
    path = save(tmp_path / "data.npz", md17(e_unit="eV", r_unit="Ang") | {key: np.eye(3)})
    with pytest.raises(DataError, match=rf"periodic structures \({key}\).*extxyz"):
        read_dataset(path)


@pytest.mark.parametrize(
    "key",
    ["lattice_vectors", "Lattice", "unit_cell", "boxes", "cell_vectors", "BOX", "Pbc", "latt"],
)
def test_npz_entry_that_looks_like_a_cell_is_refused_by_name(tmp_path, key):
    raw = arrays()
    entries = {"Z": raw["nuclear_charges"], "xyz": raw["coords"], "U": raw["energies"]}
    path = save(tmp_path / "data.npz", entries | {key: 9.0 * np.eye(3)})
    asked = {"numbers_key": "Z", "positions_key": "xyz", "energy_key": "U"}
    asked |= {"energy_unit": "kcal/mol", "length_unit": "Angstrom"}
    with pytest.raises(DataError, match=rf"periodic structures \({key}\).* as extxyz"):
        read_dataset(path, **asked)


def test_npz_entry_that_is_asked_for_is_no_cell(tmp_path):
    raw = arrays()
    entries = {"Z": raw["nuclear_charges"], "x_box": raw["coords"], "U": raw["energies"]}
    path = save(tmp_path / "data.npz", entries)
    asked = {"numbers_key": "Z", "positions_key": "x_box", "energy_key": "U"}
    asked |= {"energy_unit": "kcal/mol", "length_unit": "Angstrom"}
    assert len(read_dataset(path, **asked)) == len(raw["coords"])


def test_npz_stress_is_refused():
    with pytest.raises(ConfigError, match="stress_key='stress' is not supported for npz"):
        read_dataset(RMD17, stress_key="stress")


def test_npz_groups_are_refused():
    with pytest.raises(ConfigError, match="group_key='run' names an entry of a frame's info"):
        read_dataset(RMD17, group_key="run")


@pytest.mark.parametrize(
    ("option", "unit", "match"),
    [
        ("energy_unit", "eV", r"'eV' contradicts the file: .* rMD17's, which is in 'kcal/mol'"),
        ("length_unit", "Bohr", r"'Bohr' contradicts the file: .* which is in 'Angstrom'"),
        ("forces_unit", "eV/Angstrom", r"'eV/Angstrom' contradicts .* rMD17 .* in kcal/mol/Ang"),
    ],
)
def test_npz_unit_against_rmd17_is_refused(option, unit, match):
    with pytest.raises(DataError, match=match):
        read_dataset(RMD17, **{option: unit})


def test_npz_unit_against_the_files_own_is_refused(tmp_path):
    path = save(tmp_path / "data.npz", md17(e_unit="eV", r_unit="Ang"))
    with pytest.raises(DataError, match="'kcal/mol' contradicts the file: its entry e_unit says"):
        read_dataset(path, energy_unit="kcal/mol")


@pytest.mark.parametrize(
    ("unit", "match"),
    [
        ("parsec", "entry r_unit: unknown length unit 'parsec'.*Correct this entry"),
        (np.array([1.0]), r"'r_unit' must be one word, found float64 \(1,\)"),
    ],
)
def test_npz_unknown_unit_in_the_file_is_refused(tmp_path, unit, match):
    path = save(tmp_path / "data.npz", md17(e_unit="eV", r_unit=unit))
    with pytest.raises(DataError, match=match):
        read_dataset(path)


def test_npz_sgdml_without_unit_is_refused_until_it_is_given(tmp_path):
    path = save(tmp_path / "data.npz", md17(code_version="0.4.10"))
    with pytest.raises(DataError, match="does not state its energy unit; give energy_unit, one of"):
        read_dataset(path)
    with pytest.raises(DataError, match="does not state its length unit; give length_unit"):
        read_dataset(path, energy_unit="eV")
    data = read_dataset(path, energy_unit="eV", length_unit="nm", trust_data=True)  # in kcal/mol
    assert data.frames[0].energy == arrays()["energies"][0]
    np.testing.assert_allclose(data.frames[0].atoms.positions, arrays()["coords"][0] * 10, **EXACT)


@pytest.mark.parametrize(
    ("energy_key", "forces_key", "match"),
    [
        ("old_energies", None, r"'old_energies' with forces_key='forces' is not a pair"),
        (None, "old_forces", r"'energies' with forces_key='old_forces' is not a pair"),
        ("old_energy", "old_forces", r"Did you mean 'old_energies'\?"),
    ],
)
def test_npz_labels_of_two_calculations_are_refused(energy_key, forces_key, match):
    with pytest.raises(DataError, match=match):
        read_dataset(RMD17, energy_key=energy_key, forces_key=forces_key)


@pytest.mark.parametrize("option", ["numbers_key", "positions_key"])
def test_npz_other_geometry_in_a_known_layout_is_refused(option):
    with pytest.raises(DataError, match=f"{option}='old_indices' contradicts the file: in rMD17"):
        read_dataset(RMD17, **{option: "old_indices"})


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"E": np.zeros(5)}, r"'E' must have shape \(6,\) .* found \(5,\)"),
        ({"F": np.zeros((6, 8, 3))}, r"'F' must have shape \(6, 9, 3\) .* found \(6, 8, 3\)"),
        ({"R": np.zeros((6, 27))}, r"'R' must have shape \(6, 9, 3\) .* found \(6, 27\)"),
        ({"R": np.float64(1)}, r"'R' must have shape \(0, 9, 3\) .* found \(\)"),
        ({"z": np.ones(9)}, r"'z' must be integers of shape \(n_atoms,\), found float64"),
        ({"z": np.ones((6, 9), int)}, r"'z' must be integers .* found int64 of shape \(6, 9\)"),
        ({"z": np.array([6, 6, 8, 1, 1, 1, 1, 1, 0])}, r"'z' must lie in 1\.\.118, found"),
        ({"E": np.array(["a"] * 6)}, "'E' must hold real numbers, found <U1"),
        ({"E": np.zeros(6, complex)}, "'E' must hold real numbers, found complex128"),
    ],
)
def test_npz_wrong_shape_or_type_is_refused(tmp_path, change, match):
    path = save(tmp_path / "data.npz", md17(**change))
    with pytest.raises(DataError, match=match):
        read_dataset(path)


@pytest.mark.parametrize("key", ["E", "F", "R"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_npz_non_finite_values_are_refused_by_row(tmp_path, key, value):
    array = np.array(md17()[key], dtype=float)
    array[[2, 4], 0] = value
    path = save(tmp_path / "data.npz", md17(**{key: array}))
    with pytest.raises(DataError, match=f"'{key}' must be finite, .* in rows 4, 2;"):
        read_dataset(path, rows=[1, 4, 2])
    assert len(read_dataset(path, rows=[0, 1, 3, 5])) == 4


def test_npz_explicit_key_that_is_absent_is_refused(tmp_path):
    path = save(tmp_path / "data.npz", md17(E=None, energy=np.zeros(6)))
    with pytest.raises(DataError, match=r"no key 'energi'; found F, R, energy, type, z\. Did you"):
        read_dataset(
            path, energy_key="energi", forces_key="F", energy_unit="eV", length_unit="Angstrom"
        )


def test_npz_rmd17_is_read_in_ev_and_angstrom():
    raw = arrays()
    data = read_dataset(RMD17)
    assert (len(data), data.source, data.units) == (6, RMD17.name, "kcal/mol, Angstrom")
    assert (data.elements, data.isolated_atoms) == ([1, 6, 8], {})
    for k, frame in enumerate(data.frames):
        assert frame.energy == pytest.approx(raw["energies"][k] * KCAL_MOL, rel=1e-14)
        assert frame.forces.dtype == np.float64
        assert frame.stress is None
        np.testing.assert_allclose(frame.forces, raw["forces"][k] * KCAL_MOL, **EXACT)
        np.testing.assert_array_equal(frame.atoms.positions, raw["coords"][k])
        assert not frame.atoms.pbc.any()
        assert frame.atoms.calc is None


def test_npz_of_z_R_E_F_alone_is_asked_for_its_units(tmp_path):
    """It is what np.savez makes of anybody's arrays, in eV most likely."""
    path = save(tmp_path / "data.npz", md17(type=None))
    with pytest.raises(DataError, match="does not state its energy unit; give energy_unit"):
        read_dataset(path)
    stated = read_dataset(path, energy_unit="kcal/mol", length_unit="Angstrom")
    known = read_dataset(save(tmp_path / "md17.npz", md17()))
    assert [frame.energy for frame in stated.frames] == [frame.energy for frame in known.frames]


def test_npz_rmd17_old_labels_are_those_of_md17():
    raw = arrays()
    data = read_dataset(RMD17, energy_key="old_energies", forces_key="old_forces")
    assert data.frames[3].energy == pytest.approx(raw["old_energies"][3] * KCAL_MOL, rel=1e-14)
    np.testing.assert_allclose(data.frames[3].forces, raw["old_forces"][3] * KCAL_MOL, **EXACT)


def test_npz_rmd17_accepts_its_own_unit_said_again():
    data = read_dataset(RMD17, energy_unit="kcal/mol", length_unit="Angstrom")
    assert data.frames[0].energy == read_dataset(RMD17).frames[0].energy


def test_npz_md17_with_pickled_metadata_equals_rmd17(tmp_path):
    metadata = {"name": np.array({"a": 1}, dtype=object), "theory": b"PBE+vdW-TS", "type": "d"}
    path = save(tmp_path / "data.npz", md17(**metadata, md5="0"))
    for ours, theirs in zip(read_dataset(path).frames, read_dataset(RMD17).frames, strict=True):
        assert ours.energy == theirs.energy
        np.testing.assert_array_equal(ours.forces, theirs.forces)


@pytest.mark.parametrize("e_unit", ["eV", b"eV", np.array(["eV"])])
def test_npz_sgdml_obeys_its_units(tmp_path, e_unit):
    raw = arrays()
    data = read_dataset(
        save(tmp_path / "data.npz", md17(e_unit=e_unit, r_unit="bohr")), trust_data=True
    )
    assert data.units == "eV, bohr"
    assert data.frames[0].energy == raw["energies"][0]
    np.testing.assert_allclose(data.frames[0].forces, raw["forces"][0] / units.Bohr, **EXACT)
    np.testing.assert_allclose(
        data.frames[0].atoms.positions, raw["coords"][0] * units.Bohr, **EXACT
    )


def test_npz_sgdml_forces_beside_a_length_that_it_does_not_state_are_those_of_codes(tmp_path):
    path = save(tmp_path / "data.npz", md17(e_unit="Hartree", code_version="0.4.10"))
    data = read_dataset(path, length_unit="Angstrom", trust_data=True)
    expected = arrays()["forces"][0] * units.Hartree / units.Bohr
    np.testing.assert_allclose(data.frames[0].forces, expected, **EXACT)
    assert any("forces are taken to be in Hartree/Bohr" in note for note in data.notes)


@pytest.mark.parametrize(
    ("stated", "missing"),
    [({"e_unit": "Hartree"}, "length"), ({"r_unit": "Bohr"}, "energy")],
)
def test_npz_md17_that_states_another_unit_is_asked_for_the_other(stated, missing, tmp_path):
    path = save(tmp_path / "data.npz", md17(**stated))
    with pytest.raises(DataError, match=f"does not state its {missing} unit; give {missing}_unit"):
        read_dataset(path)


def test_npz_md17_in_hartree_has_forces_as_codes_print_them_and_says_so(tmp_path):
    path = save(tmp_path / "data.npz", md17(e_unit="Hartree"))
    data = read_dataset(path, length_unit="Angstrom", trust_data=True)
    expected = arrays()["forces"][0] * units.Hartree / units.Bohr
    np.testing.assert_allclose(data.frames[0].forces, expected, **EXACT)
    assert any("forces are taken to be in Hartree/Bohr" in note for note in data.notes)


def test_npz_md17_may_state_one_of_its_own_units(tmp_path):
    data = read_dataset(save(tmp_path / "data.npz", md17(e_unit="kcal/mol")))
    assert data.frames[0].energy == read_dataset(RMD17).frames[0].energy


def test_npz_explicit_keys_and_units_are_obeyed(tmp_path):
    raw = arrays()
    entries = {"Z": raw["nuclear_charges"], "xyz": raw["coords"], "U": raw["energies"]}
    path = save(tmp_path / "data.npz", entries | {"grad": -raw["forces"], "f": raw["forces"]})
    asked = {"numbers_key": "Z", "positions_key": "xyz", "energy_key": "U"}
    # The numbers are kcal/mol: as Hartree they are absurd, which is taken on demand.
    asked |= {"energy_unit": "Hartree", "length_unit": "Angstrom", "trust_data": True}
    per_angstrom = {"forces_unit": "Hartree/Angstrom"}
    with_forces = read_dataset(path, **asked, forces_key="f", **per_angstrom).frames[1]
    assert with_forces.energy == raw["energies"][1] * units.Hartree
    np.testing.assert_allclose(with_forces.forces, raw["forces"][1] * units.Hartree, **EXACT)
    by_gradient = read_dataset(path, **asked, gradient_key="grad", **per_angstrom).frames[1]
    np.testing.assert_array_equal(by_gradient.forces, with_forces.forces)
    per_bohr = read_dataset(path, **asked, forces_key="f")
    assert per_bohr.units == "Hartree, Angstrom, forces in Hartree/Bohr"
    np.testing.assert_allclose(
        per_bohr.frames[1].forces, raw["forces"][1] * units.Hartree / units.Bohr, **EXACT
    )
    with pytest.raises(DataError, match=r"holds f, grad, .* forces_key = 'f' or gradient_key = 'g"):
        read_dataset(path, **asked)
    path = save(tmp_path / "energies.npz", entries)
    assert read_dataset(path, **asked).frames[1].forces is None


def test_npz_rows_keep_labels_and_positions_together_in_the_order_asked():
    everything, chosen = read_dataset(RMD17).frames, read_dataset(RMD17, rows=[4, 1]).frames
    for ours, row in zip(chosen, (4, 1), strict=True):
        assert ours.energy == everything[row].energy
        np.testing.assert_array_equal(ours.forces, everything[row].forces)
        np.testing.assert_array_equal(ours.atoms.positions, everything[row].atoms.positions)
