"""``eqcalc data summary`` and ``convert`` on files as users have them, and on wrong ones."""

from __future__ import annotations

import gzip
import json
import lzma
import shutil
from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from command_line import run
from labelled_files import without, write
from small_models import ETHANOL_FRAMES

from eqcalc.data import LabelledFrame, read_dataset
from eqcalc.data.frames import LabelRequest
from eqcalc.data.readers import read_whole_frames

DATA = ETHANOL_FRAMES.parent


def read(path: Path) -> list[LabelledFrame]:
    """Return every frame of a file with the labels that it has."""
    return read_whole_frames(path, LabelRequest(), exclude_isolated=False).dataset.frames


@pytest.fixture
def frames() -> list[Atoms]:
    return ase.io.read(ETHANOL_FRAMES, index=":")


@pytest.fixture
def crystals() -> list[Atoms]:
    """Return copper, strained and rattled, with the stress of effective medium theory."""
    found = []
    for k in range(3):
        atoms = bulk("Cu", a=3.55 + 0.05 * k, cubic=True)
        atoms.rattle(0.05, seed=k)
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        labels["stress"] = atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, **labels)
        found.append(atoms)
    return found


def isolated(symbol: str, energy: float) -> Atoms:
    """Return an isolated atom with an energy and nothing else."""
    atoms = Atoms(symbol, info={"config_type": "IsolatedAtom"})
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def test_the_verb_prints_tables_and_writes_what_was_asked_for(tmp_path, capsys):
    picture, content = tmp_path / "a.png", tmp_path / "a.json"
    words = (ETHANOL_FRAMES, "--picture", picture, "--json", content)
    assert run("data", "summary", *words) == 0
    out = capsys.readouterr().out
    assert "C2H6O" in out
    assert "closest pairs" in out
    assert max(map(len, out.splitlines()[:-1])) <= 80
    assert picture.read_bytes().startswith(b"\x89PNG")
    said = json.loads(content.read_text())
    assert said["compositions"] == {"C2H6O": said["n_read"]}
    assert run("data", "summary", *words) == 2
    assert "exist; pass --overwrite to replace them" in capsys.readouterr().err
    assert run("data", "summary", *words, "--overwrite") == 0


def test_pairs_beyond_those_that_are_shown_are_counted(tmp_path, capsys):
    symbols = ["H", "C", "N", "O", "F", "P"]
    places = 1.6 * np.stack(np.meshgrid(range(3), range(2), range(2)), axis=-1).reshape(-1, 3)
    atoms = Atoms(symbols * 2, places)
    atoms.calc = SinglePointCalculator(atoms, energy=-12000.0, forces=np.zeros((12, 3)))
    ase.io.write(tmp_path / "six.xyz", atoms)
    assert run("data", "summary", str(tmp_path / "six.xyz")) == 0
    out = capsys.readouterr().out
    assert "21 pairs in all; --json has every one" in " ".join(out.split())


def test_the_verb_ends_with_1_where_a_training_would_refuse(frames, tmp_path, capsys):
    path = write(tmp_path / "bare.xyz", [without(atoms, "forces") for atoms in frames])
    assert run("data", "summary", path) == 1
    assert "no frame has forces, which a training needs" in capsys.readouterr().out


def test_the_verb_says_that_a_stress_was_not_judged(tmp_path, capsys):
    """At constant volume its sign shows nowhere; of strained cells it does."""
    crystal, frames, strained = bulk("Cu", cubic=True), [], []
    rng = np.random.default_rng(0)
    for k in range(8):
        moved = crystal.copy()
        moved.positions += rng.normal(scale=0.002 * k, size=(4, 3))
        frames.append(moved)
        other = crystal.copy()
        other.set_cell(crystal.cell.array * (1 + 0.004 * k), scale_atoms=True)
        strained.append(other)
    for name, atoms_of, said in (
        ("fixed", frames, "energies / stress  not judged: energies of similar frames hardly"),
        ("strained", strained, "energies / forces  not judged: energies of similar frames hardly"),
    ):
        for atoms in atoms_of:
            atoms.calc = EMT()
            results = {
                "energy": atoms.get_potential_energy(),
                "forces": atoms.get_forces(),
                "stress": atoms.get_stress(),
            }
            atoms.calc = SinglePointCalculator(atoms, **results)
        path = write(tmp_path / f"{name}.xyz", atoms_of)
        run("data", "summary", path)
        assert said in capsys.readouterr().out


def test_the_verb_takes_units_and_keys(capsys):
    assert run("data", "summary", ETHANOL_FRAMES, "--forces-unit", "Hartree/Bohr") == 1
    assert "forces of" in " ".join(capsys.readouterr().out.split())
    assert run("data", "summary", ETHANOL_FRAMES, "--forces-key", "Forces") == 2
    assert "Did you mean 'forces'" in capsys.readouterr().err


def test_a_picture_must_be_a_png(capsys):
    assert run("data", "summary", ETHANOL_FRAMES, "--picture", "a.pdf") == 2
    assert "its name must end in .png" in capsys.readouterr().err


def test_the_verb_converts_rows_and_never_replaces_unasked(tmp_path, capsys):
    npz, out = ETHANOL_FRAMES.with_suffix(".npz"), tmp_path / "out.xyz"
    assert run("data", "convert", npz, out, "--rows", "1:3") == 0
    assert "from kcal/mol, Angstrom to eV, Angstrom" in capsys.readouterr().out
    for one, other in zip(read_dataset(npz, rows="1:3").frames, read(out), strict=True):
        assert np.array_equal(one.atoms.positions, other.atoms.positions)
        assert np.array_equal(one.forces, other.forces)
        assert one.energy == other.energy
    assert run("data", "convert", npz, out) == 2
    assert "exists; pass --overwrite" in capsys.readouterr().err
    assert run("data", "convert", npz, out, "--overwrite") == 0
    assert len(read(out)) == read_dataset(npz).n_rows


def test_the_verb_joins_files_in_their_order(tmp_path):
    run("data", "convert", ETHANOL_FRAMES, DATA / "silicon_frames.xyz", tmp_path / "both.db")
    n = len(read(ETHANOL_FRAMES))
    found = read(tmp_path / "both.db")
    assert found[0].atoms.get_chemical_formula() == "C2H6O"
    assert set(found[n].atoms.symbols) == {"Si"}


def test_the_verb_says_what_is_not_kept(tmp_path, capsys):
    images = ase.io.read(ETHANOL_FRAMES, index=":2")
    for atoms in images:
        atoms.set_tags(np.arange(9))
        atoms.info["name"] = "12"
    ase.io.write(tmp_path / "in.traj", images)
    assert run("data", "convert", tmp_path / "in.traj", tmp_path / "out.xyz") == 0
    out = capsys.readouterr().out
    assert "not kept are tags" in out
    assert ".xyz does not hold name as it was" in out


def test_isolated_atoms_stay_isolated_atoms(tmp_path):
    source = DATA / "3bpa_frames.xyz"
    assert run("data", "convert", source, tmp_path / "out.xyz", "--trust-data") == 0
    before, after = (read_dataset(p, trust_data=True) for p in (source, tmp_path / "out.xyz"))
    assert after.isolated_atoms == before.isolated_atoms != {}
    assert len(after) == len(before)


@pytest.mark.parametrize("suffix", [".xyz", ".traj", ".db", ".h5"])
def test_isolated_atoms_without_forces_are_converted_and_trained_beside(
    frames, suffix, tmp_path, capsys
):
    source = write(tmp_path / "in.xyz", [isolated("H", -13.6), *frames, isolated("O", -2041.0)])
    out = tmp_path / f"out{suffix}"
    assert run("data", "convert", source, out) == 0
    assert "no forces in" not in capsys.readouterr().out
    data = read_dataset(out)
    assert data.isolated_atoms == {1: -13.6, 8: -2041.0}
    assert len(data) == len(frames)
    assert [frame.forces is None for frame in read(out)] == [True, *[False] * 6, True]


def test_frames_without_forces_are_kept_and_named_with_a_way_to_leave_them_out(
    frames, tmp_path, capsys
):
    frames[2] = without(frames[2], "forces")
    source, out = write(tmp_path / "in.xyz", frames), tmp_path / "out.xyz"
    assert run("data", "convert", source, out) == 0
    said = capsys.readouterr().out
    assert "note: no forces in 1 of 6 frames: frame 2 of in.xyz." in said
    assert "--complete-only leaves the others out" in said
    assert [frame.forces is None for frame in read(out)] == [k == 2 for k in range(6)]
    assert run("data", "convert", source, out, "--complete-only", "--overwrite") == 0
    said = capsys.readouterr().out
    assert "note: left out 1 of 6 frames: frame 2 of in.xyz." in said
    assert "frames  5 of 6" in said
    assert len(read_dataset(out)) == 5


def test_frames_of_which_some_have_a_stress_are_converted_as_they_are(crystals, tmp_path, capsys):
    crystals[0] = without(crystals[0], "stress")
    source, out = write(tmp_path / "in.xyz", crystals), tmp_path / "out.h5"
    assert run("data", "convert", source, out) == 0
    assert "no stress in 1 of 3 frames: frame 0 of in.xyz" in capsys.readouterr().out
    assert [frame.stress is None for frame in read(out)] == [True, False, False]
    assert run("data", "summary", source) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "a stress in every periodic frame of a file or in none; there is none in frame 0" in said


def test_a_stress_in_one_file_and_none_in_another_is_no_reason_to_refuse(
    crystals, tmp_path, capsys
):
    one = write(tmp_path / "one.xyz", crystals[:2])
    two = write(tmp_path / "two.xyz", [without(crystals[2], "stress")])
    assert [frame.stress is None for frame in read_dataset([one, two]).frames] == [False] * 2 + [
        True
    ]
    assert run("data", "summary", one, two) == 0
    assert "a training needs a stress" not in " ".join(capsys.readouterr().out.split())


def test_frames_without_energy_or_with_nan_are_refused_unless_they_are_left_out(
    frames, tmp_path, capsys
):
    frames[1] = without(frames[1], "energy", "free_energy")
    frames[3].calc.results["forces"][0, 0] = np.nan
    source, out = write(tmp_path / "in.xyz", frames), tmp_path / "out.xyz"
    assert run("data", "convert", source, out) == 2
    said = capsys.readouterr().err
    assert "no energy 'energy' in 1 of 6 frames, rows 1" in said
    assert "--complete-only leaves out the 2 frames that cannot be used." in said
    assert not out.exists()
    assert run("data", "convert", source, out, "--complete-only") == 0
    said = capsys.readouterr().out
    assert "left out 2 of 6 frames: frame 1 of in.xyz, frame 3 of in.xyz." in said
    assert len(read_dataset(out)) == 4


def test_complete_only_refuses_data_in_which_no_frame_is_complete(crystals, tmp_path, capsys):
    halves = [without(crystals[0], "forces"), without(crystals[1], "stress")]
    source = write(tmp_path / "in.xyz", halves)
    assert run("data", "convert", source, tmp_path / "out.xyz", "--complete-only") == 2
    assert "no frame of in.xyz has every label that others have" in capsys.readouterr().err


def test_open_and_periodic_frames_of_several_sizes_share_a_file(frames, crystals, tmp_path, capsys):
    source = write(tmp_path / "in.xyz", [*frames, crystals[0]])
    assert run("data", "convert", source, tmp_path / "out.h5") == 0
    assert "labels  energy, forces, stress" in capsys.readouterr().out
    found = read(tmp_path / "out.h5")
    assert [len(frame.atoms) for frame in found] == [9] * 6 + [4]
    assert [bool(frame.atoms.pbc.all()) for frame in found] == [False] * 6 + [True]


def test_forces_under_another_name_in_some_frames_are_not_passed_over(frames, tmp_path, capsys):
    renamed = without(frames[2], "forces")
    renamed.arrays["REF_forces"] = frames[2].get_forces()
    frames[2] = renamed
    source = write(tmp_path / "in.xyz", frames)
    assert run("data", "convert", source, tmp_path / "out.xyz") == 2
    assert "no forces 'forces' in 1 of" in (said := capsys.readouterr().err)
    assert "REF_forces" in said


@pytest.mark.parametrize("name", ["REF_energy", "energy_dft"])
def test_energies_under_another_name_are_asked_for_and_taken(name, frames, tmp_path, capsys):
    for atoms in frames:
        atoms.info[name] = atoms.get_potential_energy()
    bare = [without(atoms, "energy", "free_energy") for atoms in frames]
    source, out = write(tmp_path / "in.xyz", bare), tmp_path / "out.xyz"
    for verb, last in (("summary", ()), ("convert", (out,))):
        assert run("data", verb, source, *last) == 2
        assert f"Give --energy-key {name}, " in capsys.readouterr().err
        assert run("data", verb, source, *last, "--energy-key", name) == 0
    expected = [atoms.get_potential_energy() for atoms in frames]
    assert [frame.energy for frame in read(out)] == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("opened", [gzip.open, lzma.open])
def test_compressed_text_is_read(opened, tmp_path):
    suffix = {gzip.open: ".gz", lzma.open: ".xz"}[opened]
    source = tmp_path / f"in.xyz{suffix}"
    with opened(source, "wb") as file:
        file.write(ETHANOL_FRAMES.read_bytes())
    assert run("data", "convert", source, tmp_path / "out.xyz") == 0
    assert len(read(tmp_path / "out.xyz")) == 6


def test_compressed_text_that_is_cut_is_one_error(tmp_path, capsys):
    whole = gzip.compress(ETHANOL_FRAMES.read_bytes())
    (tmp_path / "in.xyz.gz").write_bytes(whole[: len(whole) // 2])
    assert run("data", "convert", tmp_path / "in.xyz.gz", tmp_path / "out.xyz") == 2
    assert "cannot be read as extxyz" in capsys.readouterr().err


def test_a_file_of_another_program_and_a_cut_one_are_one_error_each(tmp_path, capsys):
    run("data", "convert", ETHANOL_FRAMES, tmp_path / "whole.h5")
    (tmp_path / "cut.h5").write_bytes((tmp_path / "whole.h5").read_bytes()[:-100])
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["coordinates"] = np.zeros((2, 3))
    (tmp_path / "empty.h5").touch()
    for name, sentence in (
        ("cut", "its checksum is not that of its content"),
        ("other", "HDF5 of an unknown layout, with coordinates at its root"),
        ("empty", "is not a readable HDF5 file"),
    ):
        for verb, last in (("summary", ()), ("convert", (tmp_path / "out.xyz",))):
            capsys.readouterr()
            assert run("data", verb, tmp_path / f"{name}.h5", *last) == 2
            assert sentence in capsys.readouterr().err


def test_a_file_that_is_read_is_not_replaced(tmp_path, capsys):
    source = tmp_path / "in.xyz"
    shutil.copy(ETHANOL_FRAMES, source)
    (tmp_path / "link.xyz").symlink_to(source)
    for output in (source, tmp_path / "link.xyz"):
        assert run("data", "convert", source, output, "--overwrite") == 2
        assert "is one of the files that are read" in capsys.readouterr().err
    assert run("data", "convert", f"{tmp_path}/i*.xyz", source, "--overwrite") == 2
    assert run("data", "summary", source, "--json", source, "--overwrite") == 2
    assert "is one of the files that are read" in capsys.readouterr().err
    assert source.read_bytes() == ETHANOL_FRAMES.read_bytes()


def test_constraints_that_are_not_kept_are_said(tmp_path, capsys):
    frame = ase.io.read(ETHANOL_FRAMES, 0)
    frame.set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "in.traj", frame)
    assert run("data", "convert", tmp_path / "in.traj", tmp_path / "out.xyz") == 0
    assert "note: not kept are constraints; only labels" in capsys.readouterr().out


def test_integers_of_a_frame_come_through_a_database(tmp_path):
    frames = ase.io.read(ETHANOL_FRAMES, ":")
    for frame in frames:
        frame.info.update(charge=-1, spin=np.int64(2), good=True, tag="a")
    ase.io.write(tmp_path / "in.xyz", frames)
    for name in ("out.db", "out.json", "out.h5", "out.traj"):
        assert run("data", "convert", tmp_path / "in.xyz", tmp_path / name) == 0
        found = read_dataset(tmp_path / name).frames[0].info
        assert {key: found[key] for key in ("charge", "spin", "good", "tag")} == {
            **{"charge": -1, "spin": 2, "good": True, "tag": "a"}
        }


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--json", "."), "cannot write '.': it is a folder"),
        (("--json", "a.png", "--picture", "a.png"), "--picture and --json both name 'a.png'"),
        (("--json", "none/a.json"), "cannot write 'none/a.json'"),
        (("--cutoff", "-1"), "--cutoff must be a positive number"),
    ],
)
def test_outputs_that_cannot_be_written_are_one_error(
    words, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert run("data", "summary", ETHANOL_FRAMES, *words, "--overwrite") == 2
    assert sentence in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("output", "sentence"),
    [
        ("folder.xyz", "cannot write 'folder.xyz'"),
        ("none/out.xyz", "cannot write 'none/out.xyz'"),
        ("out.foo", "names no format that is written"),
        (".", "names no format that is written"),
    ],
)
def test_places_that_cannot_be_written_to_are_one_error(
    output, sentence, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Path("folder.xyz").mkdir()
    assert run("data", "convert", ETHANOL_FRAMES, output, "--overwrite") == 2
    assert sentence in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["folder.xyz"]
