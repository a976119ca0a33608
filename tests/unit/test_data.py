"""Rows, statistics, and real data sets: small cuts of them, and the whole (``-m data``)."""

from __future__ import annotations

import gzip
import importlib.util
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units

from eqcalc.data import (
    LabelledFrame,
    average_neighbours,
    force_rms,
    parse_rows,
    read_dataset,
    reference_energies,
    reference_energies_by_least_squares,
)
from eqcalc.errors import ConfigError, DataError
from eqcalc.graph import AtomicGraph

ROOT = Path(__file__).parents[2]
SMALL = ROOT / "tests" / "data"
RMD17 = SMALL / "ethanol_rmd17_frames.npz"
TEST_SET = ROOT / "examples" / "data" / "ethanol_rmd17_test.npz"


# --- rows


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        ("5:11", DataError, r"rows '5:11' must lie in 0\.\.9 \(there are 10 rows\), found 10"),
        ([0, -1], DataError, r"must lie in 0\.\.9 .* found -1"),
        ("3:3", DataError, "rows '3:3' selects nothing out of 10 rows; accepted are a slice"),
        ([], DataError, "selects nothing"),
        (range(4, 2), DataError, "selects nothing"),
        ([1, 2, 1], DataError, "must name each row once, found more than once: 1"),
        ("0:4:0", ConfigError, "step 0"),
        ("first ten", ConfigError, "'first ten' is not understood; accepted are a slice"),
        ("-5:", ConfigError, "not understood"),
        ("7", ConfigError, "not understood"),
        (7, ConfigError, "of type int is not understood"),
        ([1.0, 2], ConfigError, r"must be integers, found 1\.0"),
        ([True, False], ConfigError, "must be integers, found True, False"),
        (np.array([0.5]), ConfigError, "must be integers"),
    ],
)
def test_rows_malformed_or_outside_are_refused(rows, error, match):
    with pytest.raises(error, match=match):
        parse_rows(rows, 10)


def test_rows_file_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the row numbers in .*none\.csv"):
        parse_rows(tmp_path / "none.csv", 10)


@pytest.mark.parametrize("line", ["index", "1,2", "-1", "2.0"])
def test_rows_file_with_anything_but_integers_is_refused(tmp_path, line):
    path = tmp_path / "rows.csv"
    path.write_text(f"0\n{line}\n")
    with pytest.raises(DataError, match=f"line 2: expected one row number >= 0, found '{line}'"):
        parse_rows(path, 10)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (None, [0, 1, 2, 3, 4]),
        ("1:3", [1, 2]),
        (":2", [0, 1]),
        ("3:", [3, 4]),
        ("0:5:2", [0, 2, 4]),
        ([4, 0], [4, 0]),
        (range(1, 3), [1, 2]),
        (np.array([2, 3]), [2, 3]),
    ],
)
def test_rows_in_every_accepted_form_keep_their_order(rows, expected):
    assert parse_rows(rows, 5) == expected


def test_rows_of_csv_text_and_path_agree(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("3\n1\n\n")
    assert parse_rows(path, 5) == parse_rows(str(path), 5) == [3, 1]


# --- any file


def test_reader_refuses_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.npz does not exist"):
        read_dataset(tmp_path / "none.npz")


def test_reader_refuses_folder(tmp_path):
    (tmp_path / "data.xyz").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        read_dataset(tmp_path / "data.xyz")


def test_reader_refuses_unknown_suffix(tmp_path):
    match = r"suffix '\.npzz'; known are \.npz, \.xyz, .* OUTCAR, .* Did you mean '\.npz'\?"
    (tmp_path / "data.npzz").write_bytes(RMD17.read_bytes())
    with pytest.raises(DataError, match=match):
        read_dataset(tmp_path / "data.npzz")


def test_reader_refuses_unknown_units():
    with pytest.raises(ConfigError, match="unknown energy unit 'kcal'"):
        read_dataset(RMD17, energy_unit="kcal")
    with pytest.raises(ConfigError, match="unknown length unit 'furlong'"):
        read_dataset(RMD17, length_unit="furlong")


# --- statistics


def frame(symbols: str, energy: float, forces: object = None) -> LabelledFrame:
    atoms = Atoms(symbols)
    return LabelledFrame(atoms, energy, None if forces is None else np.array(forces, dtype=float))


def test_statistics_refuse_an_empty_set():
    for statistic in (reference_energies_by_least_squares, force_rms):
        with pytest.raises(DataError, match="at least one frame, found none"):
            statistic([])
    with pytest.raises(DataError, match="at least one atom, found none"):
        average_neighbours([])


def test_force_rms_refuses_frames_without_forces():
    with pytest.raises(DataError, match="every frame needs forces, found none in frames 1"):
        force_rms([frame("H", 0.0, [[0, 0, 1]]), frame("H", 0.0)])


@pytest.mark.parametrize(
    ("method", "error", "match"),
    [
        ("leastsquares", ConfigError, r"unknown method 'leastsquares'.*Did you mean 'least_sq"),
        ("isolated_atoms", DataError, "no reference energy for C, O in the isolated .* found H;"),
        ({"C": -1.0}, DataError, "no reference energy for H, O in the given .* found C;"),
        ({}, DataError, "no reference energy for H, C, O in the given .* found none;"),
        ({"Hh": -1.0}, ConfigError, "'Hh' is no element's symbol or atomic number"),
        ({0: -1.0}, ConfigError, "'0' is no element's symbol or atomic number"),
    ],
)
def test_reference_energies_refuse_what_is_missing_or_unknown(method, error, match):
    with pytest.raises(error, match=match):
        reference_energies([frame("CO", 0.0), frame("H2", 0.0)], method, {1: -13.0})


def test_reference_energies_from_a_table_take_symbols_and_numbers():
    found = reference_energies([frame("CO", 0.0)], {"C": -1.0, 8: -2.0, "H": -3.0})
    assert found == {6: -1.0, 8: -2.0}


def test_reference_energies_from_isolated_atoms_are_those_of_the_frames_elements():
    isolated = {6: -1.0, 7: -9.0, 8: -2.0}
    found = reference_energies([frame("CO", 0.0)], "isolated_atoms", isolated)
    assert found == {6: -1.0, 8: -2.0}


@pytest.mark.parametrize(
    "method",
    [{"H": -0.5, "C": -37.8, "O": -75.0}, {"H": 0.0, "C": 0.0, "O": 0.0}, "isolated_atoms"],
)
def test_reference_energies_of_another_unit_are_refused(method):
    """In Hartree, none at all, and of pseudopotentials."""
    frames = read_dataset(SMALL / "ethanol_rmd17_frames.xyz").frames
    isolated = {1: -12.5, 6: -145.0, 8: -430.0}
    with pytest.raises(DataError, match=r"frames have -\d+\S* eV/atom, where bonds .*1 Hartree"):
        reference_energies(frames, method, isolated)


def test_least_squares_recovers_known_atomic_energies():
    exact = {1: -13.6, 6: -1029.0, 8: -2042.0}
    frames = [
        frame(symbols, sum(exact[z] for z in Atoms(symbols).numbers))
        for symbols in ("CH4", "H2O", "CO2", "C2H6O", "H2")
    ]
    found = reference_energies(frames, "least_squares")
    assert list(found) == [1, 6, 8]
    assert found == pytest.approx(exact, rel=1e-12)


def test_least_squares_of_one_composition_is_the_minimum_norm_solution():
    found = reference_energies_by_least_squares([frame("H2O", -5.0), frame("H2O", -15.0)])
    # E n / |n|² with n = (2, 1) and the mean energy -10
    assert found == pytest.approx({1: -4.0, 8: -2.0}, rel=1e-12)


def test_force_rms_is_over_components_of_all_atoms():
    frames = [frame("H", 0.0, [[3, 0, 0]]), frame("H2", 0.0, [[0, 4, 0], [0, 0, 0]])]
    assert force_rms(frames) == pytest.approx(5 / 3, rel=1e-15)


def test_average_neighbours_counts_edges_per_atom_over_all_graphs():
    def graph(n_atoms: int, n_edges: int) -> AtomicGraph:
        return AtomicGraph(
            torch.ones(n_atoms, dtype=torch.int64),
            torch.zeros((2, n_edges), dtype=torch.int64),
            torch.zeros((n_edges, 3)),
            torch.zeros(n_atoms, dtype=torch.int64),
            1,
            n_atoms,
            torch.zeros((1, 3, 3)),
        )

    assert average_neighbours([graph(3, 6), graph(1, 0)]) == 1.5


# --- real data


def assert_thermal_ethanol(frames: list[LabelledFrame]) -> None:
    energies = np.array([frame.energy for frame in frames])
    assert -4210.2 < energies.min() < energies.max() < -4207.5
    assert energies.std() == pytest.approx(0.18, abs=0.02)  # at 500 K
    assert force_rms(frames) == pytest.approx(1.2, abs=0.02)
    first = frames[0].atoms
    assert first.get_distance(0, 1) == pytest.approx(1.52, abs=0.1)  # the C-C bond, Å


def assert_bound(frame: LabelledFrame, references: dict[int, float]) -> None:
    binding = frame.energy - sum(references[z] for z in frame.atoms.numbers)
    assert -6 < binding / len(frame.atoms) < -4  # eV per atom, a covalent molecule


def assert_liquid_water(frame: LabelledFrame) -> None:
    assert frame.energy == -29979.171989458984
    atoms = frame.atoms
    assert atoms.pbc.all()
    density = atoms.get_masses().sum() / units.kg / (atoms.get_volume() / units.m**3)
    assert 700 < density < 1300  # kg/m³


def test_rmd17_ethanol_has_the_energies_and_forces_of_ethanol():
    data = read_dataset(TEST_SET)
    assert (len(data), data.units) == (1000, "kcal/mol, Angstrom")
    assert_thermal_ethanol(data.frames)


def test_3bpa_separates_isolated_atoms_and_binds():
    data = read_dataset(SMALL / "3bpa_frames.xyz")
    assert len(data) == 4
    assert data.isolated_atoms[6] == -1029.4889999855063
    references = reference_energies(data.frames, "isolated_atoms", data.isolated_atoms)
    assert list(references) == [1, 6, 7, 8]
    for one in data.frames:
        assert_bound(one, references)


def test_3bpa_least_squares_fits_the_mean_energy():
    data = read_dataset(SMALL / "3bpa_frames.xyz")
    fitted = reference_energies(data.frames, "least_squares")
    mean = np.mean([frame.energy for frame in data.frames])
    total = sum(fitted[z] for z in data.frames[0].atoms.numbers)
    assert total == pytest.approx(mean, rel=1e-12)
    # One composition only: proportional to the counts, not physical one by one.
    assert fitted[1] == pytest.approx(fitted[6], rel=1e-9)


def test_water_and_silicon_are_read_in_their_units():
    assert_liquid_water(read_dataset(SMALL / "water_frame.xyz").frames[0])
    solid = read_dataset(SMALL / "silicon_frames.xyz")
    assert [len(frame.atoms) for frame in solid.frames] == [63, 12, 64]
    assert -5.45 < solid.frames[2].energy / 64 < -5.40  # strained diamond, PBE, eV per atom
    assert all(0.1 < np.abs(frame.forces).max() < 6 for frame in solid.frames)  # eV/Å


# --- whole data sets


@pytest.mark.data
def test_the_shipped_frames_are_those_of_the_whole_sets(whole_data, tmp_path):
    spec = importlib.util.spec_from_file_location("cut", SMALL / "cut.py")
    recipe = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recipe)
    for path in recipe.cut(whole_data, tmp_path):
        shipped = ROOT / path.relative_to(tmp_path)
        if path.suffix == ".npz":  # zlib's bytes may change, what they say may not
            with np.load(path) as made, np.load(shipped) as kept:
                assert made.files == kept.files
                for key in made.files:
                    np.testing.assert_array_equal(kept[key], made[key], err_msg=key)
        elif path.suffix == ".gz":
            assert gzip.decompress(shipped.read_bytes()) == gzip.decompress(path.read_bytes())
        else:
            assert shipped.read_text() == path.read_text()


@pytest.mark.data
def test_rmd17_training_rows_have_the_energies_and_forces_of_ethanol(whole_data):
    data = read_dataset(whole_data / "rmd17/npz_data/rmd17_ethanol.npz", rows="0:1000")
    assert_thermal_ethanol(data.frames)
    assert force_rms(data.frames) == pytest.approx(1.195, abs=1e-3)


@pytest.mark.data
def test_rmd17_split_file_selects_the_same_frames_as_the_slice(whole_data):
    path = whole_data / "rmd17/npz_data/rmd17_ethanol.npz"
    for split, rows in (("train", "0:1000"), ("test", "1000:2000")):
        by_file = read_dataset(path, rows=str(whole_data / f"rmd17/splits/index_{split}_01.csv"))
        by_slice = read_dataset(path, rows=rows)
        assert [a.energy for a in by_file.frames] == [b.energy for b in by_slice.frames]


@pytest.mark.data
def test_rmd17_all_ten_molecules_are_read(whole_data):
    paths = sorted((whole_data / "rmd17/npz_data").glob("*.npz"))
    assert len(paths) == 10
    for path in paths:
        data = read_dataset(path, rows="0:20")
        # Electronic energies per atom of light molecules, and thermal forces.
        assert -1100 < data.frames[0].energy / len(data.frames[0].atoms) < -300
        assert 0.8 < force_rms(data.frames) < 1.6


@pytest.mark.data
def test_3bpa_is_read_as_a_whole(whole_data):
    data = read_dataset(whole_data / "3bpa/train_300K.xyz")
    assert len(data) == 500
    references = reference_energies(data.frames, "isolated_atoms", data.isolated_atoms)
    for one in data.frames:
        assert_bound(one, references)


@pytest.mark.data
def test_water_and_silicon_are_read_as_a_whole(whole_data):
    liquid = read_dataset(whole_data / "water/train.xyz")
    assert len(liquid) == 140
    assert_liquid_water(liquid.frames[0])
    solid = read_dataset(whole_data / "silicon/train.xyz")
    assert len(solid) == 214
    per_atom = [frame.energy / len(frame.atoms) for frame in solid.frames]
    assert -5.45 < min(per_atom) < -5.40  # PBE diamond, eV per atom
    assert {len(frame.atoms) for frame in solid.frames} > {63}


def test_example_structure_is_the_first_frame():
    atoms = ase.io.read(ROOT / "examples" / "ethanol.xyz")
    expected = read_dataset(RMD17, rows="0:1").frames[0].atoms
    np.testing.assert_array_equal(atoms.numbers, expected.numbers)
    np.testing.assert_array_equal(atoms.positions, expected.positions)
    assert not atoms.pbc.any()


# --- where frames came from


@pytest.mark.parametrize("name", ["ethanol_rmd17_frames.npz", "ethanol_rmd17_frames.xyz"])
def test_a_data_set_knows_its_rows(name):
    n_rows = len(read_dataset(SMALL / name))
    found = read_dataset(SMALL / name, rows="1:4:2")
    assert (found.rows, found.n_rows) == ([1, 3], n_rows)
    assert read_dataset(SMALL / name).rows == list(range(n_rows))
